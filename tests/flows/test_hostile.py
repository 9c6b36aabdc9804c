"""A corpus from an adversary: one row for each file, no lost work, nothing written where it should not be."""

import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from schemas.errors import RecipeError, SourceError, ToleranceError
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tests.conftest import Mill, recipe_of


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "corpus"
    shutil.copytree(corpus, root)
    bad = root / "other"
    (bad / "empty.so").touch()
    (bad / "text.dll").write_text("This is not a library, whatever its name says.\n" * 100)
    module = next((corpus / "science").iterdir()).read_bytes()
    (bad / "truncated.so").write_bytes(module[: len(module) // 2])
    with zipfile.ZipFile(bad / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.bin", bytes(50 << 20))
    with zipfile.ZipFile(bad / "escape.zip", "w") as archive:
        archive.writestr("../../escaped.so", b"\x7fELF")
    with zipfile.ZipFile(bad / "link.zip", "w") as archive:
        info = zipfile.ZipInfo("link.so")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with tarfile.open(bad / "absolute.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("/tmp/absolute.so")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"\x7fELF"))
    (bad / "cut.zip").write_bytes((bad / "escape.zip").read_bytes()[:60])
    (bad / "link.so").symlink_to("/etc/passwd")
    os.mkfifo(bad / "pipe.so")
    (bad / "header-only.so").write_bytes(b"\x7fELF" + bytes(12))
    (bad / "mz.dll").write_bytes(b"MZ" + os.urandom(4096))
    return root


EXPECTED = {
    "other/empty.so": "empty file",
    "other/text.dll": "not a PE, ELF or Mach-O file: begins with",
    "other/truncated.so": "truncated",
    "other/bomb.zip!zeros.bin": "decompression bomb",
    "other/escape.zip!../../escaped.so": "unsafe path",
    "other/link.zip!link.so": "link: not followed",
    "other/absolute.tar.gz!/tmp/absolute.so": "unsafe path",
    "other/cut.zip": "unreadable archive",
    "other/link.so": "link: not followed",
    "other/pipe.so": "not a regular file",
    "other/header-only.so": "damaged",
    "other/mz.dll": "damaged",
}


def test_each_hostile_file_is_one_row_and_the_rest_is_whole(
    hostile: Path, corpus: Path, mill: Mill, tmp_path: Path
) -> None:
    manifest = mill(recipe_of(hostile, tolerance={"share": 0.5}), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    rows = query(
        dataset,
        "SELECT path_in_source AS path, status, coalesce(reason, parse_error) AS reason, parse_status "
        "FROM observations LEFT JOIN binaries USING (sha256)",
    ).to_pylist()
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows) == 64 + len(EXPECTED)
    for path, reason in EXPECTED.items():
        assert (by_path[path]["reason"] or "").startswith(reason), by_path[path]
    good = [row for path, row in by_path.items() if path not in EXPECTED]
    assert all(row["parse_status"] == "ok" for row in good)
    # A truncated file is in, marked as partial; the other eleven are out and counted.
    assert by_path["other/truncated.so"]["parse_status"] in {"partial", "error"}
    out = sum(by_path[path]["parse_status"] != "partial" for path in EXPECTED)
    assert manifest.summary["failed"] == out
    assert manifest.summary["inputs"] == 64 + len(EXPECTED)
    assert not (tmp_path / "escaped.so").exists()
    assert not Path("/tmp/absolute.so").exists()


def test_a_corpus_of_nothing_but_text_is_said_so(mill: Mill, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / "text" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "text" / "a" / f"{number}.so").write_text(f"text {number}")
    with pytest.raises(ToleranceError, match="5 of 5 inputs failed"):
        mill(recipe_of(tmp_path / "text"), tmp_path / "out")
    with pytest.raises(SourceError, match="no file could be parsed"):
        mill(recipe_of(tmp_path / "text", tolerance={"share": 1}), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToleranceError, match="no input was found"):
        mill(recipe_of(tmp_path / "empty"), tmp_path / "none")


def test_one_class_is_said_so(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    shutil.copytree(corpus / "other", tmp_path / "one" / "other")
    with pytest.raises(RecipeError, match="screening needs two classes"):
        mill(recipe_of(tmp_path / "one"), tmp_path / "out")
