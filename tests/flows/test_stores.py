"""Datasets in an object store, over a real S3 protocol server on loopback: commits, races, reading, going on."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from cryptography.hazmat.primitives.asymmetric import ed25519
from typer.testing import CliRunner

from flows.cli import app
from flows.plan import plan_dataset
from flows.recipes import check_recipe
from flows.stages import run_stages
from flows.stores import folder_of, opened, pull, staging
from schemas.errors import DatasetError
from schemas.statement import STATEMENT
from tasks.build import Build, InProcess
from tasks.query.attest import sign
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tasks.query.verify import verify
from tasks.store.objects import ObjectStore, OvertakenError
from tasks.store.push import published, push, sweep
from tests.conftest import recipe_of
from tests.keys import private_pem, public_pem
from tests.s3_server import KEYS, s3_server

Bucket = tuple[str, Any]


@pytest.fixture(scope="module")
def server() -> Generator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: Any) -> Bucket:
    """URL of an empty bucket, and a client of it that is not ours."""
    for key, value in (KEYS | {"AWS_ENDPOINT_URL": server, "BINMILL_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(key, value)
    client = s3fs.S3FileSystem(endpoint_url=server, use_listings_cache=False, skip_instance_cache=True)
    name = "b-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client.mkdir(name)
    return f"s3://{name}/sets/small", client


def run(recipe: dict[str, Any], url: str, base: Path) -> tuple[str, dict[str, int]]:
    """A run as the flow does it, without Prefect: digest, and items computed by stage."""
    with staging(url, base / "cache") as (place, journal):
        build = Build(
            recipe=check_recipe(recipe, "test"), base=base, root=place.root, cache=base / "archives",
            executor=InProcess(), journal=journal,
        )  # fmt: skip
        manifest = run_stages(build, {})
        place.publish(True)
        computed: dict[str, int] = {}
        for count in build.counts:
            computed[count.stage] = computed.get(count.stage, 0) + count.items - count.present
        return manifest.digest, computed


def clean(dataset: Any) -> bool:
    return not [finding for _, found in verify(dataset) for finding in found]


def test_a_pushed_dataset_is_read_by_others_and_by_us(small: Path, bucket: Bucket, tmp_path: Path) -> None:
    url, client = bucket
    assert push(small, ObjectStore(url), None) > 0
    manifest = json.loads((small / "manifest.json").read_bytes())
    assert json.loads(client.cat_file(f"{url}/manifest.json"))["digest"] == manifest["digest"]
    for shard in (s for shards in manifest["tables"].values() for s in shards):
        assert hashlib.sha256(client.cat_file(f"{url}/{shard['path']}")).hexdigest() == shard["sha256"]
    assert client.cat_file(f"{url}/README.md") == (small / "README.md").read_bytes()
    import pyarrow.parquet as pq

    path = manifest["tables"]["labels"][0]["path"]
    with client.open(f"{url}/{path}", "rb") as file:
        assert pq.read_table(file).num_rows == manifest["tables"]["labels"][0]["rows"]

    dataset = opened(url)
    rows = query(dataset, "SELECT label, count(*) AS n FROM labels GROUP BY ALL ORDER BY ALL").to_pylist()
    assert rows == query(opened(small), "SELECT label, count(*) AS n FROM labels GROUP BY ALL ORDER BY ALL").to_pylist()
    here = {p.relative_to(dataset.root).parts[1] for p in dataset.root.rglob("*.parquet")}
    assert here == {"labels"}, "more was fetched than was asked"
    assert clean(opened(url))
    there = pull(url, tmp_path / "copy")
    assert clean(there)
    assert there.manifest.digest == manifest["digest"]


def test_the_statement_and_its_signature_go_along(small: Path, bucket: Bucket, tmp_path: Path) -> None:
    url, client = bucket
    folder, store, key = tmp_path / "mine", ObjectStore(url), ed25519.Ed25519PrivateKey.generate()
    shutil.copytree(small, folder)

    def problems(dataset: Any) -> list[str]:
        return [found.problem for _, findings in verify(dataset, public_pem(key)) for found in findings]

    push(folder, store, None)
    assert problems(opened(url)) == ["missing: the dataset is not signed"]
    sign(open_dataset(folder), private_pem(key))
    push(folder, store, published(store).tag)
    assert problems(opened(url)) == []
    assert problems(pull(url, tmp_path / "copy")) == []
    manifest_sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert client.cat_file(f"{url}/{STATEMENT}") == (folder / STATEMENT).read_bytes()
    client.pipe_file(f"{url}/.binmill/attested/{manifest_sha256}/{STATEMENT}", b"{}")
    assert problems(opened(url)) == ["is not an in-toto statement of SLSA provenance"]


def test_nothing_is_sent_twice_and_a_push_cut_short_goes_on(
    small: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, client = bucket
    put, sent = ObjectStore.put, []

    def failing(self: ObjectStore, name: str, path: Path, sha256: str) -> None:
        if len(sent) == 5:
            raise DatasetError("the network is gone", "wait")
        sent.append(name)
        put(self, name, path, sha256)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", failing)
        with pytest.raises(DatasetError, match="network"):
            push(small, ObjectStore(url), None)
    assert not client.exists(f"{url}/manifest.json")
    store = ObjectStore(url)
    first = push(small, store, None)
    total = sum(len(store.listing(below)) for below in ("tables/", "fitted/", ".binmill/files/", ".binmill/work/"))
    assert first == total - len(sent) > 0
    assert push(small, store, published(store).tag) == 0


def test_of_two_writers_one_wins_and_the_other_says_so(small: Path, bucket: Bucket, tmp_path: Path) -> None:
    url, _ = bucket
    store = ObjectStore(url)
    other = tmp_path / "other"
    shutil.copytree(small, other)
    manifest = json.loads((other / "manifest.json").read_bytes())
    manifest["run"] = {"workers": 7}
    (other / "manifest.json").write_text(json.dumps(manifest))
    push(other, store, None)
    with pytest.raises(OvertakenError, match="another run has published"):
        push(small, store, None)  # both began where there was nothing
    tag = published(store).tag
    push(small, store, tag)
    with pytest.raises(OvertakenError):
        push(other, store, tag)  # both began from the same manifest
    assert published(store).text == (small / "manifest.json").read_bytes()


@pytest.mark.slow
def test_a_run_goes_on_from_what_another_machine_published(
    bucket: Bucket, corpus: Path, mill: Callable[..., Any], tmp_path: Path
) -> None:
    url, client = bucket
    recipe = recipe_of(corpus)
    local = mill(recipe, tmp_path / "local")
    first, computed = run(recipe, url, tmp_path / "one")
    assert first == local.digest
    assert computed["extract"]
    again, computed = run(recipe, url, tmp_path / "two")  # a machine that has nothing yet
    assert again == first
    assert not any(computed.values())
    changed, computed = run(recipe | {"screening": {"top": 8}}, url, tmp_path / "two")
    assert changed != first
    assert not computed["extract"]
    assert not computed["split"]
    assert computed["binarize"]
    assert opened(url).manifest.digest == changed
    shutil.rmtree(folder_of(url, tmp_path / "one" / "cache") / ".binmill" / "work", ignore_errors=True)
    again, _ = run(recipe, url, tmp_path / "one")
    assert again == first
    assert clean(opened(url))
    assert client.exists(f"{url}/recipe.yaml")


def test_a_manifest_lists_only_what_is_there_whatever_fails(
    small: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every single request of a push fails once: the old dataset stays whole, or the new one is."""
    url, _ = bucket
    store = ObjectStore(url)
    older = tmp_path / "older"
    shutil.copytree(small, older)
    card = b"another card"
    manifest = json.loads((older / "manifest.json").read_bytes())
    manifest["files"]["README.md"] = hashlib.sha256(card).hexdigest()
    (older / "README.md").write_bytes(card)
    (older / "manifest.json").write_text(json.dumps(manifest))
    (older / STATEMENT).unlink()  # it is of the manifest as it was
    push(older, store, None)
    for name in ("put", "write", "commit"):
        real = getattr(ObjectStore, name)
        for after in (False, True):
            with monkeypatch.context() as patch:

                def failing(self: ObjectStore, *arguments: Any, real: Any = real, after: bool = after) -> None:
                    if after:
                        real(self, *arguments)
                    raise DatasetError("the connection broke", "try again")

                patch.setattr(ObjectStore, name, failing)
                with pytest.raises(DatasetError, match="broke"):
                    push(small, store, published(store).tag)
            assert clean(opened(url))
            push(older, store, published(store).tag)


