"""Isolation: whatever the child does, the file is a row and the next file works; nothing leaks."""

import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from schemas.errors import WorkerError
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import BINMILL as GROUPS
from tasks.extract.layout import dimensions
from tasks.extract.parse import PARSER_VERSION, extract

NUMBERS = dimensions("binmill@1")
ROOT = Path(__file__).parent.parent.parent.parent

MISBEHAVING = """
import os, signal, time
import numpy
from tasks.extract.child import main
from tasks.extract.parse import extract

def act(data):
    if data.startswith(b"signal "):
        os.kill(os.getpid(), int(data[7:]))
    if data.startswith(b"killed once "):
        if not os.path.exists(data[12:]):
            os.mkdir(data[12:])
            os.kill(os.getpid(), signal.SIGKILL)
        return extract(data)
    if data == b"hang":
        time.sleep(1000)
    if data == b"bytes":
        bytearray(1 << 40)
    if data == b"numpy":
        numpy.ones(1 << 37)
    if data == b"exit":
        os._exit(9)
    if data == b"raise":
        raise RuntimeError
    return extract(data)

main(act)
"""

TALKING = """
import socket, sys

with socket.socket(fileno=int(sys.argv[1])) as connection:
    connection.sendall(b"r")
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        if not message:
            break
        with open(descriptors[0], "rb") as file:
            file.seek(0)
            connection.sendall(file.read())
"""

CONFINED = """
import json, os, resource
from tasks.extract.child import main
from tasks.extract.parse import unparsed

def act(data):
    found = {}
    for name in ("AS", "CORE", "FSIZE", "NOFILE"):
        found[name] = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    with open("/proc/self/status") as file:
        found["privileges"] = next(line.split()[1] for line in file if line.startswith("NoNewPrivs"))
    found["descriptors"] = len(os.listdir("/proc/self/fd")) - 1
    try:
        with open(data, "wb") as file:
            file.write(b"x")
        found["write"] = "done"
    except OSError as error:
        found["write"] = error.strerror
    return unparsed(data, "error", json.dumps(found))

main(act)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A child module of our own, on the child's path."""
    name = f"child_of_{request.node.originalname}"
    source = {"misbehaving": MISBEHAVING, "talking": TALKING, "confined": CONFINED}
    (tmp_path / f"{name}.py").write_text(source[request.param])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return name


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """After each test as many descriptors and children (zombies count) as before it."""
    process = psutil.Process()
    before = process.num_fds(), {child.pid for child in process.children()}
    yield
    assert (process.num_fds(), {child.pid for child in process.children()}) == before


def test_the_same_as_without_isolation(native_modules: list[Path], windows_programs: list[Path]) -> None:
    with IsolatedParser(60, 2048) as parser:
        for path in [*native_modules[::40], *windows_programs[:2]]:
            data = path.read_bytes()
            ours, expected = parser.extract(data), extract(data)
            assert ours.row == expected.row
            assert list(ours.vectors) == list(GROUPS)
            for group in GROUPS:
                np.testing.assert_array_equal(ours.vectors[group], expected.vectors[group])
        for data in (b"", b"text"):
            assert parser.extract(data).row == extract(data).row


def test_one_child_for_many_files_started_when_needed() -> None:
    process = psutil.Process()
    before = {child.pid for child in process.children()}
    with IsolatedParser(60, 1024) as parser:
        assert {child.pid for child in process.children()} == before
        seen: set[int] = set()
        for i in range(5):
            parser.extract(b"%d" % i)
            seen |= {child.pid for child in process.children()} - before
        assert len(seen) == 1
    parser.close()


@pytest.mark.parametrize("module", ["misbehaving"], indirect=True)
def test_a_bad_file_costs_that_file(module: str, native_modules: list[Path], tmp_path: Path) -> None:
    good = native_modules[0].read_bytes()
    cases = {
        b"signal 11": ("crash", "the parser process died: SIGSEGV"),
        b"signal 6": ("crash", "the parser process died: SIGABRT"),
        b"signal 9": ("oom", "the parser process was killed twice (SIGKILL): probably out of memory"),
        b"exit": ("crash", "the parser process ended with 9"),
        b"raise": ("crash", "the parser process ended with 1"),
        b"bytes": ("oom", "the parser ran out of its 512 MiB (features.memory_mib)"),
        b"numpy": ("oom", "the parser ran out of its 512 MiB (features.memory_mib)"),
    }
    with IsolatedParser(60, 512, module=module) as parser:
        for data, expected in cases.items():
            found = parser.extract(data)
            assert (found.row["parse_status"], found.row["parse_error"]) == expected
            np.testing.assert_array_equal(found.vectors["histogram"], extract(data).vectors["histogram"])
            assert not found.vectors["imports"].any()
            assert parser.extract(good).row["parse_status"] == "ok"
        # A kill that is not repeated was not the file's doing.
        found = parser.extract(b"killed once " + bytes(tmp_path / "once"))
        assert found.row["parse_error"].startswith("not a PE or ELF file")


@pytest.mark.parametrize("module", ["misbehaving"], indirect=True)
def test_a_file_that_hangs_is_a_timeout(module: str) -> None:
    with IsolatedParser(1.0, 512, module=module) as parser:
        parser.extract(b"warm")
        start = time.monotonic()
        found = parser.extract(b"hang")
        assert 1.0 <= time.monotonic() - start < 10
        assert found.row["parse_status"] == "timeout"
        assert found.row["parse_error"] == "no result within 1 s (features.timeout_s)"
        assert parser.extract(b"next").row["parse_status"] == "error"


