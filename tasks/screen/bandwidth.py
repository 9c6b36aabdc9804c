"""Bandwidths of kernel density estimates, from counts on a grid: Silverman's, Scott's, and Botev's rule."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from tasks.jit import compiled

_STAGES = 7
_MARGIN = 8
"""Empty cells on either side, as a part of the grid: Botev's rule takes the density as flat beyond its ends."""


@compiled
def spread(counts: NDArray[np.int64], unit: int) -> tuple[float, float, float]:  # pragma: no cover - compiled
    """Size, standard deviation and interquartile range / 1.349 of counts on a grid; lengths in cells.

    A value counts `unit`, split over two cells, which adds 1/6 to the variance: it is taken off.
    """
    n, first, second = 0, 0, 0
    for i in range(len(counts)):
        n += counts[i]
        first += counts[i] * i
        second += counts[i] * (i * i)
    if n == 0:
        return 0.0, 0.0, 0.0
    mean = float(first) / float(n)
    sd = np.sqrt(max(float(second) / float(n) - mean * mean - 1 / 6, 0.0))
    ends = np.zeros(2)
    below, i = 0, 0
    for q in range(2):
        part = (2 * q + 1) * n
        while 4 * (below + counts[i]) < part:
            below += counts[i]
            i += 1
        ends[q] = i - 0.5 + (0.25 * part - below) / counts[i]
    return float(n) / unit, sd, (ends[1] - ends[0]) / 1.349


@compiled
def silverman(n: float, sd: float, quartiles: float, dims: int) -> float:  # pragma: no cover - compiled
    """0.9 · min(sd, IQR / 1.349) · n^(-1/5); for two dimensions n^(-1/6) (Silverman 1986, eqs. 3.31 and 4.14)."""
    # Where half of the values are one, the quartiles say nothing of the rest.
    scale = min(sd, quartiles) if quartiles > 1.0 else sd
    return 0.9 * scale * n ** (-1.0 / (4 + dims))


@compiled
def scott(n: float, sd: float, dims: int) -> float:  # pragma: no cover - compiled
    """1.06 · sd · n^(-1/5); for two dimensions sd · n^(-1/6) (Scott 1992, eq. 6.42)."""
    return (1.0592238410488122 if dims == 1 else 1.0) * sd * n ** (-1.0 / (4 + dims))


@compiled
def _norm(order: int, time: float, squares: NDArray[np.float64]) -> float:  # pragma: no cover - compiled
    """Squared norm of a derivative of the density that has diffused for a time, on the unit interval."""
    total = 0.0
    for k in range(1, len(squares) + 1):
        frequency = (k * math.pi) ** 2
        if frequency * time > 60.0:  # and the rest is less still
            break
        total += frequency**order * squares[k - 1] * math.exp(-frequency * time)
    return 2.0 * total


@compiled
def _excess(time: float, n: float, squares: NDArray[np.float64]) -> float:  # pragma: no cover - compiled
    """How much more a time is than the one that the rule makes of it; -time where it makes none."""
    value = _norm(_STAGES, time, squares)
    for order in range(_STAGES - 1, 1, -1):
        if value <= 0.0:
            return -time
        odd = 1.0
        for factor in range(3, 2 * order, 2):
            odd *= factor
        gain = (1.0 + 0.5 ** (order + 0.5)) / 3.0 * odd * math.sqrt(2.0 / math.pi)
        value = _norm(order, (gain / (n * value)) ** (2.0 / (3 + 2 * order)), squares)
    return time - (2.0 * n * math.sqrt(math.pi) * value) ** -0.4 if value > 0.0 else -time


@compiled
def _least_root(n: float, squares: NDArray[np.float64]) -> float:  # pragma: no cover - compiled
    """Least root of `_excess`, NaN where there is none: between two of a row of times, halved until it is exact."""
    low, high = 1e-12, 1e-9
    if _excess(low, n, squares) >= 0.0:
        return np.nan
    while _excess(high, n, squares) <= 0.0:
        low, high = high, 1.78 * high
        if high > 0.2:
            return np.nan
    for _ in range(40):
        middle = 0.5 * (low + high)
        if _excess(middle, n, squares) > 0.0:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


def isj(counts: NDArray[np.float64], dims: int) -> float:
    """The improved Sheather-Jones rule, in cells; NaN where its equation has no root.

    Parameters
    ----------
    counts
        float64[cells], values in each cell of a grid.
    dims
        1, or 2: the one-dimensional rule of an axis with the rate n^(-1/6).

    References
    ----------
    Z. I. Botev, J. F. Grotowski, D. P. Kroese, Kernel density estimation via diffusion, Ann. Statist. 38(5), 2010.
    """
    n = float(counts.sum())
    if n < 2 or np.count_nonzero(counts) < 3:
        return float("nan")
    padded = np.pad(counts, len(counts) // _MARGIN) / n
    transformed: Any = dct(padded, type=2)
    squares = (np.asarray(transformed, dtype=np.float64)[1:] / 2) ** 2
    width = np.sqrt(_least_root(n, squares)) * len(padded)
    return float(width * (n ** (1 / 5 - 1 / 6) if dims == 2 else 1.0))
