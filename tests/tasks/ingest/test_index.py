"""The package index: its two page formats, pip's configuration, the cache; against a server on loopback."""

import hashlib
import http.server
import json
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.errors import SourceError
from schemas.recipe import Package, PypiSource
from tasks.ingest import cache, index
from tasks.ingest.index import (
    IndexUnreachableError,
    PipConfiguration,
    Wheel,
    choose,
    download,
    pip_configuration,
    project_files,
)
from tasks.ingest.origin import obtain, resolve

NAMES = {
    "win": "demo-1.0-cp311-cp311-win_amd64.whl",
    "linux": "demo-1.0-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "old": "demo-0.9-cp311-cp311-win_amd64.whl",
    "musl": "demo-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
    "arm": "demo-1.0-cp311-cp311-manylinux_2_17_aarch64.whl",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(name: str) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("demo/_native.so", b"\x7fELF" + name.encode())
        archive.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: maturin (1.9)\n")
        archive.writestr("demo-1.0.dist-info/METADATA", "Name: demo\nVersion: 1.0\nLicense-Expression: MIT\n")
    return buffer.getvalue()


FILES = {name: wheel(name) for name in NAMES.values()}


class Handler(http.server.BaseHTTPRequestHandler):
    """A simple index: project `demo` as JSON, `plain` as HTML."""

    failures = 0

    def do_GET(self) -> None:
        part = self.path.strip("/").split("/")
        if part[0] == "files" and part[1] in FILES:
            self.answer("application/octet-stream", FILES[part[1]])
        elif part == ["simple", "demo"]:
            files = [
                {
                    "filename": n,
                    "url": f"/files/{n}",
                    "hashes": {"sha256": sha256(d)},
                    "size": len(d),
                }
                for n, d in FILES.items()
            ]
            page = {"meta": {"api-version": "1.1"}, "name": "demo", "files": files, "versions": ["1.0"]}
            self.answer("application/vnd.pypi.simple.v1+json", json.dumps(page).encode())
        elif part == ["simple", "plain"]:
            links = "".join(f'<a href="../../files/{n}#sha256={sha256(d)}">{n}</a>' for n, d in FILES.items())
            self.answer("text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode())
        elif part == ["simple", "flaky"] and Handler.failures < 2:
            Handler.failures += 1
            self.send_error(503)
        else:
            self.send_error(404)

    def answer(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class' name
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def configuration(server: str, monkeypatch: pytest.MonkeyPatch) -> PipConfiguration:
    found = PipConfiguration(indexes=(f"{server}/simple/",), timeout_s=5)
    monkeypatch.setattr(index, "pip_configuration", lambda: found)
    return found


@pytest.mark.parametrize("project", ["demo", "plain"])
def test_both_page_formats_list_the_wheels(configuration: PipConfiguration, project: str) -> None:
    found = project_files(project)
    assert {w.filename for w in found} == set(FILES)
    for w in found:
        assert w.sha256 == sha256(FILES[w.filename])
        assert b"".join(download(w.url)) == FILES[w.filename]


def test_the_wheel_that_fits_is_chosen(configuration: PipConfiguration) -> None:
    found = project_files("demo")
    assert choose(found, "1.0", "win_amd64", "3.11").filename == NAMES["win"]
    assert choose(found, "1.0.0", "manylinux_x86_64", "3.12").filename == NAMES["linux"]
    with pytest.raises(SourceError, match="no wheel for win_amd64"):
        choose(found, "1.0", "win_amd64", "3.12")
    with pytest.raises(SourceError, match=r"version 2\.0"):
        choose(found, "2.0", "win_amd64", "3.11")


def test_no_such_project_is_not_no_index(configuration: PipConfiguration) -> None:
    with pytest.raises(SourceError, match="no configured index has this project") as caught:
        project_files("unknown")
    assert not isinstance(caught.value, IndexUnreachableError)
    with pytest.raises(SourceError, match="404"):
        list(download(f"{configuration.indexes[0]}nothing.whl"))


def test_no_index_is_said_so() -> None:
    nobody = PipConfiguration(indexes=("http://127.0.0.1:9/simple/",), timeout_s=0.2)
    with pytest.raises(IndexUnreachableError, match="no package index answers"):
        project_files("demo", nobody)
    with pytest.raises(IndexUnreachableError, match="no-index"):
        project_files("demo", PipConfiguration(indexes=()))


def test_passing_faults_are_tried_again(configuration: PipConfiguration) -> None:
    with pytest.raises(SourceError, match="no configured index has"):
        project_files("flaky")  # twice 503, then an honest 404
    assert Handler.failures == 2


def test_pips_own_configuration_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://one.invalid/simple\nextra-index-url =\n  file:///a/simple\n  http://two.invalid/s/\n"
    )
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "/some/cert.pem")
    pip_configuration.cache_clear()
    try:
        found = pip_configuration()
        assert found.indexes == ("http://one.invalid/simple/", "file:///a/simple/", "http://two.invalid/s/")
        assert found.verify == "/some/cert.pem"
        monkeypatch.setenv("PIP_INDEX_URL", "http://three.invalid/simple")
        pip_configuration.cache_clear()
        assert pip_configuration().indexes[0] == "http://three.invalid/simple/"
    finally:
        pip_configuration.cache_clear()


def test_a_folder_as_index(tmp_path: Path) -> None:
    (tmp_path / "simple/demo").mkdir(parents=True)
    name, data = NAMES["win"], FILES[NAMES["win"]]
    (tmp_path / name).write_bytes(data)
    (tmp_path / "simple/demo/index.html").write_text(f'<a href="../../{name}">{name}</a>')
    folder = PipConfiguration(indexes=((tmp_path / "simple").as_uri() + "/",))
    found = project_files("Demo", folder)
    assert [w.filename for w in found] == [name]
    assert b"".join(download(found[0].url, folder)) == data


def test_wheels_are_kept_checked_and_found_without_an_index(
    configuration: PipConfiguration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PypiSource(kind="pypi", packages=(Package(name="demo", version="1.0"),))
    origins = resolve(source, tmp_path)
    assert [o.filename for o in origins] == sorted([NAMES["linux"], NAMES["win"]])
    path, url = obtain(origins[0], tmp_path)
    assert path.read_bytes() == FILES[str(origins[0].filename)]
    assert (url or "").endswith(str(origins[0].filename))
    monkeypatch.setattr(index, "pip_configuration", lambda: PipConfiguration(indexes=()))
    assert obtain(origins[0], tmp_path) == (path, url)
    with pytest.raises(IndexUnreachableError):
        obtain(origins[1], tmp_path)


def test_a_damaged_archive_in_the_cache_is_not_used(tmp_path: Path) -> None:
    data = b"archive"
    digest = sha256(data)
    cache.store(tmp_path, digest, "http://x.invalid/a", "a", [data[:3], data[3:]])
    assert cache.find(tmp_path, digest) is not None
    cache.archive_path(tmp_path, digest).write_bytes(b"archivf")
    assert cache.find(tmp_path, digest) is None
    with pytest.raises(SourceError, match="SHA-256 is"):
        cache.store(tmp_path, digest, "http://x.invalid/a", "a", [b"other"])
    assert cache.find(tmp_path, digest) is None
    assert not list(tmp_path.rglob("*.tmp"))


def test_ranks_of_tags() -> None:
    old = Wheel("demo-1.0-cp312-abi3-win_amd64.whl", "", None, None)
    with pytest.raises(SourceError):
        choose([old], "1.0", "win_amd64", "3.11")
    assert choose([old], "1.0", "win_amd64", "3.13") == old
