"""Correlation from exact sums: values become whole numbers of 24 bits, whose sums and products add up exactly.

A value v of a column in [minimum, maximum] becomes round((v - minimum) / (maximum - minimum) · (2²⁴ - 1)), which
moves it by at most 2⁻²⁵ of the range. Infinite values count as the nearest end. Sums are then whole numbers: they
do not depend on the order of rows, nor on how they were cut into shards.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

STEPS = (1 << 24) - 1
HALF = np.int64(1) << np.int64(32)
"""Sums of products are kept as high · 2³² + low."""
_TILE = 8192
"""Products of so many rows fit in 63 bits."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of p columns with the outcome; NaN where there is none.

    Attributes
    ----------
    rho
        Pearson's ρ for a continuous outcome and for two classes (the second against the first); for more classes
        the correlation ratio η ≥ 0, the share of the deviation that classes explain, as a root.
    mi
        -½ ln(1 - ρ²), nats: the mutual information of normal variables of that correlation.
    mi_corrected
        Less its expectation under independence, (classes - 1) / 2n, not below 0.
    p_value
        Of ρ² under independence of normal variables: a beta distribution, as of Student's t and Fisher's F.
    dof
        1, or one less than the classes.
    """

    rho: NDArray[np.float64]
    mi: NDArray[np.float64]
    mi_corrected: NDArray[np.float64]
    p_value: NDArray[np.float64]
    dof: NDArray[np.float64]


@compiled
def _quantise(
    values: NDArray[np.float32], low: float, scale: float, steps: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    for r in range(len(values)):
        v = (float(values[r]) - low) * scale
        v = min(max(v, 0.0), float(STEPS)) if not np.isnan(v) else 0.0
        steps[r] = np.int64(v + 0.5)


@compiled
def _class_sums(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    low: NDArray[np.float64],
    scale: NDArray[np.float64],
    sums: NDArray[np.int64],
    classes: int,
) -> None:  # pragma: no cover - compiled
    steps = np.empty(_TILE, dtype=np.int64)
    for j in range(x.shape[0]):
        for start in range(0, x.shape[1], _TILE):
            values = x[j, start : start + _TILE]
            _quantise(values, low[j], scale[j], steps)
            square = np.int64(0)
            for r in range(len(values)):
                there = np.int64(values[r] == values[r])
                q = steps[r] * there
                square += q * q
                c = labels[start + r]
                sums[j, 2 + 2 * c] += there
                sums[j, 3 + 2 * c] += q
            sums[j, 0] += square >> np.int64(32)
            sums[j, 1] += square & (HALF - 1)


@compiled
def _joint_sums(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    low: NDArray[np.float64],
    scale: NDArray[np.float64],
    y_low: float,
    y_scale: float,
    sums: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    steps = np.empty(_TILE, dtype=np.int64)
    y_steps = np.empty(len(y), dtype=np.int64)
    _quantise(y, y_low, y_scale, y_steps)
    for j in range(x.shape[0]):
        for start in range(0, x.shape[1], _TILE):
            values = x[j, start : start + _TILE]
            _quantise(values, low[j], scale[j], steps)
            n = sum_x = sum_y = square_x = square_y = product = np.int64(0)
            for r in range(len(values)):
                there = np.int64(values[r] == values[r])
                q, s = steps[r] * there, y_steps[start + r] * there
                n += there
                sum_x += q
                sum_y += s
                square_x += q * q
                square_y += s * s
                product += q * s
            sums[j, 0] += square_x >> np.int64(32)
            sums[j, 1] += square_x & (HALF - 1)
            sums[j, 2] += square_y >> np.int64(32)
            sums[j, 3] += square_y & (HALF - 1)
            sums[j, 4] += product >> np.int64(32)
            sums[j, 5] += product & (HALF - 1)
            sums[j, 6] += n
            sums[j, 7] += sum_x
            sums[j, 8] += sum_y


def _scale(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = low < high
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, low, 0.0), np.where(known, STEPS / (high - low), 0.0)


def class_sums(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    classes: int,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    into: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Sums of columns by class: int64[p, 2 + 2·classes], which add up over shards.

    Parameters
    ----------
    x
        float32[p, n], NaN where missing.
    labels
        int32[n], each in [0, classes).
    low, high
        float64[p], least and greatest finite value of the whole columns (NaN where there is none).
    """
    sums = np.zeros((len(x), 2 + 2 * classes), dtype=np.int64) if into is None else into
    _class_sums(np.ascontiguousarray(x), labels, *_scale(low, high), sums, classes)
    return sums


