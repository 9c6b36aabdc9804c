"""Curves, hulls, areas and calibration: against scikit-learn, scipy, closed forms and each other."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.spatial import ConvexHull
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from tasks.evaluate import curves
from tasks.evaluate.curves import (
    Calibration,
    Ranking,
    achievable,
    achievable_area,
    hull_of,
    interval,
    logit,
    mass_bins,
    platt,
    platted,
    reliability,
    resamples,
    roc_area,
    roc_points,
)


def rows(seed: int, n: int, distinct: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Rows of both kinds with scores in [0, 1], so many distinct ones at most, higher for positive rows."""
    stream = np.random.default_rng(seed)
    positive = stream.random(n) < stream.uniform(0.1, 0.6)
    positive[:2] = True, False
    score = np.clip(np.rint((stream.random(n) * 0.7 + 0.3 * positive) * distinct) / distinct, 0, 1)
    return positive, score


ROWS: Any = st.builds(rows, st.integers(0, 2**32), st.integers(2, 120), st.sampled_from([1, 3, 10, 1000]))


@given(ROWS)
def test_areas_and_points_are_scikit_learns(given_rows: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    positive, score = given_rows
    fp, tp = roc_points(positive, score)
    x, y, _ = roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(fp / fp[-1], x, atol=1e-15)
    np.testing.assert_allclose(tp / tp[-1], y, atol=1e-15)
    roc, ap = Ranking.of(positive, score).areas(np.ones((1, len(score))))
    assert roc[0] == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert roc_area(fp, tp) == pytest.approx(roc[0], abs=1e-12)
    assert ap[0] == pytest.approx(average_precision_score(positive, score), abs=1e-12)
    brier, _ = Calibration.of(positive, score, 10).errors(np.ones((1, len(score))))
    assert brier[0] == pytest.approx(brier_score_loss(positive, score), abs=1e-12)


@given(ROWS, st.integers(0, 2**32))
def test_weights_are_as_rows_repeated(given_rows: tuple[NDArray[np.bool_], NDArray[np.float64]], seed: int) -> None:
    positive, score = given_rows
    times = np.random.default_rng(seed).integers(0, 4, (2, len(score)))
    times[:, :2] += 1
    weights = times.astype(np.float64)
    roc, ap = Ranking.of(positive, score).areas(weights)
    brier, error = Calibration.of(positive, score, 7).errors(weights)
    where = mass_bins(score, 7)
    for b in range(2):
        y, s, bins = (np.repeat(values, times[b]) for values in (positive, score, where))
        assert roc[b] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
        assert ap[b] == pytest.approx(average_precision_score(y, s), abs=1e-12)
        assert brier[b] == pytest.approx(brier_score_loss(y, s), abs=1e-12)
        by_hand = sum(abs(y[bins == k].mean() - s[bins == k].mean()) * (bins == k).mean() for k in set(bins.tolist()))
        assert error[b] == pytest.approx(by_hand, abs=1e-12)


POINTS: Any = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), max_size=40)


@given(POINTS)
def test_hull_is_scipys_upper_hull(points: list[tuple[int, int]]) -> None:
    every = np.array([(0, 0), *points, (12, 9)])
    fp, tp = hull_of(every[:, 0], every[:, 1])
    # With a corner below, what scipy finds is the upper hull and that corner.
    closed = np.vstack([every, [(20, -5)]])
    found = {tuple(closed[i]) for i in ConvexHull(closed).vertices} - {(20, -5)}
    assert set(zip(fp.tolist(), tp.tolist(), strict=True)) == {(int(x), int(y)) for x, y in found}
    slopes = [Fraction(int(b), int(a)) if a else Fraction(10**6) for a, b in zip(np.diff(fp), np.diff(tp), strict=True)]
    assert slopes == sorted(slopes, reverse=True)
    assert (fp[0], tp[0], fp[-1], tp[-1]) == (0, 0, 12, 9)


@given(ROWS)
def test_no_threshold_beats_the_hull(given_rows: tuple[NDArray[np.bool_], NDArray[np.float64]]) -> None:
    """Every ROC point lies on or under the hull, every precision on or under the achievable curve."""
    positive, score = given_rows
    fp, tp = roc_points(positive, score)
    corners = hull_of(fp, tp)
    assert (np.interp(fp, *corners) >= tp - 1e-9)[fp > 0].all()
    assert roc_area(*corners) >= roc_area(fp, tp) - 1e-12
    recall, precision = achievable(*corners)
    assert (np.diff(recall) >= -1e-12).all()
    for f, t in zip(fp.tolist()[1:], tp.tolist()[1:], strict=True):
        if t:
            # The hull's fewest false positives at this recall.
            best = np.interp(t, corners[1] + np.arange(len(corners[1])) * 1e-12, corners[0])
            assert t / (t + best) >= t / (t + f) - 1e-9
    assert 0 < precision.min() <= precision.max() <= 1


@given(ROWS)
def test_area_under_the_achievable_curve_is_its_integral(
    given_rows: tuple[NDArray[np.bool_], NDArray[np.float64]],
) -> None:
    fp, tp = hull_of(*roc_points(*given_rows))
    total = 0.0
    for a, b, f, g in zip(tp[:-1], tp[1:], fp[:-1], fp[1:], strict=True):
        if b > a:
            total += quad(lambda t, a=a, b=b, f=f, g=g: t / (t + f + (g - f) * (t - a) / (b - a)), a, b)[0]
    assert achievable_area(fp, tp) == pytest.approx(total / tp[-1], rel=1e-6)
    recall, precision = achievable(fp, tp, 2000)
    assert achievable_area(fp, tp) == pytest.approx(np.trapezoid(precision, recall), abs=2e-3)


