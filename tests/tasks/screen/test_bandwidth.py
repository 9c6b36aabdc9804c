"""Bandwidth rules from counts on a grid: what they are for the values themselves, and that they take effect."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from tasks.screen.bandwidth import isj, scott, silverman, spread
from tasks.screen.kde import Grid, Kde, class_counts, grid, joint_counts, kde_classes, kde_joint

CELLS = 1024


def counted(x: NDArray[np.float32], labels: NDArray[np.int32], cells: int = CELLS) -> tuple[NDArray[np.int64], Grid]:
    ends = np.quantile(x.astype(np.float64), [0, 0.25, 0.5, 0.75, 1])[:, None]
    on = grid(ends[0], ends[1], ends[2], ends[3], ends[4], cells)
    return class_counts(x[None], labels, on, int(labels.max()) + 1), on


def of_classes(x: NDArray[np.float32], labels: NDArray[np.int32], rule: Any) -> Kde:
    counts, on = counted(x, labels)
    return kde_classes(counts, on, rule, "gaussian")


def skewed(n: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    random = np.random.default_rng(n)
    labels = (random.random(n) < 0.3).astype(np.int32)
    return np.minimum(random.gamma(2, 1.5, n) * (1 + labels), 15).astype(np.float32), labels


@pytest.mark.parametrize("n", [60, 1_000, 20_000])
def test_spread_is_that_of_the_values(n: int) -> None:
    x, labels = skewed(n)
    counts, on = counted(x, labels * 0)
    size, sd, quartiles = spread(counts[0, 0], 256)
    q25, q75 = np.quantile(x, [0.25, 0.75], method="hazen")
    assert size == n
    assert sd * on.step[0] == pytest.approx(x.std(dtype=np.float64), rel=1e-4)
    assert quartiles * on.step[0] == pytest.approx((q75 - q25) / 1.349, abs=3 * on.step[0], rel=40 / n)


@pytest.mark.parametrize("n", [500, 20_000])
def test_rules_are_their_formulas_for_each_class(n: int) -> None:
    x, labels = skewed(n)
    for c in range(2):
        own = x[labels == c].astype(np.float64)
        rate = len(own) ** -0.2
        q25, q75 = np.quantile(own, [0.25, 0.75])
        robust = min(own.std(), (q75 - q25) / 1.349)
        assert of_classes(x, labels, "scott").bandwidth[0, c] == pytest.approx(1.059 * own.std() * rate, rel=2e-3)
        assert of_classes(x, labels, "silverman").bandwidth[0, c] == pytest.approx(0.9 * robust * rate, rel=0.03)
        assert of_classes(x, labels, 0.2).bandwidth[0, c] == pytest.approx(0.2 * x.std(dtype=np.float64), rel=2e-3)


def test_in_the_plane_they_fall_more_slowly() -> None:
    random = np.random.default_rng(5)
    x, y = random.standard_normal((2, 4_096))
    ends = np.quantile(x, [0, 0.25, 0.5, 0.75, 1])[:, None]
    on = grid(ends[0], ends[1], ends[2], ends[3], ends[4], 128)
    counts = joint_counts(x.astype(np.float32)[None], 3 * y, on, -12.0, 24 / 127, 128)
    for rule, factor in (("silverman", 0.9), ("scott", 1.0), ("isj", 1.0)):
        h = kde_joint(counts, on, -12.0, 24 / 127, rule, "gaussian").bandwidth[0]  # pyright: ignore[reportArgumentType]
        rough = 0.15 if rule == "isj" else 0.03
        assert h == pytest.approx([factor * s * 4_096 ** (-1 / 6) for s in (1.0, 3.0)], rel=rough)
    assert silverman(64.0, 2.0, 1.5, 2) == pytest.approx(0.9 * 1.5 / 2)
    assert scott(64.0, 2.0, 2) == pytest.approx(1.0)


def test_quartiles_of_repeated_values_are_left_out() -> None:
    x = np.concatenate([np.zeros(900), np.linspace(-1, 1, 100)]).astype(np.float32)
    h = of_classes(x, np.zeros(1_000, dtype=np.int32), "silverman").bandwidth[0, 0]
    assert h == pytest.approx(0.9 * x.std() * 1_000**-0.2, rel=0.01)


@pytest.mark.parametrize("n", [500, 5_000, 100_000])
def test_isj_is_the_best_bandwidth_of_normal_values(n: int) -> None:
    x = norm.ppf((np.arange(n) + 0.5) / n).astype(np.float32)
    random = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    best = 1.0592 * n**-0.2  # least asymptotic mean integrated square error
    for values, rough in ((x, 0.2), (random, 0.25)):
        counts, on = counted(values, np.zeros(n, dtype=np.int32))
        assert isj(counts[0, 0] / 256, 1) * on.step[0] == pytest.approx(best, rel=rough)


@pytest.mark.parametrize("apart", [20.0, 60.0])
def test_isj_sees_each_of_two_modes(apart: float) -> None:
    random = np.random.default_rng(6)
    x = (random.standard_normal(4_000) + apart * (np.arange(4_000) < 2_000)).astype(np.float32)
    labels = np.zeros(4_000, dtype=np.int32)
    h = of_classes(x, labels, "isj").bandwidth[0, 0]
    # Each mode by itself, had it half of the values; Silverman's rule takes the distance for the spread.
    assert h == pytest.approx(1.0592 * 2_000**-0.2, rel=0.25)
    assert of_classes(x, labels, "silverman").bandwidth[0, 0] > 5 * h


def test_isj_without_a_root_is_silvermans() -> None:
    few = np.repeat([0.0, 3.0], 250).astype(np.float32)
    labels = np.tile([0, 1], 250).astype(np.int32)
    assert np.isnan(isj(np.zeros(64), 1))
    assert np.isnan(isj(np.eye(1, 64)[0] * 100, 1))
    by_isj, by_silverman = of_classes(few, labels, "isj"), of_classes(few, labels, "silverman")
    assert (by_isj.bandwidth == by_silverman.bandwidth).all()
    assert by_isj.mi[0] == by_silverman.mi[0]


@pytest.mark.parametrize("joint", [False, True])
def test_a_bandwidth_takes_effect(joint: bool) -> None:
    x, labels = skewed(1_000)

    def score(bandwidth: Any) -> float:
        if not joint:
            return float(of_classes(x, labels, bandwidth).mi[0])
        y = x.astype(np.float64) + np.random.default_rng(0).standard_normal(1_000)
        _, on = counted(x, labels, 128)
        counts = joint_counts(x[None], y, on, -3.0, 0.2, 128)
        return float(kde_joint(counts, on, -3.0, 0.2, bandwidth, "gaussian").mi[0])

    by_number = [score(b) for b in (0.05, 0.1, 0.2, 0.5, 1.0, 3.0)]
    assert by_number == sorted(by_number, reverse=True)
    assert by_number[0] > 1.1 * by_number[2] > 1.5 * by_number[5]
    assert len({score(rule) for rule in ("silverman", "scott", "isj")}) == 3
    assert score(1e300) == pytest.approx(0, abs=1e-4)
