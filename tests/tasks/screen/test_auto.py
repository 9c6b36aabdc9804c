"""Ranking by `auto`: against each single estimator on planted relations, and false discoveries at their level."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_ndtr
from scipy.stats import chi2
from sklearn.metrics import roc_auc_score

from schemas.recipe import Screening
from tasks.screen.auto import Evidence, density_evidence, equivalent, strongest
from tasks.screen.measure import Batch, Counts, Evaluation, evaluate, ranges
from tasks.screen.outcome import Outcome, classes_outcome, continuous_outcome
from tasks.screen.permutation import adjust
from tasks.screen.sketch import sketch

Array = NDArray[Any]
ROWS, FEATURES, PLANTED = 600, 240, 40
SETTINGS = ["binary, linear", "binary, nonlinear", "continuous, linear", "continuous, nonlinear"]


def outcome_of(y: Array) -> tuple[Outcome, Array]:
    """Classes for whole numbers, a quantity for others."""
    if y.dtype == np.int32:
        return classes_outcome({str(c): int(n) for c, n in enumerate(np.bincount(y))}), y
    return continuous_outcome(sketch(y.astype(np.float32)[None], 16), 16, "quantile", 0.0, 1.0), y.astype(np.float32)


def evaluated(x: Array, y: Array, **options: Any) -> Evaluation:
    chosen = Screening(**options)
    outcome, target = outcome_of(y)
    x = x.astype(np.float32)
    counts = Counts(ranges(sketch(x, chosen.bins), chosen, np.zeros(len(x), np.bool_)), outcome, chosen, 2**64 - 1)
    counts.add(Batch(x, target, np.arange(x.shape[1], dtype=np.uint64)))
    return evaluate(counts, np.arange(len(x), dtype=np.uint64), 0)


def planted(setting: str, seed: int) -> tuple[Array, Array]:
    """Correlated features, of which the first PLANTED make the outcome: each by a straight line, or each by a curve."""
    random = np.random.default_rng([seed, SETTINGS.index(setting)])
    x = random.standard_normal((FEATURES, ROWS))
    x[1:] = 0.3 * x[:-1] + np.sqrt(1 - 0.09) * x[1:]
    mine = x[:PLANTED]
    if setting.endswith("nonlinear"):
        curves = [np.square(mine) - 1, np.cos(2 * mine), np.abs(mine), np.exp(-4 * np.square(mine)), np.sin(3 * mine)]
        mine = np.stack([curves[j % len(curves)][j] for j in range(PLANTED)])
        mine = (mine - mine.mean(axis=1, keepdims=True)) / mine.std(axis=1, keepdims=True)
    weight = random.uniform(0.5, 1.5, PLANTED) * random.choice([-1, 1], PLANTED)
    signal = weight @ mine
    signal /= signal.std()
    if setting.startswith("continuous"):
        return x, signal + 0.5 * random.standard_normal(ROWS)
    return x, (random.random(ROWS) < 1 / (1 + np.exp(-3 * signal))).astype(np.int32)


@pytest.mark.parametrize("setting", SETTINGS)
def test_auto_ranks_as_well_as_the_best_estimator(setting: str) -> None:
    truth = np.arange(FEATURES) < PLANTED
    found: dict[str, list[float]] = {}
    for seed in range(16):
        x, y = planted(setting, seed)
        for estimator in ("auto", "binned", "kde", "knn", "pearson"):
            score = evaluated(x, y, estimator=estimator).values["score"]
            found.setdefault(estimator, []).append(float(roc_auc_score(truth, score)))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    assert mean["auto"] >= max(mean.values()) - 0.02, mean
    assert max(mean.values()) > 0.6, mean  # there is something to find


@pytest.mark.parametrize("method", ["bh", "by"])
@pytest.mark.parametrize("kind", ["half", "rare", "four classes", "quantity"])
def test_false_discoveries_are_held_at_their_level(kind: str, method: Any) -> None:
    # Half of the runs have planted features besides, so that discoveries of nothing are counted among true ones.
    rows, features, runs, level = 300, 60, 200, 0.1
    random = np.random.default_rng(["half", "rare", "four classes", "quantity"].index(kind))
    shares = np.zeros(runs)
    found = 0
    for run in range(runs):
        y: Array = random.standard_normal(rows)
        if kind != "quantity":
            parts = {"half": [0.5], "rare": [0.93], "four classes": [0.4, 0.7, 0.9]}[kind]
            y = np.digitize(random.random(rows), parts).astype(np.int32)
        x = random.standard_normal((features, rows))
        true = np.arange(features) < (10 if run % 2 else 0)
        x[true] += 1.2 * y
        evaluation = evaluated(x, y, estimator="auto" if run < 20 else "binned")
        chosen = adjust(evaluation.values["p_value"], method) <= level
        shares[run] = (chosen & ~true).sum() / max(chosen.sum(), 1)
        found += (chosen & true).sum()
    assert shares.mean() <= level + 3 * shares.std() / np.sqrt(runs), (shares.mean(), found)
    assert found > 50  # there is something to discover


def test_p_values_of_thin_tables_are_not_too_small() -> None:
    random = np.random.default_rng(3)
    rows, features = 600, 6000
    y = (np.arange(rows) % 16).astype(np.int32)
    evaluation = evaluated(random.standard_normal((features, rows)), y, estimator="binned")
    p_value = evaluation.values["p_value"]
    for level in (0.05, 0.01, 0.001):
        count = (p_value <= level).sum()
        assert count <= level * features + 4 * np.sqrt(level * features)
    plain = chi2.sf(evaluation.values["g"], evaluation.dof)
    assert (plain <= 0.001).sum() > 10 * 0.001 * features  # the correction is what does it


@given(st.floats(0, 1e6), st.integers(1, 300), st.integers(1, 10**9))
@settings(deadline=None)
def test_equivalent_information_has_the_same_p_value(statistic: float, dof: int, n: int) -> None:
    value = equivalent(Evidence(np.array([statistic]), np.array([float(dof)])), np.array([n]))[0]
    expected = chi2.logsf(statistic, dof)
    root = np.sqrt(2 * n * value)
    if expected > -600:  # SciPy's logarithm of the tail ends with the tail itself
        assert np.log(2) + log_ndtr(-root) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if dof == 1:
        assert value == pytest.approx(statistic / (2 * n), rel=1e-6, abs=1e-12)
    assert value >= 0


def test_equivalent_information_rises_with_the_statistic_and_falls_with_freedom() -> None:
    statistic = np.geomspace(0.1, 1e7, 400)
    n = np.full(400, 1000)
    values = [equivalent(Evidence(statistic, np.full(400, dof)), n) for dof in (1.0, 4.0, 40.0)]
    for value in values:
        assert (np.diff(value) >= 0).all()
        assert (np.diff(value[statistic > 40]) > 0).all()
    assert (values[0] > values[1]).all()
    assert (values[1] >= values[2]).all()


def test_the_strongest_evidence_counts() -> None:
    nan, n = np.nan, np.array([100, 100, 0, 100])
    one = Evidence(np.array([5.0, 1.0, nan, 3.0]), np.ones(4))
    other = Evidence(np.array([4.0, 2.0, nan, nan]), np.ones(4))
    names, value = strongest({"kde": one, "pearson": other}, n)
    assert names == ["kde", "pearson", None, "kde"]
    assert value == pytest.approx([0.025, 0.01, nan, 0.015], nan_ok=True)


@pytest.mark.parametrize("dims", [1, 2])
def test_densities_of_noise_have_the_p_values_of_noise(dims: int) -> None:
    # Approximate: it ranks, and nothing is tested with it. Five times too many below 0.01 would be a wrong rank.
    random = np.random.default_rng(dims)
    rows, features = 600, 1500
    y = random.standard_normal(rows) if dims == 2 else (random.random(rows) < 0.3).astype(np.int32)
    x = random.standard_normal((features, rows))
    found = evaluated(x, y, estimator="kde")
    mi, above = found.values["mi"], found.values["mi_corrected"]
    by_chance = mi - above
    seen = above > 0
    assert mi.mean() == pytest.approx(by_chance[seen].mean(), rel=0.25)
    evidence = density_evidence(mi[seen], by_chance[seen], found.n[seen], dims)
    tail = chi2.sf(evidence.statistic, evidence.dof)
    assert (tail < 0.01).sum() <= 0.03 * features
