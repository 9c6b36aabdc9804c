"""Tables of shards add up to the table of the whole, and agree with numpy's digitize."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.screen.sketch import Edges, quantile_edges, sketch
from tasks.screen.tables import TILE_ROWS, bin_codes, contingency

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=25),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1.0]),
)


def by_numpy(x: NDArray[np.float32], labels: NDArray[np.int32], edges: Edges, classes: int) -> NDArray[np.int64]:
    tables = np.zeros((len(x), int(edges.bins().max()), classes), dtype=np.int64)
    for j in range(len(x)):
        present = ~np.isnan(x[j])
        where = np.digitize(x[j, present], edges.values[edges.offsets[j] : edges.offsets[j + 1]])
        np.add.at(tables[j], (where, labels[present]), 1)
    return tables


@settings(deadline=None)
@given(MATRICES, st.integers(2, 9), st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_any_partition_adds_up_and_equals_numpy(
    x: NDArray[np.float32], bins: int, parts: int, classes: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, x.shape[1]).astype(np.int32)
    edges = quantile_edges(sketch(x, bins), bins)
    whole = contingency(x, labels, edges, classes)
    into = np.zeros_like(whole)
    for a, b in zip(np.array_split(x, parts, axis=1), np.array_split(labels, parts), strict=True):
        contingency(a, b, edges, classes, into)
    assert np.array_equal(into, whole)
    assert np.array_equal(whole, by_numpy(x, labels, edges, classes))


@pytest.mark.parametrize("rows", [TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 3 * TILE_ROWS + 7])
@pytest.mark.parametrize("classes", [2, 4, 40])
def test_rows_at_the_border_of_tiles(rows: int, classes: int) -> None:
    random = np.random.default_rng(rows)
    x = random.standard_normal((37, rows)).astype(np.float32)
    x[:9] = x[:9] > 1  # few values: counted another way
    x[random.random(x.shape) < 0.1] = np.nan
    labels = random.integers(0, classes, rows).astype(np.int32)
    edges = quantile_edges(sketch(x, 16), 16)
    assert np.array_equal(contingency(x, labels, edges, classes), by_numpy(x, labels, edges, classes))
    turned = np.asfortranarray(x)
    assert np.array_equal(contingency(turned, labels, edges, classes), by_numpy(x, labels, edges, classes))


def test_bin_codes_are_the_bins_and_255_for_missing() -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal((4, 500)).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    edges = quantile_edges(sketch(x, 8), 8)
    codes = bin_codes(x, edges)
    for j in range(4):
        missing = np.isnan(x[j])
        assert (codes[j, missing] == 255).all()
        expected = np.digitize(x[j, ~missing], edges.values[edges.offsets[j] : edges.offsets[j + 1]])
        assert np.array_equal(codes[j, ~missing], expected)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_an_error_not_a_write_out_of_bounds(label: int) -> None:
    x = np.zeros((1, 3), dtype=np.float32)
    edges = quantile_edges(sketch(x), 4)
    with pytest.raises(ValueError, match="outside"):
        contingency(x, np.array([0, 1, label], dtype=np.int32), edges, 2)


def test_lengths_that_do_not_match() -> None:
    x = np.zeros((2, 3), dtype=np.float32)
    edges = quantile_edges(sketch(x), 4)
    with pytest.raises(ValueError, match="do not go with"):
        contingency(x, np.zeros(2, dtype=np.int32), edges, 2)
    with pytest.raises(ValueError, match="do not go with"):
        contingency(x[:1], np.zeros(3, dtype=np.int32), edges, 2)
    with pytest.raises(ValueError, match="cannot take"):
        contingency(x, np.zeros(3, dtype=np.int32), edges, 2, np.zeros((2, 5, 2), dtype=np.int64))


def test_no_rows() -> None:
    edges = quantile_edges(sketch(np.zeros((2, 4), dtype=np.float32)), 4)
    none = contingency(np.zeros((2, 0), np.float32), np.zeros(0, np.int32), edges, 2)
    assert none.shape == (2, 1, 2)
    assert not none.any()
