"""Nearest neighbours, exactly: by (squared distance, row number), the same bits however rows are cut into parts.

Products of tiles of rows, in single precision, say which pairs could be among the nearest; the distances of these
alone are computed term by term.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

TILE = (512, 1024)
"""Queries and rows compared at once: products that stay in a processor's cache."""
GROUP = 32
"""Pairs passed over at once. The loop over them has a fixed length, so that it becomes vector instructions."""
FLAT = 5
"""Columns up to which a tree finds neighbours sooner than products do."""
SPARE = 8
"""Neighbours asked of the tree beyond k: most ties at the k-th place are settled among them."""
WASTE = 64
"""One pair in so many may be compared in vain before products are made in double precision."""
BLOCK = 1 << 18
"""Values that are moved and scaled at once."""


class Rows(NamedTuple):
    """Rows of one side of a search, in an order of their own, and the nearest rows found for each so far."""

    x: NDArray[np.float64]
    """float64[n, p], the table they are of."""
    at: NDArray[np.int64]
    """Where each is in the table."""
    itself: NDArray[np.int64]
    """Where each is in the other side's table; -1: nowhere."""
    norm: NDArray[np.float64]
    """Moved and scaled, as `half` and `bound` are."""
    half: NDArray[Any]
    """Half the squared norm."""
    bound: NDArray[Any]
    """What `reach` says of the distance of the k-th nearest so far."""
    best: NDArray[np.float64]
    """float64[m, k], squared distances, rising."""
    near: NDArray[np.int64]
    """int64[m, k], where the nearest rows are in the other side's table."""


@compiled
def apart(a: NDArray[np.float64], b: NDArray[np.float64], limit: float) -> float:  # pragma: no cover - compiled
    """Squared distance, or infinity if it exceeds `limit`. One order of addition: the same bits everywhere."""
    total = 0.0
    for start in range(0, len(a), 16):
        for c in range(start, min(start + 16, len(a))):
            total += (a[c] - b[c]) ** 2
        if total > limit:
            return np.inf
    return total


@compiled
def insert(
    best: NDArray[np.float64], near: NDArray[np.int64], distance: float, row: int
) -> bool:  # pragma: no cover - compiled
    """Put a row into a list sorted by (distance, row), unless it comes after all; whether it did not."""
    place = len(best) - 1
    if distance > best[place] or (distance == best[place] and (row > near[place] or distance == np.inf)):
        return False
    while place > 0 and (best[place - 1] > distance or (best[place - 1] == distance and near[place - 1] > row)):
        best[place] = best[place - 1]
        near[place] = near[place - 1]
        place -= 1
    best[place] = distance
    near[place] = row
    return True


@compiled
def reach(limit: float, unit: float, slack: float, norm: float) -> float:  # pragma: no cover - compiled
    """How far below a row's half squared norm its product with a query may be, if their distance is in the limit.

    The norm of such a row is at most the query's and the distance; rounding is at most `slack` times the square of
    the sum of both rows' norms. `unit` is the square of the scale.
    """
    if limit == np.inf:
        return limit
    scaled = limit * unit
    if slack == 0.0:  # all are whole numbers, but for the root that the norm is
        return np.rint(scaled - norm * norm) / 2.0
    return (scaled + slack * ((2.0 * norm + np.sqrt(scaled)) ** 2 + 1e-30) - norm * norm) / 2.0


@compiled
def _reaches(
    limits: NDArray[np.float64], unit: float, slack: float, norm: NDArray[np.float64], bound: NDArray[Any]
) -> None:  # pragma: no cover - compiled
    for i in range(len(limits)):
        bound[i] = reach(limits[i], unit, slack, norm[i])


@compiled
def _sift(
    products: NDArray[Any], one: Rows, other: Rows, both: bool, whole: bool, unit: float, slack: float
) -> int:  # pragma: no cover - compiled
    # Of one tile: the pairs whose product is large enough go into the lists of `one`; if `both`, of `other` too.
    queries, rows = products.shape
    last = one.best.shape[1] - 1
    half, bound = other.half, other.bound
    wasted = 0
    for i in range(queries):
        line = products[i]
        own = one.half[i]
        for start in range(0, rows, GROUP):
            stop = min(start + GROUP, rows)
            limit = one.bound[i]
            if stop - start == GROUP:
                product, its, bounds = line[start:stop], half[start:stop], bound[start:stop]
                hit = np.int32(0)
                for j in range(GROUP):
                    hit |= np.int32(product[j] >= its[j] - limit) | np.int32(product[j] >= own - bounds[j])
                if hit == 0:
                    continue
            for j in range(start, stop):
                a, b = one.at[i], other.at[j]
                here = line[j] >= half[j] - one.bound[i] and one.itself[i] != b
                there = both and line[j] >= own - bound[j] and other.itself[j] != a
                if not (here or there):
                    continue
                if whole:  # nothing was rounded
                    distance = 2.0 * (np.float64(own) + np.float64(half[j]) - np.float64(line[j]))
                else:
                    worst = max(one.best[i, last], other.best[j, last] if both else 0.0)
                    distance = apart(one.x[a], other.x[b], worst)
                kept = False
                if here and insert(one.best[i], one.near[i], distance, b):
                    one.bound[i] = reach(one.best[i, last], unit, slack, one.norm[i])
                    kept = True
                if there and insert(other.best[j], other.near[j], distance, a):
                    bound[j] = reach(other.best[j, last], unit, slack, other.norm[j])
                    kept = True
                wasted += not (kept or whole)
    return wasted


