"""Packages through apt, from an archive made here; the copyright format against Debian's own examples."""

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.errors import SourceError
from schemas.recipe import DebianSource, Members
from tasks.archives import Limits, read
from tasks.ingest import debian
from tasks.ingest.candidates import describe, scan
from tasks.ingest.licence import copyright_licence, debian_spdx
from tasks.ingest.origin import is_cached, obtain, resolve

needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="this machine has no apt"
)

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: demo
License: GPL-3

Files: *
Copyright: 2001 Somebody
License: GPL-2+ or Artistic-2.0, and BSD-3-clause
 text of the licence
 .
 more of it

Files: lib/a.c
 lib/b.c
Copyright: 2002 Another
License: Expat

Files: debian/*
Copyright: 2003 Packager
License: WTFPL

License: Expat
 Permission is hereby granted
"""


def package(folder: Path, name: str, version: str, copyright_text: str | None, source: str | None = None) -> Path:
    """A package file with a program, a script and a link, made by dpkg-deb."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    about = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: a <a@b.c>\nDescription: demo\n"
    files = {
        "DEBIAN/control": about.encode() + (f"Source: {source}\n".encode() if source else b""),
        "usr/bin/tool": b"\x7fELF" + version.encode() * 50,
        "usr/bin/script": b"#!/bin/sh\n",
        f"usr/lib/{name}.so.1": b"\x7fELF" + name.encode() * 50,
    }
    if copyright_text is not None:
        files[f"usr/share/doc/{name}/copyright"] = copyright_text.encode()
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    (root / f"usr/lib/{name}.so").symlink_to(f"{name}.so.1")
    made = folder / f"{name}_{version.rpartition(':')[2]}_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, made], check=True, capture_output=True)
    return made


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with `demo` 1:1.0 and 2.0, and `other`; apt is told of it by its own means."""
    folder = tmp_path / "archive"
    folder.mkdir()
    made = [
        package(folder, "demo", "1:1.0", COPYRIGHT, "demo-source (0.9)"),
        package(folder, "demo", "0.5", None),
        package(folder, "other", "1", "You may do as you please."),
    ]
    shutil.rmtree(folder / "root")
    index = ""
    for path in made:
        fields = subprocess.run(["dpkg-deb", "-f", path], capture_output=True, text=True, check=True).stdout
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        index += f"{fields}Filename: ./{path.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
    (folder / "Packages").write_text(index)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] copy:{folder} ./\n")
    (tmp_path / "apt.conf").write_text(f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return folder


def source(*packages: dict[str, Any], **fields: Any) -> DebianSource:
    return DebianSource.model_validate({"kind": "debian", "packages": packages, **fields})


@needs_apt
def test_a_package_is_what_the_archive_has(tmp_path: Path, archive: Path) -> None:
    cache = tmp_path / "cache"
    origin = resolve(source({"name": "demo"}), tmp_path, cache)[0]
    deb = (archive / "demo_1.0_amd64.deb").read_bytes()
    assert (origin.name, origin.version, origin.filename) == ("demo", "1:1.0", "demo_1%3a1.0_amd64.deb")
    assert origin.sha256 == hashlib.sha256(deb).hexdigest()
    assert not is_cached(origin, cache)
    path, url = obtain(origin, cache)
    assert path.read_bytes() == deb
    found = list(scan(origin, path, Limits()))
    assert {project for _, project in found} == {"demo-source"}
    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(listed)) as theirs:
        for member, _ in found:
            if member.data is not None:
                content = theirs.extractfile(f"./{member.path}")
                assert content is not None
                assert content.read() == member.data
    assert {m.path: m.reason for m, _ in found} == {
        "usr/bin/tool": None, "usr/lib/demo.so.1": None,
    }  # fmt: skip
    every = resolve(
        source({"name": "demo"}, members=Members(include=("usr/*/*",), exclude=("*/doc/*",))), tmp_path, cache
    )
    assert {m.path: m.reason for m, _ in scan(every[0], path, Limits())} == {
        "usr/bin/script": None, "usr/bin/tool": None, "usr/lib/demo.so.1": None,
        "usr/lib/demo.so": "link: not followed",
    }  # fmt: skip
    assert [m.path for m in read(path, ["usr/bin/tool"], Limits())] == ["usr/bin/tool"]
    row = describe(origin, path, url)
    assert row["licence"] == "BSD-3-Clause AND MIT AND (Artistic-2.0 OR GPL-2.0-or-later)"
    assert row["licence_source"] == "usr/share/doc/demo/copyright"
    assert row["archive_sha256"] == origin.sha256
    assert str(row["url"]).startswith("copy:")


@needs_apt
def test_once_fetched_no_archive_is_asked(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    wanted = source({"name": "demo", "version": "0.5"}, {"name": "other"})
    first = resolve(wanted, tmp_path, cache)
    for origin in first:
        obtain(origin, cache)
    monkeypatch.setenv("PATH", "")
    again = resolve(wanted, tmp_path, cache)
    assert again == first
    rows = [describe(origin, *obtain(origin, cache)) for origin in again]
    assert [row["licence"] for row in rows] == [None, None]
    assert [row["licence_source"] for row in rows] == [
        "usr/share/doc/demo/copyright: not in the package", "usr/share/doc/other/copyright: free text",
    ]  # fmt: skip
    pinned = source({"name": "demo", "files": {str(first[0].filename): first[0].sha256}})
    assert resolve(pinned, tmp_path, cache)[0].source_id == first[0].source_id
    with pytest.raises(SourceError, match="need apt-get, which this machine does not have"):
        resolve(source({"name": "new"}), tmp_path, cache)


@needs_apt
def test_a_pinned_package_is_found_by_its_name(tmp_path: Path, archive: Path) -> None:
    cache = tmp_path / "cache"
    sha256 = hashlib.sha256((archive / "demo_1.0_amd64.deb").read_bytes()).hexdigest()
    name = "demo_1%3a1.0_amd64.deb"
    origin = resolve(source({"name": "demo", "files": {name: sha256}}), tmp_path, cache)[0]
    assert not cache.exists()
    assert hashlib.sha256(obtain(origin, cache)[0].read_bytes()).hexdigest() == sha256
    for files, problem in (
        ({name: "0" * 64}, "offers SHA-256"),
        ({"demo_7_amd64.deb": sha256[::-1]}, "apt cannot get it"),
        ({"demo.deb": "0" * 64}, "no package file name"),
    ):
        with pytest.raises(SourceError, match=problem):
            obtain(resolve(source({"name": "demo", "files": files}), tmp_path, cache)[0], cache)


@needs_apt
def test_what_the_archive_does_not_have_is_said(tmp_path: Path, archive: Path) -> None:
    for wanted in ({"name": "nothing"}, {"name": "demo", "version": "9"}):
        with pytest.raises(SourceError, match="apt cannot get it"):
            resolve(source(wanted), tmp_path, tmp_path / "cache")
    with pytest.raises(SourceError, match="for riscv64: apt cannot get it"):
        resolve(source({"name": "demo"}, architectures=("riscv64",)), tmp_path, tmp_path / "cache")
    for name in ("-o", "Upper", "a b", "a;b"):
        with pytest.raises(ValidationError):
            source({"name": name})


@needs_apt
def test_a_damaged_package_is_not_taken(tmp_path: Path, archive: Path) -> None:
    (archive / "other_1_amd64.deb").write_bytes((archive / "other_1_amd64.deb").read_bytes()[:-1] + b"?")
    origin = resolve(source({"name": "other"}), tmp_path, tmp_path / "cache")[0]
    with pytest.raises(SourceError, match=r"apt-get|SHA-256"):
        obtain(origin, tmp_path / "cache")
    assert not is_cached(origin, tmp_path / "cache")


def test_a_dry_run_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = resolve(source({"name": "demo"}, architectures=("amd64", "arm64")), tmp_path, tmp_path / "cache", dry=True)
    assert [origin.filename for origin in found] == ["demo_newest_amd64.deb", "demo_newest_arm64.deb"]
    assert len({origin.sha256 for origin in found}) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("GPL-2", "GPL-2.0-only"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("AGPL-3", "AGPL-3.0-only"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("Expat", "MIT"),
        ("Apache-2.0", "Apache-2.0"),
        ("BSD-2-clause", "BSD-2-Clause"),
        ("Perl", "GPL-1.0-or-later OR Artistic-1.0-Perl"),
        ("GPL-3+ with Autoconf exception", "GPL-3.0-or-later WITH Autoconf-exception-3.0"),
        ("GPL-2+ with Font exception or Expat", "GPL-2.0-or-later WITH Font-exception-2.0 OR MIT"),
        ("GPL-2+ or Artistic-2.0, and BSD-3-clause", "(GPL-2.0-or-later OR Artistic-2.0) AND BSD-3-Clause"),
        ("MIT, and Zlib or ISC", "MIT AND (Zlib OR ISC)"),
        ("GPL-2+ with Unheard-of exception", None),
        ("public-domain", None),
        ("GPL", "GPL-1.0-or-later"),
        ("and", None),
        ("MIT or", None),
        ("", None),
    ],
)
def test_short_names_are_spdx_or_nothing(short: str, expected: str | None) -> None:
    assert debian_spdx(short) == expected


def test_copyright_files_are_read_or_said_to_be_free_text() -> None:
    assert copyright_licence(COPYRIGHT) == ("BSD-3-Clause AND MIT AND (Artistic-2.0 OR GPL-2.0-or-later)", None)
    assert copyright_licence("This package is free.") == (None, "free text")
    assert copyright_licence("") == (None, "free text")
    assert copyright_licence(COPYRIGHT.replace("Expat", "custom")) == (None, "no SPDX expression for 'custom'")
    assert copyright_licence(COPYRIGHT.split("Files:", maxsplit=1)[0]) == (None, "no paragraph says so")


def test_a_file_that_is_no_package_has_no_source(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"!<arch>\ndebian-binary   junk")
    assert debian.source_package(tmp_path / "x") is None
    assert debian.package_name(tmp_path / "x") is None
