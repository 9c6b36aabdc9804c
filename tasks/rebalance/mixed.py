"""Nearest neighbours and votes for rows with nominal columns; exact, in memory bounded by blocks.

Nominal values are codes: small whole numbers that are equal or not, nothing else.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

SPARE = 8
"""Candidates kept beyond those needed: most ties at the last place are settled among them, without a scan."""
TILE = 1 << 10
"""Rows, and an eighth of it queries, compared at once: products and codes that stay in a processor's cache."""
BLOCK_BYTES = 4 << 20
"""Distances by the value difference metric that are held at once."""


@compiled
def _keep(
    distance: NDArray[np.float64], first: int, best: NDArray[np.float64], near: NDArray[np.int64]
) -> None:  # pragma: no cover - compiled
    # Into a list of nearest rows go those from `first` on. They come in rising order: an equal one stays behind.
    last = len(best) - 1
    limit = best[last]
    for j in range(len(distance)):
        if distance[j] < limit:
            place = last
            while place > 0 and best[place - 1] > distance[j]:
                best[place] = best[place - 1]
                near[place] = near[place - 1]
                place -= 1
            best[place] = distance[j]
            near[place] = first + j
            limit = best[last]


@compiled
def _differing(codes: NDArray[Any], i: int, first: int, differ: NDArray[Any]) -> None:  # pragma: no cover - compiled
    # In how many columns row i differs from each row from `first` on. Codes come column by column.
    differ[:] = 0
    for c in range(len(codes)):
        code, others = codes[c, i], codes[c, first : first + len(differ)]
        for j in range(len(differ)):
            differ[j] += others[j] != code


