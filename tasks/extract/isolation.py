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
from pathlib import Path
from typing import Any

import numpy as np

from schemas.errors import WorkerError
from schemas.tables import BINARIES, PARSE_STATUS
from tasks.extract.child import PREFIX
from tasks.extract.layout import GROUPS
from tasks.extract.parse import Extracted, unparsed

START_S = 120.0
"""Time for the child to start: it may have to compile."""
HEADER_BYTES = 1 << 20
"""The longest header that is believed."""
NUMBERS = sum(len(names) for names in GROUPS.values())


class IsolatedParser:
    """Parses files in a child process under limits; a child that dies is replaced.

    Parameters
    ----------
    timeout_s
        Wall-clock limit for one file.
    memory_mib
        Address space the child may take for a file.
    module
        Module the child runs.
    """

    def __init__(self, timeout_s: float, memory_mib: int, module: str = "tasks.extract.child") -> None:
        self.timeout_s = timeout_s
        self.memory_mib = memory_mib
        self.module = module
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def extract(self, data: bytes) -> Extracted:
        """Parse one file.

        Returns
        -------
        Extracted
            With `parse_status` timeout, crash or oom where the child did not come back; the byte-level groups
            are then computed here, which is safe.
        """
        connection = self._connection()
        try:
            with _anonymous_file(data) as descriptor:
                socket.send_fds(connection, [b"f"], [descriptor])
            return self._answer(connection, len(data))
        except TimeoutError:
            self.close()
            return unparsed(data, "timeout", f"no result within {self.timeout_s:g} s (features.timeout_s)")
        except (OSError, EOFError):
            return unparsed(data, *self._obituary())
        except ValueError as error:
            self.close()
            return unparsed(data, "crash", f"the parser process gave a wrong answer: {error}")

    def close(self) -> None:
        """Kill the child and wait for it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def __enter__(self) -> "IsolatedParser":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _connection(self) -> socket.socket:
        if self._socket is not None and self._child is not None and self._child.poll() is None:
            return self._socket
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        root = str(Path(__file__).resolve().parent.parent.parent)
        path = os.pathsep.join([root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", self.module, str(theirs.fileno()), str(self.memory_mib * 2**20)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": path},
            )
        self._socket = ours
        ours.settimeout(START_S)
        try:
            ready = ours.recv(1)
        except OSError:
            ready = b""
        if ready != b"r":
            self.close()
            raise WorkerError(
                "the parser process did not start",
                f"run '{sys.executable} -m tasks.extract.child' by hand to see why; is there memory left?",
            )
        return ours

    def _answer(self, connection: socket.socket, size: int) -> Extracted:
        deadline = time.monotonic() + self.timeout_s
        header_bytes, numbers = PREFIX.unpack(_receive(connection, PREFIX.size, deadline))
        if header_bytes > HEADER_BYTES or numbers != NUMBERS:
            raise ValueError("its sizes are wrong")
        row = _checked_row(json.loads(_receive(connection, header_bytes, deadline)), size)
        values = np.frombuffer(_receive(connection, 4 * numbers, deadline), dtype="<f4")
        ends = np.cumsum([len(names) for names in GROUPS.values()])[:-1]
        return Extracted(row, dict(zip(GROUPS, np.split(values, ends), strict=True)))

    def _obituary(self) -> tuple[str, str]:
        """Status and reason of a child that closed its end."""
        child = self._child
        code = None
        if child is not None:
            try:
                code = child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                code = None
        self.close()
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            if name == "SIGKILL":  # nobody but the kernel's memory watch kills a child of ours
                return "oom", "the parser process was killed (SIGKILL): out of memory"
            return "crash", f"the parser process died: {name}"
        return "crash", f"the parser process ended with {code}"


def _checked_row(row: Any, size: int) -> dict[str, Any]:
    """The header, if it is one of ours: known columns, a known status, the size we sent."""
    if not isinstance(row, dict) or not set(row) <= set(BINARIES.names) - {"sha256"}:
        raise ValueError("its columns are unknown")
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
def _anonymous_file(data: bytes) -> Any:
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
