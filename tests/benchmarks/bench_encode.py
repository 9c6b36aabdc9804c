"""Encoding against the bare float32 matrix product that is in it. One thread."""

from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from tasks.binarize.fitting import Options, fit
from tests.benchmarks.report import Measurement, median_time

ROWS, DIMENSIONS = 100_000, 384
CASES = (
    ("itq", 384, None),
    ("itq", 256, None),
    ("rabitq", 384, Options("random")),
    ("rabitq", 256, Options("random")),
    ("residual", 2 * 384, Options("random", planes=2)),
    ("residual", 4 * 384, Options("random", planes=4)),
)


def run() -> list[Measurement]:
    """Measure each method beside x @ matrix."""
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, DIMENSIONS)).astype(np.float32) + np.float32(0.1)
    found: list[Measurement] = []
    with threadpool_limits(1):
        for method, bits, options in CASES:
            quick = Options(iterations=1) if options is None else options
            binarizer = fit(method, x[:4000], bits=bits, options=quick)
            assert binarizer.matrix is not None
            binarizer.encode(x[:10])  # compiled
            product = partial(np.matmul, x, binarizer.matrix)
            ours, floor = median_time(partial(binarizer.encode, x), 5), median_time(product, 5)
            found.append(
                Measurement(
                    f"{method} encode, {binarizer.planes} x {binarizer.width} bits",
                    f"{ROWS:,} x {DIMENSIONS}",
                    ours,
                    floor=floor,
                    note=f"{floor / ours:.0%} of the rate of the bare float32 product",
                )
            )
    return found
