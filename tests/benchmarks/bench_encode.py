"""Encoding against the bare float32 product with its matrix, which a random rotation need not do. One thread."""

from functools import partial

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.binarize.fitting import Options, fit
from tasks.codes.binarizer import Binarizer
from tests.benchmarks.report import Measurement, seconds

ROWS, DIMENSIONS = 100_000, 384
ROUNDS = 11
CASES = (
    ("itq", 384, None),
    ("itq", 256, None),
    ("rabitq", 384, Options("random")),
    ("rabitq", 256, Options("random")),
    ("residual", 2 * 384, Options("random", planes=2)),
    ("residual", 4 * 384, Options("random", planes=4)),
    ("kernel", 256, Options("random")),
)


def _products(x: NDArray[np.float32], binarizer: Binarizer) -> None:
    """The bare float32 products of an encoding: with the matrix, and before it with the anchors."""
    assert binarizer.matrix is not None
    if binarizer.lift is not None:
        x = x @ binarizer.lift.anchors.T
    np.matmul(x, binarizer.matrix)


def run() -> list[Measurement]:
    """Measure each method beside x @ matrix."""
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, DIMENSIONS)).astype(np.float32) + np.float32(0.1)
    found: list[Measurement] = []
    with threadpool_limits(1):
        for method, bits, options in CASES:
            quick = Options(iterations=1) if options is None else options
            binarizer = fit(method, x[:4000], bits=bits, options=quick)
            binarizer.encode(x[:10])  # compiled
            product = partial(_products, x, binarizer)
            # By turns, so that what else the machine does meets both.
            turns = [(seconds(partial(binarizer.encode, x)), seconds(product)) for _ in range(ROUNDS)]
            ours, floor = (float(np.median(times)) for times in zip(*turns, strict=True))
            share = float(np.median([theirs / mine for mine, theirs in turns]))
            found.append(
                Measurement(
                    f"{method} encode, {binarizer.planes} x {binarizer.width} bits",
                    f"{ROWS:,} x {DIMENSIONS}",
                    ours,
                    floor=floor,
                    note=f"{share:.0%} of the rate of the bare float32 product",
                )
            )
    return found
