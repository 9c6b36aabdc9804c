"""The sketch is exact: any cut of the rows, merged in any order, is the sketch of the whole."""

from functools import reduce
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.screen.sketch import Sketch, edge_values, merge, order_codes, quantile_edges, sketch

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
MATRICES = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30), elements=FLOATS)


def same(a: Sketch, b: Sketch) -> bool:
    return all(
        np.array_equal(x, y) and x.dtype == y.dtype
        for x, y in zip(
            (a.offsets, a.codes, a.counts, a.missing), (b.offsets, b.codes, b.counts, b.missing), strict=True
        )
    )


@settings(deadline=None)
@given(MATRICES, st.integers(1, 6), st.randoms(use_true_random=False))
def test_merged_shards_are_the_whole_in_any_order(x: NDArray[np.float32], parts: int, random: Random) -> None:
    shards = [sketch(part) for part in np.array_split(x, parts)]
    random.shuffle(shards)
    assert same(reduce(merge, shards), sketch(x))
    assert same(reduce(lambda a, b: merge(b, a), shards), sketch(x))


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(2, 60), elements=st.floats(width=32, allow_nan=False)))
def test_codes_keep_the_order_of_values(values: NDArray[np.float32]) -> None:
    values = np.sort(values)
    codes = order_codes(values).astype(np.int64)
    assert (np.diff(codes) >= 0).all()


def test_special_values() -> None:
    codes = order_codes(np.array([-np.inf, -3e38, -1, -1e-45, -0.0, 0.0, 1e-45, 1, 3e38, np.inf], dtype=np.float32))
    assert codes[4] == codes[5]
    assert (np.diff(codes.astype(np.int64)) >= 0).all()
    assert len(set(codes.tolist())) >= 8
    found = sketch(np.array([[np.nan], [np.inf], [np.nan]], dtype=np.float32))
    assert found.missing.tolist() == [2]
    assert found.counts.tolist() == [1]


@settings(deadline=None)
@given(MATRICES)
def test_edge_value_is_the_smallest_float_of_its_code(x: NDArray[np.float32]) -> None:
    present = x[~np.isnan(x)]
    codes = np.unique(order_codes(present))
    values = edge_values(codes)
    assert not np.isnan(values).any()
    assert np.array_equal(order_codes(values), codes)
    with np.errstate(over="ignore"):  # below the least finite float stands -inf
        below = np.nextafter(values, np.float32(-np.inf))
    lower = ~np.isneginf(values)
    assert (order_codes(below[lower]) < codes[lower]).all()
    # An outside oracle gets the same bins from values as we do from codes.
    assert np.array_equal(np.digitize(present, values), np.searchsorted(codes, order_codes(present), side="right"))


@settings(deadline=None)
@given(MATRICES, st.integers(2, 20))
def test_edges_are_few_distinct_and_leave_no_bin_empty(x: NDArray[np.float32], bins: int) -> None:
    edges = quantile_edges(sketch(x), bins)
    for j in range(x.shape[1]):
        mine = edges.codes[edges.offsets[j] : edges.offsets[j + 1]].astype(np.int64)
        assert len(mine) <= bins - 1
        assert (np.diff(mine) > 0).all()
        present = x[:, j][~np.isnan(x[:, j])]
        if len(np.unique(order_codes(present))) < 2:
            assert not len(mine)
        else:
            counts = np.bincount(np.digitize(present, edge_values(mine.astype(np.uint16))), minlength=len(mine) + 1)
            assert (counts > 0).all()


def test_bins_of_a_continuous_column_are_nearly_equal() -> None:
    x = np.random.default_rng(1).standard_normal((100_000, 1)).astype(np.float32)
    edges = quantile_edges(sketch(x), 16)
    counts = np.bincount(np.digitize(x[:, 0], edge_values(edges.codes)))
    assert len(counts) == 16
    # A code near 1.5 holds about 1/128 of relative width; no bin is further off than a code's rows.
    assert abs(counts / 6250 - 1).max() < 0.12
