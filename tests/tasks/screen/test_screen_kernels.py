"""Screening kernels against scikit-learn, SciPy, closed forms; and what must hold for any data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import chi2_contingency, false_discovery_control
from sklearn.metrics import mutual_info_score

from tasks.screen.scores import score, select
from tasks.screen.sketch import Sketch, edge_values, merge, order_codes, quantile_edges, sketch
from tasks.screen.tables import contingency

VALUES = st.floats(width=32, allow_nan=True, allow_infinity=True)
MATRICES = hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 4)), elements=VALUES)


def same(a: Sketch, b: Sketch) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in zip(
            (a.offsets, a.codes, a.counts, a.missing), (b.offsets, b.codes, b.counts, b.missing), strict=True
        )
    )


def tables_of(x: np.ndarray, y: np.ndarray, bins: int, classes: int) -> np.ndarray:
    edges = quantile_edges(sketch(x), bins)
    return contingency(x, y, edges.offsets, edges.codes, classes)


@given(hnp.arrays(np.float32, st.integers(2, 50), elements=st.floats(width=32, allow_nan=False)))
def test_codes_keep_the_order(values: np.ndarray) -> None:
    codes = order_codes(values).astype(int)
    order = np.argsort(values, kind="stable")
    assert (np.diff(codes[order]) >= 0).all()
    assert order_codes(np.array([0.0, -0.0], np.float32)).tolist() == [0x8000, 0x8000]


@given(MATRICES, st.data())
def test_sketches_merge_to_the_whole_in_any_order(x: np.ndarray, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    parts = [sketch(part) for part in np.split(x, cuts)]
    for part in data.draw(st.permutations(parts))[:1]:
        merged = part
        for other in [p for p in parts if p is not part]:
            merged = merge(other, merged)
        assert same(merged, sketch(x))


@given(MATRICES, st.integers(2, 16), st.data())
def test_tables_of_shards_add_up(x: np.ndarray, bins: int, data: st.DataObject) -> None:
    y = data.draw(hnp.arrays(np.int32, len(x), elements=st.integers(0, 2)))
    edges = quantile_edges(sketch(x), bins)
    whole = contingency(x, y, edges.offsets, edges.codes, 3)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    parts = zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    total = sum(contingency(a, b, edges.offsets, edges.codes, 3) for a, b in parts)
    assert np.array_equal(total, whole)
    assert np.array_equal(whole.sum(axis=(1, 2)), (~np.isnan(x)).sum(axis=0))


@given(MATRICES, st.integers(2, 16))
def test_bins_are_those_of_digitize(x: np.ndarray, bins: int) -> None:
    edges = quantile_edges(sketch(x), bins)
    counts = contingency(x, np.zeros(len(x), np.int32), edges.offsets, edges.codes, 1)
    for j in range(x.shape[1]):
        column = x[~np.isnan(x[:, j]), j]
        thresholds = edge_values(edges.codes[edges.offsets[j] : edges.offsets[j + 1]])
        assert len(thresholds) < bins
        expected = np.bincount(np.digitize(column, thresholds), minlength=counts.shape[1])
        assert np.array_equal(counts[j, :, 0], expected)


def test_bins_are_nearly_equal_where_values_differ() -> None:
    x = np.random.default_rng(1).normal(size=(10_000, 1)).astype(np.float32)
    counts = tables_of(x, np.zeros(10_000, np.int32), 16, 1)[0, :, 0]
    assert counts.min() > 0.8 * 10_000 / 16
    assert counts.max() < 1.2 * 10_000 / 16


@given(st.integers(0, 10_000), st.integers(2, 16), st.integers(2, 4))
@settings(max_examples=50)
def test_mi_equals_sklearn(seed: int, bins: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, 300).astype(np.int32)
    x = (rng.normal(size=(300, 3)) + y[:, None] * [0, 0.5, 3]).astype(np.float32)
    x[:, 1] = np.round(x[:, 1])
    edges = quantile_edges(sketch(x), bins)
    found = score(contingency(x, y, edges.offsets, edges.codes, classes))
    for j in range(3):
        binned = np.digitize(x[:, j], edge_values(edges.codes[edges.offsets[j] : edges.offsets[j + 1]]))
        assert found.mi[j] == pytest.approx(mutual_info_score(binned, y), abs=1e-12)


def test_closed_forms() -> None:
    # A copy of a fair coin: ln 2. Independence: 0. Miller-Madow of the copy: + (2 + 2 - 2 - 1) / 2n.
    tables = np.array([[[50, 0], [0, 50]], [[25, 25], [25, 25]]], dtype=np.int64)
    found = score(tables)
    assert found.mi == pytest.approx([math.log(2), 0.0], abs=1e-12)
    assert found.mi_corrected == pytest.approx([math.log(2) + 1 / 200, 0.0], abs=1e-12)
    assert found.dof.tolist() == [1, 1]


def test_significance_against_scipy() -> None:
    rng = np.random.default_rng(3)
    tables = rng.integers(1, 40, size=(50, 6, 3))
    found = score(tables)
    for j, table in enumerate(tables):
        oracle = chi2_contingency(table, correction=False, lambda_="log-likelihood")
        assert found.g[j] == pytest.approx(oracle.statistic, rel=1e-9)
        assert found.p_value[j] == pytest.approx(oracle.pvalue, rel=1e-6, abs=1e-300)
    assert found.q_value == pytest.approx(false_discovery_control(found.p_value, method="bh"))


@given(MATRICES, st.data())
def test_no_column_fails_or_moves_another(x: np.ndarray, data: st.DataObject) -> None:
    y = data.draw(hnp.arrays(np.int32, len(x), elements=st.integers(0, 1)))
    odd = np.stack(
        [
            np.full(len(x), 3.0),
            np.full(len(x), np.nan),
            np.full(len(x), np.inf),
            np.where(np.arange(len(x)) % 2, np.finfo(np.float32).max, -np.inf),
        ],
        axis=1,
    ).astype(np.float32)
    alone = score(tables_of(x, y, 8, 2))
    among = score(tables_of(np.concatenate([odd, x], axis=1), y, 8, 2))
    assert np.array_equal(alone.mi, among.mi[4:], equal_nan=True)
    assert np.array_equal(alone.p_value, among.p_value[4:], equal_nan=True)
    assert among.reason[:3] == ["constant", "all values missing", "constant"]
    assert among.mi[0] == 0
    assert np.isnan(among.mi[1])
    chosen = select(among, top=100, max_q=1.0)
    assert not chosen.selected[:3].any()
    assert sorted(chosen.rank[chosen.rank > 0]) == list(range(1, 1 + int((chosen.rank > 0).sum())))


def test_selection_is_by_score_then_place() -> None:
    tables = np.array([[[9, 1], [1, 9]], [[5, 5], [5, 5]], [[9, 1], [1, 9]], [[10, 0], [0, 10]]], dtype=np.int64)
    chosen = select(score(tables), top=2, max_q=0.05)
    assert chosen.rank.tolist() == [2, 4, 3, 1]
    assert chosen.selected.tolist() == [True, False, False, True]
