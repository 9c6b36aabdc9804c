"""Nearest neighbours, exactly: by (squared distance, row number), the same bits however rows are cut into parts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from tasks.jit import compiled

SPARE = 8
"""Neighbours asked for beyond k: most ties at the k-th place are settled among them, without a scan."""


@compiled
def _squared(a: NDArray[np.float64], b: NDArray[np.float64], limit: float) -> float:  # pragma: no cover - compiled
    # Squared distance, or infinity as soon as it reaches `limit`. One order of addition: the same bits everywhere.
    total = 0.0
    for start in range(0, len(a), 16):
        for c in range(start, min(start + 16, len(a))):
            total += (a[c] - b[c]) ** 2
        if total >= limit:
            return np.inf
    return total


@compiled
def _settle(
    queries: NDArray[np.float64],
    rows: NDArray[np.float64],
    candidates: NDArray[np.int64],
    radius: NDArray[np.float64],
    itself: NDArray[np.int64],
    near: NDArray[np.int64],
    far: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    k = near.shape[1]
    for i in range(len(queries)):
        best = far[i]
        limit = np.inf
        for scan in range(2):  # candidates; then all rows, if one outside may be as near
            best[:] = np.inf
            near[i] = -1
            count = candidates.shape[1] if scan == 0 else len(rows)
            for r in range(count):
                j = candidates[i, r] if scan == 0 else r
                if j == itself[i]:
                    continue
                distance = _squared(queries[i], rows[j], limit)
                if distance == np.inf:
                    continue
                # Rows come in rising order: an equal distance stays behind.
                place = k - 1
                while place > 0 and best[place - 1] > distance:
                    best[place] = best[place - 1]
                    near[i, place] = near[i, place - 1]
                    place -= 1
                best[place] = distance
                near[i, place] = j
                limit = min(limit, best[k - 1])
            if scan == 0:
                if best[k - 1] < radius[i]:
                    break
                limit = np.nextafter(limit, np.inf)


def nearest(
    queries: NDArray[np.float64],
    rows: NDArray[np.float64],
    ids: NDArray[np.int64],
    k: int,
    exclude: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k nearest rows to each query, by (Euclidean distance, row number); exact.

    scikit-learn finds candidates; their distances are computed again term by term, because its own come from a
    matrix product whose rounding depends on the machine, and which of several equally far rows it returns depends
    on its search. Where a row outside the candidates could be as near as the k-th, all rows are compared. So the
    result does not depend on BLAS or its threads; how long it takes does (their limit is the caller's business).

    Parameters
    ----------
    queries
        float64[q, p], finite.
    rows
        float64[m, p], finite; m >= 1.
    ids
        int64[m], the rows' numbers, rising.
    k
        Neighbours wanted, 1 or more.
    exclude
        int64[q], the number of the row that is the query itself, or -1; left out: none is.

    Returns
    -------
    squared : float64[q, k]
        Squared distances, rising; infinite where there are fewer than k rows.
    near : int64[q, k]
        Row numbers; -1 where there are fewer than k.
    """
    q, p = queries.shape
    if q == 0:
        return np.empty((0, k)), np.empty((0, k), dtype=np.int64)
    itself = np.full(q, -1)
    if exclude is not None:
        place = np.minimum(np.searchsorted(ids, exclude), len(ids) - 1)
        itself = np.where(ids[place] == exclude, place, -1)
    found = NearestNeighbors(n_neighbors=min(len(rows), k + 1 + SPARE)).fit(rows)
    distance, index = found.kneighbors(queries)
    # Rounding of |a|^2 + |b|^2 - 2ab is at most some p units of the largest norm squared.
    largest = max(float(np.einsum("ij,ij->i", values, values).max(initial=0)) for values in (queries, rows))
    slack = 8 * (p + 8) * np.finfo(np.float64).eps * largest
    radius = distance[:, -1] ** 2 - slack if index.shape[1] < len(rows) else np.full(q, np.inf)
    squared, near = np.empty((q, k)), np.empty((q, k), dtype=np.int64)
    _settle(queries, rows, np.sort(index, axis=1).astype(np.int64), radius, itself, near, squared)
    return squared, np.where(near >= 0, ids[near], -1)


@compiled
def _farthest(
    queries: NDArray[np.float64], rows: NDArray[np.float64], far: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    k = far.shape[1]
    for i in range(len(queries)):
        best = far[i]
        best[:] = -1.0
        for j in range(len(rows)):
            distance = _squared(queries[i], rows[j], np.inf)
            if distance <= best[k - 1]:
                continue
            place = k - 1
            while place > 0 and best[place - 1] < distance:
                best[place] = best[place - 1]
                place -= 1
            best[place] = distance


def farthest(queries: NDArray[np.float64], rows: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Squared distances from each query to the k rows farthest from it, falling; every pair is compared.

    Parameters
    ----------
    queries, rows
        float64[q, p], float64[m, p]; m >= k.

    Returns
    -------
    float64[q, k]
    """
    far = np.empty((len(queries), k))
    _farthest(np.ascontiguousarray(queries), np.ascontiguousarray(rows), far)
    return far


def merge(
    squared: Sequence[NDArray[np.float64]], near: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k nearest of several parts' k nearest, as `nearest` gives them; whatever the parts and their order.

    Parameters
    ----------
    squared, near
        Of each part float64[q, k] and int64[q, k].

    Returns
    -------
    squared, near
        float64[q, k], int64[q, k].
    """
    distances, ids = np.concatenate(squared, axis=1), np.concatenate(near, axis=1)
    order = np.lexsort((ids, distances), axis=1)[:, : squared[0].shape[1]]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)


def neighbors(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k nearest other rows of each row: `nearest` of a table to itself.

    Parameters
    ----------
    x
        float64[m, p], standardised, finite; m > k.
    k
        Neighbours wanted, 1 or more.

    Returns
    -------
    int64[m, k]
        Row numbers, nearest first. A row is never its own neighbour, its duplicates may be.
    """
    if not 0 < k < len(x):
        raise ValueError(f"{k} neighbours of {len(x)} rows: at least 1 and fewer than the rows are needed")
    wide, every = np.ascontiguousarray(x, dtype=np.float64), np.arange(len(x))
    return nearest(wide, wide, every, k, exclude=every)[1]
