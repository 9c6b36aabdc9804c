"""Mutual information from kernel density estimates, nats.

Pass 2 splits each value over the two nearest points of a grid (four, in the plane), in fixed point: counts of parts
of the rows add up to the counts of all. The densities are the counts convolved with the kernel, directly and not by
Fourier transform, so that a column's bits depend on that column alone, and no density is below 0.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled
from tasks.screen.bandwidth import isj, scott, silverman, spread

Bandwidth = Literal["silverman", "scott", "isj"] | float
Kernel = Literal["gaussian", "epanechnikov", "triangular", "box", "biweight", "triweight", "cosine"]

SCALES = 10.0
"""A grid reaches so many robust standard deviations from the median; what is farther counts as at its end."""
ONE, ONE_2D = 256, 16
"""Weight of a value on a grid; in the plane, along each axis."""
FINE, FINE_2D = 6.0, (1.6, 4.0)
"""Least points in a standard deviation of the kernel to which grids are halved; in the plane for the Gaussian, which
has no edges, and for the others, which do not reach as far."""

_KERNELS = ("gaussian", "epanechnikov", "triangular", "box", "biweight", "triweight", "cosine")
_COSINE = 1.0 / np.sqrt(1.0 - 8.0 / np.pi**2)
_SUPPORT = np.array([5.5, np.sqrt(5.0), np.sqrt(6.0), np.sqrt(3.0), np.sqrt(7.0), 3.0, _COSINE])
"""Where each kernel, scaled to unit variance, ends; the Gaussian is cut where 4e-8 of it are left."""
_SILVERMAN, _SCOTT, _GIVEN = range(3)
_RAREST = 1e-280
"""Less than any density."""
_LEAST = 0.65
"""Cells: a narrower kernel cannot be told from the grid itself."""
_MOST = 32.0
"""Widths of the grid: under a wider kernel all is flat."""
_LN2, _ROOT = float(np.log(2.0)), np.int64(0x3FF6A09E667F3BCD)
_EXPONENT, _MANTISSA, _UNIT = np.int64(52), np.int64(0xFFFFFFFFFFFFF), np.int64(1023 << 52)


@dataclass(frozen=True, slots=True)
class Grid:
    """Points low, low + step, ... of p columns; a step of 0 marks a column without spread.

    Attributes
    ----------
    low, step
        float64[p].
    cells
        How many points.
    """

    low: NDArray[np.float64]
    step: NDArray[np.float64]
    cells: int


@dataclass(frozen=True, slots=True)
class Kde:
    """Estimates of p columns.

    Attributes
    ----------
    mi
        float64[p], at least 0; 0 for columns without spread, NaN for those without a value.
    expected
        float64[p]; about what `mi` would be, on average, without any dependence.
    bandwidth
        float64[p, classes], or float64[p, 2] of x and of y, in units of the column (of y); 0 where there is none.
    """

    mi: NDArray[np.float64]
    expected: NDArray[np.float64]
    bandwidth: NDArray[np.float64]


def grid(
    low: NDArray[np.float64],
    q25: NDArray[np.float64],
    median: NDArray[np.float64],
    q75: NDArray[np.float64],
    high: NDArray[np.float64],
    cells: int,
) -> Grid:
    """A grid from the least value to the greatest, but not farther than SCALES from the median; float64[p] each."""
    ends = np.clip(np.stack([low, q25, median, q75, high]), -1e300, 1e300)  # differences stay finite
    low, q25, median, q75, high = ends
    scale = (q75 - q25) / 1.349
    reach = np.where(scale > 0, SCALES * scale, np.inf)
    start = np.maximum(low, median - reach)
    step = (np.minimum(high, median + reach) - start) / (cells - 1)
    return Grid(start, np.where(step > 1e-300, step, 0.0), cells)


def class_counts(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    grid: Grid,
    classes: int,
    into: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Counts on the grid, class by class, in units of 1/ONE.

    Parameters
    ----------
    x
        float32[p, n]; NaN is missing, infinite values count at the ends.
    labels
        int32[n], in [0, classes).
    into
        int64[p, classes, cells] to add to.

    Returns
    -------
    int64[p, classes, cells]
    """
    counts = np.zeros((len(x), classes, grid.cells), dtype=np.int64) if into is None else into
    _class_counts(x, labels, grid.low, grid.step, counts)
    return counts


