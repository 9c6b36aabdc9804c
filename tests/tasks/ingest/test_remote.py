"""Files by URL, from servers on loopback that mean well and from those that do not; and through fsspec."""

import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pydantic import ValidationError

from schemas.errors import SourceError
from schemas.recipe import HttpSource, Members
from tasks.archives import Limits, read
from tasks.ingest import remote
from tasks.ingest.candidates import describe, scan
from tasks.ingest.origin import is_cached, obtain, resolve

ELF = b"\x7fELF" + bytes(range(256)) * 8


def a_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("demo/_native.so", ELF)
        archive.writestr("demo-1.dist-info/WHEEL", "Generator: maturin (1)\n")
        archive.writestr("demo-1.dist-info/METADATA", "Name: demo\nVersion: 1\nLicense-Expression: MIT\n")
    return buffer.getvalue()


def an_sdist() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (("demo-1/PKG-INFO", b"Name: demo\nVersion: 1\nLicense: BSD\n"), ("demo-1/x.so", ELF)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


FILES = {"/demo.whl": a_wheel(), "/demo-1.tar.gz": an_sdist(), "/tool%20one.exe": ELF, "/sub/tool": ELF}


class Handler(http.server.BaseHTTPRequestHandler):
    """Files; and under other names, misdeeds."""

    asked: list[str] = []  # noqa: RUF012

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    server: http.server.HTTPServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        Handler.asked.append(self.path)
        times = Handler.asked.count(self.path)
        match self.path.partition("?")[0]:
            case path if path in FILES:
                self.answer(200, FILES[path])
            case "/short" | "/short-once":
                lying = self.path == "/short" or times == 1
                self.answer(200, ELF, Content_Length=str(len(ELF) + lying))
                self.close_connection = True
            case "/long":
                self.answer(200, ELF + b"more", Content_Length=str(len(ELF)))
                self.close_connection = True
            case "/endless":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(bytes(1 << 16))
                except OSError:
                    pass
                self.close_connection = True
            case "/slow":
                self.send_response(200)
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(b".")
                        time.sleep(0.02)
                except OSError:
                    pass
                self.close_connection = True
            case "/once":
                self.answer(*((503, b"busy") if times == 1 else (200, ELF)))
            case "/moved":
                self.answer(302, Location="/sub/tool")
            case "/loop":
                self.answer(302, Location="/loop")
            case "/to-file":
                self.answer(302, Location="file:///etc/passwd")
            case "/to-private":
                self.answer(302, Location=f"http://127.0.0.2:{self.server.server_port}/sub/tool")
            case "/changed":
                self.answer(200, gzip.compress(ELF), Content_Encoding="gzip")
            case "/partial":
                self.answer(206, ELF)
            case "/forbidden":
                self.answer(403)
            case _:
                self.answer(404)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between attempts; and no proxy for loopback."""
    Handler.asked.clear()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(remote, "PAUSE_S", 0)


def source(*files: str | dict[str, Any], **fields: Any) -> HttpSource:
    listed = [{"url": file} if isinstance(file, str) else file for file in files]
    return HttpSource.model_validate({"kind": "http", "files": listed, **fields})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_archives_are_opened_and_files_are_taken(tmp_path: Path, server: str) -> None:
    wanted = source(*(server + path for path in FILES))
    origins = resolve(wanted, tmp_path, tmp_path)
    assert [origin.sha256 for origin in origins] == [sha256(data) for data in FILES.values()]
    found: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for origin in origins:
        path, url = obtain(origin, tmp_path)
        rows.append(describe(origin, path, url))
        for member, project in scan(origin, path, Limits()):
            if member.path.endswith((".so", ".exe", "tool")):
                found[f"{project}: {member.path}"] = member.data
                assert [m.data for m in read(path, [member.path], Limits())] == [member.data]
    assert found == dict.fromkeys(
        ("demo.whl: demo/_native.so", "demo-1.tar.gz: demo-1/x.so", "tool one.exe: tool one.exe", "tool: tool"), ELF
    )
    assert [(row["licence"], row["licence_source"], row["generator"]) for row in rows] == [
        ("MIT", "License-Expression", "maturin (1)"), ("BSD-3-Clause", "License", None), (None,) * 3, (None,) * 3,
    ]  # fmt: skip
    assert [row["url"] for row in rows] == [server + path for path in FILES]
    assert [row["archive_sha256"] for row in rows] == [sha256(data) for data in FILES.values()]
    only = resolve(source(server + "/sub/tool", members=Members(include=("*.dll",))), tmp_path, tmp_path)[0]
    assert list(scan(only, obtain(only, tmp_path)[0], Limits())) == []


def test_what_was_fetched_is_not_asked_for_again(tmp_path: Path, server: str) -> None:
    wanted = source(f"{server}/demo.whl", {"url": f"{server}/sub/tool", "sha256": sha256(ELF), "licence": "mit"})
    dry = resolve(wanted, tmp_path, tmp_path / "cache", dry=True)
    assert Handler.asked == []
    assert not (tmp_path / "cache").exists()
    assert not any(is_cached(origin, tmp_path / "cache") for origin in dry)
    first = resolve(wanted, tmp_path, tmp_path / "cache")
    assert Handler.asked == ["/demo.whl"]
    assert dry[1] == first[1]
    rows = [describe(origin, *obtain(origin, tmp_path / "cache")) for origin in first]
    assert [(row["licence"], row["licence_source"]) for row in rows] == [
        ("MIT", "License-Expression"),
        ("MIT", "recipe"),
    ]
    assert resolve(wanted, tmp_path, tmp_path / "cache") == first
    assert resolve(wanted, tmp_path, tmp_path / "cache", dry=True) == first
    assert Handler.asked == ["/demo.whl", "/sub/tool"]


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/none", "404"), ("/forbidden", "403"), ("/partial", "206"), ("/endless", "larger than 1 MiB"),
        ("/short", "IncompleteRead|ProtocolError|bytes came"), ("/loop", "more than 5 redirects"),
        ("/to-file", "to file"),
        ("/to-private", "private network"), ("/changed", "changes the file"), ("/slow", "slower than"),
    ],
)  # fmt: skip
def test_what_servers_do_wrong_is_said(
    path: str, problem: str, tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "/slow":
        monkeypatch.setattr(remote, "PATIENCE_S", 0.05)
    with pytest.raises(SourceError, match=problem) as raised:
        resolve(source(server + path, max_mib=1), tmp_path, tmp_path)
    assert raised.value.remedy
    assert not [kept for kept in (tmp_path / "archives").rglob("*") if kept.is_file()]


def test_what_breaks_off_is_tried_again(tmp_path: Path, server: str) -> None:
    for path in ("/once", "/short-once"):
        assert resolve(source(server + path), tmp_path, tmp_path)[0].sha256 == sha256(ELF)
        assert Handler.asked.count(path) == 2


def test_only_what_was_declared_is_read_and_redirects_are_followed(tmp_path: Path, server: str) -> None:
    assert resolve(source(server + "/long"), tmp_path, tmp_path)[0].sha256 == sha256(ELF)
    moved = resolve(source(server + "/moved"), tmp_path, tmp_path)[0]
    assert (moved.sha256, moved.url) == (sha256(ELF), f"{server}/moved")


def test_a_pin_is_kept_to(tmp_path: Path, server: str) -> None:
    origin = resolve(source({"url": f"{server}/sub/tool", "sha256": "0" * 64}), tmp_path, tmp_path)[0]
    assert Handler.asked == []
    with pytest.raises(SourceError, match="SHA-256 is"):
        obtain(origin, tmp_path)


def test_https_is_not_left() -> None:
    follow = remote.redirected
    assert follow("u", "https://a/x", "https://b/y") == "https://b/y"
    assert follow("u", "http://a/x", "https://a/y") == "https://a/y"
    for place, target in (
        ("https://a/x", "http://a/y"), ("https://a/x", "ftp://a/y"), ("https://a/x", "https://127.0.0.1/y"),
        ("https://a/x", "https://[::1]/y"), ("https://a/x", "https://10.0.0.1/y"), ("https://a/x", "https://localhost/y"),
        ("https://a/x", "https://169.254.169.254/latest/meta-data"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match="redirected"):
            follow("u", place, target)


def test_stores_are_read_through_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/set/a/one.so": ELF, "/bucket/set/b.whl": a_wheel(), "/bucket/other": b"no"})
    (tmp_path / "files/deep").mkdir(parents=True)
    (tmp_path / "files/deep/x.so").write_bytes(ELF)
    wanted = source("memory://bucket/set/", f"file://{tmp_path}/files/", f"file://{tmp_path}/files/deep/x.so")
    dry = resolve(wanted, tmp_path, tmp_path / "cache", dry=True)
    assert len(dry) == 3
    assert not (tmp_path / "cache").exists()
    origins = resolve(wanted, tmp_path, tmp_path / "cache")
    assert [(origin.filename, origin.sha256) for origin in origins] == [
        ("a/one.so", sha256(ELF)), ("b.whl", sha256(a_wheel())), ("deep/x.so", sha256(ELF)), ("x.so", sha256(ELF)),
    ]  # fmt: skip
    memory.rm("/bucket", recursive=True)
    assert resolve(wanted, tmp_path, tmp_path / "cache") == origins
    path, url = obtain(origins[0], tmp_path / "cache")
    assert [(m.path, m.data) for m, _ in scan(origins[0], path, Limits())] == [("a/one.so", ELF)]
    assert url == "memory://bucket/set/a/one.so"


def test_what_stores_lack_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url, problem in (
        ("memory://nothing/here", "no such file"), ("memory://nothing/", "no file has this prefix|no such file"),
        (f"file://{tmp_path}/none", "no such file"), ("gopher://x/y", "gopher|rotocol"), ("https://x/", "no listing"),
        ("https://x/a%0ab", "no name for a file"), ("https://x/%2e%2e", "no name for a file"),
    ):  # fmt: skip
        with pytest.raises(SourceError, match=problem):
            resolve(source(url), tmp_path, tmp_path / "cache")

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(SourceError, match="Install s3fs") as raised:
        resolve(source("s3://bucket/x"), tmp_path, tmp_path / "cache")
    assert "binmill[remote]" in raised.value.remedy
    (tmp_path / "big").write_bytes(os.urandom(2 << 20))
    monkeypatch.undo()
    with pytest.raises(SourceError, match="larger than 1 MiB"):
        resolve(source(f"file://{tmp_path}/big", max_mib=1), tmp_path, tmp_path / "cache")


def test_recipes_hold_no_secrets_and_no_nonsense() -> None:
    for url in (
        "https://user:secret@host/x",
        "no url",
        "://x",
        "https://a b/c",
        "",
        "zip://x::https://a/b",
        "simplecache::s3://a/b",
    ):
        with pytest.raises(ValidationError):
            source(url)
    with pytest.raises(ValidationError, match="not with a prefix"):
        source({"url": "s3://bucket/prefix/", "sha256": "0" * 64})
