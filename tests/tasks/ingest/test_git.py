"""Commits as sources: equal to what `git archive` gives, and deaf to what a repository would like to run."""

import functools
import http.server
import io
import os
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.errors import SourceError
from schemas.recipe import GitSource, Members
from tasks.archives import Limits, Member, read
from tasks.ingest.candidates import describe, scan
from tasks.ingest.origin import Origin, is_cached, obtain, resolve
from tasks.repository import environment, is_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

MIT = """MIT License

Copyright (c) 2026 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


class Repository:
    """A repository with a work tree, made by git itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        identity = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "a",
            "GIT_COMMITTER_EMAIL": "a@b",
        }
        command = ["git", "-C", str(self.root), "-c", "protocol.file.allow=always", *arguments]
        return subprocess.run(command, env=environment() | identity, capture_output=True, text=True, check=True).stdout

    def commit(self, **files: bytes) -> str:
        for name, data in files.items():
            path = self.root / os.fsdecode(name.replace("__", "/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.git("rev-parse", "HEAD").strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repo.git")


def source(**fields: Any) -> GitSource:
    return GitSource.model_validate({"kind": "git", "url": "repo.git", **fields})


def opened(tmp_path: Path, **fields: Any) -> tuple[Origin, Path]:
    origin = resolve(source(**fields), tmp_path, tmp_path / "cache")[0]
    return origin, obtain(Origin.from_json(origin.to_json()), tmp_path / "cache")[0]


def a_zip(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_files_are_those_of_git_archive(tmp_path: Path, repository: Repository) -> None:
    (repository.root / ".gitattributes").write_text("* text=auto eol=crlf\nfiltered filter=lfs\n")
    (repository.root / os.fsdecode(b"caf\xe9")).write_bytes(b"not text")
    (repository.root / "link").symlink_to("/etc/passwd")
    commit = repository.commit(
        a__b=b"\x7fELF" * 99, lines=b"one\ntwo\n", filtered=b"as it is", empty=b"", z=a_zip(c=b"in")
    )
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},module")
    repository.git("commit", "-q", "-m", "module")
    commit = repository.git("rev-parse", "HEAD").strip()
    origin, place = opened(tmp_path, commit=commit)
    assert (origin.kind, origin.name, origin.version) == ("git", "repo", commit)
    found = {m.path: m for m, project in scan(origin, place, Limits()) if project == "repo"}
    plain = {path: m.data for path, m in found.items() if m.data is not None and "!" not in path}
    command = ["git", "-C", str(repository.root), "-c", "core.autocrlf=false", "archive", commit]
    archived = subprocess.run(command, capture_output=True, check=True, env=environment()).stdout
    with tarfile.open(fileobj=io.BytesIO(archived)) as theirs:
        names = {m.name for m in theirs if m.isreg()}
    assert {path.replace("\\udce9", "\udce9") for path in plain} | {"z"} == names
    for path, data in plain.items():
        name = path.replace("\\udce9", "\udce9")
        command = ["git", "-C", str(repository.root), "cat-file", "blob", f"{commit}:{name}"]
        assert subprocess.run(command, capture_output=True, check=True).stdout == data
    assert found["z!c"].data == b"in"
    assert {path: m.reason for path, m in found.items() if m.data is None} == {
        "link": "link: not followed", "module": "submodule: not followed",
    }  # fmt: skip
    wanted = [path for path, m in found.items() if m.data is not None]
    again = {m.path: m.data for m in read(place, [*wanted, "none"], Limits())}
    assert again == {path: found[path].data for path in wanted}
    only = source(commit=commit, members=Members(include=("a/*",)))
    assert [m.path for m, _ in scan(resolve(only, tmp_path)[0], place, Limits())] == ["a/b"]
    assert (
        next(iter(read(place, ["a/b"], Limits(max_member_bytes=10)))).reason
        == "too large: beyond the limit for one file"
    )


def test_a_ref_is_asked_once_and_all_works_without_the_repository(tmp_path: Path, repository: Repository) -> None:
    first = repository.commit(a=b"1")
    repository.git("tag", "-a", "v1", "-m", "message")
    repository.git("branch", "old")
    assert {opened(tmp_path, ref=ref)[0].version for ref in ("HEAD", "main", "v1", "old")} == {first}
    second = repository.commit(a=b"2")
    origin, place = opened(tmp_path, ref="main")
    assert origin.version == first
    assert opened(tmp_path, commit=second)[0].version == second
    repository.root.rename(tmp_path / "away")
    origin, place = opened(tmp_path, ref="main")
    assert list(scan(origin, place, Limits())) == [(Member("a", b"1"), "repo")]
    row = describe(origin, place, None)
    assert (row["version"], row["url"], row["archive_sha256"], row["licence"]) == (first, None, None, None)
    with pytest.raises(SourceError, match="git ls-remote"):
        resolve(source(ref="new"), tmp_path, tmp_path / "cache")


def test_a_dry_run_fetches_nothing(tmp_path: Path, repository: Repository) -> None:
    commit = repository.commit(a=b"1")
    dry = [resolve(source(**fields), tmp_path, tmp_path / "cache", dry=True)[0] for fields in ({}, {"commit": commit})]
    assert not (tmp_path / "cache").exists()
    assert [is_cached(origin, tmp_path / "cache") for origin in dry] == [False, False]
    assert dry[1].source_id == opened(tmp_path, commit=commit)[0].source_id
    assert is_cached(dry[1], tmp_path / "cache")


def test_nothing_of_the_repository_runs(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    (repository.root / ".gitattributes").write_text("* filter=evil\n")
    commit = repository.commit(a=b"1")
    script = repository.root / ".git/hooks/post-checkout"
    script.parent.mkdir(exist_ok=True)
    for name in ("post-checkout", "reference-transaction", "pre-upload", "post-merge", "post-index-change"):
        (script.parent / name).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (script.parent / name).chmod(0o755)
    for key in ("filter.evil.smudge", "uploadpack.packObjectsHook", "core.fsmonitor", "core.sshCommand"):
        repository.git("config", key, f"touch {marker}; false")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.gitconfig").write_text(
        f"[core]\n hooksPath = {script.parent}\n[uploadpack]\n packObjectsHook = {script}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "home/.gitconfig"))
    origin, place = opened(tmp_path, commit=commit)
    assert {m.path: m.data for m, _ in scan(origin, place, Limits())}["a"] == b"1"
    assert not marker.exists()


def test_what_cannot_be_had_is_said(tmp_path: Path, repository: Repository) -> None:
    commit = repository.commit(a=os.urandom(2 << 20))
    with pytest.raises(SourceError, match="no branch or tag 'none'"):
        opened(tmp_path, ref="none")
    with pytest.raises(SourceError, match="git"):
        opened(tmp_path, commit="0" * 40)
    with pytest.raises(SourceError, match="beyond the limit of 1 MiB"):
        opened(tmp_path, commit=commit, max_mib=1)
    with pytest.raises(SourceError, match="not allowed"):
        opened(tmp_path, url="ftp://127.0.0.1/x")
    with pytest.raises(SourceError, match="git"):
        opened(tmp_path, url="ext::sh -c x".replace(" ", "%20"))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == "HEAD"]
    for url in ("-x", "--upload-pack=x", "https://user:secret@host/x", "a b"):
        with pytest.raises(ValidationError):
            source(url=url)
    assert not is_commit(tmp_path / "cache" / commit)


@pytest.fixture
def served(tmp_path: Path, repository: Repository) -> Iterator[str]:
    """The repository on loopback through plain files, as servers that know no single commits."""
    repository.commit(a=b"1")
    repository.git("update-server-info")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet.bound(repository.root / ".git")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files, without a line for each request."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    @classmethod
    def bound(cls, folder: Path) -> Any:
        return functools.partial(cls, directory=str(folder))


def test_a_server_that_gives_no_single_commit_gives_all(tmp_path: Path, served: str) -> None:
    origin, place = opened(tmp_path, url=served)
    assert list(scan(origin, place, Limits())) == [(Member("a", b"1"), origin.name)]
    assert describe(origin, place, served)["url"] == served


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (None, None)),
        ({"LICENSE": MIT.encode()}, ("MIT", "LICENSE")),
        ({"LICENSE.md": MIT.replace("free of charge", "at a price").encode()}, (None, None)),
        ({"LICENSE": MIT.encode(), "COPYING": b"and another"}, (None, None)),
        ({"COPYING": b"SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note\n"},
         ("GPL-2.0-only WITH Linux-syscall-note", "COPYING")),
        ({"LICENSES__MIT.txt": b"", "LICENSES__Apache-2.0.txt": b"", "LICENSE": b"see LICENSES"},
         ("Apache-2.0 AND MIT", "LICENSES/")),
        ({"LICENSES__mine.txt": b""}, (None, "LICENSES/")),
        ({"deep__LICENSE": MIT.encode()}, (None, None)),
    ],
)  # fmt: skip
def test_a_licence_is_told_where_it_is_sure(
    files: dict[str, bytes], expected: tuple[str | None, str | None], tmp_path: Path, repository: Repository
) -> None:
    commit = repository.commit(**files)
    origin, place = opened(tmp_path, commit=commit)
    row = describe(origin, place, None)
    assert (row["licence"], row["licence_source"]) == expected
