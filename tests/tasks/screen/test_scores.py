"""Scores against scikit-learn and SciPy, closed forms, and columns that must not fail."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, false_discovery_control
from sklearn.metrics import mutual_info_score

from tasks.screen.scores import Scores, score, select
from tasks.screen.sketch import edge_values, quantile_edges, sketch
from tasks.screen.tables import contingency

TABLES = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 4)), elements=st.integers(0, 400)
)


def pipeline(x: NDArray[np.float32], labels: NDArray[np.int32], bins: int = 8) -> Scores:
    edges = quantile_edges(sketch(x), bins)
    return score(contingency(x, labels, edges.offsets, edges.codes, int(labels.max()) + 1))


@pytest.mark.parametrize("rows", [50, 5_000])
def test_mi_is_scikit_learns_on_the_same_bins(rows: int) -> None:
    random = np.random.default_rng(rows)
    labels = random.integers(0, 3, rows).astype(np.int32)
    x = (random.standard_normal((rows, 12)) + labels[:, None] * np.linspace(0, 2, 12)).astype(np.float32)
    edges = quantile_edges(sketch(x), 16)
    found = score(contingency(x, labels, edges.offsets, edges.codes, 3))
    for j in range(12):
        where = np.digitize(x[:, j], edge_values(edges.codes[edges.offsets[j] : edges.offsets[j + 1]]))
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
        assert found.p_value[j] == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(TABLES)
def test_miller_madow_and_ranges(tables: NDArray[np.int64]) -> None:
    found = score(tables)
    for j, table in enumerate(tables):
        n = int(table.sum())
        if not n:
            assert np.isnan([found.mi[j], found.mi_corrected[j], found.p_value[j], found.q_value[j]]).all()
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


@settings(deadline=None)
@given(TABLES)
def test_q_values_are_benjamini_and_hochbergs(tables: NDArray[np.int64]) -> None:
    found = score(tables)
    known = ~np.isnan(found.p_value)
    assume(known.any())
    assert np.array_equal(found.q_value[known], false_discovery_control(found.p_value[known]))
    p = found.p_value[known]
    by_definition = [
        min(min(1.0, p[k] * len(p) / (p <= p[k]).sum()) for k in range(len(p)) if p[k] >= p[i]) for i in range(len(p))
    ]
    assert found.q_value[known] == pytest.approx(by_definition, rel=1e-12)


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
        [good, np.full(400, 2), np.full(400, np.nan), infinite, good, huge, np.full(400, np.inf), mixed], axis=1
    ).astype(np.float32)
    found, alone = pipeline(x, labels), pipeline(x[:, :1], labels)
    assert found.mi[0] == found.mi[4] == alone.mi[0] > 0
    assert found.reason == [None, "constant", "all values missing", None, None, None, "constant", None]
    entropy = -sum(s * np.log(s) for s in np.bincount(labels) / 400)
    assert found.mi[[3, 5]] == pytest.approx(entropy)
    assert found.mi[7] > 0
    chosen = select(found, 10, 1.0)
    assert not chosen.selected[[1, 2, 6]].any()
    assert chosen.rank[2] == 0
    assert sorted(chosen.rank[chosen.rank > 0].tolist()) == list(range(1, 8))


def test_ranking_breaks_ties_by_p_value_then_by_place() -> None:
    mi = np.array([0.2, 0.5, 0.5, 0.5, np.nan])
    p = np.array([0.01, 0.03, 0.02, 0.03, np.nan])
    scores = Scores(mi, mi, mi, np.ones(5, np.int32), p, p, [None, None, None, None, "all values missing"])
    assert select(scores, 5, 1.0).rank.tolist() == [4, 2, 1, 3, 0]
    assert select(scores, 2, 1.0).selected.tolist() == [False, True, True, False, False]
    assert select(scores, 5, 0.02).selected.tolist() == [True, False, True, False, False]
    assert select(scores, 0, 1.0).selected.tolist() == [False] * 5


def test_all_missing_everywhere() -> None:
    found = score(np.zeros((2, 3, 2), dtype=np.int64))
    assert np.isnan(found.q_value).all()
    assert not select(found, 5, 1.0).selected.any()
