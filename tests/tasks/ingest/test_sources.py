"""Sources with one face: what they say of themselves, and the files they give."""

import json
import zipfile
from pathlib import Path

import pytest

from schemas.errors import SourceError
from schemas.recipe import DirectorySource, InstalledSource, Members
from tasks.archives import Limits, read
from tasks.ingest.candidates import describe, scan
from tasks.ingest.licence import licence, spdx
from tasks.ingest.origin import Origin, resolve
from tasks.ingest.wheel import read_wheel_metadata


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
