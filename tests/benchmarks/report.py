"""What a benchmark reports: our median time, the peer's in the same run, and the floor."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of `make bench`. Times are medians in seconds; None where there is no such thing."""

    name: str
    size: str
    ours: float
    peer_name: str | None = None
    peer: float | None = None
    floor: float | None = None
    note: str = ""


def median_time(function: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds of `repeats` calls after one warm-up call (compilation, caches)."""
    function()
    return statistics.median(seconds(function) for _ in range(repeats))


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@compiled
def _read(words: NDArray[np.uint64]) -> int:  # pragma: no cover - compiled
    total = np.uint64(0)
    for word in words:
        total += word
    return int(total)


def read_seconds(size: int) -> float:
    """Seconds that one thread takes to read `size` bytes from memory, by a sum over 256 MiB."""
    words = np.ones(2**25, dtype=np.uint64)
    return median_time(lambda: _read(words)) * size / words.nbytes
