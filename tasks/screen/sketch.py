"""Pass 1: an exact, mergeable sketch of each column, and the quantile bins that follow from it.

A float32 is coded by its upper 16 bits (sign, exponent, 7 bits of mantissa), flipped so that codes stand in the
order of the values. Per column the sketch counts each code that occurs. Counts are integers: merging in any order
gives the same sketch. Codes resolve values to 1 part in 128, and a bin edge falls between two codes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

CODES = 1 << 16


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of codes of p columns, in compressed rows.

    Attributes
    ----------
    offsets
        int64[p + 1]: column j owns entries offsets[j] to offsets[j + 1].
    codes
        uint16[entries], rising within a column.
    counts
        int64[entries], positive.
    missing
        int64[p], NaNs in each column.
    """

    offsets: NDArray[np.int64]
    codes: NDArray[np.uint16]
    counts: NDArray[np.int64]
    missing: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Edges:
    """Bin edges of p columns: `codes[offsets[j]:offsets[j + 1]]` are column j's, rising.

    The bin of a value is the number of edges that are at most its code.
    """

    offsets: NDArray[np.int64]
    codes: NDArray[np.uint16]


@compiled
def order_codes(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Order-preserving 16-bit codes of float32 values.

    Parameters
    ----------
    values
        float32[n], without NaN. -0.0 counts as 0.0.

    Returns
    -------
    uint16[n]
        a <= b implies code(a) <= code(b).
    """
    result = np.empty(len(values), dtype=np.uint16)
    bits = (values + np.float32(0.0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    for i in range(len(values)):
        b = bits[i]
        flipped = ~b if b >> np.uint32(31) else b | np.uint32(0x80000000)
        result[i] = flipped >> np.uint32(16)
    return result


@compiled
def _count_codes(column: NDArray[np.float32], histogram: NDArray[np.int64]) -> int:  # pragma: no cover - compiled
    missing = 0
    present = np.empty(len(column), dtype=np.float32)
    n = 0
    for i in range(len(column)):
        if np.isnan(column[i]):
            missing += 1
        else:
            present[n] = column[i]
            n += 1
    codes = order_codes(present[:n])
    for i in range(n):
        histogram[codes[i]] += 1
    return missing


def sketch(x: NDArray[np.float32]) -> Sketch:
    """Sketch the columns of float32[n, p]."""
    histogram = np.zeros(CODES, dtype=np.int64)
    codes: list[NDArray[np.uint16]] = []
    counts: list[NDArray[np.int64]] = []
    missing = np.zeros(x.shape[1], dtype=np.int64)
    for j in range(x.shape[1]):
        column = np.ascontiguousarray(x[:, j], dtype=np.float32)
        missing[j] = _count_codes(column, histogram)
        found = np.flatnonzero(histogram)
        codes.append(found.astype(np.uint16))
        counts.append(histogram[found])
        histogram[found] = 0
    return _assemble(codes, counts, missing)


def _assemble(codes: list[NDArray[np.uint16]], counts: list[NDArray[np.int64]], missing: NDArray[np.int64]) -> Sketch:
    offsets = np.zeros(len(codes) + 1, dtype=np.int64)
    np.cumsum([len(c) for c in codes], out=offsets[1:])
    return Sketch(
        offsets,
        np.concatenate(codes) if codes else np.zeros(0, np.uint16),
        np.concatenate(counts) if counts else np.zeros(0, np.int64),
        missing,
    )


def merge(a: Sketch, b: Sketch) -> Sketch:
    """Sketch of the rows of both: exact, associative, commutative."""
    codes: list[NDArray[np.uint16]] = []
    counts: list[NDArray[np.int64]] = []
    histogram = np.zeros(CODES, dtype=np.int64)
    for j in range(len(a.missing)):
        for part in (a, b):
            entries = slice(part.offsets[j], part.offsets[j + 1])
            histogram[part.codes[entries]] += part.counts[entries]  # codes of a column are distinct
        found = np.flatnonzero(histogram)
        codes.append(found.astype(np.uint16))
        counts.append(histogram[found])
        histogram[found] = 0
    return _assemble(codes, counts, a.missing + b.missing)


def quantile_edges(found: Sketch, bins: int) -> Edges:
    """Edges that cut each column into at most `bins` bins of nearly equal count.

    An edge stands before the first code at or beyond each quantile k·n/bins. Repeated values share a bin, so a
    column may get fewer bins; a constant one gets one bin and no edge.
    """
    edges: list[NDArray[np.uint16]] = []
    for j in range(len(found.missing)):
        entries = slice(found.offsets[j], found.offsets[j + 1])
        codes, counts = found.codes[entries], found.counts[entries]
        below = np.cumsum(counts) - counts  # rows before each code
        n = int(counts.sum())
        wanted = -(-np.arange(1, bins, dtype=np.int64) * n // bins)  # ceil(k n / bins), in integers
        first = np.searchsorted(below, wanted, side="left")
        first = np.unique(first[(first > 0) & (first < len(codes))])
        edges.append(codes[first])
    offsets = np.zeros(len(edges) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in edges], out=offsets[1:])
    return Edges(offsets, np.concatenate(edges) if edges else np.zeros(0, np.uint16))


def edge_values(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The smallest float32 of each code, so that `np.digitize(x, edge_values)` gives the bins."""
    wide = codes.astype(np.uint32) << np.uint32(16)
    negative = wide < np.uint32(0x80000000)
    bits = np.where(negative, ~wide, wide & np.uint32(0x7FFFFFFF)).astype(np.uint32)
    values = bits.view(np.float32)
    # The code of -inf also covers bit patterns of NaN, which are never coded.
    return np.where(np.isnan(values), np.float32(-np.inf), values).astype(np.float32)
