"""Sources with one face: what they say of themselves, and the files they give."""

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from flows.recipes import check_recipe
from schemas.errors import SourceError
from schemas.provenance import digest
from schemas.recipe import DirectorySource, InstalledSource, Members
from tasks.archives import Limits, read
from tasks.build import Build, InProcess
from tasks.ingest.candidates import describe, scan
from tasks.ingest.licence import licence, spdx
from tasks.ingest.origin import Origin, resolve, walk
from tasks.ingest.task import build as ingest
from tasks.ingest.wheel import read_wheel_metadata
from tasks.journal import Journal
from tests.conftest import recipe_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "MIT"),
        ("mit", "MIT"),
        ("Apache-2.0 OR MIT", "Apache-2.0 OR MIT"),
        ("Apache 2.0", "Apache-2.0"),
        ("BSD", "BSD-3-Clause"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0"),
        ("see LICENSE file", None),
        ("MIT AND (", None),
        ("", None),
        (None, None),
        ("x" * 1000, None),
    ],
)
def test_licences_are_spdx_or_nothing(text: str | None, expected: str | None) -> None:
    assert spdx(text) == expected


def test_the_first_field_that_can_be_read_counts() -> None:
    classifiers = ["License :: OSI Approved :: MIT License", "Programming Language :: Rust"]
    assert licence("Apache-2.0", "MIT", classifiers) == ("Apache-2.0", "License-Expression")
    assert licence(None, "MIT License", classifiers) == ("MIT", "License")
    assert licence(None, "see LICENSE", classifiers) == ("MIT", "Classifier")
    assert licence(None, None, ["License :: OSI Approved"]) == (None, None)


