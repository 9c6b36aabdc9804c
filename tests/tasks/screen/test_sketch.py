"""The sketch is exact: any cut of the rows, merged in any order, is the sketch of the whole."""

from functools import reduce
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.screen.sketch import (
    DEPTHS,
    Counter,
    Sketch,
    code_values,
    heavy,
    join,
    merge,
    order_codes,
    quantile_edges,
    quantiles,
    refine,
    refined,
    sketch,
    uniform_edges,
)

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
NEAR = st.integers(0, 300).map(lambda k: float(np.float32(1000 + k / 4096)))
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30), elements=FLOATS)
CLOSE = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 200)),
    elements=NEAR | st.sampled_from([float("nan"), float("inf"), 0.0, -0.0, 1e38, -1e-45]),
)


def same(a: Sketch, b: Sketch) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
        for name in Sketch.__slots__
    )


def counted(x: NDArray[np.float32]) -> Sketch:
    counter = Counter(len(x))
    counter.add(x)
    return counter.sketch()


def by_parts(parts: list[NDArray[np.float32]], bins: int) -> Sketch:
    found = reduce(merge, [counted(part) for part in parts])
    for depth in DEPTHS[:-1]:
        cells = heavy(found, bins, depth)
        found = refined(found, cells, np.sum([refine(part, cells) for part in parts], axis=0))
    return found


@settings(deadline=None)
@given(MATRICES | CLOSE, st.integers(1, 6), st.integers(2, 20), st.randoms(use_true_random=False))
def test_merged_shards_are_the_whole_in_any_order(x: NDArray[np.float32], cuts: int, bins: int, random: Random) -> None:
    parts = np.array_split(x, cuts, axis=1)
    random.shuffle(parts)
    assert same(reduce(merge, [counted(part) for part in parts]), sketch(x))
    assert same(by_parts(parts, bins), sketch(x, bins))


@settings(deadline=None)
@given(CLOSE, st.integers(2, 20))
def test_a_columns_sketch_does_not_depend_on_its_neighbours(x: NDArray[np.float32], bins: int) -> None:
    assert same(join([sketch(x[j : j + 1], bins) for j in range(len(x))]), sketch(x, bins))


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(2, 60), elements=st.floats(width=32, allow_nan=False)))
def test_codes_keep_the_order_of_values(values: NDArray[np.float32]) -> None:
    codes = order_codes(values)
    for i in range(len(values) - 1):
        assert (values[i] < values[i + 1]) == (codes[i] < codes[i + 1])
        assert (values[i] == values[i + 1]) == (codes[i] == codes[i + 1])
    assert np.array_equal(code_values(codes), values)


def test_special_values() -> None:
    found = sketch(np.array([[np.nan, np.inf, np.nan, -np.inf, 3.0], [np.nan] * 5], dtype=np.float32))
    assert found.missing.tolist() == [2, 5]
    assert found.infinite.tolist() == [2, 0]
    assert found.present().tolist() == [3, 0]
    assert found.minimum()[0] == found.maximum()[0] == 3
    assert np.isnan([found.minimum()[1], found.maximum()[1]]).all()


@pytest.mark.parametrize(("centre", "spread"), [(0, 1), (1e6, 3), (7, 0.01), (1e38, 1e37), (0, 1e-42), (2020, 4)])
def test_bins_are_nearly_equal_however_close_the_values(centre: float, spread: float) -> None:
    x = np.random.default_rng(1).standard_normal((1, 100_000)) * spread + centre
    x = x.astype(np.float32)
    values = quantile_edges(sketch(x, 16), 16).values
    counts = np.bincount(np.digitize(x[0], values))
    # What float32 itself cannot tell apart stays in one bin.
    ties = np.unique(x, return_counts=True)[1].max()
    assert abs(counts - 6250).max() <= 6250 / 4 + ties
    assert len(counts) == 16 or ties > 1500


@settings(deadline=None)
@given(MATRICES | CLOSE, st.integers(2, 20))
def test_edges_are_few_distinct_and_leave_no_bin_empty(x: NDArray[np.float32], bins: int) -> None:
    found = sketch(x, bins)
    edges = quantile_edges(found, bins)
    for j in range(len(x)):
        mine = edges.values[edges.offsets[j] : edges.offsets[j + 1]]
        assert len(mine) <= bins - 1
        assert (np.diff(order_codes(mine).astype(np.int64)) > 0).all()
        present = x[j][~np.isnan(x[j])]
        if len(present):
            counts = np.bincount(np.digitize(present, mine), minlength=len(mine) + 1)
            assert (counts > 0).all()
        if len(np.unique(present)) <= bins and len(found.column(j)[0]) == len(np.unique(present)):
            assert len(mine) == max(len(np.unique(present)) - 1, 0)  # a bin for each value


def test_rare_values_keep_their_bins() -> None:
    x = np.zeros((2, 10_000), dtype=np.float32)
    x[0, :3] = 1
    x[1, :2], x[1, 2:9] = 5, 3
    edges = quantile_edges(sketch(x, 4), 4)
    assert edges.values.tolist() == [1, 3, 5]
    assert edges.bins().tolist() == [2, 3]


@settings(deadline=None)
@given(CLOSE, st.integers(2, 20))
def test_uniform_edges_cut_the_range(x: NDArray[np.float32], bins: int) -> None:
    found = sketch(x, bins)
    edges = uniform_edges(found, bins)
    for j in range(len(x)):
        mine = edges.values[edges.offsets[j] : edges.offsets[j + 1]].astype(np.float64)
        low, high = found.minimum()[j], found.maximum()[j]
        if len(found.column(j)[0]) > bins:
            assert mine.min() >= low
            assert mine.max() <= high
            assert len(mine) <= bins - 1


@settings(deadline=None)
@given(CLOSE, st.integers(2, 20))
def test_quantiles_are_order_statistics_up_to_a_cell(x: NDArray[np.float32], bins: int) -> None:
    found = sketch(x, bins)
    middle = quantiles(found, (0.25, 0.5, 0.75))[1]
    for j in range(len(x)):
        present = np.sort(x[j][np.isfinite(x[j])])
        if not len(present) or found.infinite[j]:
            continue
        true = float(present[(len(present) - 1) // 2])
        assert middle[j] <= true or middle[j] == found.minimum()[j]
        assert abs(middle[j] - true) <= max(abs(true) / 128, 1e-38)
