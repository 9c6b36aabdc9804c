"""Memory of scheduler and client for a hundred thousand items."""

from tests.benchmarks.bench_scale import memory
from tests.benchmarks.report import Measurement


def run() -> list[Measurement]:
    """A quarter of an hour."""
    return memory((1_000, 100_000))
