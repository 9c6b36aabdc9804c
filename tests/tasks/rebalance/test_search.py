"""Exact neighbours against a direct sort, however rows are cut, moved, scaled, tied or sorted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.datasets import make_classification
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from tasks.rebalance import search
from tasks.rebalance.search import farthest, merge, nearest, neighbors

Found = tuple[NDArray[np.float64], NDArray[np.int64]]


def squared(queries: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    # Term by term: one column after the other.
    total = np.zeros((len(queries), len(rows)))
    for a, b in zip(queries.T, rows.T, strict=True):
        total += (a[:, None] - b[None, :]) ** 2
    return total


def direct(
    queries: NDArray[np.float64], rows: NDArray[np.float64], ids: NDArray[np.int64], k: int, exclude: NDArray[np.int64]
) -> Found:
    distance = squared(queries, rows)
    far, near = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
    for i, line in enumerate(distance):
        usable = np.flatnonzero(ids != exclude[i])
        order = usable[np.lexsort((ids[usable], line[usable]))][:k]
        far[i, : len(order)], near[i, : len(order)] = line[order], ids[order]
    return far, near


def same(found: Found, expected: Found) -> None:
    assert found[0].tobytes() == expected[0].tobytes()
    np.testing.assert_array_equal(found[1], expected[1])


COLUMNS = st.integers(1, 9)
"""On both sides of where a tree takes over."""

WHOLE = st.integers(-2, 2).map(float)
VALUES = st.one_of(WHOLE, st.floats(-3, 3, width=16), st.sampled_from([0.0, 0.1, 0.2, 0.3, 1e-9, 1e9, -1e9]))


@st.composite
def tables(draw: st.DrawFn, elements: st.SearchStrategy[float] = VALUES) -> NDArray[np.float64]:
    shape = (draw(st.integers(2, 60)), draw(COLUMNS))
    rows = draw(hnp.arrays(np.float64, shape, elements=elements))
    copies = draw(st.lists(st.integers(0, len(rows) - 1), max_size=40))
    return np.concatenate([rows, rows[copies]]) if copies else rows


@given(tables(), st.integers(1, 7), st.integers(0, 10), st.data())
def test_is_a_direct_sort(rows: NDArray[np.float64], k: int, asked: int, data: st.DataObject) -> None:
    ids = np.cumsum(data.draw(hnp.arrays(np.int64, len(rows), elements=st.integers(1, 5))))
    chosen = data.draw(hnp.arrays(np.int64, asked, elements=st.integers(0, len(rows) - 1)))
    exclude = np.where(data.draw(hnp.arrays(np.bool_, asked)), ids[chosen], -1)
    queries = rows[chosen]
    same(nearest(queries, rows, ids, k, exclude), direct(queries, rows, ids, k, exclude))
    # Rows that are not among those that are searched.
    moved = queries + data.draw(st.sampled_from([0.0, 0.25, 1e6]))
    none = np.full(asked, -1)
    same(nearest(moved, rows, ids, k), direct(moved, rows, ids, k, none))


@given(tables(), st.integers(1, 5))
def test_of_a_table_with_itself(x: NDArray[np.float64], k: int) -> None:
    every = np.arange(len(x))
    same(nearest(x, x, every, k, every), direct(x, x, every, k, every))
    same(nearest(x, x, every, k), direct(x, x, every, k, np.full(len(x), -1)))
    others = np.roll(every, 1)  # nor need the row left out be the query
    same(nearest(x, x, every, k, others), direct(x, x, every, k, others))


@given(tables(), st.integers(1, 6), st.data())
def test_parts_in_any_order_make_the_whole(rows: NDArray[np.float64], k: int, data: st.DataObject) -> None:
    every = np.arange(len(rows))
    part_of = data.draw(hnp.arrays(np.int64, len(rows), elements=st.integers(0, 3)))
    parts = [np.flatnonzero(part_of == n) for n in data.draw(st.permutations(range(4)))]
    found = [nearest(rows, rows[part], part, k, every) for part in parts if len(part)]
    same(merge([f[0] for f in found], [f[1] for f in found]), nearest(rows, rows, every, k, every))


@pytest.mark.parametrize("kind", ["normal", "0/1", "standardised 0/1", "few", "sorted", "far", "one column", "blobs"])
@pytest.mark.parametrize("columns", [4, 30])
def test_many_tiles(kind: str, columns: int) -> None:
    random = np.random.default_rng(columns)
    rows = 2 * search.TILE[1] + 77
    x = random.standard_normal((rows, columns))
    if "0/1" in kind:
        x = random.integers(0, 2, x.shape).astype(np.float64)
    if kind == "standardised 0/1":
        x = (x - x.mean(axis=0)) / x.std(axis=0)
    elif kind == "few":
        x = x[random.integers(0, 9, rows)]
    elif kind == "sorted":
        x[:, 0] = 1e3 * np.arange(rows)
    elif kind == "far":  # single precision tells no two rows apart; an outlier, besides
        x = 1e8 + x
        x[5] = 1e12
    elif kind == "one column":  # all others are far below its rounding
        x[:, 1] *= 1e9
    elif kind == "blobs":
        x += 1e4 * random.integers(0, 3, rows)[:, None]
    every = np.arange(rows)
    same(nearest(x, x, every, 5, every), direct(x, x, every, 5, every))
    some = np.sort(random.choice(rows, 700, replace=False))
    same(nearest(x[some], x, every, 3), direct(x[some], x, every, 3, np.full(700, -1)))


def test_neighbours_are_scikit_learns() -> None:
    x = np.asarray(make_classification(3000, 20, n_informative=10, random_state=0)[0])
    theirs = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(x).kneighbors(x, return_distance=False)[:, 1:]
    np.testing.assert_array_equal(neighbors(x, 5), theirs)


def test_threads_of_the_products_change_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((3000, 40))
    with threadpool_limits(1):
        alone = neighbors(x, 5)
    with threadpool_limits(3):
        np.testing.assert_array_equal(neighbors(x, 5), alone)


@pytest.mark.parametrize("columns", [3, 20])
@pytest.mark.parametrize("power", [-500, -100, 100, 900])
def test_scale_does_not_matter(power: int, columns: int) -> None:
    x = np.random.default_rng(0).standard_normal((300, columns))
    np.testing.assert_array_equal(neighbors(x * 2.0**power, 4), neighbors(x, 4))


@given(tables(), tables(), st.integers(1, 2))
def test_farthest_is_a_direct_sort(a: NDArray[np.float64], b: NDArray[np.float64], k: int) -> None:
    columns = min(a.shape[1], b.shape[1])
    queries, rows = a[:, :columns], b[:, :columns]
    expected = -np.sort(-squared(queries, rows), axis=1)[:, :k]
    assert farthest(queries, rows, k).tobytes() == expected.tobytes()


@given(st.integers(2, 60), st.integers(1, 12), st.integers(1, 3), st.data())
def test_whole_numbers_whose_norms_are_no_squares(m: int, columns: int, k: int, data: st.DataObject) -> None:
    """All rows but a few are equal: the root of a norm, squared, is not the norm, and all are equally far."""
    x = np.ones((m, columns))
    for row in data.draw(st.lists(st.integers(0, m - 1), max_size=3)):
        x[row] = data.draw(hnp.arrays(np.float64, columns, elements=st.integers(-3, 3).map(float)))
    k = min(k, m - 1)
    every = np.arange(m)
    same((direct(x, x, every, k, every)[0], neighbors(x, k)), direct(x, x, every, k, every))
