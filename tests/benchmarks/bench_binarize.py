"""Hamming search against faiss, and encoding against the matrix product in it. One thread each."""

from functools import partial

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.binarize.distances import hamming_top_k
from tasks.binarize.methods import fit_rabitq
from tasks.jit import compiled
from tests.benchmarks.report import Measurement, median_time

ROWS, BITS, NEIGHBOURS, BATCH = 1_000_000, 256, 10, 64


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


def run() -> list[Measurement]:
    """Measure single queries, batches and encoding."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (ROWS, BITS // 8), dtype=np.uint8)
    queries = random.integers(0, 256, (BATCH, BITS // 8), dtype=np.uint8)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(codes)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    found: list[Measurement] = []
    with threadpool_limits(1):
        for name, asked, repeats in (("single query", queries[:1], 9), (f"batch of {BATCH}", queries, 3)):
            ours = hamming_top_k(asked, codes, NEIGHBOURS)[1]
            assert np.array_equal(ours, index.search(asked, NEIGHBOURS)[0]), "distances differ from faiss"
            found.append(
                Measurement(
                    f"Hamming top {NEIGHBOURS}, {name}",
                    f"{ROWS:,} x {BITS} bits",
                    median_time(partial(hamming_top_k, asked, codes, NEIGHBOURS), repeats),
                    "faiss IndexBinaryFlat",
                    median_time(partial(index.search, asked, NEIGHBOURS), repeats),
                    read_seconds(codes.nbytes) if len(asked) == 1 else None,
                    "floor: codes read once" if len(asked) == 1 else "",
                )
            )
        x = random.standard_normal((100_000, BITS)).astype(np.float32)
        binarizer = fit_rabitq(x[:1000], 0)
        wide = x.astype(np.float64)
        found.append(
            Measurement(
                "RaBitQ encode",
                f"{len(x):,} x {BITS}",
                median_time(lambda: binarizer.encode(x), 3),
                floor=median_time(lambda: wide @ binarizer.rotation, 3),
                note="floor: the bare float64 matrix product",
            )
        )
    faiss.omp_set_num_threads(before)
    return found
