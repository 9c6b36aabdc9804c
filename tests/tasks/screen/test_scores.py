"""Scores against scikit-learn and SciPy, closed forms, and columns that must not fail."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import chi2, chi2_contingency, hypergeom
from sklearn.metrics import mutual_info_score

from tasks.screen.scores import Scores, ranks, score, select
from tasks.screen.sketch import quantile_edges, sketch
from tasks.screen.tables import contingency

TABLES = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 4)), elements=st.integers(0, 400)
)


def pipeline(x: NDArray[np.float32], labels: NDArray[np.int32], bins: int = 8) -> Scores:
    return score(contingency(x, labels, quantile_edges(sketch(x, bins), bins), int(labels.max()) + 1))


@pytest.mark.parametrize("rows", [50, 5_000])
def test_mi_is_scikit_learns_on_the_same_bins(rows: int) -> None:
    random = np.random.default_rng(rows)
    labels = random.integers(0, 3, rows).astype(np.int32)
    x = (random.standard_normal((12, rows)) + labels * np.linspace(0, 2, 12)[:, None]).astype(np.float32)
    edges = quantile_edges(sketch(x, 16), 16)
    found = score(contingency(x, labels, edges, 3))
    for j in range(12):
        where = np.digitize(x[j], edges.values[edges.offsets[j] : edges.offsets[j + 1]])
        assert found.mi[j] == pytest.approx(mutual_info_score(labels, where), abs=1e-12)


@settings(deadline=None)
@given(TABLES)
def test_g_and_p_are_scipys(tables: NDArray[np.int64]) -> None:
    found = score(tables)
    for j, table in enumerate(tables):
        occupied = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
        if min(occupied.shape) < 2:
            continue
        reference: Any = chi2_contingency(occupied, lambda_="log-likelihood", correction=False)
        assert found.dof[j] == reference.dof
        # SciPy sums without compensation: its own error is some units of n in the last place.
        assert found.g[j] == pytest.approx(reference.statistic, rel=1e-9, abs=1e-9)
        by_chance = shuffled_g(occupied)
        assert found.g_expected[j] == pytest.approx(by_chance, rel=5e-4)  # 1e-9 in small tables
        tail = chi2.sf(reference.statistic * reference.dof / found.g_expected[j], reference.dof)
        assert found.p_value[j] == pytest.approx(tail, rel=1e-6, abs=1e-9)


def shuffled_g(table: NDArray[np.int64]) -> float:
    """Mean of G over shuffles, cell by cell by SciPy's hypergeometric distribution."""
    n, mean = int(table.sum()), 0.0
    for r in table.sum(axis=1):
        for k in table.sum(axis=0):
            counts = np.arange(max(0, r + k - n), min(r, k) + 1)
            share: Any = hypergeom.pmf(counts, n, r, k)
            mean += float(np.sum(share * xlogy(counts, counts * n / (float(r) * float(k)))))
    return 2 * mean


def test_the_mean_of_g_is_that_of_all_shuffles() -> None:
    x, y = [0, 0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 1, 0]
    tables = np.zeros((1, 3, 2), dtype=np.int64)
    np.add.at(tables[0], (x, y), 1)
    shuffles = [2 * 7 * mutual_info_score(x, list(order)) for order in permutations(y)]
    assert score(tables).g_expected[0] == pytest.approx(np.mean(shuffles), rel=1e-12)


@pytest.mark.parametrize("rows", [200_000, 3_000_000_000])
def test_the_mean_of_g_of_large_tables_is_its_expansion(rows: int) -> None:
    table = np.array([[[0.1, 0.3], [0.2, 0.4]]]) * rows
    found = score(table.astype(np.int64))
    assert found.g_expected[0] == pytest.approx(1.0, rel=10 / rows)
    if rows == 200_000:
        assert found.g_expected[0] == pytest.approx(shuffled_g(table[0].astype(np.int64)), rel=1e-6)


@settings(deadline=None)
@given(TABLES)
def test_miller_madow_and_ranges(tables: NDArray[np.int64]) -> None:
    found = score(tables)
    for j, table in enumerate(tables):
        n = int(table.sum())
        if not n:
            assert np.isnan([found.mi[j], found.mi_corrected[j], found.p_value[j]]).all()
            assert found.reason[j] == "all values missing"
            continue
        in_x, in_y = int((table.sum(axis=1) > 0).sum()), int((table.sum(axis=0) > 0).sum())
        correction = (in_x + in_y - int((table > 0).sum()) - 1) / (2 * n)
        assert 0 <= found.mi[j] <= np.log(min(in_x, in_y)) + 1e-12
        if min(in_x, in_y) < 2:
            assert found.mi[j] == found.mi_corrected[j] == 0
            assert found.p_value[j] == 1
            assert found.reason[j] in {"constant", "one class only"}
        else:
            assert found.mi_corrected[j] == max(found.mi[j] + correction, 0)
            assert found.reason[j] is None