def test_davis_and_goadrichs_example() -> None:
    """Their section 4: of 20 positive rows, precision between A (5 true, 5 false) and B (10 true, 30 false)."""
    _, precision = achievable(np.array([5, 30]), np.array([5, 10]), 5)
    np.testing.assert_allclose(precision[1:], [6 / 16, 7 / 22, 8 / 28, 9 / 34, 10 / 40])


def test_known_corners() -> None:
    perfect = roc_points(np.array([True, True, False, False]), np.array([0.9, 0.8, 0.2, 0.1]))
    assert [v.tolist() for v in hull_of(*perfect)] == [[0, 0, 2], [0, 2, 2]]
    assert achievable_area(*hull_of(*perfect)) == 1.0
    chance = roc_points(np.array([True, False]), np.array([0.5, 0.5]))
    assert [v.tolist() for v in hull_of(*chance)] == [[0, 1], [0, 1]]
    assert achievable_area(*hull_of(*chance)) == pytest.approx(0.5)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.31, 0.9, 1.0]), min_size=1, max_size=60), st.integers(2, 12))
def test_bins_hold_equally_many_and_do_not_tear_ties(values: list[float], bins: int) -> None:
    p = np.array(values)
    where = mass_bins(p, bins)
    assert len({(v, b) for v, b in zip(values, where.tolist(), strict=True)}) == len(set(values))
    assert (np.diff(where[np.argsort(p, kind="stable")]) >= 0).all()
    assert (where >= 0).all()
    assert (where < bins).all()
    assert np.bincount(mass_bins(np.linspace(0, 1, bins * 7), bins)).tolist() == [7] * bins


def test_reliability_and_calibration_error_by_hand() -> None:
    positive = np.array([False, False, True, True, True, False])
    p = np.array([0.1, 0.2, 0.3, 0.6, 0.8, 0.9])
    mean, share, count = reliability(positive, p, 2)
    np.testing.assert_allclose(mean, [0.2, 2.3 / 3])
    np.testing.assert_allclose(share, [1 / 3, 2 / 3])
    assert count.tolist() == [3, 3]
    _, error = Calibration.of(positive, p, 2).errors(np.ones((1, 6)))
    assert error[0] == pytest.approx((abs(1 / 3 - 0.2) + abs(2 / 3 - 2.3 / 3)) / 2)


def test_what_is_calibrated_has_little_error() -> None:
    stream = np.random.default_rng(5)
    p = stream.random(40_000)
    positive = stream.random(40_000) < p
    honest, wrong = (float(Calibration.of(positive, q, 15).errors(np.ones((1, len(p))))[1][0]) for q in (p, np.sqrt(p)))
    assert honest < 0.012
    assert wrong == pytest.approx(1 / 6, abs=0.01)  # of the mean of sqrt(p) - p


@given(ROWS)
def test_platt_is_the_curve_of_greatest_likelihood(
    given_rows: tuple[NDArray[np.bool_], NDArray[np.float64]],
) -> None:
    positive, p = given_rows
    P, N = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (P + 1) / (P + 2), 1 / (N + 2))

    def loss(at: NDArray[np.float64]) -> float:
        z = at[0] * logit(p) + at[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    ours = np.array(platt(positive, p))
    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})
    assert loss(ours) <= best.fun + 1e-7 * max(1.0, best.fun)
    through = platted(p, *ours)
    assert np.mean(through) == pytest.approx(target.mean(), abs=1e-6)  # a property of the optimum


def test_platt_undoes_a_shift_of_the_odds() -> None:
    stream = np.random.default_rng(2)
    true = stream.beta(0.5, 4, 20_000)
    positive = stream.random(20_000) < true
    shifted = 1 / (1 + np.exp(-(logit(true) + 3)))
    slope, intercept = platt(positive, shifted)
    assert slope == pytest.approx(1, abs=0.05)
    assert intercept == pytest.approx(-3, abs=0.15)


def test_draws_are_stratified_paired_and_the_same_for_any_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = np.array([0, 1, 1, 0, 2, 1, 0, 0, 2])
    whole = np.concatenate(list(resamples(strata, 50, 3)))
    for stratum in range(3):
        assert (whole[:, strata == stratum].sum(axis=1) == (strata == stratum).sum()).all()
    monkeypatch.setattr(curves, "CHUNK", 40)
    np.testing.assert_array_equal(np.concatenate(list(resamples(strata, 50, 3))), whole)
    np.testing.assert_array_equal(np.concatenate(list(resamples(strata, 7, 3))), whole[:7])
    assert (np.concatenate(list(resamples(strata, 50, 4))) != whole).any()


def test_draws_are_uniform() -> None:
    weights = np.concatenate(list(resamples(np.zeros(8, dtype=np.int64), 20_000, 1)))
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(weights.var(axis=0), 7 / 8, atol=0.04)  # of a binomial (8, 1/8)


def test_interval_covers_as_often_as_it_says() -> None:
    """The mean of 40 normal numbers, 300 times: the percentile interval holds 0 in about 95 % of them."""
    stream = np.random.default_rng(0)
    held = 0
    weights = np.concatenate(list(resamples(np.zeros(40, dtype=np.int64), 500, 9)))
    for _ in range(300):
        low, high = interval(weights @ stream.standard_normal(40) / 40)
        held += low <= 0 <= high
    assert 0.90 <= held / 300 <= 0.98