@compiled
def _rank(
    products: NDArray[np.float64],
    norms: NDArray[np.float64],
    codes: NDArray[Any],
    weight: float,
    start: int,
    first: int,
    best: NDArray[np.float64],
    near: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    # Distances but for rounding, and short of the query's own norm.
    queries, rows = products.shape
    distance, differ = np.empty(rows), np.empty(rows, codes.dtype)
    for i in range(queries):
        _differing(codes, start + i, first, differ)
        for j in range(rows):
            distance[j] = norms[first + j] - 2.0 * products[i, j] + weight * differ[j]
        _keep(distance, first, best[i], near[i])


@compiled
def _measure(
    x: NDArray[np.float64],
    codes: NDArray[np.int32],
    weight: float,
    index: NDArray[np.int64],
    squared: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    # Term by term, column by column: the same bits on any machine, and as `_scan` has them.
    for i in range(len(index)):
        for r in range(index.shape[1]):
            j = index[i, r]
            total, differ = 0.0, 0
            for c in range(x.shape[1]):
                total += (x[j, c] - x[i, c]) ** 2
            for c in range(codes.shape[1]):
                differ += codes[j, c] != codes[i, c]
            squared[i, r] = np.inf if i == j else total + weight * differ


@compiled
def _scan(
    across: NDArray[np.float64],
    codes: NDArray[Any],
    weight: float,
    rows: NDArray[np.int64],
    best: NDArray[np.float64],
    near: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    m = across.shape[1]
    for first in range(0, m, TILE):
        n = min(TILE, m - first)
        distance, differ = np.empty(n), np.empty(n, codes.dtype)
        for r in range(len(rows)):
            i = rows[r]
            distance[:] = 0.0
            for c in range(len(across)):
                value, others = across[c, i], across[c, first : first + n]
                for j in range(n):
                    distance[j] += (others[j] - value) ** 2
            _differing(codes, i, first, differ)
            for j in range(n):
                distance[j] += weight * differ[j]
            if first <= i < first + n:
                distance[i - first] = np.inf
            _keep(distance, first, best[r], near[r])


def _across(codes: NDArray[np.int32]) -> NDArray[Any]:
    # Column by column, in the smallest type that holds every code and the number of columns: more fit into a register.
    largest = max(int(codes.max(initial=0)), codes.shape[1])
    return np.ascontiguousarray(codes.T, dtype=np.min_scalar_type(largest))


def without_overflow(x: NDArray[np.float64]) -> float:
    """A power of two, 1 for all but enormous values: times it, no sum of squares of `x` overflows."""
    return 2.0 ** min(0, 480 - int(np.frexp(np.abs(x).max(initial=0))[1]))


def penalty_of(continuous: NDArray[np.float64]) -> float:
    """What a differing nominal value counts: the median of the columns' standard deviations (over n, not n - 1)."""
    scale = without_overflow(continuous)
    return float(np.median(np.std(continuous * scale, axis=0))) / scale


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows nearest to each row, but for those that are as near as rounding can tell."""

    x: NDArray[np.float64]
    """float64[m, p], the continuous columns, scaled so that no square overflows."""
    weight: float
    """What a nominal column that differs adds to a squared distance."""
    index: NDArray[np.int64]
    """int64[m, count], by (squared distance, row number); the row itself is last if it is among them."""
    squared: NDArray[np.float64]
    """float64[m, count], rising; infinite for the row itself."""
    radius: NDArray[np.float64]
    """float64[m], below which no other row's squared distance is; infinite where all rows are candidates."""
    slack: float
    """How far rounding can move a squared distance, whichever of the usual ways computes it."""


def candidates(continuous: NDArray[np.float64], codes: NDArray[np.int32], penalty: float, count: int) -> Candidates:
    """About the `count` nearest rows of each row, with their distances computed term by term.

    Parameters
    ----------
    continuous, codes, penalty
        As of `mixed_neighbors`.
    count
        Candidates wanted, the row itself among them; at most m are given.
    """
    m, p = continuous.shape
    scale = without_overflow(continuous)
    x, weight, across = np.ascontiguousarray(continuous * scale), (penalty * scale) ** 2, _across(codes)
    norms = np.einsum("ij,ij->i", x, x)
    index, radius = np.zeros((m, min(count, m)), dtype=np.int64), np.empty(m)
    for start in range(0, m, TILE // 8):
        part = slice(start, start + TILE // 8)
        best = np.full(index[part].shape, np.inf)
        for first in range(0, m, TILE):
            _rank(x[part] @ x[first : first + TILE].T, norms, across, weight, start, first, best, index[part])
        radius[part] = best[:, -1] + norms[part]
    slack = 8 * (p + len(across) + 8) * np.finfo(np.float64).eps * float(norms.max() + weight * len(across))
    squared = np.empty(index.shape)
    _measure(x, np.ascontiguousarray(codes), weight, index, squared)
    order = np.lexsort((index, squared), axis=1)
    index, squared = np.take_along_axis(index, order, axis=1), np.take_along_axis(squared, order, axis=1)
    beyond = np.full(m, np.inf) if index.shape[1] == m else radius - slack
    return Candidates(x, weight, index, squared, beyond, slack)


def mixed_neighbors(
    continuous: NDArray[np.float64], codes: NDArray[np.int32], penalty: float, k: int
) -> NDArray[np.int64]:
    """The k nearest other rows of each row (Chawla et al., 2002, section 6.1); exact, ties by row number.

    Squared distance: Euclidean over the continuous columns, and penalty² for each nominal column that differs.
    A matrix product and a count of differing codes give candidates; their distances are computed again term by
    term, and where a row outside could be as near as the k-th, all rows are compared. So the result is the same
    bits on any machine.

    Parameters
    ----------
    continuous
        float64[m, p], finite; m > k.
    codes
        int32[m, q], 0 or more.
    penalty
        What a differing nominal value counts: `penalty_of` the columns.
    k
        Neighbours wanted, 1 or more.

    Returns
    -------
    int64[m, k]
        Row numbers, nearest first. A row is never its own neighbour, its duplicates may be.
    """
    if not 0 < k < len(continuous):
        raise ValueError(f"{k} neighbours of {len(continuous)} rows: at least 1 and fewer than the rows are needed")
    found = candidates(continuous, codes, penalty, k + 1 + SPARE)
    near = found.index[:, :k].copy()
    unsettled = np.flatnonzero(found.squared[:, k - 1] >= found.radius)
    if unsettled.size:
        rest = near[unsettled]
        _scan(
            np.ascontiguousarray(found.x.T), _across(codes), found.weight, unsettled, np.full(rest.shape, np.inf), rest
        )
        near[unsettled] = rest
    return near


@compiled
def _vote(codes: NDArray[np.int32], near: NDArray[np.int64], out: NDArray[np.int32]) -> None:  # pragma: no cover
    voters = near.shape[1]
    for i in range(len(near)):
        for c in range(codes.shape[1]):
            most = 0
            for a in range(voters):
                code = codes[near[i, a], c]
                votes = 0
                for b in range(voters):
                    votes += codes[near[i, b], c] == code
                if votes > most or (votes == most and code < out[i, c]):
                    most = votes
                    out[i, c] = code


def vote(codes: NDArray[np.int32], near: NDArray[np.int64]) -> NDArray[np.int32]:
    """The commonest code of each row's neighbours, column by column; of equally common ones the smallest.

    Parameters
    ----------
    codes
        int32[m, q].
    near
        int64[n, k], who votes for each of n rows, k >= 1.

    Returns
    -------
    int32[n, q]
    """
    out = np.empty((len(near), codes.shape[1]), dtype=np.int32)
    _vote(np.ascontiguousarray(codes), np.ascontiguousarray(near), out)
    return out


def class_shares(
    codes: NDArray[np.int32], classes: NDArray[np.int64], sizes: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Of each nominal column and code, the share of every class among the rows that have it.

    Parameters
    ----------
    codes
        int32[n, q], of rows of all classes.
    classes
        int64[n], from 0.
    sizes
        Codes of each column.

    Returns
    -------
    list of float64[size, c]
        0 for a code that no row has.
    """
    number = int(classes.max()) + 1
    found: list[NDArray[np.float64]] = []
    for column, size in enumerate(sizes):
        counts = np.bincount(codes[:, column] * np.int64(number) + classes, minlength=size * number)
        counts = counts.reshape(size, number)
        total = counts.sum(axis=1, keepdims=True)
        found.append(np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0))
    return found


@compiled
def _gather(
    lookup: NDArray[np.float64], codes: NDArray[Any], out: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    for i in range(len(lookup)):
        for j in range(len(codes)):
            out[i, j] += lookup[i, codes[j]]


def vdm(codes: NDArray[np.int32], shares: Sequence[NDArray[np.float64]]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Value difference metric of rows to all rows (Stanfill and Waltz, 1986), some rows at a time.

    The sum over columns of (sum over classes of |P(class | one value) - P(class | other value)|)²: Cost and
    Salzberg's (1993) with k = 1, r = 2.

    Parameters
    ----------
    codes
        int32[m, q].
    shares
        As `class_shares` gives them.

    Yields
    ------
    start : int
        The first of the rows.
    distance : float64[rows, m]
    """
    across, m = _across(codes), len(codes)
    rows = max(1, BLOCK_BYTES // (8 * max([m, *(share.size for share in shares)])))
    for start in range(0, m, rows):
        out = np.zeros((min(rows, m - start), m))
        for column, share in zip(across, shares, strict=True):
            own, place = np.unique(column[start : start + rows], return_inverse=True)
            apart = np.abs(share[own][:, None, :] - share[None, :, :]).sum(axis=-1) ** 2
            _gather(apart[place], column, out)
        yield start, out


@compiled
def _nearest(distance: NDArray[np.float64], start: int, near: NDArray[np.int64]) -> None:  # pragma: no cover
    for i in range(len(distance)):
        distance[i, start + i] = np.inf
        _keep(distance[i], 0, np.full(near.shape[1], np.inf), near[i])


def vdm_neighbors(codes: NDArray[np.int32], shares: Sequence[NDArray[np.float64]], k: int) -> NDArray[np.int64]:
    """The k nearest other rows of each row by the value difference metric; exact, ties by row number.

    Parameters
    ----------
    codes
        int32[m, q]; m > k.
    shares
        As `class_shares` gives them.
    k
        Neighbours wanted, 1 or more.

    Returns
    -------
    int64[m, k]
        Row numbers, nearest first.
    """
    if not 0 < k < len(codes):
        raise ValueError(f"{k} neighbours of {len(codes)} rows: at least 1 and fewer than the rows are needed")
    near = np.empty((len(codes), k), dtype=np.int64)
    for start, distance in vdm(codes, shares):
        _nearest(distance, start, near[start : start + len(distance)])
    return near