def two_value_sums(tables: NDArray[np.int64]) -> NDArray[np.int64]:
    """What `class_sums` gives for columns of two values, from their tables int64[p, 2, classes]."""
    p, _, classes = tables.shape
    sums = np.zeros((p, 2 + 2 * classes), dtype=np.int64)
    upper = tables[:, 1]
    sums[:, 2::2] = tables.sum(axis=1)
    sums[:, 3::2] = upper * STEPS
    square = upper.sum(axis=1).astype(object) * STEPS**2
    sums[:, 0], sums[:, 1] = square // int(HALF), square % int(HALF)
    return sums


def joint_sums(
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    y_low: float,
    y_high: float,
    into: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Sums of columns with a continuous outcome float32[n]: int64[p, 9], which add up over shards."""
    sums = np.zeros((len(x), 9), dtype=np.int64) if into is None else into
    y_base, y_scale = _scale(np.array([y_low]), np.array([y_high]))
    _joint_sums(
        np.ascontiguousarray(x), np.ascontiguousarray(y), *_scale(low, high), float(y_base[0]), float(y_scale[0]), sums
    )
    return sums


def _whole(sums: NDArray[np.int64], place: int) -> NDArray[np.object_]:
    """High · 2³² + low as Python's whole numbers."""
    return sums[:, place].astype(object) * int(HALF) + sums[:, place + 1].astype(object)


def correlate_classes(sums: NDArray[np.int64]) -> Correlation:
    """Correlation of columns with classes, from `class_sums`."""
    square = _whole(sums, 0)
    count, total = sums[:, 2::2], sums[:, 3::2]
    n = count.sum(axis=1)
    all_sums = total.astype(object).sum(axis=1)
    deviation = n.astype(object) * square - all_sums * all_sums  # n² variance, exact
    occupied = (count > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.zeros(len(sums))
        sign = np.ones(len(sums))
        means = np.where(count > 0, total / np.maximum(count, 1), 0.0)
        if sums.shape[1] == 6:
            # ρ = (n₀ S₁ - n₁ S₀) / sqrt(n₀ n₁ · n² variance): whole numbers up to the root
            cross = count[:, 0].astype(object) * total[:, 1] - count[:, 1].astype(object) * total[:, 0]
            scale = np.sqrt(count.astype(np.float64).prod(axis=1) * deviation.astype(np.float64))
            rho = cross.astype(np.float64) / scale
            return _scored(rho, n, occupied, 1)
        mean = all_sums.astype(np.float64) / np.maximum(n, 1)
        for c in range(count.shape[1]):  # class by class: a fixed order
            between += count[:, c] * (means[:, c] - mean) ** 2
        eta = sign * np.sqrt(between * n / deviation.astype(np.float64))
    return _scored(eta, n, occupied, np.maximum(occupied - 1, 1))


def correlate(sums: NDArray[np.int64]) -> Correlation:
    """Correlation of columns with a continuous outcome, from `joint_sums`."""
    n = sums[:, 6].astype(object)
    x, y = sums[:, 7].astype(object), sums[:, 8].astype(object)
    deviation_x, deviation_y = n * _whole(sums, 0) - x * x, n * _whole(sums, 2) - y * y
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(deviation_x.astype(np.float64)) * np.sqrt(deviation_y.astype(np.float64))
        rho = (n * _whole(sums, 4) - x * y).astype(np.float64) / root
    return _scored(rho, sums[:, 6], np.full(len(sums), 2), 1)


def _scored(
    rho: NDArray[np.float64], n: NDArray[np.int64], occupied: NDArray[np.int64], dof: NDArray[np.int64] | int
) -> Correlation:
    from scipy.stats import beta  # takes a second to import

    rho = np.where(np.isfinite(rho) & (occupied > 1), np.clip(rho, -1.0, 1.0), 0.0)
    # 1 - ρ² not below the rounding of values: a perfect relation has a large score, not an infinite one.
    rest = np.maximum(1.0 - rho * rho, 2.0**-50)
    mi = -0.5 * np.log(rest) + 0.0
    corrected = np.maximum(mi - dof / (2.0 * np.maximum(n, 1)), 0.0)
    free = n - dof - 1
    p = np.where(free > 0, beta.sf(rho * rho, np.asarray(dof) / 2, np.maximum(free, 1) / 2), 1.0)
    none = n == 0
    degrees = np.broadcast_to(np.asarray(dof, dtype=np.float64), rho.shape)
    rho, mi, corrected, p = (np.where(none, np.nan, v) for v in (rho, mi, corrected, p))
    return Correlation(rho, mi, corrected, p, degrees)
