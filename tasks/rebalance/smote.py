"""SMOTE (Chawla, Bowyer, Hall and Kegelmeyer, 2002): its neighbours, its draws, its rows; nothing else.

Draws are counter-based: the i-th synthetic row of a class depends on the seed, the class and i alone.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from tasks.jit import compiled

SPARE = 8
"""Neighbours asked for beyond k: most ties at the k-th place are settled among them, without a scan."""

WORDS = 4
"""64-bit words of randomness for each row: one block of Philox4x64."""


def sampling_targets(counts: dict[str, int], target: float) -> dict[str, int]:
    """How many rows to add to each class.

    Parameters
    ----------
    counts
        Rows of each class in train.
    target
        Size to bring each smaller class to, as a share of the largest.

    Returns
    -------
    dict
        Exactly `round(target * largest) - count`, never below 0.
    """
    largest = max(counts.values(), default=0)
    return {label: max(0, round(target * largest) - n) for label, n in sorted(counts.items())}


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
    x: NDArray[np.float64],
    candidates: NDArray[np.int64],
    radius: NDArray[np.float64],
    near: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    m, k = near.shape
    best = np.empty(k, dtype=np.float64)
    for i in range(m):
        limit = np.inf
        for scan in range(2):  # candidates; then all rows, if one outside may be as near
            best[:] = np.inf
            rows = candidates.shape[1] if scan == 0 else m
            for r in range(rows):
                j = candidates[i, r] if scan == 0 else r
                if j == i:
                    continue
                distance = _squared(x[i], x[j], limit)
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


def neighbors(x: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k nearest other rows of each row, by (Euclidean distance, row number); exact.

    scikit-learn finds candidates; their distances are computed again term by term, because its own come from a
    matrix product whose rounding depends on the machine, and which of several equally far rows it returns depends
    on its search. Where a row outside the candidates could be as near as the k-th, all rows are compared. So the
    result does not depend on BLAS or its threads; how long it takes does (their limit is the caller's business).

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
    m, p = x.shape
    if not 0 < k < m:
        raise ValueError(f"{k} neighbours of {m} rows: at least 1 and fewer than the rows are needed")
    wide = np.ascontiguousarray(x, dtype=np.float64)
    distance, index = NearestNeighbors(n_neighbors=min(m, k + 1 + SPARE)).fit(wide).kneighbors(wide)
    # Rounding of |a|² + |b|² − 2ab is at most some p units of the largest norm squared.
    slack = 8 * (p + 8) * np.finfo(np.float64).eps * float((wide**2).sum(axis=1).max())
    radius = distance[:, -1] ** 2 - slack if index.shape[1] < m else np.full(m, np.inf)
    near = np.empty((m, k), dtype=np.int64)
    _settle(wide, np.sort(index, axis=1).astype(np.int64), radius, near)
    return near


def draws(
    seed: int, label: str, start: int, stop: int, rows: int, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Parent, neighbour slot and gap of synthetic rows `start` to `stop` of a class.

    Philox4x64 (Salmon et al., 2011) keyed by SHA-256 of (seed, class); row i takes counter block i, so any cut
    into chunks gives the same draws.

    Returns
    -------
    parent
        int64[stop - start], in [0, rows).
    slot
        int64[stop - start], in [0, k).
    gap
        float64[stop - start], in [0, 1).
    """
    key = np.frombuffer(hashlib.sha256(f"{seed}\0rebalance\0{label}".encode()).digest()[:16], dtype="<u8")
    stream = np.random.Philox(key=key).advance(start)
    words = stream.random_raw((stop - start) * WORDS).reshape(-1, WORDS)
    unit = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    parent = np.minimum((unit[:, 0] * rows).astype(np.int64), rows - 1)
    slot = np.minimum((unit[:, 1] * k).astype(np.int64), k - 1)
    return parent, slot, unit[:, 2]


def interpolate(a: NDArray[np.float32], b: NDArray[np.float32], gap: NDArray[np.float64]) -> NDArray[np.float32]:
    """Synthetic rows a + gap·(b − a), computed in float64 and rounded once to float32.

    Parameters
    ----------
    a, b
        float32[n, p], the parents.
    gap
        float64[n], in [0, 1).

    Returns
    -------
    float32[n, p]
        Where the parents are equal, their value, infinities too; NaN where a parent is NaN.
    """
    wide, other = a.astype(np.float64), b.astype(np.float64)
    step = np.subtract(other, wide, out=np.zeros_like(wide), where=wide != other)
    with np.errstate(invalid="ignore"):
        return (wide + gap[:, None] * step).astype(np.float32)
