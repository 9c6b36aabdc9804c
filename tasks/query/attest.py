"""The statement of a dataset's provenance: checked against the bytes, signed, and the signature checked."""

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from schemas.errors import BinmillError, DatasetError
from schemas.manifest import MANIFEST, Manifest
from schemas.statement import ENVELOPE, PAYLOAD, PREDICATE, STATEMENT, TYPE, subjects
from tasks.query.dataset import Dataset
from tasks.shards import replace_atomically

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


def statement_problems(dataset: Dataset, data: bytes) -> list[str]:
    """What is wrong with a statement of this dataset: of another form, or of other bytes than the dataset's."""
    try:
        found = json.loads(data)
    except ValueError as error:
        return [f"is not JSON: {error}"]
    if not isinstance(found, dict) or (found.get("_type"), found.get("predicateType")) != (TYPE, PREDICATE):
        return ["is not an in-toto statement of SLSA provenance"]
    text = dataset.place(MANIFEST).read_bytes()
    stated = _sums(found.get("subject"))
    if stated is None:
        return ["its subject is damaged"]
    if stated.pop(MANIFEST, None) != hashlib.sha256(text).hexdigest():
        return ["describes another manifest than this dataset's"]
    wanted = _sums(subjects(dataset.manifest, ""))
    assert wanted is not None
    del wanted[MANIFEST]
    others = sorted(name for name in stated.keys() | wanted.keys() if stated.get(name) != wanted.get(name))
    problems = [f"describes other files than the manifest lists: {', '.join(others[:3])}"] if others else []
    try:
        recipe: Any = found["predicate"]["buildDefinition"]["externalParameters"]["recipe"]
    except (KeyError, TypeError):
        recipe = None
    return problems if recipe == dataset.manifest.recipe else [*problems, "names another recipe than the manifest"]


def _sums(subject: Any) -> dict[str, str] | None:
    try:
        return {str(entry["name"]): str(entry["digest"]["sha256"]) for entry in subject}
    except (KeyError, TypeError):
        return None


def is_current(dataset: Dataset) -> bool:
    """Whether the dataset is what stands in its folder now, and not an earlier version of it."""
    try:
        return Manifest.model_validate_json((dataset.root / MANIFEST).read_bytes()) == dataset.manifest
    except (OSError, ValueError):
        return False


def sign(dataset: Dataset, key: bytes, passphrase: bytes | None = None) -> Path:
    """Sign the dataset's statement (DSSE); returns the envelope's file.

    Parameters
    ----------
    key
        Private key, Ed25519 or ECDSA, in PEM.

    Raises
    ------
    DatasetError
        There is no statement, or it is not this dataset's.
    BinmillError
        The key cannot be used.
    """
    place = dataset.root / STATEMENT
    if not place.is_file():
        raise DatasetError(f"{dataset.root}: no {STATEMENT}", "run the recipe again: it is written at the end")
    payload = place.read_bytes()
    if problems := statement_problems(dataset, payload):
        raise DatasetError(f"{place}: {problems[0]}", "run the recipe again: it is written anew")
    private = _private(key, passphrase)
    message = _encoded(payload)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        signature = private.sign(message)
    else:
        signature = private.sign(message, ec.ECDSA(_hash(private.curve)))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"keyid": key_id(private.public_key()), "sig": base64.b64encode(signature).decode()}],
    }
    replace_atomically(dataset.root / ENVELOPE, (json.dumps(envelope, indent=1) + "\n").encode())
    return dataset.root / ENVELOPE


def signature_problems(dataset: Dataset, key: bytes) -> list[str]:
    """What is wrong with the signature of a dataset's statement, held against a public key in PEM.

    Raises
    ------
    BinmillError
        The key cannot be used.
    """
    public = _public(key)
    try:
        envelope = json.loads(dataset.place(ENVELOPE).read_bytes())
        payload = base64.b64decode(envelope["payload"], validate=True)
        kind = str(envelope["payloadType"])
        signatures = [base64.b64decode(entry["sig"], validate=True) for entry in envelope["signatures"]]
    except FileNotFoundError:
        return ["missing: the dataset is not signed"]
    except (OSError, ValueError, KeyError, TypeError, binascii.Error):
        return ["is not a DSSE envelope"]
    if kind != PAYLOAD:
        return [f"its payload is {kind!r}, not an in-toto statement"]
    if not any(_verifies(public, signature, _encoded(payload)) for signature in signatures):
        return [f"is not signed by this key ({key_id(public)[:16]})"]
    return statement_problems(dataset, payload)


def key_id(public: PublicKey) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER)."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _encoded(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed names its own type and lengths."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _verifies(public: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, message)
        else:
            public.verify(signature, message, ec.ECDSA(_hash(public.curve)))
    except InvalidSignature:
        return False
    return True


def _hash(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """The hash that is as strong as a curve."""
    return hashes.SHA256() if curve.key_size <= 256 else hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()


def _private(key: bytes, passphrase: bytes | None) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    try:
        found = serialization.load_pem_private_key(key, passphrase)
    except TypeError as error:
        raise BinmillError(f"--key: {error}", "put the key's passphrase into BINMILL_KEY_PASSPHRASE") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BinmillError(
            "--key: not a private key in PEM, or another passphrase", "make one: openssl genpkey -algorithm ed25519"
        ) from error
    if not isinstance(found, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise BinmillError("--key: neither Ed25519 nor ECDSA", "make one: openssl genpkey -algorithm ed25519")
    return found


def _public(key: bytes) -> PublicKey:
    try:
        found = serialization.load_pem_public_key(key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BinmillError(
            "--key: not a public key in PEM", "write it: openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem"
        ) from error
    if not isinstance(found, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise BinmillError("--key: neither Ed25519 nor ECDSA", "give the public key of the one that signed")
    return found