def test_stores_that_ignore_conditions_are_refused(
    small: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, client = bucket
    pipe = s3fs.S3FileSystem._pipe_file  # pyright: ignore[reportPrivateUsage]

    async def careless(self: Any, path: str, data: bytes, **options: Any) -> Any:
        options.pop("IfNoneMatch", None)
        options.pop("IfMatch", None)
        return await pipe(self, path, data, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", careless)
    with pytest.raises(DatasetError, match="ignores the conditions"):
        push(small, ObjectStore(url), None)
    assert not client.exists(f"{url}/manifest.json")


def test_damage_in_the_store_is_found(small: Path, bucket: Bucket, tmp_path: Path) -> None:
    url, client = bucket
    push(small, ObjectStore(url), None)
    shards = json.loads((small / "manifest.json").read_bytes())["tables"]
    client.pipe_file(f"{url}/{shards['labels'][0]['path']}", b"something else")
    with pytest.raises(DatasetError, match="SHA-256"):
        query(opened(url), "SELECT * FROM labels")
    client.rm(f"{url}/{shards['splits'][0]['path']}")
    with pytest.raises(DatasetError, match="not there"):
        query(opened(url), "SELECT * FROM splits")
    with pytest.raises(DatasetError, match=r"SHA-256|not there"):
        pull(url, tmp_path / "copy")
    assert not (tmp_path / "copy" / "manifest.json").exists()
    manifest = json.loads((small / "manifest.json").read_bytes())
    manifest["files"]["../../escape"] = "0" * 64
    client.pipe_file(f"{url}/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(DatasetError, match="outside"):
        opened(url)


def test_a_stranger_s_journal_cannot_lead_outside(small: Path, bucket: Bucket, tmp_path: Path) -> None:
    url, client = bucket
    push(small, ObjectStore(url), None)
    text = client.cat_file(f"{url}/manifest.json")
    line = {
        "stage": "x", "step": "y", "key": "k",
        "shards": [{"path": "../../../evil", "sha256": "0" * 64, "size": 1, "rows": 1}],
    }  # fmt: skip
    journal = f"{url}/.binmill/journal/{hashlib.sha256(text).hexdigest()}"
    client.pipe_file(journal, json.dumps(line).encode())
    with pytest.raises(DatasetError, match="outside"), staging(url, tmp_path / "cache"):
        pass


def test_sweep_removes_only_what_is_old_and_unlisted(
    small: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, client = bucket
    store = ObjectStore(url)
    push(small, store, None)
    client.pipe_file(f"{url}/tables/labels/part-dead.parquet", b"left behind")
    assert sweep(store) == []  # younger than a day: maybe of a run at work
    import datetime

    monkeypatch.setattr("tasks.store.push.GRACE", -datetime.timedelta(days=1))
    assert sweep(store) == ["tables/labels/part-dead.parquet"]
    assert clean(opened(url))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ftp://host/x", "no store"),
        ("file:///etc", "no store"),
        ("s3://key:secret@bucket/x", "keys"),
        ("s3://bucket/x?versionId=1", "keys"),
    ],
)
def test_other_urls_are_refused(url: str, problem: str) -> None:
    with pytest.raises(DatasetError, match=problem) as caught:
        opened(url)
    assert "secret" not in str(caught.value)


def test_no_dataset_and_no_bucket_are_said(bucket: Bucket) -> None:
    url, _ = bucket
    with pytest.raises(DatasetError, match="no dataset here"):
        opened(url)
    nowhere = ObjectStore("s3://no-such-bucket-at-all/x")
    with pytest.raises(DatasetError, match="no such bucket"):
        nowhere.check_commits()
    with pytest.raises(DatasetError, match="no conditional put"):
        ObjectStore("https://127.0.0.1:1/x").check_commits()


def test_commands_take_urls(small: Path, bucket: Bucket, tmp_path: Path) -> None:
    url, _ = bucket
    runner = CliRunner()
    done = runner.invoke(app, ["push", str(small), url, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sent"] > 0
    for command in (
        ["describe", url], ["verify", url], ["query", url, "SELECT count(*) FROM train"],
        ["pull", url, str(tmp_path / "copy")], ["verify", str(tmp_path / "copy")],
    ):  # fmt: skip
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
    sample = json.loads((small / "manifest.json").read_bytes())["summary"]["sample"]
    for command in (["search", url, "--like", sample, "--json"], ["trace", url, sample, "--json"]):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)


def test_plan_looks_at_the_staging_folder(bucket: Bucket, corpus: Path, tmp_path: Path) -> None:
    url, _ = bucket
    recipe = recipe_of(corpus)
    run(recipe, url, tmp_path)
    build = plan_dataset(check_recipe(recipe, "test"), tmp_path, url, tmp_path / "cache")
    assert all(count.items == count.present for count in build.counts)


@pytest.mark.prefect
def test_the_flow_publishes_to_a_store(bucket: Bucket, corpus: Path, tmp_path: Path) -> None:
    import yaml

    url, _ = bucket
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(corpus)))
    command = [sys.executable, "-m", "flows.cli", "run", str(tmp_path / "recipe.yaml"), "-o", url, "--workers", "2"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["root"] == url
    assert opened(url).manifest.digest == json.loads(done.stdout)["digest"]
