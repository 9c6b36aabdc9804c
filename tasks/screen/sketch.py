"""Pass 1: an exact, mergeable sketch of each column, and the bins and ranges that follow from it.

A float32 has a code: its bits, flipped so that codes stand in the order of the values. A sketch counts values by the
upper 16 bits of their codes (1 part in 128 of a value). Where such a cell holds too much of a column - values that
are close together for their size - it is counted again by 8 more bits, and by the last 8 if need be (radix
selection): bins are then as fine as float32 itself. Counts are integers, and which cells are refined follows from
them: sketches of shards merge, in any order, into the sketch of the whole.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

CELLS = 1 << 16
DEPTHS = (16, 24, 32)
"""Bits of a code by which cells are told apart, one round after the other."""
HEAVY_SHARE = 4
"""A cell with more than n / (HEAVY_SHARE · bins) values is refined."""

_GLANCE, _PAGE = 512, 256
_LOWEST, _HIGHEST = np.uint32(0x007FFFFF), np.uint32(0xFF800000)  # codes of -inf and inf
_NO_VALUE = np.uint32(0xFFFFFFFF), np.uint32(0)


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of cells of p columns, in compressed rows.

    Attributes
    ----------
    offsets
        int64[p + 1]: column j owns entries offsets[j] to offsets[j + 1].
    codes
        uint32[entries], rising within a column: the least code of each cell that holds a value.
    counts
        int64[entries], positive.
    missing, infinite
        int64[p]: NaNs, and infinite values, in each column.
    low
        uint32[p]: the lower 16 bits of all values, or-ed. Where 0, cells of 16 bits hold one value each.
    extremes
        uint32[p, 2]: least and greatest code of a finite value; the first above the second when there is none.
    """

    offsets: NDArray[np.int64]
    codes: NDArray[np.uint32]
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]
    infinite: NDArray[np.int64]
    low: NDArray[np.uint32]
    extremes: NDArray[np.uint32]

    def column(self, j: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Cells of column j and their counts."""
        entries = slice(self.offsets[j], self.offsets[j + 1])
        return self.codes[entries], self.counts[entries]

    def present(self) -> NDArray[np.int64]:
        """int64[p], values that are not missing."""
        total = np.concatenate([[0], np.cumsum(self.counts)])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]

    def minimum(self) -> NDArray[np.float64]:
        """float64[p], the least finite value; NaN where there is none."""
        return self._extreme(0)

    def maximum(self) -> NDArray[np.float64]:
        """float64[p], the greatest finite value; NaN where there is none."""
        return self._extreme(1)

    def _extreme(self, side: int) -> NDArray[np.float64]:
        there = self.extremes[:, 0] <= self.extremes[:, 1]
        return np.where(there, code_values(self.extremes[:, side]).astype(np.float64), np.nan)


@dataclass(frozen=True, slots=True)
class Edges:
    """Bin edges of p columns: `values[offsets[j]:offsets[j + 1]]` (float32) are column j's, rising.

    The bin of a value is the number of edges that are at most the value, as `np.digitize` counts.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.float32]

    def bins(self) -> NDArray[np.int64]:
        """int64[p], bins of each column."""
        return np.diff(self.offsets) + 1

    def take(self, columns: NDArray[np.int64]) -> "Edges":
        """The edges of some columns."""
        return pack_edges([self.values[self.offsets[j] : self.offsets[j + 1]] for j in columns])


def pack_edges(edges: list[NDArray[np.float32]]) -> Edges:
    """One array a column, into one object."""
    offsets = np.zeros(len(edges) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in edges], out=offsets[1:])
    return Edges(offsets, np.concatenate(edges).astype(np.float32) if edges else np.zeros(0, np.float32))