def test_a_wheel_says_who_built_it(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a-1.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: maturin (1.9.1)\n")
        archive.writestr("a-1.dist-info/METADATA", "Name: a\nVersion: 1\nLicense: MIT\n\nGenerator: not this\n")
        archive.writestr("evil/a-1.dist-info/WHEEL", "Generator: nested\n")
    found = read_wheel_metadata(path)
    assert (found.name, found.version, found.generator, found.licence) == ("a", "1", "maturin (1.9.1)", "MIT")
    (tmp_path / "bad.whl").write_bytes(b"PK\x03\x04 but no more")
    assert read_wheel_metadata(tmp_path / "bad.whl").generator is None


def test_the_installed_environment_is_a_source() -> None:
    origins = resolve(InstalledSource(kind="installed"), Path())
    names = [o.name for o in origins]
    assert names == sorted(set(names))
    assert "numpy" in names
    numpy = next(o for o in origins if o.name == "numpy")
    assert numpy.source_id == Origin.from_json(json.loads(json.dumps(numpy.to_json()))).source_id
    found = list(scan(numpy, Path(str(numpy.location)), Limits()))
    assert found
    assert all(member.data for member, _ in found)
    assert {project for _, project in found} == {"numpy"}
    row = describe(numpy, Path(str(numpy.location)), None)
    assert row["generator"]
    assert "BSD-3-Clause" in row["licence"]


def test_a_folder_gives_every_file_its_project(tmp_path: Path) -> None:
    for name in ("a/one.so", "a/deep/two.so", "b/three.dll", "top.exe", ".hidden"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(name.encode())
    with zipfile.ZipFile(tmp_path / "corpus/b/z.zip", "w") as archive:
        archive.writestr("in.so", b"x")
    with zipfile.ZipFile(tmp_path / "corpus/b/empty.zip", "w"):
        pass
    origin = resolve(DirectorySource(kind="directory", path="corpus"), tmp_path)[0]
    found = {m.path: p for m, p in scan(origin, tmp_path / "corpus", Limits())}
    assert found == {
        ".hidden": "corpus/.hidden", "a/deep/two.so": "corpus/a", "a/one.so": "corpus/a", "b/three.dll": "corpus/b",
        "b/z.zip!in.so": "corpus/b", "b/empty.zip": "corpus/b", "top.exe": "corpus/top.exe",
    }  # fmt: skip
    by_file = resolve(DirectorySource(kind="directory", path="corpus", project="file"), tmp_path)[0]
    projects = {m.path: p for m, p in scan(by_file, tmp_path / "corpus", Limits())}
    assert projects["a/one.so"] == "corpus/a/one.so"
    assert projects["b/z.zip!in.so"] == "corpus/b/z.zip"
    only = resolve(DirectorySource(kind="directory", path="corpus", members=Members(include=("*.so",))), tmp_path)[0]
    assert {m.path for m, _ in scan(only, tmp_path / "corpus", Limits()) if m.data} == {
        "a/one.so", "a/deep/two.so", "b/z.zip!in.so",
    }  # fmt: skip


ALPHABET = "aAb.-é \U0001f980\udc80"
NAMES = st.text(st.sampled_from(ALPHABET), min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})


@given(
    st.sets(st.lists(NAMES, min_size=1, max_size=4).map("/".join), max_size=12),
    st.integers(1, 5),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_parts_of_a_folder_are_all_of_it_in_order(paths: set[str], most: int, most_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder) / "corpus"
        root.mkdir()
        for path in sorted(paths):
            try:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(path.encode("utf-8", "surrogateescape"))
            except (FileExistsError, IsADirectoryError, NotADirectoryError):
                continue
        expected: list[tuple[str, bytes]] = []
        for where, folders, names in os.walk(root):
            folders.sort()
            expected += [
                ((Path(where) / name).relative_to(root).as_posix(), (Path(where) / name).read_bytes())
                for name in sorted(names)
            ]
        assert list(walk(root)) == [path for path, _ in expected]
        patch.setattr("tasks.ingest.origin.PART_FILES", most)
        patch.setattr("tasks.ingest.origin.PART_BYTES", most_bytes)
        origins = resolve(DirectorySource(kind="directory", path="corpus"), Path(folder))
        listing = [(p.encode("utf-8", "surrogateescape").hex(), hashlib.sha256(d).hexdigest()) for p, d in expected]
        assert {origin.sha256 for origin in origins} == {digest(listing)}
        assert len({origin.source_id for origin in origins}) == 1
        read_back = [Origin.from_json(json.loads(json.dumps(origin.to_json()))) for origin in origins]
        assert read_back == origins
        assert len({digest([origin.to_json(), origin.title]) for origin in origins}) == len(origins)
        parts = [list(walk(root, origin.part)) for origin in origins]
        assert [path for part in parts for path in part] == [path for path, _ in expected]
        sizes = {path: len(data) for path, data in expected}
        for part in parts if len(parts) > 1 else ():
            assert 1 <= len(part) <= most
            assert len(part) == 1 or sum(sizes[path] for path in part) <= most_bytes


def test_a_folder_in_parts_has_the_rows_that_it_has_whole(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, set[str], list[dict[str, Any]], int]] = []
    for most in (4096, 7):
        monkeypatch.setattr("tasks.ingest.origin.PART_FILES", most)
        root = tmp_path / str(most)
        with Journal(root, write=True) as journal:
            recipe = check_recipe(recipe_of(corpus), "test")
            build = Build(recipe, tmp_path, root, root, InProcess(), journal)
            ingest(build)
            scans = build.shards("ingest.scan", "observations")
            rows = {str(row) for shard in scans for row in pq.read_table(root / shard.path).to_pylist()}
            sources = pq.read_table(root / build.shards("ingest.assign", "sources")[0].path).to_pylist()
            batches = build.receipts["ingest.assign"][0].facts["batches"]
        found.append((len(scans), rows, sources, sum(batch["files"] for batch in batches)))
    whole, parts = found
    assert whole[0] == 1 < parts[0]
    assert whole[1:] == parts[1:]
    assert len(whole[2]) == 1


def test_a_file_with_a_mark_in_its_name_and_a_member_are_not_mistaken(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with zipfile.ZipFile(tmp_path / "corpus/a.zip", "w") as archive:
        archive.writestr("b.so", b"member")
        archive.writestr("c.so", b"other")
    (tmp_path / "corpus/a.zip!b.so").write_bytes(b"file")
    with zipfile.ZipFile(tmp_path / "corpus/deep.zip", "w") as archive:
        archive.write(tmp_path / "corpus/a.zip", "in.zip")
    origin = resolve(DirectorySource(kind="directory", path="corpus", members=Members(depth=1)), tmp_path)[0]
    found = [member for member, _ in scan(origin, tmp_path / "corpus", Limits())]
    assert {m.path: m.data for m in found if m.data is not None} == {"a.zip!b.so": b"file", "a.zip!c.so": b"other"}
    assert {m.path: m.reason for m in found if m.data is None} == {
        "a.zip!b.so": "duplicate member: a file has the same path",
        "deep.zip!in.zip": "nested archive: deeper than 1",
    }
    wanted = ["a.zip!b.so", "a.zip!c.so"]
    again = {m.path: m.data for m in read(tmp_path / "corpus", wanted, Limits())}
    assert again == {"a.zip!b.so": b"file", "a.zip!c.so": b"other"}


def test_only_executables_are_taken_where_that_is_asked(tmp_path: Path) -> None:
    heads = {
        "elf": b"\x7fELF\2", "pe": b"MZ\x90", "macho": b"\xcf\xfa\xed\xfe", "fat": b"\xca\xfe\xba\xbe\0\0\0\2",
        "java": b"\xca\xfe\xba\xbe\0\0\0\x34", "script": b"#!/bin/sh", "empty": b"",
    }  # fmt: skip
    (tmp_path / "corpus").mkdir()
    for name, data in heads.items():
        (tmp_path / "corpus" / name).write_bytes(data)
    (tmp_path / "corpus/link").symlink_to("elf")
    wanted = DirectorySource(kind="directory", path="corpus", members=Members(content="executable"))
    found = {member.path for member, _ in scan(resolve(wanted, tmp_path)[0], tmp_path / "corpus", Limits())}
    assert found == {"elf", "pe", "macho", "fat"}


def test_a_source_is_what_is_in_it_not_where_it_is(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "corpus").mkdir(parents=True)
        (tmp_path / place / "corpus/a").write_bytes(b"1")
    here, there = (
        resolve(DirectorySource(kind="directory", path=f"{p}/corpus"), tmp_path)[0] for p in ("here", "there")
    )
    assert here.source_id == there.source_id
    (tmp_path / "there/corpus/a").write_bytes(b"2")
    assert here.source_id != resolve(DirectorySource(kind="directory", path="there/corpus"), tmp_path)[0].source_id
    with pytest.raises(SourceError, match="is not a folder"):
        resolve(DirectorySource(kind="directory", path="nowhere"), tmp_path)