def joint_counts(
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    grid_x: Grid,
    y_low: float,
    y_step: float,
    cells: int,
    into: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Counts on the grid of each column and a quantity, in units of 1/ONE_2D².

    Parameters
    ----------
    x
        float32[p, n]; NaN is missing, infinite values count at the ends.
    y
        float64[n], finite.
    grid_x, y_low, y_step, cells
        The two grids.
    into
        int64[p, cells, cells] to add to.

    Returns
    -------
    int64[p, cells, cells]
    """
    counts = np.zeros((len(x), cells, cells), dtype=np.int64) if into is None else into
    top = (cells - 1) * ONE_2D
    place = np.clip((y - y_low) * (ONE_2D / y_step if y_step > 0 else 0.0), 0, top)
    place = np.floor(place + 0.5).astype(np.int32)
    for start in range(0, x.shape[1], 1 << 22):  # counts of so many rows fit in 32 bits
        rows = slice(start, start + (1 << 22))
        _joint_counts(x[:, rows], place[rows], grid_x.low, grid_x.step, counts)
    return counts


def kde_classes(counts: NDArray[np.int64], grid: Grid, bandwidth: Bandwidth, kernel: Kernel) -> Kde:
    """Mutual information with a class: the mean over classes of the divergence of a class's density from all's.

    Parameters
    ----------
    counts
        int64[p, classes, cells], of `class_counts`.
    bandwidth
        A rule, for each class by itself, or a number of standard deviations of the column.
    kernel
        Of unit variance.

    Notes
    -----
    I = Σ_c p_c ∫ f_c ln(f_c / f), f = Σ_c p_c f_c; a sum over the grid and what the kernel reaches beyond its ends.
    """
    p, classes, _ = counts.shape
    mi, expected, widths = np.full(p, np.nan), np.full(p, np.nan), np.zeros((p, classes))
    rule, factor = _rule(bandwidth)
    if bandwidth == "isj":
        for j in range(p):
            for c in range(classes):
                widths[j, c] = isj(counts[j, c] / ONE, 1) if grid.step[j] > 0 else np.nan
    else:
        widths[:] = np.nan
    _kde_classes(counts, grid.step, rule, factor, _KERNELS.index(kernel), mi, expected, widths)
    return Kde(mi, expected, widths)


def kde_joint(
    counts: NDArray[np.int64], grid_x: Grid, y_low: float, y_step: float, bandwidth: Bandwidth, kernel: Kernel
) -> Kde:
    """Mutual information with a quantity, from the density in the plane (product kernel) and its margins.

    Parameters
    ----------
    counts
        int64[p, cells, cells], of `joint_counts`.
    grid_x, y_low, y_step
        The two grids.
    bandwidth
        A rule, for each axis by itself, or a number of its standard deviations.
    kernel
        Of unit variance.
    """
    del y_low
    p = len(counts)
    mi, expected, widths = np.full(p, np.nan), np.full(p, np.nan), np.full((p, 2), np.nan)
    rule, factor = _rule(bandwidth)
    if bandwidth == "isj":
        for j in range(p):
            for axis in range(2):
                widths[j, axis] = isj(counts[j].sum(axis=1 - axis) / ONE_2D**2, 2)
    _kde_joint(counts, grid_x.step, y_step, rule, factor, _KERNELS.index(kernel), mi, expected, widths)
    return Kde(mi, expected, widths)


def _rule(bandwidth: Bandwidth) -> tuple[int, float]:
    if isinstance(bandwidth, str):
        return (_SCOTT if bandwidth == "scott" else _SILVERMAN), 0.0
    return _GIVEN, float(bandwidth)


@compiled
def _class_counts(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    low: NDArray[np.float64],
    step: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    cells = counts.shape[2]
    top = float((cells - 1) * 256)
    for j in range(len(x)):
        scale = 256.0 / step[j] if step[j] > 0 else 0.0
        base = low[j]
        mine = counts[j]
        for r in range(x.shape[1]):
            v = float(x[j, r])
            if np.isnan(v):
                continue
            at = np.int64(min(max((v - base) * scale, 0.0), top) + 0.5) if scale > 0 else 0
            cell, weight = at >> 8, at & 255
            mine[labels[r], cell] += 256 - weight
            if weight:
                mine[labels[r], cell + 1] += weight


@compiled
def _joint_counts(
    x: NDArray[np.float32],
    place: NDArray[np.int32],
    low: NDArray[np.float64],
    step: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    cells = counts.shape[1]
    top = float((cells - 1) * 16)
    wide = cells + 1
    local = np.zeros((cells + 1) * wide, dtype=np.int32)  # the last row and column stay empty
    for j in range(len(x)):
        scale = 16.0 / step[j] if step[j] > 0 else 0.0
        base = low[j]
        for r in range(x.shape[1]):
            v = float(x[j, r])
            if np.isnan(v):
                continue
            at = np.int32(min(max((v - base) * scale, 0.0), top) + 0.5) if scale > 0 else np.int32(0)
            right, up = at & 15, place[r] & 15
            left, down = 16 - right, 16 - up
            cell = (at >> 4) * wide + (place[r] >> 4)
            local[cell] += left * down
            local[cell + 1] += left * up
            local[cell + wide] += right * down
            local[cell + wide + 1] += right * up
        for a in range(cells):
            for b in range(cells):
                counts[j, a, b] += local[a * wide + b]
        local[:] = 0


@compiled
def _below(kernel: int, u: float) -> float:  # pragma: no cover - compiled
    """Share of the kernel of unit variance that lies below u."""
    t = min(max(u / _SUPPORT[kernel], -1.0), 1.0)
    z = t * t
    if kernel == 0:
        return 0.5 + 0.5 * (math.erf(u * math.sqrt(0.5)) if z < 1.0 else t)
    if kernel == 1:
        return 0.5 + t * (3.0 - z) / 4.0
    if kernel == 2:
        return 0.5 + t * (1.0 - 0.5 * abs(t))
    if kernel == 3:
        return 0.5 + 0.5 * t
    if kernel == 4:
        return 0.5 + t * (15.0 - z * (10.0 - 3.0 * z)) / 16.0
    if kernel == 5:
        return 0.5 + t * (35.0 - z * (35.0 - z * (21.0 - 5.0 * z))) / 32.0
    return 0.5 + 0.5 * math.sin(0.5 * math.pi * t)


@compiled
def _taps(kernel: int, width: float, weights: NDArray[np.float64]) -> int:  # pragma: no cover - compiled
    # The kernel's share of each cell, of sum 1; returns how many cells there are to one side. The weights of a value
    # on the grid have variance 1/6, and a cell has 1/12: they are taken off the kernel's.
    sd = math.sqrt(width * width - 0.25)
    reach = int(_SUPPORT[kernel] * sd + 0.5)
    last, total = 0.5, 0.0
    for t in range(reach + 1):
        below = _below(kernel, (t + 0.5) / sd)
        weights[t] = below - last if t else 2 * (below - 0.5)
        total += weights[t] if t == 0 else 2 * weights[t]
        last = below
    for t in range(reach + 1):
        weights[t] /= total
    weights[reach + 1] = 0.0
    return reach


@compiled
def _convolve(
    counts: NDArray[np.float64], weights: NDArray[np.float64], reach: int, beyond: int, out: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    # out[i] becomes the density at cell i - beyond; the counts stand after 2 · beyond zeros, and before as many.
    # Two taps to either side at a time: `weights` has a zero behind the last.
    at = beyond
    size = len(out)
    for i in range(size):
        out[i] = weights[0] * counts[at + i]
    for t in range(1, reach + 1, 2):
        w, v = weights[t], weights[t + 1]
        a, b = counts[at - t : at - t + size], counts[at + t : at + t + size]
        c, d = counts[at - t - 1 : at - t - 1 + size], counts[at + t + 1 : at + t + 1 + size]
        for i in range(size):
            out[i] += w * (a[i] + b[i]) + v * (c[i] + d[i])


@compiled
def _widened(
    counts: NDArray[np.float64], beyond: int, factor: float
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    wide = np.zeros(len(counts) + 4 * beyond)
    for i in range(len(counts)):
        wide[2 * beyond + i] = counts[i] * factor
    return wide


@compiled
def _halved(counts: NDArray[np.float64]) -> NDArray[np.float64]:  # pragma: no cover - compiled
    # Exactly the counts on every second point: a hat of twice the width is a sum of three hats.
    cells = len(counts)
    half = np.zeros(cells // 2 + 1, dtype=np.float64)
    for i in range(cells):
        if i & 1:
            half[i >> 1] += 0.5 * counts[i]
            half[(i >> 1) + 1] += 0.5 * counts[i]
        else:
            half[i >> 1] += counts[i]
    return half


@compiled
def _xlogx(values: NDArray[np.float64], out: NDArray[np.float64]) -> None:  # pragma: no cover - compiled
    # v ln v of values that are 0 or normal numbers, in operations that run in vector registers: the exponent, and an
    # odd series in (m - 1) / (m + 1), whose square is below 0.03.
    n = len(values)
    bits = values.view(np.int64)
    raw = np.empty(n, dtype=np.int64)
    for i in range(n):
        mantissa = (bits[i] & _MANTISSA) | _UNIT
        high = np.int64(mantissa > _ROOT)
        raw[i] = mantissa - (high << _EXPONENT)
        out[i] = float(np.int32((bits[i] >> _EXPONENT) - 1023 + high))
    m = raw.view(np.float64)
    for i in range(n):
        s = np.true_divide(m[i] - 1.0, m[i] + 1.0)  # unlike /, no check for 0, which would forbid vectors
        z = s * s
        series = 1.0 / 19 + z * (1.0 / 21)
        series = 1.0 / 17 + z * series
        series = 1.0 / 15 + z * series
        series = 1.0 / 13 + z * series
        series = 1.0 / 11 + z * series
        series = 1.0 / 9 + z * series
        series = 1.0 / 7 + z * series
        series = 1.0 / 5 + z * series
        series = 1.0 / 3 + z * series
        out[i] = values[i] * (out[i] * _LN2 + 2.0 * s * (1.0 + z * series))


@compiled
def _freedom(
    counts: NDArray[np.float64],
    weights: NDArray[np.float64],
    reach: int,
    beyond: int,
    density: NDArray[np.float64],
    variances: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    # Variance of the density (times n) over its mean, at each point and summed: about the number of places that the
    # kernel tells apart. `counts` as in _convolve.
    _convolve(counts, weights * weights, reach, beyond, variances)
    total = 0.0
    for i in range(len(density)):
        variances[i] = np.true_divide(variances[i], density[i] + _RAREST)
    for i in range(len(density)):
        total += variances[i]
    return total


@compiled
def _width(
    rule: int, factor: float, given: float, of: tuple[float, float, float], sd: float, dims: int, cells: int
) -> float:  # pragma: no cover - compiled
    # In cells; `of` is what is smoothed, `sd` the column's. Without a spread of its own it has the column's.
    n = of[0]
    width = given
    if rule == _GIVEN:
        width = factor * sd
    elif np.isnan(given):
        width = scott(n, of[1], dims) if rule == _SCOTT else silverman(n, of[1], of[2], dims)
    if not width > 0:
        width = silverman(n, sd, sd, dims)
    return min(max(width, _LEAST), _MOST * cells)


@compiled
def _kde_classes(
    counts: NDArray[np.int64],
    step: NDArray[np.float64],
    rule: int,
    factor: float,
    kernel: int,
    mi: NDArray[np.float64],
    expected: NDArray[np.float64],
    widths: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    p, classes, all_cells = counts.shape
    for j in range(p):
        whole = np.zeros(all_cells, dtype=np.int64)
        for c in range(classes):
            for i in range(all_cells):
                whole[i] += counts[j, c, i]
        n, sd, quartiles = spread(whole, 256)
        given = widths[j].copy()
        widths[j] = 0.0
        if n == 0.0:
            continue
        mi[j] = expected[j] = 0.0
        if step[j] == 0.0:
            continue
        share = np.zeros(classes)
        width, alike = np.zeros(classes), np.zeros(classes)
        narrow, broad, least, most = np.inf, 0.0, np.inf, 0.0
        for c in range(classes):
            of = spread(counts[j, c], 256)
            if of[0] > 0.0:
                share[c] = of[0] / n
                width[c] = _width(rule, factor, given[c], of, sd, 1, all_cells)
                widths[j, c] = width[c] * step[j]
                alike[c] = _width(rule, factor, np.nan, (of[0], sd, quartiles), sd, 1, all_cells)
                least, most = min(least, alike[c]), max(most, alike[c])
                narrow, broad = min(narrow, width[c], alike[c]), max(broad, width[c], alike[c])
        cells, times = all_cells, 0
        while narrow >= 2 * FINE and cells > 2:
            cells, times = cells // 2 + 1, times + 1
            narrow, broad, width, alike = 0.5 * narrow, 0.5 * broad, 0.5 * width, 0.5 * alike
        beyond = int(np.ceil(_SUPPORT[kernel] * broad)) + 1
        size = cells + 2 * beyond
        weights = np.empty(beyond + 2)
        density = np.empty(size)
        mixture = np.zeros(size)
        logs = np.empty(size)
        inside = np.zeros(size)
        places = 0.0
        for c in range(classes):
            if share[c] == 0.0:
                continue
            reach = _taps(kernel, width[c], weights)
            points = counts[j, c].astype(np.float64)
            for _ in range(times):
                points = _halved(points)
            _convolve(_widened(points, beyond, 1.0 / (256.0 * share[c] * n)), weights, reach, beyond, density)
            for i in range(size):
                mixture[i] += share[c] * density[i]
            _xlogx(density, logs)
            for i in range(size):
                inside[i] += share[c] * logs[i]
        _xlogx(mixture, logs)
        total = 0.0
        for i in range(size):
            total += inside[i] - logs[i]
        mi[j] = max(total, 0.0)
        # What comes by chance: the density of each class varies by that of all classes, smoothed by the kernel squared.
        pooled = whole.astype(np.float64)
        for _ in range(times):
            pooled = _halved(pooled)
        padded = _widened(pooled, beyond, 1.0 / (256.0 * n))
        chance = uneven = 0.0
        # Classes of different size have different bandwidths, and so densities, even if distributed alike.
        differ = least < 0.9 * most
        mixture[:] = 0.0
        for c in range(classes):
            if share[c] > 0.0:
                if differ or chance == 0.0:
                    reach = _taps(kernel, alike[c], weights)
                    _convolve(padded, weights, reach, beyond, density)
                    places = max(_freedom(padded, weights, reach, beyond, density, logs) - 1.0, 0.0)
                chance += (1.0 - share[c]) * places
                if differ:
                    for i in range(size):
                        mixture[i] += share[c] * density[i]
                    _xlogx(density, logs)
                    for i in range(size):
                        uneven += share[c] * logs[i]
        if differ:
            _xlogx(mixture, logs)
            for i in range(size):
                uneven -= logs[i]
        expected[j] = chance / (2.0 * n) + max(uneven, 0.0)


@compiled
def _kde_joint(
    counts: NDArray[np.int64],
    step_x: NDArray[np.float64],
    step_y: float,
    rule: int,
    factor: float,
    kernel: int,
    mi: NDArray[np.float64],
    expected: NDArray[np.float64],
    widths: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    p, all_x, all_y = counts.shape
    for j in range(p):
        points = counts[j].astype(np.float64) / 256.0
        sum_x, sum_y = np.zeros(all_x, dtype=np.int64), np.zeros(all_y, dtype=np.int64)
        for a in range(all_x):
            for b in range(all_y):
                sum_x[a] += counts[j, a, b]
                sum_y[b] += counts[j, a, b]
        of_x, of_y = spread(sum_x, 256), spread(sum_y, 256)
        given = widths[j].copy()
        widths[j] = 0.0
        n = of_x[0]
        if n == 0.0:
            continue
        mi[j] = expected[j] = 0.0
        if step_x[j] == 0.0 or step_y == 0.0:
            continue
        width_x = _width(rule, factor, given[0], of_x, of_x[1], 2, all_x)
        width_y = _width(rule, factor, given[1], of_y, of_y[1], 2, all_y)
        widths[j, 0], widths[j, 1] = width_x * step_x[j], width_y * step_y
        fine = FINE_2D[min(kernel, 1)]
        while width_y >= 2 * fine and points.shape[1] > 2:
            half = np.zeros((points.shape[0], points.shape[1] // 2 + 1))
            for a in range(len(points)):
                half[a] = _halved(points[a])
            points, width_y = half, 0.5 * width_y
        while width_x >= 2 * fine and points.shape[0] > 2:
            half = np.zeros((points.shape[0] // 2 + 1, points.shape[1]))
            for a in range(len(points)):
                if a & 1:
                    half[a >> 1] += 0.5 * points[a]
                    half[(a >> 1) + 1] += 0.5 * points[a]
                else:
                    half[a >> 1] += points[a]
            points, width_x = half, 0.5 * width_x
        cells_x, cells_y = points.shape
        beyond_x = int(np.ceil(_SUPPORT[kernel] * width_x)) + 1
        beyond_y = int(np.ceil(_SUPPORT[kernel] * width_y)) + 1
        weights_x, weights_y = np.empty(beyond_x + 2), np.empty(beyond_y + 2)
        reach_x, reach_y = _taps(kernel, width_x, weights_x), _taps(kernel, width_y, weights_y)
        size_x, size_y = cells_x + 2 * beyond_x, cells_y + 2 * beyond_y
        smooth = np.zeros((cells_x + 4 * beyond_x, size_y))
        along_x, along_y = np.zeros(cells_x), np.zeros(cells_y)
        occupied = np.zeros(len(smooth), dtype=np.bool_)
        logs = np.empty(size_y)
        for a in range(cells_x):
            some = 0.0
            for b in range(cells_y):
                some += points[a, b]
                along_y[b] += points[a, b] / n
            along_x[a] = some / n
            if some > 0.0:
                occupied[2 * beyond_x + a] = True
                wide = _widened(points[a], beyond_y, 1.0 / n)
                _convolve(wide, weights_y, reach_y, beyond_y, smooth[2 * beyond_x + a])
        density = np.zeros((size_x, size_y))
        for a in range(size_x):
            row = density[a]
            for t in range(-reach_x, reach_x + 1, 2):
                first, second = a + beyond_x + t, a + beyond_x + t + 1
                if occupied[first] or occupied[second]:
                    w = weights_x[abs(t)]
                    v = weights_x[abs(t + 1)]
                    one, two = smooth[first], smooth[second]
                    for b in range(size_y):
                        row[b] += w * one[b] + v * two[b]
        fx, fy = np.zeros(size_x), np.zeros(size_y)
        total = 0.0
        for a in range(size_x):
            row = density[a]
            _xlogx(row, logs)
            some = 0.0
            for b in range(size_y):
                some += row[b]
                fy[b] += row[b]
                total += logs[b]
            fx[a] = some
        sums = np.empty(max(size_x, size_y))
        _xlogx(fx, sums)
        for a in range(size_x):
            total -= sums[a]
        _xlogx(fy, sums)
        for b in range(size_y):
            total -= sums[b]
        mi[j] = max(total, 0.0)
        free_x, free_y = np.empty(size_x), np.empty(size_y)
        all_x_free = _freedom(_widened(along_x, beyond_x, 1.0), weights_x, reach_x, beyond_x, fx, free_x)
        all_y_free = _freedom(_widened(along_y, beyond_y, 1.0), weights_y, reach_y, beyond_y, fy, free_y)
        # Where v values are expected, k come by Poisson's law, and k ln(k / v) is about v ln(1 + (1.5 + v) / 2v(1 + v))
        # on average: ½ where v is large, v ln(1 / v) where it is small. The plane's places are the products of both
        # axes'; between 1 and 1.5 simulations decide.
        both = np.zeros(size_y)
        ratio = np.empty(size_y)
        for a in range(size_x):
            for b in range(size_y):
                v = np.true_divide(n * fx[a] * fy[b], free_x[a] * free_y[b] + _RAREST) + 1e-100
                ratio[b] = 1.0 + np.true_divide(0.75 + 0.5 * v, v * (1.0 + v))
            _xlogx(ratio, logs)
            for b in range(size_y):
                both[b] += fx[a] * fy[b] * np.true_divide(logs[b], ratio[b])
        chance = 1.0 - all_x_free - all_y_free
        for b in range(size_y):
            chance += 2.0 * n * both[b]
        expected[j] = max(chance, 0.0) / (2.0 * n)
