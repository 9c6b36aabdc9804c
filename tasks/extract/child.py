"""The processes that parse: a template that has everything loaded, and the children it forks to meet hostile bytes.

The template sees no file. It is told to fork a child, or to end one and say how it ended. A child owns one end of
a socket, maps the arena its parent writes files to, has limits, and can be killed at any time. For each request it
answers with a length, a JSON header and raw float32 numbers. No pickles: what comes back from a process that met
hostile bytes is only data.
"""

import contextlib
import ctypes
import gc
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tasks.extract.binding import DIMENSIONS
from tasks.extract.layout import FEATURE_SETS, STRUCTURE
from tasks.extract.parse import Extracted, extract, load_kernels

ORDER = struct.Struct("<id")
"""To the template: 0 to fork a child (its socket and its arena come along), or the child to end and the seconds it
is given to end by itself."""
ENDED = struct.Struct("<i")
"""From the template: how the child ended, as `subprocess` says it."""
LIVED_ON = 256
"""In place of an exit status: the child had to be killed."""
READY = struct.Struct("<i")
"""From a child, once: its process id."""
REQUEST = struct.Struct("<QQ")
"""To a child: where in the arena the file begins, and its size."""
PREFIX = struct.Struct("<II")
"""From a child: bytes of the JSON header, and how many float32 follow it."""

ARENA_BYTES = 64 << 20
"""Memory shared with the parent, of which only what was used exists. A larger file comes as a file of its own."""
SLOT_BYTES = 8 << 20
"""Part of the arena for a file while others are with the child; a larger file is alone."""
SLOTS = 2
"""Files that may be with a child: one that is parsed and one that waits, so that the child does not."""

OUT_OF_MEMORY = 3
"""Exit status of a child that hit its memory limit: what is left of its heap is not to be trusted."""

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


@dataclass(frozen=True, slots=True)
class Rules:
    """What a child may take, and what it is to compute.

    Attributes
    ----------
    timeout_s
        Wall-clock time for one file, which the parent watches.
    cpu_s
        Processor time for one file.
    memory_mib
        Address space beyond what the template and the arena take.
    feature_set
        Name of the set of features.
    structure
        Whether the header tree is embedded too.
    """

    timeout_s: float
    cpu_s: float
    memory_mib: int
    feature_set: str
    structure: bool = False

    @property
    def groups(self) -> dict[str, int]:
        """The groups of numbers of an answer, in order, and how many each has."""
        own = {group: len(names) for group, names in FEATURE_SETS[self.feature_set].items()}
        return own | ({STRUCTURE: DIMENSIONS} if self.structure else {})


def serve(connection: socket.socket, arena: mmap.mmap, rules: Rules, parse: Callable[[bytes], Extracted]) -> None:
    """Answer requests until the other end is closed."""
    groups = rules.groups
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, REQUEST.size, 1, socket.MSG_WAITALL)
        if not message:
            return
        signal.setitimer(signal.ITIMER_PROF, rules.cpu_s)  # its signal ends the process
        start, size = REQUEST.unpack(message)
        found = parse(_content(descriptors[0], size) if descriptors else arena[start : start + size])
        numbers = np.concatenate([found.vectors[group] for group in groups], dtype="<f4")
        header = json.dumps(found.row).encode()
        connection.sendall(PREFIX.pack(len(header), len(numbers)) + header + numbers.tobytes())


def _content(descriptor: int, size: int) -> bytes:
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def confine(memory_mib: int) -> None:
    """Give up what a parser does not need: memory beyond a limit, files, processes, core dumps, new privileges."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(what, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    most = memory_mib * 2**20 + _address_space(used)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _address_space(otherwise: int) -> int:
    """Address space already taken (libraries, mostly); the limit is on what comes on top."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return otherwise


def live(descriptors: list[int], template: int, rules: Rules, parse: Callable[[bytes], Extracted]) -> None:
    """Be a child: the socket and the arena are its `descriptors`; `template` is its parent."""
    connection = socket.socket(fileno=descriptors[0])
    arena = mmap.mmap(descriptors[1], ARENA_BYTES, prot=mmap.PROT_READ)
    os.close(descriptors[1])
    confine(rules.memory_mib)
    if os.getppid() != template:
        return  # it ended before it was agreed that we go with it
    connection.sendall(READY.pack(os.getpid()))
    serve(connection, arena, rules, parse)


def obey(control: socket.socket, rules: Rules, parse: Callable[[bytes], Extracted]) -> None:
    """Be the template: fork and end children until the other end is closed, then end those that are left."""
    template, children = os.getpid(), set[int]()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 2, socket.MSG_WAITALL)
        if not message:
            break
        child, patience = ORDER.unpack(message)
        if child:
            children.discard(child)
            control.sendall(ENDED.pack(_ended(child, patience)))
            continue
        with contextlib.suppress(OSError):  # the parent sees a socket that nobody has
            child = os.fork()
            if child == 0:
                control.close()
                _as_child(partial(live, descriptors, template, rules, parse))
            children.add(child)
        for descriptor in descriptors:
            os.close(descriptor)
    for child in children:
        _ended(child, 0)


def _as_child(function: Callable[[], None]) -> None:
    """Run the function and end the process: nothing of the template's is unwound."""
    status = 1
    try:
        function()
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


def _ended(child: int, patience: float) -> int:
    """Exit status of a child that is ending, or is ended when patience runs out."""
    deadline = time.monotonic() + patience
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            break
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return LIVED_ON


def main(parse: Callable[[bytes], Extracted] | None = None) -> None:
    """Run as `python -m tasks.extract.child DESCRIPTOR RULES`, the rules in JSON."""
    rules = Rules(**json.loads(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    load_kernels()  # before writing to numba's cache is forbidden
    gc.collect()
    gc.freeze()  # children share what is loaded; their collections leave it alone
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.sendall(b"r")
        obey(control, rules, parse or partial(extract, feature_set=rules.feature_set, structure=rules.structure))


if __name__ == "__main__":
    main()
