"""Isolation: whatever the child does, the file is a row and the next file works; nothing leaks."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import WorkerError
from schemas.tables import BINARIES
from tasks.extract.answer import checked_row
from tasks.extract.child import ARENA_BYTES, SLOT_BYTES
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import BINMILL as GROUPS
from tasks.extract.layout import FEATURE_SETS, dimensions
from tasks.extract.parse import PARSER_VERSION, extract

NUMBERS = dimensions("binmill@1")
ROOT = Path(__file__).parent.parent.parent.parent

MISBEHAVING = """
import os, signal, time
import numpy
from tasks.extract.child import main
from tasks.extract.parse import extract

poisoned = []

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
    if data == b"spin":
        while True:
            pass
    if data == b"busy":
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    if data == b"poisoned later":
        poisoned.append(data)
    elif poisoned:
        os.abort()
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
from socket import MSG_WAITALL
from tasks.extract import child

def talk(connection, arena, rules, parse):
    while message := connection.recv(child.REQUEST.size, MSG_WAITALL):
        start, size = child.REQUEST.unpack(message)
        connection.sendall(arena[start : start + size])

child.serve = talk
child.main()
"""

CONFINED = """
import json, os, resource
from tasks.extract.child import main
from tasks.extract.parse import unparsed

def act(data):
    found = {}
    for name in ("AS", "CORE", "FSIZE", "NOFILE", "NPROC"):
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
    """After each test as many descriptors and descendants (zombies count) as before it."""
    process = psutil.Process()
    before = process.num_fds(), {child.pid for child in process.children(recursive=True)}
    yield
    assert (process.num_fds(), {child.pid for child in process.children(recursive=True)}) == before


@pytest.fixture
def templates() -> Callable[[], list[psutil.Process]]:
    """The templates that were started in this test and run."""
    before = {child.pid for child in psutil.Process().children()}
    return lambda: [child for child in psutil.Process().children() if child.pid not in before]


@pytest.fixture
def children(templates: Callable[[], list[psutil.Process]]) -> Callable[[], set[int]]:
    """Children of the templates: processes that parse."""
    return lambda: {child.pid for template in templates() for child in template.children()}


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


@pytest.mark.parametrize("feature_set", FEATURE_SETS)
@pytest.mark.parametrize("processes", [1, 3])
def test_many_files_come_back_in_order_as_without_isolation(
    native_modules: list[Path],
    windows_programs: list[Path],
    feature_set: str,
    processes: int,
    children: Callable[[], set[int]],
) -> None:
    files = [path.read_bytes() for path in [*native_modules[::25], *windows_programs[:3]]]
    files[2:2] = [b"", b"text", bytes(SLOT_BYTES), bytes(SLOT_BYTES + 1), b"\x7fELF"]
    with IsolatedParser(60, 2048, feature_set, processes=processes) as parser:
        found = list(parser.extract_all(enumerate(files)))
        assert len(children()) == processes
    assert [key for key, _ in found] == list(range(len(files)))
    for data, (_, ours) in zip(files, found, strict=True):
        expected = extract(data, feature_set)
        assert ours.row == expected.row
        assert list(ours.vectors) == list(expected.vectors)
        for group in ours.vectors:
            assert ours.vectors[group].tobytes() == expected.vectors[group].astype("<f4").tobytes(), group


def test_a_file_larger_than_the_arena() -> None:
    data = b"MZ" + bytes(ARENA_BYTES)
    with IsolatedParser(60, 2048) as parser:
        found = [result.row for _, result in parser.extract_all([(0, b"text"), (1, data), (2, data[:-1]), (3, b"x")])]
    assert found == [extract(content).row for content in (b"text", data, data[:-1], b"x")]


def test_one_child_for_many_files_started_when_needed(
    children: Callable[[], set[int]], templates: Callable[[], list[psutil.Process]]
) -> None:
    with IsolatedParser(60, 1024) as parser:
        assert not templates()
        seen: set[int] = set()
        for i in range(5):
            parser.extract(b"%d" % i)
            seen |= children()
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
        assert found.row["parse_error"].startswith("not a ")


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


@pytest.mark.parametrize("module", ["misbehaving"], indirect=True)
def test_the_processor_time_of_a_file_is_limited(module: str) -> None:
    with IsolatedParser(600, 512, cpu_s=0.5, module=module) as parser:
        for _ in range(3):  # which is more than the limit together
            assert parser.extract(b"busy").row["parse_error"].startswith("not a")
        assert parser.deaths == 0
        row = parser.extract(b"spin").row
        assert row["parse_status"] == "timeout"
        assert row["parse_error"] == "more than 0.5 s of processor time (features.cpu_s)"
        assert parser.deaths == 1