def test_a_child_that_died_idle_is_replaced_without_a_trace() -> None:
    process = psutil.Process()
    others = set(process.children())
    with IsolatedParser(60, 512) as parser:
        parser.extract(b"first")
        (first,) = set(process.children()) - others
        first.kill()
        assert parser.extract(b"second").row["parse_status"] == "error"
        assert set(process.children()) - others != {first}


def reply(row: object, values: bytes = bytes(4 * NUMBERS), header: int | None = None, numbers: int = NUMBERS) -> bytes:
    """An answer, and what it says the lengths of its header and numbers are."""
    text = row if isinstance(row, bytes) else json.dumps(row).encode()
    return struct.pack("<II", len(text) if header is None else header, numbers) + text + values


def row_of(size: int, **changes: object) -> dict[str, object]:
    return {"size": size, "parse_status": "ok", "parser": "lief", "parser_version": PARSER_VERSION} | changes


@pytest.mark.parametrize("module", ["talking"], indirect=True)
def test_a_wrong_answer_is_a_crash_and_harms_nobody(module: str) -> None:
    # The child sends back what it is sent; the size in a right answer is that of the whole answer.
    right = reply(row_of(10_000))
    right = reply(row_of(len(reply(row_of(len(right))))))
    wrong = [
        reply(row_of(1)),
        reply(row_of(len(right)), bytes(4), numbers=NUMBERS + 1),
        reply(row_of(len(right)), header=2**31),
        reply(b"{" * 70),
        reply(b"[" * 500_000),
        reply(b"\xff\xfe{}"),
        reply([1, 2, 3]),
        reply(row_of(len(right), parse_status="splendid")),
        reply(row_of(len(right), sha256="0" * 64)),
        reply(row_of(len(right), unknown=1)),
        reply({"size": len(right), "parse_status": "ok"}),
    ]
    typed = [{"bits": "sixty-four"}, {"bits": 1000}, {"kind": 7}, {"kind": ["x"]}, {"entropy": {}}, {"kind": "\ud800"}]
    with IsolatedParser(60, 512, module=module) as parser:
        assert parser.extract(right).row["parse_status"] == "ok"
        for data in wrong:
            row = parser.extract(data).row
            assert row["parse_status"] == "crash", data[:100]
            assert row["parse_error"].startswith("the parser process gave a wrong answer: ")
        for change in typed:
            base = reply(row_of(10_000, **change))
            row = parser.extract(reply(row_of(len(base), **change))).row
            assert row["parse_error"] == "the parser process gave a wrong answer: a column has the wrong type", change
        for number in (np.nan, np.inf):
            data = reply(row_of(len(right)), np.full(NUMBERS, number, dtype="<f4").tobytes())
            assert parser.extract(data).row["parse_error"].endswith("its numbers are not finite")
        assert parser.extract(right).row["parse_status"] == "ok"


@pytest.mark.parametrize("module", ["talking"], indirect=True)
def test_an_answer_that_never_ends_is_a_timeout(module: str) -> None:
    with IsolatedParser(1.0, 512, module=module) as parser:
        data = reply(row_of(len(reply(row_of(10), b""))), b"")
        assert parser.extract(data).row["parse_status"] == "timeout"


@pytest.mark.parametrize("module", ["confined"], indirect=True)
def test_the_child_is_confined(module: str, tmp_path: Path) -> None:
    target = tmp_path / "written"
    with IsolatedParser(60, 512, module=module) as parser:
        row = parser.extract(bytes(target)).row
    found = json.loads(row["parse_error"])
    assert found["CORE"] == found["FSIZE"] == [0, 0]
    assert found["NOFILE"] == [64, 64]
    assert found["AS"][0] == found["AS"][1] < 16 << 30
    assert found["privileges"] == "1"
    assert found["descriptors"] <= 6  # three standard ones, the socket, the listing itself; numba may hold one
    assert found["write"] == "File too large"
    assert target.read_bytes() == b""


def test_the_working_directory_brings_no_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy", "lief", "json", "tasks"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with IsolatedParser(60, 512) as parser:
        assert parser.extract(b"text").row["parse_status"] == "error"


def test_from_threads_that_end(native_modules: list[Path]) -> None:
    data = native_modules[0].read_bytes()
    statuses: list[str] = []
    with IsolatedParser(60, 2048) as parser:
        for _ in range(3):
            # The kernel kills a child when the thread that started it ends.
            thread = threading.Thread(target=lambda: statuses.append(parser.extract(data).row["parse_status"]))
            thread.start()
            thread.join()
        statuses.append(parser.extract(data).row["parse_status"])
    assert statuses == ["ok"] * 4


def test_a_parser_that_is_forgotten_takes_its_child_along() -> None:
    parser = IsolatedParser(60, 512)
    parser.extract(b"text")
    del parser  # and the fixture looks for what is left


def test_the_child_dies_with_its_parent() -> None:
    script = (
        "import os, psutil, signal\n"
        "from tasks.extract.isolation import IsolatedParser\n"
        "parser = IsolatedParser(60, 512)\n"
        "parser.extract(b'text')\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == -9, result.stderr
    pid = int(result.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)


def test_a_child_that_cannot_start_says_so() -> None:
    with pytest.raises(WorkerError, match="did not start"), IsolatedParser(60, 512, module="no.such.module") as parser:
        parser.extract(b"text")


def test_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with IsolatedParser(60, 512) as parser:
        assert parser.extract(b"text").row == extract(b"text").row