@dataclass(frozen=True, slots=True)
class Frame:
    """How rows are moved before products are made: distances stay, norms and so rounding shrink."""

    shift: NDArray[np.float64]
    scale: float
    """A power of two: single precision does not overflow."""
    whole: bool
    """All values are whole numbers, and small; so is the shift."""

    @classmethod
    def of(cls, rows: NDArray[np.float64], queries: NDArray[np.float64]) -> Self:
        """The frame of two tables; of one, if they are the same."""
        with np.errstate(over="ignore", invalid="ignore"):
            shift = rows.mean(axis=0)
        shift[~np.isfinite(shift)] = 0.0
        tables = (rows,) if queries is rows else (rows, queries)
        low, high = (np.array([f(table, axis=0) for table in tables]) for f in (np.min, np.max))
        peak = float(np.maximum(high.max(axis=0) / 2 - shift / 2, shift / 2 - low.min(axis=0) / 2).max(initial=0))
        if peak < 2.0**20 and all((part == np.rint(part)).all() for table in tables for part in _cut(table)):
            return cls(np.rint(shift), 1.0, whole=True)
        return cls(shift, 2.0 ** float(np.clip(-1 - np.frexp(peak)[1], -500, 500)), whole=False)

    def place(self, x: NDArray[np.float64], at: NDArray[np.int64], dtype: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Rows of a table, moved and scaled, and their squared norms."""
        moved, square = np.empty((len(at), x.shape[1]), dtype=dtype), np.empty(len(at))
        step = max(1, BLOCK // max(1, x.shape[1]))
        for start in range(0, len(at), step):
            part = (x[at[start : start + step]] - self.shift) * self.scale
            moved[start : start + step] = part
            square[start : start + step] = np.einsum("ij,ij->i", part, part)
        return moved, square


def _cut(x: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    step = max(1, BLOCK // max(1, x.shape[1]))
    return (x[start : start + step] for start in range(0, len(x), step))


def _rows(x: NDArray[np.float64], at: NDArray[np.int64], itself: NDArray[np.int64] | None, k: int) -> Rows:
    nothing = np.empty(0)
    alone = np.full(len(at), -1) if itself is None else itself[at]
    best, near = np.full((len(at), k), np.inf), np.full((len(at), k), -1)
    return Rows(x, at, alone, nothing, nothing, nothing, best, near)


def _part(rows: Rows, start: int, stop: int) -> Rows:
    arrays: Any = (array[start:stop] for array in rows[1:])
    return Rows(rows.x, *arrays)


class _Products:
    """Products of two sides (the same one twice, of a table with itself), and what their rounding may hide."""

    def __init__(self, queries: Rows, rows: Rows, frame: Frame, dtype: Any) -> None:
        self.unit, self.dtype = frame.scale**2, dtype
        sides = (rows,) if queries is rows else (queries, rows)
        placed = [frame.place(side.x, side.at, dtype) for side in sides]
        rounding = np.finfo(dtype)
        largest = max(float(square.max(initial=0)) for _, square in placed)
        self.exact = frame.whole and largest < 2.0 ** (rounding.nmant - 3)
        self.slack = 0.0 if self.exact else 2 * (rows.x.shape[1] + 8) * float(rounding.eps)
        ready: list[Rows] = []
        for side, (_, square) in zip(sides, placed, strict=True):
            bound = np.empty(len(square), dtype=dtype)
            norm = np.sqrt(square)
            _reaches(side.best[:, -1], self.unit, self.slack, norm, bound)
            ready.append(side._replace(norm=norm, half=(square / 2).astype(dtype), bound=bound))
        self.queries, self.rows = ready[0], ready[-1]
        self.left, self.right = placed[0][0], placed[-1][0]

    def sift(self, down: tuple[int, int], across: tuple[int, int], room: NDArray[Any], *, both: bool) -> int:
        """Look at one tile; how many pairs were compared in vain."""
        shape = (down[1] - down[0], across[1] - across[0])
        products = room[: shape[0] * shape[1]].reshape(shape)
        np.matmul(self.left[slice(*down)], self.right[slice(*across)].T, out=products)
        one, other = _part(self.queries, *down), _part(self.rows, *across)
        return _sift(products, one, other, both, self.exact, self.unit, self.slack)


def _spans(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    return [(first, min(first + step, stop)) for first in range(start, stop, step)]


def _search(queries: Rows, rows: Rows, frame: Frame) -> None:
    """Find every query's nearest rows; of one side alone (`queries is rows`), each pair is looked at once."""
    alone = queries is rows
    made = _Products(queries, rows, frame, np.float32)
    down = max(TILE[0], min(len(queries.at), TILE[0] * TILE[1] // len(rows.at)))
    room = np.empty(down * TILE[1], dtype=made.dtype)
    wasted = pairs = 0
    for tile in _spans(0, len(queries.at), down):
        tiles = _spans(tile[1] if alone else 0, len(rows.at), TILE[1])
        if alone:
            wasted += made.sift(tile, tile, room, both=False)
        for across in tiles:
            wasted += made.sift(tile, across, room, both=alone)
        pairs += (tile[1] - tile[0]) * (len(rows.at) - (tile[0] if alone else 0))
        if made.dtype == np.float32 and wasted * WASTE > pairs + (1 << 20):
            made = _Products(queries, rows, frame, np.float64)
            room = np.empty(down * TILE[1], dtype=made.dtype)


@compiled
def _settle(rows: Rows, other: NDArray[np.float64], index: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    last = rows.best.shape[1] - 1
    for i in range(len(index)):
        for j in index[i]:
            if j != rows.itself[i]:
                insert(rows.best[i], rows.near[i], apart(rows.x[rows.at[i]], other[j], rows.best[i, last]), j)


def _by_tree(queries: Rows, rows: NDArray[np.float64]) -> NDArray[np.int64]:
    from sklearn.neighbors import NearestNeighbors  # scikit-learn takes a second to import

    # The queries for which a row outside the tree's candidates could be as near as the k-th.
    found: Any = NearestNeighbors(
        n_neighbors=min(len(rows), queries.best.shape[1] + 1 + SPARE), algorithm="kd_tree"
    ).fit(rows)
    distance, index = found.kneighbors(queries.x)
    _settle(queries, rows, index.astype(np.int64))
    if index.shape[1] == len(rows):
        return np.empty(0, dtype=np.int64)
    radius = distance[:, -1] ** 2 * (1 - 8 * (rows.shape[1] + 8) * np.finfo(np.float64).eps)
    return np.flatnonzero(~(queries.best[:, -1] < radius))


def _found(
    x: NDArray[np.float64], y: NDArray[np.float64], k: int, itself: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    # Squared distances and places of the rows of `y` nearest to each of `x`.
    every = _rows(x, np.arange(len(x)), itself, k)
    left = _by_tree(every, y) if y.shape[1] <= FLAT else every.at
    if len(left):
        # In an order of chance, the nearest rows so far soon are near ones, however the table is sorted.
        shuffled = np.random.default_rng(0).permutation(len(y))
        if x is y and len(left) > len(y) // 2:
            queries = rows = _rows(y, shuffled, itself, k)
        else:
            queries, rows = _rows(x, left, itself, k), _rows(y, shuffled, None, 1)
        _search(queries, rows, Frame.of(y, x))
        every.best[queries.at], every.near[queries.at] = queries.best, queries.near
    return every.best, every.near


def nearest(
    queries: NDArray[np.float64],
    rows: NDArray[np.float64],
    ids: NDArray[np.int64],
    k: int,
    exclude: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k nearest rows to each query, by (Euclidean distance, row number); exact.

    Pairs whose product of single precision shows, rounding allowed for, that they are not among the nearest are
    passed over; the distance of any other is the sum of squared differences in float64, term by term. So the result
    does not depend on BLAS or its threads; how long it takes does (their limit is the caller's business).

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
    if len(queries) == 0:
        return np.empty((0, k)), np.empty((0, k), dtype=np.int64)
    itself = None
    if exclude is not None:
        place = np.minimum(np.searchsorted(ids, exclude), len(ids) - 1)
        itself = np.where(ids[place] == exclude, place, -1)
    x = np.ascontiguousarray(queries, dtype=np.float64)
    y = x if queries is rows else np.ascontiguousarray(rows, dtype=np.float64)
    squared, near = _found(x, y, k, itself)
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
            distance = apart(queries[i], rows[j], np.inf)
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
    largest = int(np.frexp(max(float(wide.max()), -float(wide.min())))[1])
    if largest > 480:  # squares would overflow
        wide = wide * 2.0 ** (480 - largest)
    return nearest(wide, wide, every, k, exclude=every)[1]
