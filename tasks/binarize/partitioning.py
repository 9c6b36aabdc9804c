"""Balanced cells fitted on train, and what reading only some of them finds."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.codes.cells import MOST_CELLS, Cells

Floats = NDArray[np.float32]

ROWS_PER_CELL = 16
"""Of the sample that cells are fitted on, at least."""
ROUNDS = 25
"""Of k-means."""
UNMOVED = 8
"""Last of these, in which no small cell is moved."""
SETTLING = 75
"""Rounds after it in which only offsets move."""
BALANCED = 1.2
"""Largest size over mean size at which offsets rest."""
RATE = 0.5
"""Of a gap that an offset moves for a cell e times too large."""


def partition(vectors: Floats, count: int, copies: float) -> Cells:
    """Cells of about equal size: k-means whose distances carry offsets that grow with a cell's size.

    Parameters
    ----------
    vectors
        float32[n, d] in an order that does not depend on values: the first rows are the first centroids.
    count
        Cells; fewer where the sample has fewer than 16 rows for each.
    copies
        Other cells that a row is in, on average: sets the width of borders.

    Notes
    -----
    Offsets make Voronoi cells a power diagram (Aurenhammer, Hoffmann and Aronov, Algorithmica 1998: of any sizes
    wanted there is one with these centroids). Each round moves an offset by the logarithm of its cell's size over the
    mean, in units of the mean gap between a row's two least sums.
    """
    count = max(1, min(count, len(vectors) // ROWS_PER_CELL))
    x = np.ascontiguousarray(vectors, np.float32)
    centroids = x[:count].copy()
    offsets = np.zeros(count)
    for done in range(ROUNDS):
        own, _ = _assigned(x, centroids, offsets)
        sizes = np.bincount(own, minlength=count)
        full = np.flatnonzero(sizes)
        order = np.argsort(own, kind="stable")
        starts = np.cumsum(sizes) - sizes
        totals = np.add.reduceat(x[order], starts[full], axis=0, dtype=np.float64)
        centroids[full] = (totals / sizes[full, None]).astype(np.float32)
        if done < ROUNDS - UNMOVED:
            # A small cell goes to where one is too large: to a row of it.
            small = np.flatnonzero(sizes < len(x) / count / 2)
            large = np.argsort(-sizes, kind="stable")[: len(small)]
            for to, source in zip(small, large, strict=True):
                if sizes[source] > 1.5 * len(x) / count:
                    centroids[to] = x[order[starts[source] + done % sizes[source]]]
    offsets = _balanced(x, centroids)
    own, _ = _assigned(x, centroids, offsets)
    cells = Cells(centroids, offsets, np.bincount(own, minlength=count).astype(np.int64), 0.0)
    return replace(cells, border=_border(cells, x, copies))


def _balanced(x: Floats, centroids: Floats) -> NDArray[np.float64]:
    """Offsets at which cells are of about equal size: the best met; steps that help grow, others are halved."""
    offsets = best = np.zeros(len(centroids))
    least, rate, pull = np.inf, RATE, offsets
    for _ in range(SETTLING):
        own, gap = _assigned(x, centroids, offsets)
        sizes = np.bincount(own, minlength=len(centroids))
        spread = float((sizes.astype(np.float64) ** 2).sum() * len(centroids) / len(x) ** 2)
        if spread < least:
            best, least, rate = offsets, spread, min(1.5 * rate, 1.0)
            pull = gap * np.log(np.maximum(sizes, 0.5) * len(centroids) / len(x))
        else:
            rate /= 2
        if sizes.max() * len(centroids) <= BALANCED * len(x):
            break
        offsets = best + rate * pull
    return best - best.min()


def _assigned(x: Floats, centroids: Floats, offsets: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """The cell of each row, and the mean gap between its least sum and the next. By BLAS: fits may."""
    own, gap = np.empty(len(x), np.int64), 0.0
    lengths = (centroids.astype(np.float64) ** 2).sum(axis=1)
    size = max(1, 2**22 // len(centroids))
    for start in range(0, len(x), size):
        part = x[start : start + size]
        sums = offsets + lengths - 2.0 * (part @ centroids.T)
        own[start : start + size] = sums.argmin(axis=1)
        if len(centroids) > 1:
            two = np.partition(sums, 1, axis=1)[:, :2]
            gap += float((two[:, 1] - two[:, 0]).sum())
    return own, gap / len(x)


def _border(cells: Cells, x: Floats, copies: float) -> float:
    """The border at which rows of the sample are in `copies` other cells on average."""
    if len(cells.centroids) == 1 or copies <= 0:
        return 0.0
    above: list[NDArray[np.float64]] = []
    for start in range(0, len(x), 1024):
        sums = cells.sums(x[start : start + 1024])
        least = np.sort(np.partition(sums, min(MOST_CELLS, sums.shape[1]) - 1, axis=1)[:, :MOST_CELLS], axis=1)
        above.append((least[:, 1:] - least[:, :1]).ravel())
    every = np.concatenate(above)
    place = min(round(copies * len(x)), len(every)) - 1
    return float(np.partition(every, place)[place]) if place >= 0 else 0.0


def probes(cells: Cells, queries: Floats, base: Floats, exact: NDArray[np.int64]) -> list[dict[str, float]]:
    """What reading the nearest 1, 2, 3, 4, 6, 8, 12, ... cells finds.

    Parameters
    ----------
    queries, base
        float32[q, d] and float32[n, d].
    exact
        int64[q, k], the k rows of `base` nearest to each query.

    Returns
    -------
    list
        With `probes`, `read` (rows in these cells, copies and all, over all rows) and `recall` (share of the exact
        neighbours that are in them).
    """
    own, copied, others = cells.members(base)
    count = len(cells.centroids)
    row, cell = np.concatenate([np.arange(len(base)), copied]), np.concatenate([own, others])
    sizes = np.bincount(cell, minlength=count)
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(base) + 1))
    ranked = cells.nearest(queries, count)
    # The place of a cell among a query's: a neighbour is found once the first of its cells is read.
    places = np.empty_like(ranked)
    np.put_along_axis(places, ranked, np.broadcast_to(np.arange(count), ranked.shape), axis=1)
    first = np.full(exact.shape, count)
    for query, slot in np.ndindex(exact.shape):
        neighbour = exact[query, slot]
        held = cell[order[starts[neighbour] : starts[neighbour + 1]]]
        first[query, slot] = places[query, held].min()
    read = np.cumsum(sizes[ranked], axis=1).mean(axis=0) / len(base)
    counts = sorted({n for i in range(32) for n in (2**i, 3 * 2**i // 2) if n < count} | {count})
    return [{"probes": n, "read": float(read[n - 1]), "recall": float((first < n).mean())} for n in counts]