@settings(deadline=None)
@given(TABLES, st.integers(0, 40))
def test_a_columns_bits_do_not_depend_on_its_block(tables: NDArray[np.int64], padding: int) -> None:
    """Neither on the columns scored with it, nor on bins of padding that a column with more bins causes."""
    whole = score(tables)
    for j in range(len(tables)):
        alone = score(np.pad(tables[j : j + 1], ((0, 0), (0, padding), (0, 0))))
        for name in ("mi", "mi_corrected", "g", "dof", "p_value"):
            assert getattr(alone, name)[0].tobytes() == getattr(whole, name)[j].tobytes(), name


def test_independent_table_scores_exactly_zero() -> None:
    found = score(np.outer([3, 5, 7], [2, 11]).astype(np.int64)[None] * 1_000_003)
    assert found.mi[0] == 0
    assert found.p_value[0] == 1


def test_closed_form_of_a_deterministic_relation() -> None:
    found = score(np.diag([100, 100]).astype(np.int64)[None])
    assert found.mi[0] == pytest.approx(np.log(2), abs=1e-15)
    assert found.mi_corrected[0] == pytest.approx(np.log(2) + 1 / 400, abs=1e-15)


def test_odd_columns_never_fail_and_never_touch_their_neighbours() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 400).astype(np.int32)
    good = (random.standard_normal(400) + labels).astype(np.float32)
    huge = np.where(labels == 1, np.float32(3e38), np.float32(-3e38))
    infinite = np.where(labels == 1, np.inf, -np.inf).astype(np.float32)
    mixed = good.copy()
    mixed[::7] = np.inf
    mixed[::11] = np.nan
    x = np.stack(
        [good, np.full(400, 2), np.full(400, np.nan), infinite, good, huge, np.full(400, np.inf), mixed]
    ).astype(np.float32)
    found, alone = pipeline(x, labels), pipeline(x[:1], labels)
    assert found.mi[0] == found.mi[4] == alone.mi[0] > 0
    assert found.reason == [None, "constant", "all values missing", None, None, None, "constant", None]
    entropy = -sum(s * np.log(s) for s in np.bincount(labels) / 400)
    assert found.mi[[3, 5]] == pytest.approx(entropy)
    assert found.mi[7] > 0
    rank = ranks(found.mi_corrected, found.p_value)
    informative = np.array([r is None for r in found.reason])
    chosen = select(rank, found.mi_corrected, found.p_value, informative, top=10)
    assert not chosen[[1, 2, 6]].any()
    assert rank[2] == 0
    assert sorted(rank[rank > 0].tolist()) == list(range(1, 8))


def test_ranking_breaks_ties_by_p_value_then_by_place() -> None:
    value = np.array([0.2, 0.5, 0.5, 0.5, np.nan])
    p = np.array([0.01, 0.03, 0.02, 0.03, np.nan])
    rank, all_of_them = ranks(value, p), np.ones(5, dtype=np.bool_)
    assert rank.tolist() == [4, 2, 1, 3, 0]
    assert select(rank, value, p, all_of_them, top=5).tolist() == [True, True, True, True, False]
    assert select(rank, value, p, all_of_them, top=2).tolist() == [False, True, True, False, False]
    assert select(rank, value, p, all_of_them, top=5, max_q=0.02).tolist() == [True, False, True, False, False]
    assert select(rank, value, p, all_of_them, top=0).tolist() == [False] * 5
    # 0.5 + 0.5 of 1.7 is less than 0.6 of it; with the third it is more.
    assert select(rank, value, p, all_of_them, top=5, share=0.6).tolist() == [False, True, True, True, False]
    assert select(rank, value, p, all_of_them, top=5, share=1.0 / 1.7).tolist() == [False, True, True, False, False]
    assert select(rank, value, p, ~all_of_them, top=5).tolist() == [False] * 5


def test_all_missing_everywhere() -> None:
    found = score(np.zeros((2, 3, 2), dtype=np.int64))
    rank = ranks(found.mi_corrected, found.p_value)
    assert not rank.any()
    assert not select(rank, found.mi_corrected, found.p_value, np.ones(2, dtype=np.bool_), top=5).any()
