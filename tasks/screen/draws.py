"""Random numbers of rows, and random tables with given margins with the test against the observed one: kernels.

Shuffling the outcome leaves both margins of a table as they are, so the shuffled tables are drawn from the margins
without a row of data: cell after cell, each hypergeometric given those before (Patefield 1981, AS 159), or, where
that is quicker, by moving as many units as the smaller margins hold.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from tasks.jit import compiled

TABULATED = 1 << 17
"""Tables of fewer rows read logarithms of factorials from memory; above, Stirling's series gives them."""

_SHUFFLED_ROWS = 1 << 16
_SHUFFLED_PER_CELL = 30  # rows moved in the time of one hypergeometric draw, measured
_INVERTED_VARIANCE = 10.0  # below, few steps from the mode are quicker than rejection; measured

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32, _11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32), np.uint64(11)
_LOW = np.uint64(0xFFFFFFFF)
_HAT_1, _HAT_2 = 2 * np.sqrt(2 / np.e), 3 - 2 * np.sqrt(3 / np.e)

_COUNTS = np.arange(64, dtype=np.float64)
_REMAINDERS = gammaln(_COUNTS + 1) - (xlogy(_COUNTS, _COUNTS) - _COUNTS)  # ln c! - (c ln c - c)


def sample_keys(seed: int, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """uint64[n]: a random number of each row, of the seed and the row's own id alone."""
    return _keys(np.uint64(seed), ids)


@compiled
def _keys(seed: np.uint64, ids: NDArray[np.uint64]) -> NDArray[np.uint64]:  # pragma: no cover - compiled
    keys = np.empty(len(ids), dtype=np.uint64)
    start = _mixed(seed + _GOLDEN)
    for r in range(len(ids)):
        keys[r] = _mixed(_mixed(ids[r] + start) + _GOLDEN)
    return keys


@cache
def logarithms() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tables of ln c! and c ln c for every c below `TABULATED`, float64."""
    counts = np.arange(TABULATED, dtype=np.float64)
    return gammaln(counts + 1), xlogy(counts, counts)


@compiled
def _mixed(bits: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    bits = (bits ^ (bits >> _30)) * _MIX_1
    bits = (bits ^ (bits >> _27)) * _MIX_2
    return bits ^ (bits >> _31)


@compiled
def _start(stream: NDArray[np.uint64], seed: np.uint64, key: np.uint64) -> None:  # pragma: no cover - compiled
    """Set uint64[1] to the stream of a seed and a key."""
    stream[0] = _mixed(key + _mixed(seed + _GOLDEN))


@compiled
def word(stream: NDArray[np.uint64]) -> np.uint64:  # pragma: no cover - compiled
    """The stream's next 64 bits: SplitMix64 (Steele, Lea & Flood 2014), whose word i mixes start + i·golden."""
    stream[0] += _GOLDEN
    return _mixed(stream[0])


@compiled
def _uniform(stream: NDArray[np.uint64]) -> float:  # pragma: no cover - compiled
    # In (0, 1), never an end.
    return (float(word(stream) >> _11) + 0.5) * 2.0**-53


@compiled
def _below(bound: np.uint64, stream: NDArray[np.uint64]) -> int:  # pragma: no cover - compiled
    """Uniform in [0, bound) for bounds below 2^32, without bias: Lemire (2019) on 32 bits."""
    product = (word(stream) >> _32) * bound
    if (product & _LOW) < bound:
        least = ((_LOW - bound) + np.uint64(1)) % bound
        while (product & _LOW) < least:
            product = (word(stream) >> _32) * bound
    return int(product >> _32)


@compiled
def _deviance(count: int, expected: float) -> float:  # pragma: no cover - compiled
    """C ln(c/e) - c + e, not below 0: the sum over a table is G/2 without the cancellation of large counts."""
    if count == 0:
        return expected
    excess = float(count) - expected
    return float(count) * np.log1p(excess / expected) - excess


@compiled
def _remainder(count: int) -> float:  # pragma: no cover - compiled
    # ln c! - (c ln c - c), by Stirling's series above 63: the next term is below 1e-16.
    if count < len(_REMAINDERS):
        return _REMAINDERS[count]
    c = float(count)
    square = c * c
    return 0.5 * np.log(2 * np.pi * c) + (1 / 12 - (1 / 360 - 1 / (1260 * square)) / square) / c


@compiled
def _log_weight(
    x: int, good: int, drawn: int, n: int, log_factorials: NDArray[np.float64]
) -> float:  # pragma: no cover - compiled
    # Logarithm of x's hypergeometric probability, but for the terms of the margins (`_log_margins`).
    if n < TABULATED:
        return -(
            log_factorials[x]
            + log_factorials[good - x]
            + log_factorials[drawn - x]
            + log_factorials[n - good - drawn + x]
        )
    # Loader's form (2000): factorials of 2^40 cancel in Stirling's leading terms, and only deviances are left.
    bad, rest, size = float(n - good), float(n - drawn), float(n)
    return -(
        _deviance(x, float(good) * (float(drawn) / size))
        + _deviance(good - x, float(good) * (rest / size))
        + _deviance(drawn - x, bad * (float(drawn) / size))
        + _deviance(n - good - drawn + x, bad * (rest / size))
        + _remainder(x)
        + _remainder(good - x)
        + _remainder(drawn - x)
        + _remainder(n - good - drawn + x)
    )


@compiled
def _log_margins(
    good: int, drawn: int, n: int, log_factorials: NDArray[np.float64]
) -> float:  # pragma: no cover - compiled
    if n < TABULATED:
        return (
            log_factorials[good]
            + log_factorials[n - good]
            + log_factorials[drawn]
            + log_factorials[n - drawn]
            - log_factorials[n]
        )
    return _remainder(good) + _remainder(n - good) + _remainder(drawn) + _remainder(n - drawn) - _remainder(n)


@compiled
def _from_the_mode(
    mode: int, good: int, drawn: int, n: int, stream: NDArray[np.uint64], log_factorials: NDArray[np.float64]
) -> int:  # pragma: no cover - compiled
    # Inversion, outwards from the mode on both sides by the ratio of neighbouring probabilities.
    at_mode = np.exp(_log_weight(mode, good, drawn, n, log_factorials) + _log_margins(good, drawn, n, log_factorials))
    top, others = min(good, drawn), n - good - drawn
    while True:  # again if rounding left some of u over
        u = _uniform(stream) - at_mode
        if u < 0:
            return mode
        low, high = mode, mode
        p_low, p_high = at_mode, at_mode
        while low > 0 or high < top:
            if high < top:
                p_high *= (float(drawn - high) * float(good - high)) / (float(high + 1) * float(others + high + 1))
                high += 1
                u -= p_high
                if u < 0:
                    return high
            if low > 0:
                p_low *= (float(low) * float(others + low)) / (float(drawn - low + 1) * float(good - low + 1))
                low -= 1
                u -= p_low
                if u < 0:
                    return low


@compiled
def _by_ratio_of_uniforms(
    mode: int,
    mean: float,
    variance: float,
    good: int,
    drawn: int,
    n: int,
    stream: NDArray[np.uint64],
    log_factorials: NDArray[np.float64],
) -> int:  # pragma: no cover - compiled
    # Stadlober (1990): points of a rectangle under a hat that covers every hypergeometric distribution. Counted
    # from the mode, so that no digit is lost however large the counts.
    centre = (mean - float(mode)) + 0.5
    width = _HAT_1 * np.sqrt(variance + 0.5) + _HAT_2
    lowest, highest = -mode, min(good, drawn) - mode
    at_mode = _log_weight(mode, good, drawn, n, log_factorials)
    while True:
        u = _uniform(stream)
        offset = np.floor(centre + width * (_uniform(stream) - 0.5) / u)
        if offset < lowest or offset > highest:
            continue
        x = mode + int(offset)
        log_ratio = _log_weight(x, good, drawn, n, log_factorials) - at_mode
        # 2 ln u lies between these two, which spare the logarithm most of the time.
        if u * (4.0 - u) - 3.0 <= log_ratio:
            return x
        if u * (u - log_ratio) < 1.0 and 2.0 * np.log(u) <= log_ratio:
            return x


@compiled
def hypergeometric(
    good: int, bad: int, drawn: int, stream: NDArray[np.uint64], log_factorials: NDArray[np.float64]
) -> int:  # pragma: no cover - compiled
    """How many good ones are among `drawn` of good + bad, drawn without putting back.

    Exact up to 2^40 at least, in a time that does not grow with the counts. `log_factorials` is the first of
    `logarithms()`.
    """
    # By symmetry both are made the smaller half, so that 0 is possible.
    n = good + bad
    fewer, few = min(good, bad), min(drawn, n - drawn)
    x = 0
    if fewer > 0 and few > 0:
        size = float(n)
        mean = float(few) * (float(fewer) / size)
        variance = mean * (float(n - fewer) / size) * (float(n - few) / float(max(n - 1, 1)))
        mode = int(float(few + 1) * (float(fewer + 1) / float(n + 2)))
        if variance < _INVERTED_VARIANCE:
            x = _from_the_mode(mode, fewer, few, n, stream, log_factorials)
        else:
            x = _by_ratio_of_uniforms(mode, mean, variance, fewer, few, n, stream, log_factorials)
    if few != drawn:
        x = fewer - x
    return x if fewer == good else drawn - x


@compiled
def _information(
    count: int, row: int, column: int, n: int, count_logs: NDArray[np.float64]
) -> float:  # pragma: no cover - compiled
    # A cell's part of the statistic: half of G, or for small tables half of G and a constant of the margins.
    if n < TABULATED:
        return count_logs[count]
    return _deviance(count, float(row) * (float(column) / float(n)))


@compiled
def _largest_last(margin: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    place = np.argmax(margin)
    margin[place], margin[-1] = margin[-1], margin[place]


@compiled
def _drawn_cell_by_cell(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    n: int,
    remaining: NDArray[np.int64],
    stream: NDArray[np.uint64],
    log_factorials: NDArray[np.float64],
    count_logs: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    # The statistic of one random table.
    total = 0.0
    remaining[:] = rows
    unplaced = n
    for k in range(len(columns) - 1):
        left, pool = columns[k], unplaced
        for b in range(len(rows) - 1):
            here = remaining[b]
            x = hypergeometric(here, pool - here, left, stream, log_factorials)
            total += _information(x, rows[b], columns[k], n, count_logs)
            pool -= here
            left -= x
            remaining[b] -= x
        total += _information(left, rows[-1], columns[k], n, count_logs)
        remaining[-1] -= left
        unplaced -= columns[k]
    for b in range(len(rows)):
        total += _information(remaining[b], rows[b], columns[-1], n, count_logs)
    return total


@compiled
def _shuffled(
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    n: int,
    remaining: NDArray[np.int64],
    counts: NDArray[np.int64],
    order: NDArray[np.int32],
    stream: NDArray[np.uint64],
    count_logs: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    # The same by moving rows: all columns but the largest draw theirs from `order`, the row's place of each unit.
    # Its arrangement is left as it is: a random selection is one from any arrangement.
    total = 0.0
    remaining[:] = rows
    first = 0
    for k in range(len(columns) - 1):
        counts[:] = 0
        for i in range(first, first + columns[k]):
            j = i + _below(np.uint64(n - i), stream)
            row = order[j]
            order[j] = order[i]
            order[i] = row
            counts[row] += 1
        first += columns[k]
        for b in range(len(rows)):
            total += _information(counts[b], rows[b], columns[k], n, count_logs)
            remaining[b] -= counts[b]
    for b in range(len(rows)):
        total += _information(remaining[b], rows[b], columns[-1], n, count_logs)
    return total


@compiled
def permute(
    tables: NDArray[np.int64],
    permutations: int,
    exceedances: int,
    seed: np.uint64,
    keys: NDArray[np.uint64],
    log_factorials: NDArray[np.float64],
    count_logs: NDArray[np.float64],
    p_value: NDArray[np.float64],
    drawn: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """Fill float64[p] and int64[p] with the p-values and the tables drawn: see `permutation_p`."""
    stream = np.empty(1, dtype=np.uint64)
    for t in range(len(tables)):
        all_rows = np.zeros(tables.shape[1], dtype=np.int64)
        all_columns = np.zeros(tables.shape[2], dtype=np.int64)
        n = 0
        for b in range(tables.shape[1]):
            for c in range(tables.shape[2]):
                all_rows[b] += tables[t, b, c]
                all_columns[c] += tables[t, b, c]
                n += tables[t, b, c]
        # Padding by a wider neighbour must change nothing, so only what is occupied is drawn.
        rows, columns = all_rows[all_rows > 0], all_columns[all_columns > 0]
        drawn[t] = 0
        if n == 0:
            p_value[t] = np.nan
            continue
        if len(rows) < 2 or len(columns) < 2:
            p_value[t] = 1.0
            continue
        observed = 0.0
        for b in range(tables.shape[1]):
            for c in range(tables.shape[2]):
                if all_rows[b] > 0 and all_columns[c] > 0:
                    observed += _information(tables[t, b, c], all_rows[b], all_columns[c], n, count_logs)
        # Equal tables summed in another order must count as exceeding: a hair below the observed is as extreme.
        least = observed - (1e-12 * observed if n < TABULATED else 1e-9 * (1.0 + observed))

        _largest_last(rows)
        _largest_last(columns)
        if rows[-1] > columns[-1]:  # the statistic is symmetric, and the largest margin is never moved
            rows, columns = columns, rows
        moved, cells = n - columns[-1], (len(rows) - 1) * (len(columns) - 1)
        by_shuffle = n < _SHUFFLED_ROWS and moved < _SHUFFLED_PER_CELL * cells
        remaining = np.empty(len(rows), dtype=np.int64)
        counts = np.empty(len(rows), dtype=np.int64)
        order = np.empty(n if by_shuffle else 0, dtype=np.int32)
        if by_shuffle:
            i = 0
            for b in range(len(rows)):
                order[i : i + rows[b]] = b
                i += rows[b]

        _start(stream, seed, keys[t])
        exceeding = 0
        while drawn[t] < permutations and exceeding < exceedances:
            if by_shuffle:
                value = _shuffled(rows, columns, n, remaining, counts, order, stream, count_logs)
            else:
                value = _drawn_cell_by_cell(rows, columns, n, remaining, stream, log_factorials, count_logs)
            drawn[t] += 1
            exceeding += value >= least
        if exceeding == exceedances:
            p_value[t] = exceeding / drawn[t]
        else:
            p_value[t] = (1 + exceeding) / (1 + drawn[t])
