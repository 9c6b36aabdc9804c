"""Fitting, measuring and judging: by hand, and against scikit-learn."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.utils.class_weight import compute_sample_weight

from schemas.recipe import EvaluatedModel
from tasks.evaluate.compare import (
    BASELINES,
    DECISIVE,
    MEASURES,
    Judged,
    Treated,
    balanced,
    fitted,
    measured,
    probabilities,
    recalibrated,
    signed,
    swept,
    verdict,
)
from tasks.evaluate.curves import LEVEL


def test_balanced_weights_are_scikit_learns() -> None:
    y = np.array([0, 0, 0, 2, 2, 0, 1])
    np.testing.assert_allclose(balanced(y), compute_sample_weight("balanced", y))


@pytest.mark.parametrize("name", ["logistic", "forest", "boosting", "tree", "knn"])
def test_every_model_fits_alike_each_time(name: Any) -> None:
    stream = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 30, 10])
    rows = Treated(stream.standard_normal((100, 4)) + y[:, None], y)
    few: dict[str, Any] = {"forest": {"n_estimators": 20}, "tree": {"max_depth": 2}}
    model = EvaluatedModel(name=name, parameters=few.get(name, {}))
    first, second = (probabilities(fitted(model, rows, 5)[0], rows.x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first.sum(axis=1), 1)
    weighted = Treated(rows.x, y, balanced(y))
    if name == "knn":
        with pytest.raises(ValueError, match="take no weights"):
            fitted(model, weighted, 5)
    else:
        assert (probabilities(fitted(model, weighted, 5)[0], rows.x) != first).any()


def judged(seed: int, n: int = 300, classes: int = 2, lift: float = 1.0) -> tuple[Judged, Any, Any]:
    stream = np.random.default_rng(seed)
    test = np.random.default_rng(9).integers(0, classes, n)
    p = np.exp(stream.standard_normal((n, classes)) + lift * np.eye(classes)[test])
    p /= p.sum(axis=1, keepdims=True)
    return Judged(test, p, p[:, 1] ** 2, 1, 10), test, p


def test_measures_of_one_set_of_rows() -> None:
    which, test, p = judged(0, classes=3)
    found = {key: float(value[0]) for key, value in which.measure(np.ones((1, len(test)))).items()}
    assert found["roc_auc"] == pytest.approx(roc_auc_score(test == 1, p[:, 1]))
    assert found["macro_roc_auc"] == pytest.approx(roc_auc_score(test, p, multi_class="ovr", average="macro"))
    assert found["brier"] == pytest.approx(np.mean((p[:, 1] - (test == 1)) ** 2))
    assert found["brier_recalibrated"] == pytest.approx(np.mean((p[:, 1] ** 2 - (test == 1)) ** 2))
    less = Judged(test, p, None, 1, 10).measure(np.ones((1, len(test))))
    assert set(found) - set(less) == {"brier_recalibrated", "calibration_error_recalibrated"}


def test_differences_are_paired() -> None:
    """Of a treatment that changes nothing every draw's difference is 0, however far apart the draws are."""
    same, test, _ = judged(0)
    other, _, _ = judged(1, lift=2.0)
    counted: list[int] = []
    found = measured({"none": same, "SMOTE": same, "class weights": other}, test, 300, 4, counted.append)
    assert sum(counted) == 300
    for measure in found["SMOTE"].values():
        assert measure["differences"]["none"] == {"value": 0, "low": 0, "high": 0}
        assert measure["low"] < measure["value"] < measure["high"]
        assert set(measure["differences"]) == {"none", "class weights"}
    assert set(found["none"]["roc_auc"]["differences"]) == {"class weights"}
    gain = found["class weights"]["roc_auc"]["differences"]["none"]
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    back = found["none"]["roc_auc"]["differences"]["class weights"]
    assert (back["low"], back["high"]) == pytest.approx((-gain["high"], -gain["low"]))
    assert LEVEL == 0.95


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_recalibration_mends_the_scale_and_not_the_order(method: str) -> None:
    stream = np.random.default_rng(1)
    true = stream.beta(1, 6, 6000)
    yes = stream.random(6000) < true
    wrong = true**0.4
    again = recalibrated(method, yes[:3000], wrong[:3000], wrong[3000:])
    assert (np.diff(again[np.argsort(wrong[3000:])]) >= 0).all()
    assert np.mean((again - true[3000:]) ** 2) < 0.05 * np.mean((wrong - true)[3000:] ** 2)


def measures(**effects: int) -> dict[str, Any]:
    """Measures that are better (1), worse (-1) or undecided (0, the default) than each baseline."""
    found: dict[str, Any] = {}
    for measure in MEASURES:
        e = effects.get(measure.key, 0) * (1 if measure.higher_is_better else -1)
        ends = {"value": 0.02 * e, "low": 0.02 * e - 0.01, "high": 0.02 * e + 0.01}
        found[measure.key] = {"differences": dict.fromkeys(BASELINES, ends)}
    return found


@pytest.mark.parametrize(
    ("effects", "helps"),
    [
        ({}, "no"),
        ({"roc_auc": 1}, "yes"),
        ({"average_precision": 1, "brier": -1}, "yes"),
        ({"average_precision": 1, "roc_auc": -1}, "mixed"),
        ({"brier_recalibrated": 1}, "yes"),
        ({"brier": 1, "calibration_error": 1}, "no"),  # recalibration does as much
        ({"roc_auc": -1, "brier": -1}, "no"),
    ],
)
def test_verdicts(effects: dict[str, int], helps: str) -> None:
    said = verdict("SMOTE", "tree", measures(**effects))
    assert said["helps"] == helps
    assert set(said["better"]) == {key for key, e in effects.items() if e > 0}
    assert set(said["worse"]) == {key for key, e in effects.items() if e < 0}
    assert said["as_good"] == []
    start = {
        "no": "SMOTE does not help (tree). ",
        "yes": "SMOTE helps (tree). ",
        "mixed": "SMOTE helps and harms (tree). ",
    }
    assert said["text"].startswith(start[helps])
    assert ("no difference shown: " in said["text"].lower()) == (len(effects) < len(MEASURES))


def test_a_verdict_names_what_does_as_well() -> None:
    found = measures(roc_auc=1)
    for key in DECISIVE:
        found[key]["differences"] = found[key]["differences"] | {
            "class weights": {"value": 0, "low": -0.01, "high": 0.01}
        }
    said = verdict("SMOTE", "tree", found)
    assert said["as_good"] == ["class weights"]
    assert said["text"].endswith("Not shown to be better than class weights.")


def test_without_recalibration_the_brier_score_decides() -> None:
    found = measures(brier=1)
    del found["brier_recalibrated"], found["calibration_error_recalibrated"]
    assert verdict("SMOTE", "tree", found)["helps"] == "yes"


def test_differences_in_words() -> None:
    assert [signed(v) for v in (0.0, 0.01234, -0.5, 0.0004, -3e-6)] == ["0", "+0.012", "−0.500", "+0.0004", "−3e−06"]


def test_swept_points_and_their_hull() -> None:
    found = swept([(1, 5), (2, 4), (6, 9), (3, 6)], 10, 10)
    assert found["on_hull"] == [0, 2]
    assert found["hull_false_positive_rate"] == [0, 0.1, 0.6, 1]
    assert found["hull_true_positive_rate"] == [0, 0.5, 0.9, 1]
    assert found["hull_area"] == pytest.approx(0.1 * 0.25 + 0.5 * 0.7 + 0.4 * 0.95)
    assert len(found["true_positive_rate"]) == 4
