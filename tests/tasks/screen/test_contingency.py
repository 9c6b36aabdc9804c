"""Tables of shards add up to the table of the whole, and agree with numpy's digitize."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tasks.screen.sketch import Edges, edge_values, quantile_edges, sketch
from tasks.screen.tables import TILE_ROWS, contingency

MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=25),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 1.0]),
)


def by_numpy(x: NDArray[np.float32], labels: NDArray[np.int32], edges: Edges, classes: int) -> NDArray[np.int64]:
    bins = int(np.diff(edges.offsets).max()) + 1
    tables = np.zeros((x.shape[1], bins, classes), dtype=np.int64)
    for j in range(x.shape[1]):
        present = ~np.isnan(x[:, j])
        where = np.digitize(x[present, j], edge_values(edges.codes[edges.offsets[j] : edges.offsets[j + 1]]))
        np.add.at(tables[j], (where, labels[present]), 1)
    return tables


@settings(deadline=None)
@given(MATRICES, st.integers(2, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_partition_adds_up_and_equals_numpy(x: NDArray[np.float32], bins: int, parts: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, len(x)).astype(np.int32)
    edges = quantile_edges(sketch(x), bins)
    whole = contingency(x, labels, edges.offsets, edges.codes, 3)
    shards = [
        contingency(a, b, edges.offsets, edges.codes, 3)
        for a, b in zip(np.array_split(x, parts), np.array_split(labels, parts), strict=True)
    ]
    assert np.array_equal(sum(shards), whole)
    assert np.array_equal(whole, by_numpy(x, labels, edges, 3))


@pytest.mark.parametrize("rows", [TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 3 * TILE_ROWS + 7])
def test_rows_at_the_border_of_tiles(rows: int) -> None:
    random = np.random.default_rng(rows)
    x = random.standard_normal((rows, 37)).astype(np.float32)
    x[random.random(x.shape) < 0.1] = np.nan
    labels = random.integers(0, 4, rows).astype(np.int32)
    edges = quantile_edges(sketch(x), 16)
    assert np.array_equal(contingency(x, labels, edges.offsets, edges.codes, 4), by_numpy(x, labels, edges, 4))
    turned = np.asfortranarray(x)
    assert np.array_equal(contingency(turned, labels, edges.offsets, edges.codes, 4), by_numpy(x, labels, edges, 4))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_an_error_not_a_write_out_of_bounds(label: int) -> None:
    x = np.zeros((3, 1), dtype=np.float32)
    edges = quantile_edges(sketch(x), 4)
    with pytest.raises(ValueError, match="outside"):
        contingency(x, np.array([0, 1, label], dtype=np.int32), edges.offsets, edges.codes, 2)


def test_lengths_that_do_not_match() -> None:
    x = np.zeros((3, 2), dtype=np.float32)
    edges = quantile_edges(sketch(x), 4)
    with pytest.raises(ValueError, match="do not go with"):
        contingency(x, np.zeros(2, dtype=np.int32), edges.offsets, edges.codes, 2)
    with pytest.raises(ValueError, match="do not go with"):
        contingency(x[:, :1], np.zeros(3, dtype=np.int32), edges.offsets, edges.codes, 2)


def test_no_rows() -> None:
    edges = quantile_edges(sketch(np.zeros((4, 2), dtype=np.float32)), 4)
    none = contingency(np.zeros((0, 2), np.float32), np.zeros(0, np.int32), edges.offsets, edges.codes, 2)
    assert none.shape == (2, 1, 2)
    assert not none.any()
