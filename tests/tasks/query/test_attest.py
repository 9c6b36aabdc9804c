"""The statement of provenance, its signature, and what verify says of either."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from schemas.errors import BinmillError, DatasetError
from tasks.query.attest import sign
from tasks.query.dataset import open_dataset
from tasks.query.verify import verify
from tests.conftest import Mill, recipe_of
from tests.keys import private_pem, public_pem

STATEMENT = "provenance.intoto.json"
ENVELOPE = "provenance.dsse.json"


def problems(root: Path, key: bytes | None = None) -> list[str]:
    return [f"{f.where}: {f.problem}" for _, found in verify(open_dataset(root), key) for f in found]


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """A copy of the small dataset, to be changed."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


def test_the_statement_is_in_totos_with_slsas_predicate(small: Path) -> None:
    found = json.loads((small / STATEMENT).read_text(encoding="utf-8"))
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    # Every file of the dataset but the statement itself, by what sha256 says of it.
    sums = {entry["name"]: entry["digest"]["sha256"] for entry in found["subject"]}
    files = [p for p in small.rglob("*") if p.is_file() and ".binmill" not in p.parts and p.name != STATEMENT]
    assert sums == {
        p.relative_to(small).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files
    }  # fmt: skip
    built = found["predicate"]["buildDefinition"]
    assert built["externalParameters"]["recipe"] == open_dataset(small).manifest.recipe
    names = {entry["name"] for entry in built["resolvedDependencies"]}
    assert {
        "binmill",
        "pyarrow",
        "numpy",
        open_dataset(small).manifest.recipe["sources"][0]["path"].split("/")[-1],
    } <= names
    assert built["buildType"]
    assert found["predicate"]["runDetails"]["builder"]["id"]
    # SLSA's ResourceDescriptor: one of uri, digest and content at least.
    assert all({"uri", "digest", "content"} & entry.keys() for entry in built["resolvedDependencies"])


def test_a_statement_of_another_manifest_is_found(copy: Path, corpus: Path, mill: Mill) -> None:
    old = (copy / STATEMENT).read_bytes()
    recipe = recipe_of(corpus)
    again = recipe | {"publishing": recipe["publishing"] | {"title": "Another"}}
    mill(again, copy)
    new = (copy / STATEMENT).read_bytes()
    assert new != old
    assert problems(copy) == []
    (copy / STATEMENT).write_bytes(old)
    assert problems(copy) == [f"{STATEMENT}: describes another manifest than this dataset's"]
    # A run that died between manifest and statement mends it when it is run again.
    assert mill(again, copy).run["computed"] == 0
    assert (copy / STATEMENT).read_bytes() == new


def test_a_run_that_dies_before_the_statement_leaves_none(
    copy: Path, corpus: Path, mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(corpus)
    again = recipe | {"publishing": recipe["publishing"] | {"title": "Another"}}
    with monkeypatch.context() as patch:
        patch.setattr("tasks.publish.task.statement", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mill(again, copy)
    assert open_dataset(copy).manifest.recipe["publishing"]["title"] == "Another"
    assert not (copy / STATEMENT).exists()
    assert problems(copy) == []
    mill(again, copy)
    assert (copy / STATEMENT).exists()
    assert problems(copy) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["subject"].pop(), "other files"),
        (lambda s: s["subject"][-1]["digest"].update(sha256="0" * 64), "other files"),
        (lambda s: s["predicate"]["buildDefinition"].pop("externalParameters"), "another recipe"),
        (lambda s: s.update(predicateType="https://example.org"), "not an in-toto statement"),
        (lambda s: s.update(subject=[1]), "subject is damaged"),
    ],
)
def test_a_statement_that_was_changed_is_found(copy: Path, change: Any, message: str) -> None:
    found = json.loads((copy / STATEMENT).read_text(encoding="utf-8"))
    change(found)
    (copy / STATEMENT).write_text(json.dumps(found), encoding="utf-8")
    assert len(problems(copy)) == 1
    assert message in problems(copy)[0]
    with pytest.raises(DatasetError, match=message):
        sign(open_dataset(copy), private_pem(ed25519.Ed25519PrivateKey.generate()))


@pytest.mark.parametrize(
    "key",
    [ed25519.Ed25519PrivateKey.generate(), *(ec.generate_private_key(c()) for c in (ec.SECP256R1, ec.SECP384R1))],
    ids=["ed25519", "p256", "p384"],
)
def test_a_signature_holds_for_its_key_alone(copy: Path, key: Any) -> None:
    assert problems(copy, public_pem(key)) == [f"{ENVELOPE}: missing: the dataset is not signed"]
    sign(open_dataset(copy), private_pem(key))
    assert problems(copy, public_pem(key)) == []
    other = public_pem(ed25519.Ed25519PrivateKey.generate())
    assert "is not signed by this key" in problems(copy, other)[0]
    # A byte of a shard, of the payload and of the signature.
    shard = copy / open_dataset(copy).manifest.tables["train"][0].path
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert any("changed: SHA-256" in problem for problem in problems(copy, public_pem(key)))
    shard.write_bytes(data)
    envelope = json.loads((copy / ENVELOPE).read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"seed": 0', b'"seed": 1')
    changed = envelope | {"payload": base64.b64encode(payload).decode()}
    (copy / ENVELOPE).write_text(json.dumps(changed))
    assert "is not signed by this key" in problems(copy, public_pem(key))[0]
    for damaged in ("[]", "{", json.dumps(envelope | {"payload": "!"}), json.dumps(envelope | {"payloadType": "x"})):
        (copy / ENVELOPE).write_text(damaged)
        assert problems(copy, public_pem(key))[0].startswith(f"{ENVELOPE}: i")


def test_an_old_signature_does_not_hold_for_a_new_dataset(copy: Path, corpus: Path, mill: Mill) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    sign(open_dataset(copy), private_pem(key))
    recipe = recipe_of(corpus)
    mill(recipe | {"publishing": recipe["publishing"] | {"title": "Another"}}, copy)
    assert problems(copy, public_pem(key)) == [f"{ENVELOPE}: describes another manifest than this dataset's"]


def test_keys_that_cannot_be_used_are_refused(copy: Path) -> None:
    dataset = open_dataset(copy)
    big = rsa.generate_private_key(65537, 2048)
    with pytest.raises(BinmillError, match="neither Ed25519 nor ECDSA"):
        sign(dataset, private_pem(big))
    with pytest.raises(BinmillError, match="neither Ed25519 nor ECDSA"):
        problems(copy, public_pem(big))
    with pytest.raises(BinmillError, match="not a private key"):
        sign(dataset, b"no key")
    key = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(BinmillError, match="BINMILL_KEY_PASSPHRASE"):
        sign(dataset, private_pem(key, b"secret"))
    sign(dataset, private_pem(key, b"secret"), b"secret")
    assert problems(copy, public_pem(key)) == []


def test_openssl_verifies_what_binmill_signs(copy: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    for name, how in (
        ("ed", ["-algorithm", "ed25519"]),
        ("ec", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ):
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        subprocess.run(["openssl", "genpkey", *how, "-out", private], check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "sign", copy, "--key", private],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        envelope = json.loads((copy / ENVELOPE).read_text())
        payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
        message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
        (tmp_path / "message").write_bytes(message)
        (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
        raw = ["-rawin"] if name == "ed" else ["-rawin", "-digest", "sha256"]
        said = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, *raw, "-in", tmp_path / "message",
             "-sigfile", tmp_path / "signature"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Verified Successfully" in said.stdout, said.stderr
        checked = subprocess.run(
            [sys.executable, "-m", "flows.cli", "verify", copy, "--key", public],
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
