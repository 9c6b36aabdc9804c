"""The parent's side of isolation: a hostile file costs that file, and becomes a row."""

import contextlib
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import WorkerError
from schemas.recipe import Features
from tasks.extract.answer import read_answer, receive
from tasks.extract.child import (
    ARENA_BYTES,
    ENDED,
    LIVED_ON,
    ORDER,
    OUT_OF_MEMORY,
    READY,
    REQUEST,
    SLOT_BYTES,
    SLOTS,
    Rules,
)
from tasks.extract.parse import Extracted, unparsed

Key = TypeVar("Key")

START_S = 120.0
"""Time for the template to start: it may have to compile."""
PATIENCE_S = 5.0
"""Time for a child that closed its socket to end."""


class IsolatedParser:
    """Parses files in child processes under limits; a child that dies is replaced. For one thread at a time.

    Parameters
    ----------
    timeout_s
        Wall-clock limit for one file.
    memory_mib
        Address space a child may take for a file.
    feature_set
        Name of the set of features to compute.
    cpu_s
        Processor time for one file; by default as much as the wall-clock limit.
    processes
        Children that parse side by side.
    module
        Module that the template of the children runs.
    """

    def __init__(
        self,
        timeout_s: float,
        memory_mib: int,
        feature_set: str = "binmill@1",
        *,
        cpu_s: float | None = None,
        structure: bool = False,
        processes: int = 1,
        module: str = "tasks.extract.child",
    ) -> None:
        rules = Rules(timeout_s, timeout_s if cpu_s is None else cpu_s, memory_mib, feature_set, structure)
        self._template = _Template(rules, module)
        self._lanes = [_Lane(rules, self._template) for _ in range(processes)]
        # The parts do not know the whole: a parser that is forgotten goes at once, and takes its children along.
        weakref.finalize(self, _close, self._lanes, self._template)

    @classmethod
    def of(cls, options: Features, processes: int = 1, *, structure: bool = False) -> "IsolatedParser":
        """A parser with the limits and the features of a recipe; with `structure` it embeds the header tree too."""
        return cls(
            options.timeout_s, options.memory_mib, options.set,
            cpu_s=options.cpu_s, structure=structure, processes=processes,
        )  # fmt: skip

    @property
    def deaths(self) -> int:
        """Children lost so far to the files they were given."""
        return sum(lane.deaths for lane in self._lanes)

    def extract(self, data: bytes) -> Extracted:
        """Parse one file.

        Returns
        -------
        Extracted
            With `parse_status` timeout, crash or oom where no child came back; the byte-level groups are then
            computed here, which is safe.
        """
        ((_, found),) = self.extract_all([(None, data)])
        return found

    def extract_all(self, files: Iterable[tuple[Key, bytes]]) -> Generator[tuple[Key, Extracted]]:
        """Parse files, each with a key that comes back with its result, in the files' order.

        Each child has the next file before it is done with one, and the caller reads another meanwhile. A file
        larger than `SLOT_BYTES` is with the children alone: it goes when all before it are done.
        """
        if any(lane.flying for lane in self._lanes):
            raise RuntimeError("this parser is at work for another caller")
        window: deque[tuple[Key, _Lane]] = deque()

        def results(left: int) -> Iterator[tuple[Key, Extracted]]:
            while len(window) > left:
                key, lane = window.popleft()
                yield key, lane.result()

        try:
            lanes = cycle(self._lanes)
            for key, data in files:
                large = len(data) > SLOT_BYTES
                yield from results(0 if large else SLOTS * len(self._lanes) - 1)
                lane = next(lanes)
                window.append((key, lane))
                lane.send(data)
                if large:
                    yield from results(0)
            yield from results(0)
        finally:
            for lane in self._lanes:
                if lane.flying:  # the caller, or the source of the files, gave up
                    lane.close()

    def close(self) -> None:
        """End the children and wait for them."""
        _close(self._lanes, self._template)

    def __enter__(self) -> "IsolatedParser":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class _Template:
    """The process that forks the children; started when it is needed, and again if it is lost."""

    def __init__(self, rules: Rules, module: str) -> None:
        self._rules = json.dumps(asdict(rules))
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._children: set[int] = set()
        """Those of the present template: a former one's went with it."""

    def fork(self, arena: int) -> tuple[socket.socket, int]:
        """A new child that has the arena of this descriptor: its socket and its process id."""
        for last in (False, True):
            control = self._control or self._start()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            with theirs, contextlib.ExitStack() as undo:
                undo.callback(ours.close)
                try:
                    socket.send_fds(control, [ORDER.pack(0, 0)], [theirs.fileno(), arena])
                    theirs.close()
                    (child,) = READY.unpack(receive(ours, READY.size, time.monotonic() + START_S))
                except (OSError, EOFError):
                    self.close()
                    if last:
                        raise self._not_started() from None
                    continue
                undo.pop_all()
            self._children.add(child)
            return ours, child
        raise AssertionError

    def end(self, child: int, patience: float) -> int | None:
        """Exit status of a child that ends within `patience` seconds; None of one that had to be killed."""
        if self._control is None or child not in self._children:
            return -signal.SIGKILL
        self._children.remove(child)
        try:
            self._control.sendall(ORDER.pack(child, patience))
            (status,) = ENDED.unpack(receive(self._control, ENDED.size, time.monotonic() + patience + START_S))
        except (OSError, EOFError):  # the template is gone, and its children went with it
            self.close()
            return -signal.SIGKILL
        return None if status == LIVED_ON else status

    def close(self) -> None:
        """End the template, which ends its children."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None
        self._children.clear()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control = ours
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # -P: a folder that happens to be the working directory brings no modules.
                    [sys.executable, "-P", "-m", self._module, str(theirs.fileno()), self._rules],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(_python_path())},
                )
            receive(ours, 1, time.monotonic() + START_S)
        except (OSError, EOFError):
            self.close()
            raise self._not_started() from None
        ours.settimeout(START_S)
        return ours

    def _not_started(self) -> WorkerError:
        return WorkerError(
            "the parser process did not start",
            "is there memory left, and may processes be started? See also: "
            f"PYTHONPATH={_python_path()[0]} {sys.executable} -c 'import {self._module}'",
        )


_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
"""A process that forks should have no thread but its first."""


def _python_path() -> list[str]:
    root = str(Path(__file__).resolve().parent.parent.parent)
    return [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


@dataclass(frozen=True, slots=True)
class _Death:
    """Why there is no answer."""

    status: str
    reason: str
    certain: bool = False
    """Whether the file alone is to blame."""


class _Lane:
    """One child after another, and the files that are with it, oldest first."""

    def __init__(self, rules: Rules, template: _Template) -> None:
        self.flying: deque[bytes] = deque()
        self.deaths = 0
        self._rules = rules
        self._template = template
        self._arena: _Arena | None = None
        self._socket: socket.socket | None = None
        self._child = 0
        self._sent = 0

    def send(self, data: bytes) -> None:
        """Hand a file to the child, which may have others before it."""
        self.flying.append(data)
        if self._socket is None:
            self._start()
        self._post(data)

    def result(self) -> Extracted:
        """What became of the oldest file: a row in any case.

        A child may end because of files it saw before, or be killed from outside. So a file is to blame when two
        children end with it; the second has seen nothing else.
        """
        data = self.flying[0]
        found = self._answer(len(data))
        if isinstance(found, _Death) and not found.certain:
            self._resend()
            found = self._answer(len(data))
        self.flying.popleft()
        if isinstance(found, Extracted):
            return found
        self._resend()
        return unparsed(data, found.status, found.reason, self._rules.feature_set)

    def close(self) -> None:
        """End the child; files that are with it are forgotten."""
        self.flying.clear()
        self._end(0)
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def _start(self) -> None:
        self._arena = self._arena or _Arena()
        self._socket, self._child = self._template.fork(self._arena.descriptor)
        self._socket.settimeout(self._rules.timeout_s)
        self._sent = 0

    def _end(self, patience: float) -> int | None:
        if self._socket is None:
            return None
        self._socket.close()
        self._socket = None
        return self._template.end(self._child, patience)

    def _resend(self) -> None:
        """Give what is left to a new child, if there is anything left."""
        if self.flying:
            self._start()
        for data in self.flying:
            self._post(data)

    def _post(self, data: bytes) -> None:
        assert self._socket is not None
        assert self._arena is not None
        start = self._sent % SLOTS * SLOT_BYTES if len(data) <= SLOT_BYTES else 0
        self._sent += 1
        with contextlib.suppress(OSError):  # a child that died is noticed when its answer is missing
            if start + len(data) <= ARENA_BYTES:
                self._arena.memory[start : start + len(data)] = data
                self._socket.sendall(REQUEST.pack(start, len(data)))
            else:
                with _anonymous_file(len(data)) as descriptor:
                    _write(descriptor, data)
                    socket.send_fds(self._socket, [REQUEST.pack(start, len(data))], [descriptor])

    def _answer(self, size: int) -> Extracted | _Death:
        """The child's answer; or why there is none, and then the child is gone."""
        assert self._socket is not None
        try:
            return read_answer(self._socket, size, self._rules)
        except TimeoutError:
            self._end(0)
            limit = self._rules.timeout_s
            found = _Death("timeout", f"no result within {limit:g} s (features.timeout_s)", certain=True)
        except (OSError, EOFError):
            found = self._obituary(self._end(PATIENCE_S))
        except ValueError as error:
            self._end(0)
            found = _Death("crash", f"the parser process gave a wrong answer: {error}")
        self.deaths += 1
        return found

    def _obituary(self, code: int | None) -> _Death:
        """Why a child ended, from its exit status; None is that of a child that lived on without its socket."""
        if code == -signal.SIGPROF:
            limit = self._rules.cpu_s
            return _Death("timeout", f"more than {limit:g} s of processor time (features.cpu_s)", certain=True)
        if code == -signal.SIGKILL:
            return _Death("oom", "the parser process was killed twice (SIGKILL): probably out of memory")
        if code == OUT_OF_MEMORY:
            return _Death("oom", f"the parser ran out of its {self._rules.memory_mib} MiB (features.memory_mib)")
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return _Death("crash", f"the parser process died: {name}")
        return _Death("crash", f"the parser process ended with {code}")


def _close(lanes: list[_Lane], template: _Template) -> None:
    for lane in lanes:
        lane.close()
    template.close()


class _Arena:
    """Memory shared with a child: its pages are there when the next file comes."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self.descriptor = self._undo.enter_context(_anonymous_file(ARENA_BYTES))
        self.memory = self._undo.enter_context(mmap.mmap(self.descriptor, ARENA_BYTES))

    def close(self) -> None:
        """Give the memory back."""
        self._undo.close()


@contextlib.contextmanager
def _anonymous_file(size: int) -> Generator[int]:
    """A descriptor of a file of `size` bytes without a name; nobody can cut it short while we write to it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("binmill", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            yield descriptor
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        yield file.fileno()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
