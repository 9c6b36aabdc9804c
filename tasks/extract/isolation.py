"""The parent's side of isolation: a hostile file costs that file, and becomes a row."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import WorkerError
from schemas.tables import BINARIES, PARSE_STATUS
from tasks.extract.child import OUT_OF_MEMORY, PREFIX
from tasks.extract.layout import FEATURE_SETS, dimensions
from tasks.extract.parse import Extracted, unparsed

START_S = 120.0
"""Time for the child to start: it may have to compile."""
HEADER_BYTES = 1 << 20
"""The longest header that is believed."""
_ALWAYS = {"size", "parse_status", "parser", "parser_version"}


class IsolatedParser:
    """Parses files in a child process under limits; a child that dies is replaced. For one thread at a time.

    Parameters
    ----------
    timeout_s
        Wall-clock limit for one file.
    memory_mib
        Address space the child may take for a file.
    feature_set
        Name of the set of features to compute.
    module
        Module the child runs.
    """

    def __init__(
        self,
        timeout_s: float,
        memory_mib: int,
        feature_set: str = "binmill@1",
        module: str = "tasks.extract.child",
    ) -> None:
        self.timeout_s = timeout_s
        self.memory_mib = memory_mib
        self.feature_set = feature_set
        self.module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._end: weakref.finalize[Any, Any] | None = None

    def extract(self, data: bytes) -> Extracted:
        """Parse one file.

        Returns
        -------
        Extracted
            With `parse_status` timeout, crash or oom where the child did not come back; the byte-level groups
            are then computed here, which is safe.
        """
        again = True
        while True:
            try:
                return self._answer(self._send(data), len(data))
            except TimeoutError:
                self.close()
                reason = f"no result within {self.timeout_s:g} s (features.timeout_s)"
                return unparsed(data, "timeout", reason, self.feature_set)
            except (OSError, EOFError):
                code = self._exit_code()
                self.close()
                # SIGKILL comes from outside (memory watch, end of the thread that started the child): this file
                # is to blame only if it happens twice.
                if code == -signal.SIGKILL and again:
                    again = False
                    continue
                return unparsed(data, *self._obituary(code), self.feature_set)
            except ValueError as error:
                self.close()
                return unparsed(data, "crash", f"the parser process gave a wrong answer: {error}", self.feature_set)

    def close(self) -> None:
        """Kill the child and wait for it."""
        if self._end is not None:
            self._end()
        self._socket = self._child = self._end = None

    def __enter__(self) -> "IsolatedParser":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _send(self, data: bytes) -> socket.socket:
        """Hand the file to a living child; one that died while it had nothing to do is not this file's fault."""
        with _anonymous_file(data) as descriptor:
            for last in (False, True):
                connection = self._connection()
                connection.settimeout(self.timeout_s)
                try:
                    socket.send_fds(connection, [b"f"], [descriptor])
                    break
                except (BrokenPipeError, ConnectionResetError):
                    if last:
                        raise
                    self.close()
        return connection

    def _connection(self) -> socket.socket:
        if self._socket is not None and self._child is not None and self._child.poll() is None:
            return self._socket
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        root = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join([root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            # -P: a folder that happens to be the working directory brings no modules.
            self._child = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", self.module),
                    *(str(theirs.fileno()), str(self.memory_mib * 2**20), self.feature_set),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
            )
            undo.pop_all()
        self._socket = ours
        self._end = weakref.finalize(self, _end, ours, self._child)
        ours.settimeout(START_S)
        try:
            ready = ours.recv(1)
        except OSError:
            ready = b""
        if ready != b"r":
            self.close()
            raise WorkerError(
                "the parser process did not start",
                f"is there memory left? See also: PYTHONPATH={root} {sys.executable} -c 'import {self.module}'",
            )
        return ours

    def _answer(self, connection: socket.socket, size: int) -> Extracted:
        deadline = time.monotonic() + self.timeout_s
        header_bytes, numbers = PREFIX.unpack(_receive(connection, PREFIX.size, deadline))
        if header_bytes > HEADER_BYTES or numbers != dimensions(self.feature_set):
            raise ValueError("its sizes are wrong")
        row = _checked_row(_receive(connection, header_bytes, deadline), size)
        values = np.frombuffer(_receive(connection, 4 * numbers, deadline), dtype="<f4")
        if not np.isfinite(values).all():
            raise ValueError("its numbers are not finite")
        groups = FEATURE_SETS[self.feature_set]
        ends = np.cumsum([len(names) for names in groups.values()])[:-1]
        return Extracted(row, dict(zip(groups, np.split(values, ends), strict=True)))

    def _exit_code(self) -> int | None:
        """Exit status of a child that closed its end; None of one that lives on without it."""
        try:
            return self._child.wait(timeout=5) if self._child is not None else None
        except subprocess.TimeoutExpired:
            return None

    def _obituary(self, code: int | None) -> tuple[str, str]:
        """Status and reason of a child that ended."""
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            if name == "SIGKILL":
                return "oom", "the parser process was killed twice (SIGKILL): probably out of memory"
            return "crash", f"the parser process died: {name}"
        if code == OUT_OF_MEMORY:
            return "oom", f"the parser ran out of its {self.memory_mib} MiB (features.memory_mib)"
        return "crash", f"the parser process ended with {code}"


def _end(connection: socket.socket, child: subprocess.Popen[bytes]) -> None:
    connection.close()
    child.kill()
    child.wait()


def _checked_row(text: bytes, size: int) -> dict[str, Any]:
    """The header, if it is one of ours: columns of `binaries` and their types, a known status, the size we sent."""
    try:
        row = json.loads(text)
    except RecursionError as error:
        raise ValueError("its header is no row") from error
    if not isinstance(row, dict) or not _ALWAYS <= set(row) <= set(BINARIES.names) - {"sha256"}:
        raise ValueError("its columns are unknown")
    try:
        pa.Table.from_pylist([row], BINARIES)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise ValueError("a column has the wrong type") from error
    if row.get("parse_status") not in PARSE_STATUS or row.get("size") != size:
        raise ValueError("its status or size is wrong")
    return row


def _receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    while count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def _anonymous_file(data: bytes) -> Generator[int, None, None]:
    """A descriptor of a file without a name that holds `data`."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("binmill", os.MFD_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            yield descriptor
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()
