"""Correlation from exact sums: SciPy's numbers, and the same bits for any cut of the rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import stats

from tasks.screen.pearson import class_sums, correlate, correlate_classes, joint_sums, two_value_sums

MATRICES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(2, 60)),
    elements=st.floats(width=32) | st.sampled_from([0.0, 1.0, 3e38, -3e38, 1e-44]),
)


def ends(x: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = np.where(np.isfinite(x), x.astype(np.float64), np.nan)
    low = np.array([np.nanmin(row) if np.isfinite(row).any() else np.nan for row in wide])
    high = np.array([np.nanmax(row) if np.isfinite(row).any() else np.nan for row in wide])
    return low, high


@pytest.mark.parametrize("rows", [10, 9_000, 40_000])
def test_rho_and_p_are_scipys(rows: int) -> None:
    random = np.random.default_rng(rows)
    y = random.standard_normal(rows).astype(np.float32)
    x = (random.standard_normal((8, rows)) + np.linspace(-2, 2, 8)[:, None] * y).astype(np.float32)
    x[0] += 1e4
    x[random.random(x.shape) < 0.05] = np.nan
    found = correlate(joint_sums(x, y, *ends(x), float(y.min()), float(y.max())))
    for j in range(8):
        there = ~np.isnan(x[j])
        expected: Any = stats.pearsonr(x[j][there].astype(np.float64), y[there].astype(np.float64))
        assert found.rho[j] == pytest.approx(expected.statistic, abs=1e-6)
        assert found.p_value[j] == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-12)
        assert found.mi[j] == pytest.approx(-0.5 * np.log(1 - expected.statistic**2), rel=1e-4, abs=1e-7)


def test_two_classes_are_the_point_biserial_correlation() -> None:
    random = np.random.default_rng(1)
    labels = (random.random(5_000) < 0.2).astype(np.int32)
    x = (random.standard_normal((5, 5_000)) + np.linspace(-1, 1, 5)[:, None] * labels).astype(np.float32)
    found = correlate_classes(class_sums(x, labels, 2, *ends(x)))
    for j in range(5):
        expected: Any = stats.pointbiserialr(labels, x[j].astype(np.float64))
        assert found.rho[j] == pytest.approx(expected.statistic, abs=1e-6)
        assert found.p_value[j] == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-12)


def test_two_values_need_no_sums() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 5_000).astype(np.int32)
    x = (random.random((4, 5_000)) < 0.1 * (1 + labels)).astype(np.float32) * 7 - 2
    x[1, ::3] = np.nan
    tables = np.zeros((4, 2, 3), dtype=np.int64)
    for j in range(4):
        there = ~np.isnan(x[j])
        np.add.at(tables[j], ((x[j, there] > 0).astype(int), labels[there]), 1)
    np.testing.assert_array_equal(two_value_sums(tables), class_sums(x, labels, 3, *ends(x)))


def test_more_classes_are_the_analysis_of_variance() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 4, 2_000).astype(np.int32)
    x = (random.standard_normal((5, 2_000)) + np.linspace(0, 1, 5)[:, None] * (labels % 3)).astype(np.float32)
    found = correlate_classes(class_sums(x, labels, 5, *ends(x)))  # the fifth class is empty
    for j in range(5):
        groups = [x[j][labels == c].astype(np.float64) for c in range(4)]
        expected: Any = stats.f_oneway(*groups)
        assert found.p_value[j] == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-12)
        between = sum(len(g) * (g.mean() - x[j].mean(dtype=np.float64)) ** 2 for g in groups)
        total = ((x[j].astype(np.float64) - x[j].mean(dtype=np.float64)) ** 2).sum()
        assert found.rho[j] ** 2 == pytest.approx(between / total, abs=1e-6)


@settings(deadline=None)
@given(MATRICES, st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**32))
def test_any_cut_in_any_order_has_the_same_bits(x: NDArray[np.float32], cuts: int, classes: int, seed: int) -> None:
    rows = x.shape[1]
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows).astype(np.int32)
    y = random.standard_normal(rows).astype(np.float32)
    low, high = ends(x)
    one = correlate_classes(class_sums(x, labels, classes, low, high))
    two = correlate(joint_sums(x, y, low, high, float(y.min()), float(y.max())))
    by_class, joint = None, None
    for part in np.array_split(random.permutation(rows), cuts):
        by_class = class_sums(x[:, part], labels[part], classes, low, high, by_class)
        joint = joint_sums(x[:, part], y[part], low, high, float(y.min()), float(y.max()), joint)
    assert by_class is not None
    assert joint is not None
    for whole, parts in ((one, correlate_classes(by_class)), (two, correlate(joint))):
        for name in ("rho", "mi", "mi_corrected", "p_value"):
            values = getattr(whole, name)
            assert values.tobytes() == getattr(parts, name).tobytes()
            assert (np.isfinite(values) | np.isnan(x).all(axis=1)).all()
    alone = correlate(joint_sums(x[:1], y, low[:1], high[:1], float(y.min()), float(y.max())))
    assert alone.rho.tobytes() == two.rho[:1].tobytes()


def test_what_has_no_correlation() -> None:
    labels = np.array([0, 1, 0, 1], dtype=np.int32)
    x = np.array([[2, 2, 2, 2], [np.nan] * 4, [np.inf, -np.inf, np.inf, -np.inf], [0, 1, 0, 1]], dtype=np.float32)
    found = correlate_classes(class_sums(x, labels, 2, *ends(x)))
    assert found.rho[[0, 2]].tolist() == [0, 0]
    assert np.isnan(found.rho[1])
    assert found.rho[3] == 1
    assert np.isfinite(found.mi[3])
    assert found.mi[3] > 10
    one_class = correlate_classes(class_sums(x, np.zeros(4, dtype=np.int32), 2, *ends(x)))
    assert one_class.rho[3] == 0