@pytest.mark.parametrize("module", ["misbehaving"], indirect=True)
@pytest.mark.parametrize("processes", [1, 2])
def test_files_that_were_sent_ahead_of_a_death_lose_nothing(module: str, processes: int) -> None:
    files = [b"one", b"signal 11", b"two", b"bytes", b"exit", b"three", b"spin", b"four", b"", b"raise"] * 2
    expected = {b"signal 11": "crash", b"bytes": "oom", b"exit": "crash", b"raise": "crash", b"spin": "timeout"}
    with IsolatedParser(60, 512, cpu_s=0.5, processes=processes, module=module) as parser:
        found = list(parser.extract_all((data, data) for data in files))
    assert [key for key, _ in found] == files
    assert [result.row["parse_status"] for _, result in found] == [expected.get(data, "error") for data in files]
    for data, result in found:
        assert result.row["size"] == len(data)
        assert result.vectors["histogram"].tobytes() == extract(data).vectors["histogram"].tobytes()


@pytest.mark.parametrize("module", ["misbehaving"], indirect=True)
def test_a_file_is_not_blamed_for_the_one_before_it(module: str) -> None:
    files = [b"first", b"poisoned later", b"second", b"third"]
    with IsolatedParser(60, 512, module=module) as parser:
        rows = [result.row for _, result in parser.extract_all((data, data) for data in files)]
        assert parser.deaths == 1
    assert rows == [extract(data).row for data in files]


def test_a_child_that_died_idle_is_replaced_without_a_trace(children: Callable[[], set[int]]) -> None:
    with IsolatedParser(60, 512) as parser:
        parser.extract(b"first")
        (first,) = children()
        os.kill(first, signal.SIGKILL)
        assert parser.extract(b"second").row["parse_status"] == "error"
        assert children() != {first}


def test_a_template_that_died_is_replaced_without_a_trace(
    children: Callable[[], set[int]], templates: Callable[[], list[psutil.Process]]
) -> None:
    with IsolatedParser(60, 512, processes=2) as parser:
        list(parser.extract_all(enumerate([b"first", b"second"])))
        (template,) = templates()
        parsing = template.children()
        template.kill()
        # The children end with it, but not at once: until then they may still take a file.
        _, alive = psutil.wait_procs(parsing, timeout=20)
        assert not alive
        rows = [result.row for _, result in parser.extract_all(enumerate([b"third", b"fourth"]))]
        assert rows == [extract(b"third").row, extract(b"fourth").row]
        assert len(children()) == 2


def test_a_caller_or_a_source_that_gives_up() -> None:
    def failing() -> Iterator[tuple[int, bytes]]:
        yield from enumerate([b"one", b"two"])
        raise OSError("the source is gone")

    with IsolatedParser(60, 512) as parser:
        results = parser.extract_all(enumerate([b"one", b"two", b"three"]))
        next(results)
        with pytest.raises(RuntimeError, match="another caller"):
            parser.extract(b"other")
        results.close()
        assert parser.extract(b"next").row["size"] == 4
        with pytest.raises(OSError, match="the source is gone"):
            list(parser.extract_all(failing()))
        assert parser.extract(b"again").row["size"] == 5


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


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=1)
EDGES = [-(2**63) - 1, -(2**63), 2**63 - 1, 2**63, 127, 128, -129, 2**31 - 1, 2**31, 10**400, "\ud800", 0.0, 1, True]


@given(st.sampled_from(sorted(set(BINARIES.names) - {"sha256"})), VALUES | st.sampled_from(EDGES))
def test_what_passes_the_check_fits_the_table(column: str, value: Any) -> None:
    row = row_of(5) | {column: value}
    try:
        checked = checked_row(json.dumps(row).encode(), 5)
    except ValueError:
        return
    kept = pa.Table.from_pylist([checked], BINARIES.remove(0)).to_pylist()[0]
    assert kept == dict.fromkeys(BINARIES.names[1:]) | row


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
    assert found["CORE"] == found["FSIZE"] == found["NPROC"] == [0, 0]
    assert found["NOFILE"] == [64, 64]
    assert found["AS"][0] == found["AS"][1] < 16 << 30
    assert found["privileges"] == "1"
    # Three standard ones, the socket, the arena, the listing itself; numba may hold one.
    assert found["descriptors"] <= 7
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
        "print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == -9, result.stderr
    template, child = map(int, result.stdout.split())
    deadline = time.monotonic() + 10
    for pid in (template, child):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, "a process outlives its parent"
            time.sleep(0.05)


def test_a_child_that_cannot_start_says_so() -> None:
    with pytest.raises(WorkerError, match="did not start"), IsolatedParser(60, 512, module="no.such.module") as parser:
        parser.extract(b"text")


def test_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with IsolatedParser(60, 512) as parser:
        for data in (b"text", b"MZ" + bytes(ARENA_BYTES)):
            assert parser.extract(data).row == extract(data).row
