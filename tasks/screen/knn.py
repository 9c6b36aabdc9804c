"""Mutual information from distances to nearest neighbours, nats: Ross for classes, Kraskov-Stögbauer-Grassberger.

Distances are differences of the values as they are, exact for float32, so that equal steps are equal distances; and
digammas are summed in fixed point. The result therefore depends on the values alone, not on the order of the rows.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from tasks.jit import compiled

UNIT = 2.0**38
"""Digammas are whole multiples of 1/UNIT: two million of them add up exactly, each 2e-12 from the truth."""
POINTS = 4
"""Points of a cell of the grid in which neighbours in the plane are looked for, on average."""

_SIGN, _ALL = np.uint32(0x80000000), np.uint32(0xFFFFFFFF)
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


def ross(x: NDArray[np.float32], labels: NDArray[np.int32], classes: int, k: int = 3) -> NDArray[np.float64]:
    """Mutual information of columns with a class.

    Parameters
    ----------
    x
        float32[p, n]. NaN is missing; an infinite value has no distance, and is left out too.
    labels
        int32[n], in [0, classes).
    classes
        How many there may be.
    k
        Which neighbour within the class sets a row's radius; in a class of at most k rows, the farthest.

    Returns
    -------
    float64[p], at least 0; NaN for a column in which no class has two rows.

    References
    ----------
    B. C. Ross, Mutual Information between Discrete and Continuous Data Sets, PLoS ONE 9(2), 2014. As scikit-learn
    computes it, without the noise it adds to the values.
    """
    found = np.full(len(x), np.nan)
    psi = _digammas(x.shape[1])
    for j, column in enumerate(x):
        keys = np.sort(_keys(column, labels))
        found[j] = _ross(keys, classes, k, psi)
    return found


def ksg(x: NDArray[np.float32], y: NDArray[np.float64], k: int = 3) -> NDArray[np.float64]:
    """Mutual information of columns with a quantity.

    Parameters
    ----------
    x
        float32[p, n]. NaN is missing; an infinite value has no distance, and is left out too.
    y
        float64[n], finite.
    k
        Which neighbour in the plane sets a row's radius. Either axis is divided by its standard deviation.

    Returns
    -------
    float64[p], at least 0; 0 when either side is constant, NaN for a column of fewer than two rows.

    References
    ----------
    A. Kraskov, H. Stögbauer, P. Grassberger, Estimating mutual information, Phys. Rev. E 69, 066138, 2004, first
    algorithm. As scikit-learn computes it, without the noise it adds to the values.
    """
    found = np.full(len(x), np.nan)
    n = x.shape[1]
    psi = _digammas(n)
    rows = np.arange(n, dtype=np.int32)
    order_y = np.argsort(y, kind="stable")
    for j, column in enumerate(x):
        keys = np.sort(_keys(column, rows))
        if len(keys) < 2:
            continue
        found[j] = _ksg(keys, y, order_y, k, psi)
    return found


def _digammas(n: int) -> NDArray[np.int64]:
    """int64[n + 1]: digamma of each count in units of 1/UNIT; the first is not used."""
    values = digamma(np.arange(n + 1, dtype=np.float64))
    values[0] = 0.0
    return np.rint(values * UNIT).astype(np.int64)


@compiled
def _keys(column: NDArray[np.float32], low: NDArray[np.int32]) -> NDArray[np.uint64]:  # pragma: no cover - compiled
    # A finite value's code, which stands in the order of the values, above a number of the row.
    bits = column.view(np.uint32)
    keys = np.empty(len(column), dtype=np.uint64)
    count = 0
    for r in range(len(column)):
        if np.isfinite(column[r]):
            b = bits[r] if column[r] != 0 else np.uint32(0)
            code = b ^ (_ALL if b & _SIGN else _SIGN)
            keys[count] = (np.uint64(code) << _32) | np.uint64(low[r])
            count += 1
    return keys[:count]


@compiled
def _values(keys: NDArray[np.uint64]) -> NDArray[np.float64]:  # pragma: no cover - compiled
    bits = np.empty(len(keys), dtype=np.uint32)
    for i in range(len(keys)):
        code = np.uint32(keys[i] >> _32)
        bits[i] = code ^ (_SIGN if code & _SIGN else _ALL)
    return bits.view(np.float32).astype(np.float64)


@compiled
def _runs(
    values: NDArray[np.float64], first: NDArray[np.int32], last: NDArray[np.int32]
) -> None:  # pragma: no cover - compiled
    # First and last place of the values equal to each.
    n = len(values)
    start = 0
    for i in range(n):
        if values[i] != values[start]:
            start = i
        first[i] = start
    end = n - 1
    for i in range(n - 1, -1, -1):
        if values[i] != values[end]:
            end = i
        last[i] = end


@compiled
def _ross(
    keys: NDArray[np.uint64], classes: int, k: int, psi: NDArray[np.int64]
) -> float:  # pragma: no cover - compiled
    n = len(keys)
    label = np.empty(n, dtype=np.int32)
    offsets = np.zeros(classes + 1, dtype=np.int64)
    for i in range(n):
        label[i] = np.int32(keys[i] & _LOW)
        offsets[label[i] + 1] += 1
    # A class of one row has no neighbour: the row is left out.
    kept = 0
    for i in range(n):
        if offsets[label[i] + 1] > 1:
            keys[kept] = keys[i]
            label[kept] = label[i]
            kept += 1
    if kept == 0:
        return np.nan
    of_counts, of_k = 0, 0
    for c in range(classes):
        size = offsets[c + 1]
        if size == 1:
            offsets[c + 1] = 0
        elif size > 1:
            of_counts += size * psi[size]
            of_k += size * psi[min(k, size - 1)]
    for c in range(classes):
        offsets[c + 1] += offsets[c]
    v = _values(keys[:kept])
    first = np.empty(kept, dtype=np.int32)
    last = np.empty(kept, dtype=np.int32)
    _runs(v, first, last)
    places = np.empty(kept, dtype=np.int32)  # of the members of each class, rising
    fill = offsets[:classes].copy()
    for i in range(kept):
        c = label[i]
        places[fill[c]] = i
        fill[c] += 1

    of_near = 0
    for c in range(classes):
        begin, end = offsets[c], offsets[c + 1]
        reach = min(k, end - begin - 1)
        a = begin  # the k + 1 nearest of the class, the row included, are members a to a + reach
        for m in range(begin, end):
            i = places[m]
            value = v[i]
            a = max(a, m - reach)
            while a + reach + 1 < end and v[places[a + reach + 1]] - value < value - v[places[a]]:
                a += 1
            left, right = places[a], places[a + reach]
            radius = max(value - v[left], v[right] - value)
            if radius == 0.0:
                of_near += psi[last[i] - first[i] + 1]
                continue
            limit = np.nextafter(radius, 0.0)
            # What is within the limit begins between the member before the window and the window's first.
            low = places[a - 1] + 1 if a > begin else 0
            high = left
            if value - v[left] > limit:
                low, high = last[left] + 1, i
            while low < high:
                middle = (low + high) >> 1
                if value - v[middle] <= limit:
                    high = middle
                else:
                    low = middle + 1
            start = high
            low = right
            high = places[a + reach + 1] - 1 if a + reach + 1 < end else kept - 1
            if v[right] - value > limit:
                low, high = i, first[right] - 1
            while low < high:
                middle = (low + high + 1) >> 1
                if v[middle] - value <= limit:
                    low = middle
                else:
                    high = middle - 1
            of_near += psi[low - start + 1]
    return max(0.0, (float(psi[kept]) + float(of_k - of_counts - of_near) / kept) / UNIT)


@compiled
def _factor(values: NDArray[np.float64]) -> float:  # pragma: no cover - compiled
    # One over the standard deviation of sorted values: their order, so the sum, is the same for any order of the rows.
    n = len(values)
    if values[0] == values[n - 1]:
        return 0.0
    middle = values[n // 2]
    total = 0.0
    for i in range(n):
        total += values[i] - middle
    mean = middle + total / n
    square = 0.0
    for i in range(n):
        square += (values[i] - mean) * (values[i] - mean)
    return 1.0 / np.sqrt(square / n)


@compiled
def _inside(
    values: NDArray[np.float64], value: float, factor: float, limit: float, low: int, at: int, high: int
) -> int:  # pragma: no cover - compiled
    # How many of the sorted values are within the limit; the first is in [low, at], the last in [at, high].
    start = at
    while low < start:
        middle = (low + start) >> 1
        if (value - values[middle]) * factor <= limit:
            start = middle
        else:
            low = middle + 1
    end = at
    while end < high:
        middle = (end + high + 1) >> 1
        if (values[middle] - value) * factor <= limit:
            end = middle
        else:
            high = middle - 1
    return end - start + 1


@compiled
def _ksg(
    keys: NDArray[np.uint64], y: NDArray[np.float64], order_y: NDArray[np.int64], k: int, psi: NDArray[np.int64]
) -> float:  # pragma: no cover - compiled
    n = len(keys)
    xs = _values(keys)
    place_x = np.full(len(y), np.int32(-1), dtype=np.int32)
    for i in range(n):
        place_x[np.int64(keys[i] & _LOW)] = i
    ys = np.empty(n, dtype=np.float64)
    place_y = np.empty(n, dtype=np.int32)  # by place in x
    count = 0
    for s in range(len(order_y)):
        i = place_x[order_y[s]]
        if i >= 0:
            ys[count] = y[order_y[s]]
            place_y[i] = count
            count += 1
    factor_x, factor_y = _factor(xs), _factor(ys)
    if factor_x == 0.0 or factor_y == 0.0:
        return 0.0
    k = min(k, n - 1)

    # A grid of cells whose borders are ranks: strip s holds places border[s] to border[s + 1] of either axis.
    side = max(1, int(np.sqrt(n / POINTS)))
    border = np.empty(side + 1, dtype=np.int64)
    for s in range(side + 1):
        border[s] = (s * n) // side
    strip = np.empty(n, dtype=np.int32)
    for s in range(side):
        strip[border[s] : border[s + 1]] = s
    begin = np.zeros(side * side + 1, dtype=np.int32)
    for i in range(n):
        begin[strip[i] * side + strip[place_y[i]] + 1] += 1
    for c in range(side * side):
        begin[c + 1] += begin[c]
    fill = begin[:-1].copy()
    rank_x = np.empty(n, dtype=np.int32)
    rank_y = np.empty(n, dtype=np.int32)
    px = np.empty(n, dtype=np.float64)
    py = np.empty(n, dtype=np.float64)
    for i in range(n):
        c = strip[i] * side + strip[place_y[i]]
        q = fill[c]
        fill[c] += 1
        rank_x[q], rank_y[q] = i, place_y[i]
        px[q], py[q] = xs[i], ys[place_y[i]]

    near = np.empty(k, dtype=np.float64)
    of_near = 0
    for q in range(n):
        vx, vy = px[q], py[q]
        cx, cy = strip[rank_x[q]], strip[rank_y[q]]
        left, right = max(cx - 1, 0), min(cx + 1, side - 1)
        below, above = max(cy - 1, 0), min(cy + 1, side - 1)
        for e in range(k):
            near[e] = np.inf
        worst = np.inf
        from_x, to_x, from_y, to_y = left, right, below, above
        while True:
            for s in range(from_x, to_x + 1):
                for t in range(begin[s * side + from_y], begin[s * side + to_y + 1]):
                    d = max(abs(px[t] - vx) * factor_x, abs(py[t] - vy) * factor_y)
                    if d < worst and t != q:
                        e = k - 1
                        while e > 0 and near[e - 1] > d:
                            near[e] = near[e - 1]
                            e -= 1
                        near[e] = d
                        worst = near[k - 1]
            # What is not looked at yet is at least so far away, on each side.
            to_left = (vx - xs[border[left] - 1]) * factor_x if left > 0 else np.inf
            to_right = (xs[border[right + 1]] - vx) * factor_x if right < side - 1 else np.inf
            to_below = (vy - ys[border[below] - 1]) * factor_y if below > 0 else np.inf
            to_above = (ys[border[above + 1]] - vy) * factor_y if above < side - 1 else np.inf
            least = min(to_left, to_right, to_below, to_above)
            if worst <= least:
                break
            from_x, to_x, from_y, to_y = left, right, below, above
            if least == to_left:
                left -= 1
                from_x = to_x = left
            elif least == to_right:
                right += 1
                from_x = to_x = right
            elif least == to_below:
                below -= 1
                from_y = to_y = below
            else:
                above += 1
                from_y = to_y = above
        if worst > 0.0:
            limit = np.nextafter(worst, 0.0)
            in_x = _inside(xs, vx, factor_x, limit, border[left], rank_x[q], border[right + 1] - 1)
            in_y = _inside(ys, vy, factor_y, limit, border[below], rank_y[q], border[above + 1] - 1)
        else:  # equal values may be in any cell
            in_x = _inside(xs, vx, factor_x, 0.0, 0, rank_x[q], n - 1)
            in_y = _inside(ys, vy, factor_y, 0.0, 0, rank_y[q], n - 1)
        of_near += psi[in_x] + psi[in_y]
    return max(0.0, (float(psi[n] + psi[k]) - float(of_near) / n) / UNIT)
