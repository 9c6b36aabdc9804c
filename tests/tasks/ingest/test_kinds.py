"""All kinds of sources through the whole mill: the same files give the same features, wherever they lie."""

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.plan import plan_dataset
from flows.recipes import check_recipe
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tasks.repository import environment
from tests.conftest import Mill, recipe_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def packed(folder: Path, name: str) -> bytes:
    """A folder as name.tar.zst inside a zip."""
    tar, whole = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.add(folder, name)
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr(f"{name}/{name}.tar.zst", pa.compress(tar.getvalue(), codec="zstd", asbytes=True))
    return whole.getvalue()


def committed(folder: Path, root: Path) -> str:
    """A folder as the only content of a repository; returns its commit."""
    shutil.copytree(folder, root / folder.name)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", root, *command], check=True, env=environment(), capture_output=True)
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("origins")
    (root / "other.zip").write_bytes(packed(corpus / "other", "other"))
    (root / "repository").mkdir()
    commit = committed(corpus / "science", root / "repository")
    sources = [
        {"kind": "git", "url": str(root / "repository"), "commit": commit, "project": "file"},
        {"kind": "http", "files": [{"url": (root / "other.zip").as_uri()}], "members": {"content": "executable"}},
    ]
    return recipe_of(corpus, sources=sources, label={"origin": "first-folder"}, dedup={"by": ["sha256"]})


def test_features_do_not_depend_on_the_kind_of_source(
    recipe: dict[str, Any], small: Path, mill: Mill, tmp_path: Path
) -> None:
    dry = plan_dataset(check_recipe(recipe, "test"), tmp_path, tmp_path / "out", tmp_path / "cache")
    assert [(count.step, count.items, count.present) for count in dry.counts] == [("scan", 2, 0)]
    assert not (tmp_path / "cache").exists()
    mill(recipe, tmp_path / "out")
    ours, theirs = open_dataset(tmp_path / "out"), open_dataset(small)
    for table in ("binaries", "features"):
        wanted = f"SELECT * FROM {table} ORDER BY ALL"
        assert query(ours, wanted).equals(query(theirs, wanted))
    rows = query(ours, "SELECT kind, status, version, archive_sha256, url FROM sources ORDER BY kind").to_pylist()
    assert [(row["kind"], row["status"]) for row in rows] == [("git", "ok"), ("http", "ok")]
    assert rows[0]["version"] == recipe["sources"][0]["commit"]
    assert rows[1]["url"] == recipe["sources"][1]["files"][0]["url"]
    labels = query(ours, "SELECT DISTINCT label FROM labels ORDER BY label").to_pylist()
    assert [row["label"] for row in labels] == ["other", "science"]
    paths = query(ours, "SELECT path_in_source FROM observations WHERE path_in_source LIKE '%!%'").to_pylist()
    assert {row["path_in_source"].partition("!")[0] for row in paths} == {"other/other.tar.zst"}
    shutil.rmtree(recipe["sources"][0]["url"])
    again = mill(recipe, tmp_path / "out")
    assert again.run["computed"] == 0
    shutil.rmtree(tmp_path / "out/tables")
    rebuilt = mill(recipe, tmp_path / "out")
    assert rebuilt.run["computed"] > 0
    assert rebuilt.digest == again.digest