@compiled
def _code(bits: np.uint32) -> np.uint32:  # pragma: no cover - compiled
    # Signs are hard to foretell: no branch. -0.0 is 0.0.
    bits = np.uint32(0) if bits == np.uint32(0x80000000) else bits
    flip = np.uint32(np.int32(bits) >> np.int32(31)) | np.uint32(0x80000000)
    return np.uint32(bits ^ flip)


@compiled
def order_codes(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Order-preserving codes of float32[n] without NaN: a < b implies code(a) < code(b). -0.0 counts as 0.0."""
    bits = values.view(np.uint32)
    result = np.empty(len(values), dtype=np.uint32)
    for i in range(len(values)):
        result[i] = _code(bits[i])
    return result


def code_values(codes: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The float32 of each code; codes below that of -inf, which no value has, give -inf."""
    codes = np.asarray(codes, dtype=np.uint32)
    bits = np.where(codes < np.uint32(0x80000000), ~codes, codes & np.uint32(0x7FFFFFFF)).astype(np.uint32)
    values = bits.view(np.float32)
    return np.where(np.isnan(values), np.float32(-np.inf), values).astype(np.float32)


@compiled
def _two_values(
    bits: NDArray[np.uint32], values: NDArray[np.uint32], counts: NDArray[np.int64]
) -> bool:  # pragma: no cover - compiled
    # Whether a column holds at most two values (and NaN): then they, and how many there are of each. It is told at
    # the memory's speed, and others are found out within their first rows.
    n = len(bits)
    known = 0
    counts[:] = 0
    for start in range(0, n, _GLANCE):
        part = bits[start : start + _GLANCE]
        while True:
            first, second = values[0], values[1] if known > 1 else values[0]
            of_first = of_second = nans = np.int32(0)
            for i in range(len(part)):
                of_first += np.int32(part[i] == first)
                of_second += np.int32(part[i] == second)
                nans += np.int32((part[i] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000))
            seen = nans + (of_first if known > 0 else 0) + (of_second if known > 1 else 0)
            if seen == len(part):
                break
            if known == 2:
                return False
            for i in range(len(part)):
                b = part[i]
                strange = (known == 0 or b != values[0]) and (b & np.uint32(0x7FFFFFFF)) <= np.uint32(0x7F800000)
                if strange:
                    if b == np.uint32(0x80000000):  # -0.0, which is 0.0
                        return False
                    values[known] = b
                    known += 1
                    break
        if known > 0:
            counts[0] += of_first
        if known > 1:
            counts[1] += of_second
    return True


@compiled
def _count(
    bits: NDArray[np.uint32],
    histogram: NDArray[np.uint32],
    used: NDArray[np.bool_],
    missing: NDArray[np.int64],
    infinite: NDArray[np.int64],
    low: NDArray[np.uint32],
    extremes: NDArray[np.uint32],
) -> None:  # pragma: no cover - compiled
    # `used` tells which pages of a column's histogram may hold something.
    values, counts = np.zeros(2, dtype=np.uint32), np.zeros(2, dtype=np.int64)
    for j in range(bits.shape[0]):
        if _two_values(bits[j], values, counts):
            missing[j] += bits.shape[1] - counts[0] - counts[1]
            for v in range(2):
                if counts[v]:
                    code = _code(values[v])
                    histogram[j, code >> np.uint32(16)] += np.uint32(counts[v])
                    used[j, code >> np.uint32(24)] = True
                    low[j] |= values[v] & np.uint32(0xFFFF)
                    if (values[v] & np.uint32(0x7FFFFFFF)) == np.uint32(0x7F800000):
                        infinite[j] += counts[v]
                    else:
                        extremes[j, 0] = min(extremes[j, 0], code)
                        extremes[j, 1] = max(extremes[j, 1], code)
            continue
        nans = infinities = 0
        mask = np.uint32(0)
        least, greatest = extremes[j, 0], extremes[j, 1]
        for i in range(bits.shape[1]):
            b = bits[j, i]
            magnitude = b & np.uint32(0x7FFFFFFF)
            if magnitude > np.uint32(0x7F800000):
                nans += 1
                continue
            code = _code(b)
            histogram[j, code >> np.uint32(16)] += np.uint32(1)
            mask |= b
            if magnitude == np.uint32(0x7F800000):
                infinities += 1
                continue
            least = min(least, code)
            greatest = max(greatest, code)
        missing[j] += nans
        infinite[j] += infinities
        low[j] |= mask & np.uint32(0xFFFF)
        extremes[j, 0], extremes[j, 1] = least, greatest
        used[j] = True


@compiled
def _collect(
    histogram: NDArray[np.uint32], used: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]]:  # pragma: no cover - compiled
    p = histogram.shape[0]
    offsets = np.zeros(p + 1, dtype=np.int64)
    pages = np.empty((p, CELLS // _PAGE), dtype=np.int32)
    for j in range(p):
        for page in range(CELLS // _PAGE):
            pages[j, page] = 0
            if not used[j, page]:
                continue
            part = histogram[j, page * _PAGE : (page + 1) * _PAGE]
            found = np.int32(0)
            for c in range(_PAGE):
                found += np.int32(part[c] != 0)
            pages[j, page] = found
        offsets[j + 1] = offsets[j] + pages[j].sum()
    codes = np.empty(offsets[p], dtype=np.uint32)
    counts = np.empty(offsets[p], dtype=np.int64)
    for j in range(p):
        place = offsets[j]
        for page in range(CELLS // _PAGE):
            if pages[j, page] == 0:
                continue
            for c in range(page * _PAGE, (page + 1) * _PAGE):
                if histogram[j, c]:
                    codes[place] = np.uint32(c) << np.uint32(16)
                    counts[place] = histogram[j, c]
                    place += 1
    return offsets, codes, counts


class Counter:
    """Sketches p columns, some rows at a time. Holds 256 KiB a column; at most 2³² rows."""

    def __init__(self, columns: int) -> None:
        self._histogram = np.zeros((columns, CELLS), dtype=np.uint32)
        self._used = np.zeros((columns, CELLS // _PAGE), dtype=np.bool_)
        self._missing = np.zeros(columns, dtype=np.int64)
        self._infinite = np.zeros(columns, dtype=np.int64)
        self._low = np.zeros(columns, dtype=np.uint32)
        self._extremes = np.full((columns, 2), _NO_VALUE, dtype=np.uint32)

    def add(self, x: NDArray[np.float32]) -> None:
        """Count the rows of a block float32[p, n]."""
        bits = np.ascontiguousarray(x).view(np.uint32)
        _count(bits, self._histogram, self._used, self._missing, self._infinite, self._low, self._extremes)

    def sketch(self) -> Sketch:
        """What was counted so far."""
        offsets, codes, counts = _collect(self._histogram, self._used)
        return Sketch(offsets, codes, counts, self._missing, self._infinite, self._low, self._extremes)


@compiled
def _cells(
    codes: NDArray[np.uint32],
    weights: NDArray[np.int64],
    limit: int,
    low: np.uint32,
    starts: NDArray[np.int32],
    out_codes: NDArray[np.uint32],
    out_counts: NDArray[np.int64],
) -> int:  # pragma: no cover - compiled
    # Cells of rising codes, each of which weighs so much (nothing given: 1), finer where they are heavy.
    m = len(codes)
    weighed = len(weights) > 0
    starts[0] = 0
    many = min(m, 1)
    for i in range(1, m):  # no branch: whether a cell ends is hard to foretell
        starts[many] = i
        many += int((codes[i] ^ codes[i - 1]) > np.uint32(0xFFFF))
    starts[many] = m
    place = 0
    if not weighed:
        largest = np.int32(0)
        for s in range(many):
            largest = max(largest, starts[s + 1] - starts[s])
        if largest <= limit or (low & np.uint32(0xFFFF)) == 0:
            for s in range(many):
                out_codes[s] = codes[starts[s]] & np.uint32(0xFFFF0000)
                out_counts[s] = starts[s + 1] - starts[s]
            return many
    for s in range(many):
        start, end = starts[s], starts[s + 1]
        count = np.int64(end - start)
        if weighed:
            count = weights[start:end].sum()
        if count <= limit or (low & np.uint32(0xFFFF)) == 0:
            out_codes[place] = codes[start] & np.uint32(0xFFFF0000)
            out_counts[place] = count
            place += 1
            continue
        i = start
        while i < end:
            upto = i
            within = np.int64(0)
            while upto < end and (codes[upto] >> np.uint32(8)) == (codes[i] >> np.uint32(8)):
                within += weights[upto] if weighed else 1
                upto += 1
            if within <= limit or (low & np.uint32(0xFF)) == 0:
                out_codes[place] = codes[i] & np.uint32(0xFFFFFF00)
                out_counts[place] = within
                place += 1
            else:
                while i < upto:
                    last = i
                    same = np.int64(0)
                    while last < upto and codes[last] == codes[i]:
                        same += weights[last] if weighed else 1
                        last += 1
                    out_codes[place] = codes[i]
                    out_counts[place] = same
                    place += 1
                    i = last
            i = upto
    return place


@compiled
def _cut(
    bits: NDArray[np.uint32],
    rising: NDArray[np.uint32],
    where: NDArray[np.int64],
    values: NDArray[np.uint32],
    counts: NDArray[np.int64],
    bins: int,
    missing: NDArray[np.int64],
    infinite: NDArray[np.int64],
    low: NDArray[np.uint32],
    extremes: NDArray[np.uint32],
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]]:  # pragma: no cover - compiled
    # Column j is row where[j] of the sorted ones, or has two values at most.
    p, n = bits.shape
    offsets = np.zeros(p + 1, dtype=np.int64)
    codes = np.empty(len(rising) * n + 2 * p, dtype=np.uint32)
    sizes = np.empty(len(codes), dtype=np.int64)
    column = np.empty(max(n, 2), dtype=np.uint32)
    starts = np.empty(max(n, 2) + 1, dtype=np.int32)
    weights = np.empty(2, dtype=np.int64)
    none = np.empty(0, dtype=np.int64)
    place = 0
    for j in range(p):
        m = 0
        if where[j] < 0:
            total = counts[j, 0] + counts[j, 1]
            if counts[j, 0] > 0:
                column[0], weights[0], m = _code(values[j, 0]), counts[j, 0], 1
            if counts[j, 1] > 0:
                column[1], weights[1], m = _code(values[j, 1]), counts[j, 1], 2
                if column[1] < column[0]:
                    column[0], column[1] = column[1], column[0]
                    weights[0], weights[1] = weights[1], weights[0]
        else:
            line = rising[where[j]]
            m = n
            while m > 0 and (line[m - 1] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
                m -= 1
            total = m
            for i in range(m):
                column[i] = _code(line[i])
        missing[j] = n - total
        mask = np.uint32(0)
        for i in range(m):
            mask |= column[i] ^ (np.uint32(0) if column[i] & np.uint32(0x80000000) else np.uint32(0xFFFFFFFF))
        low[j] = mask & np.uint32(0xFFFF)
        first, last = 0, m - 1
        while first < m and column[first] == _LOWEST:
            infinite[j] += weights[first] if where[j] < 0 else 1
            first += 1
        while last >= first and column[last] == _HIGHEST:
            infinite[j] += weights[last] if where[j] < 0 else 1
            last -= 1
        if first <= last:
            extremes[j, 0], extremes[j, 1] = column[first], column[last]
        limit = total // (HEAVY_SHARE * bins) if bins else total
        weighed = weights[:m] if where[j] < 0 else none
        place += _cells(column[:m], weighed, limit, low[j], starts, codes[place:], sizes[place:])
        offsets[j + 1] = place
    return offsets, codes[:place], sizes[:place]


@compiled
def _glance(
    bits: NDArray[np.uint32], values: NDArray[np.uint32], counts: NDArray[np.int64], where: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    others = 0
    for j in range(len(bits)):
        where[j] = -1
        if not _two_values(bits[j], values[j], counts[j]):
            where[j] = others
            others += 1


def sketch(x: NDArray[np.float32], bins: int = 0) -> Sketch:
    """Sketch the columns of a block float32[p, n] that holds all rows, refined for so many bins (0: not refined).

    The same, to the bit, as counting parts, merging them and refining what is heavy.
    """
    p = len(x)
    missing, infinite = np.zeros(p, dtype=np.int64), np.zeros(p, dtype=np.int64)
    low, extremes = np.zeros(p, dtype=np.uint32), np.full((p, 2), _NO_VALUE, dtype=np.uint32)
    bits = np.ascontiguousarray(x).view(np.uint32)
    values, counts = np.zeros((p, 2), dtype=np.uint32), np.zeros((p, 2), dtype=np.int64)
    where = np.empty(p, dtype=np.int64)
    _glance(bits, values, counts, where)
    others = where >= 0
    rising = np.sort(x if others.all() else x[others], axis=1).view(np.uint32)  # NaN comes last
    cells = _cut(bits, rising, where, values, counts, bins, missing, infinite, low, extremes)
    return Sketch(*cells, missing, infinite, low, extremes)


def join(parts: list[Sketch]) -> Sketch:
    """Sketches of different columns side by side."""
    entries = np.cumsum([0] + [len(part.codes) for part in parts])
    offsets = [part.offsets[:-1] + start for part, start in zip(parts, entries, strict=False)]
    return Sketch(
        np.concatenate([*offsets, entries[-1:]]).astype(np.int64),
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("codes", "counts", "missing", "infinite", "low", "extremes")
        ),
    )


@compiled
def _merge_cells(
    offsets_a: NDArray[np.int64],
    codes_a: NDArray[np.uint32],
    counts_a: NDArray[np.int64],
    offsets_b: NDArray[np.int64],
    codes_b: NDArray[np.uint32],
    counts_b: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.int64]]:  # pragma: no cover - compiled
    p = len(offsets_a) - 1
    codes = np.empty(len(codes_a) + len(codes_b), dtype=np.uint32)
    counts = np.empty(len(codes), dtype=np.int64)
    offsets = np.zeros(p + 1, dtype=np.int64)
    place = 0
    for j in range(p):
        a, b = offsets_a[j], offsets_b[j]
        end_a, end_b = offsets_a[j + 1], offsets_b[j + 1]
        while a < end_a or b < end_b:
            from_a = a < end_a and (b >= end_b or codes_a[a] <= codes_b[b])
            from_b = b < end_b and (a >= end_a or codes_b[b] <= codes_a[a])
            codes[place] = codes_a[a] if from_a else codes_b[b]
            counts[place] = 0
            if from_a:
                counts[place] += counts_a[a]
                a += 1
            if from_b:
                counts[place] += counts_b[b]
                b += 1
            place += 1
        offsets[j + 1] = place
    return offsets, codes[:place].copy(), counts[:place].copy()


def merge(a: Sketch, b: Sketch) -> Sketch:
    """Sketch of the rows of both (before refinement): exact, associative, commutative."""
    cells = _merge_cells(a.offsets, a.codes, a.counts, b.offsets, b.codes, b.counts)
    extremes = np.stack(
        [np.minimum(a.extremes[:, 0], b.extremes[:, 0]), np.maximum(a.extremes[:, 1], b.extremes[:, 1])], axis=1
    )
    return Sketch(*cells, a.missing + b.missing, a.infinite + b.infinite, a.low | b.low, extremes)


@dataclass(frozen=True, slots=True)
class Heavy:
    """Cells to refine.

    Attributes
    ----------
    columns
        int64[h]: columns that have some, rising.
    offsets
        int64[h + 1]: which entries of `codes` are each one's.
    codes
        uint32[cells]: least code of each cell, rising within a column.
    depth
        Bits of a code by which these cells are told apart; 8 more are counted.
    """

    columns: NDArray[np.int64]
    offsets: NDArray[np.int64]
    codes: NDArray[np.uint32]
    depth: int


def heavy(found: Sketch, bins: int, depth: int) -> Heavy:
    """Cells of `depth` bits that hold more than 1 / (4 · bins) of a column, and may hold several values."""
    none = np.zeros(0, dtype=np.int64)
    if depth >= DEPTHS[-1]:
        return Heavy(none, np.zeros(1, np.int64), np.zeros(0, np.uint32), depth)
    owner = np.repeat(np.arange(len(found.missing)), np.diff(found.offsets))
    limit = found.present() // (HEAVY_SHARE * bins)
    several = (found.low & np.uint32((1 << (32 - depth)) - 1)) != 0
    # A cell that an earlier round left alone is lighter than the limit.
    chosen = (found.counts > limit[owner]) & several[owner]
    columns, sizes = np.unique(owner[chosen], return_counts=True)
    return Heavy(columns, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), found.codes[chosen], depth)


@compiled
def _refine(
    bits: NDArray[np.uint32],
    columns: NDArray[np.int64],
    offsets: NDArray[np.int64],
    codes: NDArray[np.uint32],
    depth: int,
    counts: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    shift = np.uint32(32 - depth)
    for h in range(len(columns)):
        start, end = offsets[h], offsets[h + 1]
        for i in range(bits.shape[1]):
            b = bits[columns[h], i]
            if (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
                continue
            code = _code(b)
            cell = (code >> shift) << shift
            low, high = start, end
            while low < high:
                middle = (low + high) // 2
                if codes[middle] < cell:
                    low = middle + 1
                else:
                    high = middle
            if low < end and codes[low] == cell:
                counts[low, (code >> (shift - np.uint32(8))) & np.uint32(0xFF)] += 1


def refine(x: NDArray[np.float32], cells: Heavy, columns: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Count the values of heavy cells by their next 8 bits: int64[cells, 256], which adds up over shards.

    Parameters
    ----------
    columns
        Rows of `x` that hold `cells.columns`; by default those numbers themselves.
    """
    counts = np.zeros((len(cells.codes), 256), dtype=np.int64)
    where = cells.columns if columns is None else columns
    if len(cells.codes):
        _refine(np.ascontiguousarray(x).view(np.uint32), where, cells.offsets, cells.codes, cells.depth, counts)
    return counts


def refined(found: Sketch, cells: Heavy, counts: NDArray[np.int64]) -> Sketch:
    """The sketch with its heavy cells replaced by what was counted in them."""
    step = np.uint32(1 << (24 - cells.depth))
    parts = zip(np.repeat(cells.columns, np.diff(cells.offsets)), cells.codes, counts, strict=True)
    by_column: dict[int, list[tuple[np.uint32, NDArray[np.int64]]]] = {}
    for column, code, inside in parts:
        by_column.setdefault(int(column), []).append((code, inside))
    all_codes: list[NDArray[np.uint32]] = []
    all_counts: list[NDArray[np.int64]] = []
    sizes = np.diff(found.offsets)
    for j in range(len(found.missing)):
        codes, numbers = found.column(j)
        for code, inside in by_column.get(j, []):
            place = int(np.searchsorted(codes, code))
            hit = np.flatnonzero(inside)
            finer = (code + hit.astype(np.uint32) * step).astype(np.uint32)
            codes = np.concatenate([codes[:place], finer, codes[place + 1 :]])
            numbers = np.concatenate([numbers[:place], inside[hit], numbers[place + 1 :]])
        all_codes.append(codes)
        all_counts.append(numbers)
        sizes[j] = len(codes)
    return Sketch(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate(all_codes) if all_codes else found.codes,
        np.concatenate(all_counts) if all_counts else found.counts,
        found.missing, found.infinite, found.low, found.extremes,
    )  # fmt: skip


@compiled
def _quantiles(
    offsets: NDArray[np.int64],
    codes: NDArray[np.uint32],
    counts: NDArray[np.int64],
    shares: NDArray[np.float64],
    found: NDArray[np.uint32],
) -> None:  # pragma: no cover - compiled
    for j in range(len(offsets) - 1):
        n = 0
        for e in range(offsets[j], offsets[j + 1]):
            n += counts[e]
        upto, k = 0, 0
        for e in range(offsets[j], offsets[j + 1]):
            upto += counts[e]
            while k < len(shares) and upto >= shares[k] * n:
                found[k, j] = codes[e]
                k += 1


def quantiles(found: Sketch, shares: tuple[float, ...]) -> NDArray[np.float64]:
    """float64[len(shares), p]: lower ends of the cells in which quantiles lie, within [minimum, maximum]; NaN if none.

    `shares` rise from 0 to 1.
    """
    codes = np.zeros((len(shares), len(found.missing)), dtype=np.uint32)
    _quantiles(found.offsets, found.codes, found.counts, np.array(shares), codes)
    return np.clip(code_values(codes).astype(np.float64), found.minimum(), found.maximum())


@compiled
def _quantile_edges(
    offsets: NDArray[np.int64],
    codes: NDArray[np.uint32],
    counts: NDArray[np.int64],
    bins: int,
    each_value: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:  # pragma: no cover - compiled
    p = len(offsets) - 1
    result = np.zeros(p + 1, dtype=np.int64)
    edges = np.empty(len(codes), dtype=np.uint32)
    place = 0
    for j in range(p):
        start, end = offsets[j], offsets[j + 1]
        n = 0
        for e in range(start, end):
            n += counts[e]
        every = end - start <= bins or each_value[j]
        below, k = 0, 1
        for e in range(start, end):
            taken = every
            # ceil(k n / bins) <= below, in integers
            while k < bins and k * n <= below * bins:
                k += 1
                taken = True
            if taken and e > start:
                edges[place] = codes[e]
                place += 1
            below += counts[e]
        result[j + 1] = place
    return result, edges[:place].copy()


def quantile_edges(found: Sketch, bins: int, each_value: NDArray[np.bool_] | None = None) -> Edges:
    """Edges that cut each column into at most `bins` bins of nearly equal count.

    An edge stands before the first cell at or beyond each quantile k·n/bins. Repeated values share a bin, so a column
    may get fewer bins; a constant one gets one bin and no edge. A column with at most `bins` different values, or one
    that `each_value` (bool[p]) names, gets a bin for each of them.
    """
    every = np.zeros(len(found.missing), dtype=np.bool_) if each_value is None else each_value
    offsets, codes = _quantile_edges(found.offsets, found.codes, found.counts, bins, every)
    return Edges(offsets, code_values(codes))


def uniform_edges(found: Sketch, bins: int, each_value: NDArray[np.bool_] | None = None) -> Edges:
    """Edges that cut each column's finite range into `bins` bins of equal width, some of which may stay empty."""
    by_value = quantile_edges(found, bins, each_value)
    few = (np.diff(found.offsets) <= bins) | (False if each_value is None else each_value)
    low, high = found.minimum(), found.maximum()
    share = np.arange(1, bins) / bins
    edges: list[NDArray[np.float32]] = []
    for j in range(len(few)):
        if few[j] or np.isnan(low[j]):
            edges.append(by_value.values[by_value.offsets[j] : by_value.offsets[j + 1]])
        else:
            edges.append(np.unique((low[j] * (1 - share) + high[j] * share).astype(np.float32)))
    return pack_edges(edges)
