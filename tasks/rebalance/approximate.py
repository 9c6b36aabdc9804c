"""Nearest neighbours among part of the rows: inverted lists, with the recall that was measured.

Rows are grouped around centres (k-means of a sample); a row is compared with those of the cells whose centres are
nearest to it. How many cells, a sample of rows says whose true neighbours are known; what is found, another one.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.jit import compiled
from tasks.rebalance.search import GROUP, Frame, Rows, apart, insert, nearest, neighbors, reach

SMALL = 1 << 15
"""Up to so many rows an exact search is as quick."""
CELLS = 4.0
"""Cells, times the square root of the number of rows."""
TRAINED_ON = 40
"""Rows for each centre."""
ROUNDS = 5
"""Of k-means."""
SAMPLE = 1_000
"""Rows whose true neighbours are looked up, once to choose the number of cells and once to measure."""
MOST = 0.12
"""Share of all pairs beyond which an exact search, which looks at each pair once, is as quick."""
BLOCK = 1 << 24
"""Distances to centres held at once."""


@compiled
def _scan(
    products: NDArray[np.float32],
    cell: Rows,
    asked: NDArray[np.int64],
    half: NDArray[np.float32],
    bound: NDArray[np.float32],
    rows: Rows,
    unit: float,
    slack: float,
) -> None:  # pragma: no cover - compiled
    # Of the rows of a cell, those that could be among the nearest go into the lists of the rows that ask for it.
    last = rows.best.shape[1] - 1
    for i in range(len(products)):
        line = products[i]
        own = cell.half[i]
        a = cell.at[i]
        for start in range(0, len(asked), GROUP):
            stop = min(start + GROUP, len(asked))
            if stop - start == GROUP:
                product, bounds = line[start:stop], bound[start:stop]
                hit = np.int32(0)
                for j in range(GROUP):
                    hit |= np.int32(product[j] >= own - bounds[j])
                if hit == 0:
                    continue
            for j in range(start, stop):
                if line[j] < own - bound[j]:
                    continue
                row = asked[j]
                b = rows.at[row]
                if a == b:
                    continue
                distance = apart(rows.x[a], rows.x[b], float(rows.best[row, last]))
                if insert(rows.best[row], rows.near[row], distance, a):
                    bound[j] = reach(float(rows.best[row, last]), unit, slack, float(rows.norm[row]))


def _drawn(m: int, count: int, seed: int, use: str) -> NDArray[np.int64]:
    # Rows drawn by the seed, rising.
    key = np.frombuffer(hashlib.sha256(f"{seed}\0{use}".encode()).digest()[:16], dtype="<u8")
    return np.sort(np.random.Generator(np.random.Philox(key=key)).choice(m, min(m, count), replace=False))


def _to_centres(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    # Half the squared distance to each centre, short of half the row's squared norm.
    products = rows @ centres.T
    half = np.einsum("ij,ij->i", centres, centres) / 2
    return np.subtract(half, products, out=products)


def _inside(rows: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    # The nearest centre to each row.
    step = max(1, BLOCK // 32 // len(centres))  # what stays in a processor's cache
    parts = [_to_centres(rows[start : start + step], centres).argmin(axis=1) for start in range(0, len(rows), step)]
    return np.concatenate(parts)


def _centres(moved: NDArray[np.float32], cells: int, seed: int) -> NDArray[np.float32]:
    """float32[cells, p], k-means (Lloyd's rounds) of a sample; a centre without rows stays where it is."""
    sample = moved[_drawn(len(moved), TRAINED_ON * cells, seed, "cells")]
    centres = sample[_drawn(len(sample), cells, seed, "centres")]
    for _ in range(ROUNDS):
        inside = _inside(sample, centres)
        order = np.argsort(inside, kind="stable")
        found, first, count = np.unique(inside[order], return_index=True, return_counts=True)
        centres[found] = np.add.reduceat(sample[order], first, axis=0) / count[:, None].astype(np.float32)
    return centres


def _cells_needed(
    to_centres: NDArray[np.float32], true: NDArray[np.int64], inside: NDArray[np.int64], recall: float
) -> int:
    """The number of nearest cells that hold this share of the true neighbours, less what chance may be worth."""
    order = np.argsort(np.argsort(to_centres, axis=1, kind="stable"), axis=1)
    rank = np.take_along_axis(order, inside[true], axis=1)
    for count in range(1, to_centres.shape[1] + 1):
        share = (rank < count).mean(axis=1)
        if share.mean() - 2 * share.std() / np.sqrt(len(share)) >= recall:
            return count
    return to_centres.shape[1]


def _probe(
    x: NDArray[np.float64], k: int, recall: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    # The nearest rows in the cells; nothing, if they would be as many as those of an exact search.
    every = np.arange(len(x))
    frame = Frame.of(x, x)
    moved, square = frame.place(x, every, np.float32)
    centres = _centres(moved, int(CELLS * np.sqrt(len(x))), seed)
    inside = _inside(moved, centres)
    sizes = np.bincount(inside, minlength=len(centres))

    chosen = _drawn(len(x), SAMPLE, seed, "choose")
    to_centres = _to_centres(moved[chosen], centres)
    count = _cells_needed(to_centres, nearest(x[chosen], x, every, k, chosen)[1], inside, recall)
    probed = np.argpartition(to_centres, count - 1, axis=1)[:, :count]
    if sizes[probed].sum() > MOST * len(x) * len(chosen):
        return None

    at = np.argsort(inside, kind="stable")
    moved, square, stops = moved[at], square[at], np.cumsum(sizes)
    slack = 2 * (x.shape[1] + 8) * float(np.finfo(np.float32).eps)
    half = (square / 2).astype(np.float32)
    best, near = np.full((len(x), k), np.inf), np.full((len(x), k), -1)
    bound = np.full(len(x), np.inf, dtype=np.float32)
    rows = Rows(x, at, at, np.sqrt(square), half, bound, best, near)
    step = max(1, BLOCK // len(centres))
    for start in range(0, len(x), step):
        to_centres = _to_centres(moved[start : start + step], centres)
        limit = np.partition(to_centres, count - 1, axis=1)[:, count - 1]
        asks = np.ascontiguousarray((to_centres <= limit[:, None]).T)
        for asking, first, stop in zip(asks, stops - sizes, stops, strict=True):
            asked = np.flatnonzero(asking) + start
            if len(asked) and stop > first:
                part = slice(int(first), int(stop))
                products = moved[part] @ moved[asked].T
                cell = rows._replace(at=at[part], half=half[part])
                bounds = bound[asked]
                _scan(products, cell, asked, half[asked], bounds, rows, frame.scale**2, slack)
                bound[asked] = bounds
    back = np.empty_like(at)
    back[at] = every
    return best[back], near[back]


def approximate(x: NDArray[np.float64], k: int, recall: float, seed: int) -> tuple[NDArray[np.int64], float]:
    """Approximately the k nearest other rows of each row, and the share of the true ones among them.

    Distances of what is found are exact and so is their order. All rows are searched, as `neighbors` does it, where
    they are few, or where as many as an exact search would look at had to be (of rows without any structure).
    The same rows for the same seed, on a machine, whatever its threads.

    Parameters
    ----------
    x
        float64[m, p], standardised, finite; m > k.
    k
        Neighbours wanted, 1 or more.
    recall
        Share of the true neighbours that is wanted, at most 1.
    seed
        Of the cells, and of the rows by which the share is measured.

    Returns
    -------
    near : int64[m, k]
        Row numbers, nearest first. A row is never its own neighbour.
    measured : float
        The share found, of `SAMPLE` rows drawn by the seed that had no part in the search; 1 if it was exact.
    """
    wide, every = np.ascontiguousarray(x, dtype=np.float64), np.arange(len(x))
    if recall >= 1 or len(x) <= max(SMALL, k):
        return neighbors(wide, k), 1.0
    with threadpool_limits(1, "blas"):  # a product's last bits say which of two centres is the nearer
        found = _probe(wide, k, recall, seed)
    if found is None:
        return neighbors(wide, k), 1.0
    squared, near = found
    few = np.flatnonzero(np.isinf(squared[:, -1]))
    near[few] = nearest(wide[few], wide, every, k, few)[1]
    asked = _drawn(len(wide), SAMPLE, seed, "measure")
    true = nearest(wide[asked], wide, every, k, asked)[1]
    return near, float((near[asked][:, :, None] == true[:, None, :]).any(axis=2).mean())
