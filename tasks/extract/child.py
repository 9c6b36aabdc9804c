"""The process that parses: it owns one end of a socket, has limits, and can be killed at any time.

For each request it receives the descriptor of an anonymous file, maps it, and answers with a length, a JSON
header and raw float32 numbers. No pickles: what comes back from a process that met hostile bytes is only data.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from tasks.extract.layout import FEATURE_SETS
from tasks.extract.parse import Extracted, extract, load_kernels

PREFIX = struct.Struct("<II")
"""Bytes of the JSON header, and how many float32 follow it."""

OUT_OF_MEMORY = 3
"""Exit status of a child that hit its memory limit: what is left of its heap is not to be trusted."""

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def serve(connection: socket.socket, feature_set: str, parse: Callable[[bytes], Extracted]) -> None:
    """Answer requests until the other end is closed."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        if not message:
            return
        found = _parse_file(descriptors[0], parse)
        vectors = [np.ascontiguousarray(found.vectors[group], dtype="<f4") for group in FEATURE_SETS[feature_set]]
        numbers = np.concatenate(vectors)
        header = json.dumps(found.row).encode()
        connection.sendall(PREFIX.pack(len(header), len(numbers)) + header + numbers.tobytes())


def _parse_file(descriptor: int, parse: Callable[[bytes], Extracted]) -> Extracted:
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            return parse(b"")
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
            data = bytes(mapped)
    finally:
        os.close(descriptor)
    return parse(data)


def confine(memory_bytes: int) -> None:
    """Give up what a parser does not need: memory beyond a limit, files, core dumps, new privileges."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = memory_bytes + _address_space(used)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space(otherwise: int) -> int:
    """Address space already taken (libraries, mostly); the limit is on what comes on top."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except OSError:
        return otherwise


def main(parse: Callable[[bytes], Extracted] | None = None) -> None:
    """Run as `python -m tasks.extract.child DESCRIPTOR MEMORY_BYTES FEATURE_SET`."""
    descriptor, memory, feature_set = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    load_kernels()  # before writing to numba's cache is forbidden
    confine(memory)
    with socket.socket(fileno=descriptor) as connection:
        connection.sendall(b"r")
        try:
            serve(connection, feature_set, parse or partial(extract, feature_set=feature_set))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
