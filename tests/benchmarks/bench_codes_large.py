"""Hamming search at ten million codes: 320 MB to 1.28 GB."""

import faiss
from threadpoolctl import threadpool_limits

from tests.benchmarks.bench_codes import hamming
from tests.benchmarks.report import Measurement


def run() -> list[Measurement]:
    """Measure each width."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1):
            return hamming(10_000_000, (256, 512, 1024))
    finally:
        faiss.omp_set_num_threads(before)
