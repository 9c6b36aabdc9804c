"""Models fitted to differently treated rows, and what each is worth on rows that it has not seen."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.recipe import EvaluatedModel, estimator_class
from tasks.evaluate.curves import (
    Calibration,
    Counts,
    Floats,
    Ranking,
    achievable,
    achievable_area,
    hull,
    interval,
    platt,
    platted,
    reliability,
    resamples,
    roc_area,
    roc_points,
)

NONE, WEIGHTS, UNDER = "none", "class weights", "under-sampling"
BASELINES = (NONE, WEIGHTS, UNDER)
"""Treatments that the others are compared to: they make no rows."""
FEWEST = 10
"""Test rows of either kind below which no verdict is passed: a bootstrap of so few says too much."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that says how good a model is."""

    key: str
    words: str
    higher_is_better: bool


MEASURES = (
    Measure("roc_auc", "ROC AUC", higher_is_better=True),
    Measure("average_precision", "average precision", higher_is_better=True),
    Measure("brier", "Brier score", higher_is_better=False),
    Measure("brier_recalibrated", "Brier score, recalibrated", higher_is_better=False),
    Measure("calibration_error", "calibration error", higher_is_better=False),
    Measure("calibration_error_recalibrated", "calibration error, recalibrated", higher_is_better=False),
)
MACRO = Measure("macro_roc_auc", "macro ROC AUC", higher_is_better=True)
"""Of more than two classes: the mean of each class's ROC AUC against all others."""

DECISIVE = ("roc_auc", "average_precision", "brier_recalibrated")
"""Measures that a verdict goes by: how rows are ranked, and how good probabilities are once their scale is mended,
which recalibration does without any treatment."""

_OWN: dict[str, dict[str, Any]] = {
    "logistic": {"max_iter": 1000},
    # Else it would stop by rows set aside from those it is given, among which are neighbours of synthetic ones.
    "boosting": {"early_stopping": False},
}
_DRAWN = 200
"""Points of a curve that are kept, besides the hull's corners."""


@dataclass(frozen=True, slots=True)
class Treated:
    """Rows to fit a model to."""

    x: Any
    """float64[n, p]."""
    y: Counts
    """int64[n], places of the classes."""
    weights: Floats | None = None
    """float64[n], what each row counts; None: one each."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """A way of treating imbalance."""

    name: str
    make: Callable[[], Treated]
    """Raises ValueError where the rows do not allow it."""


def balanced(y: Counts) -> Floats:
    """Weights by which all classes count the same: n / (classes · rows of the class)."""
    counts = np.bincount(y)
    return len(y) / ((counts > 0).sum() * counts[y].astype(np.float64))


def fitted(model: EvaluatedModel, rows: Treated, seed: int) -> tuple[Any, list[str]]:
    """A model fitted to rows, and what scikit-learn warned of meanwhile.

    Raises
    ------
    ValueError
        The model cannot be fitted to these rows, or takes no weights.
    """
    from threadpoolctl import threadpool_limits

    kind = estimator_class(model.name)
    given = _OWN.get(model.name, {}) | dict(model.parameters)
    if "random_state" in kind().get_params():
        words = hashlib.sha256(f"{seed}\0evaluate\0{model.name}".encode()).digest()
        given["random_state"] = int.from_bytes(words[:4])
    estimator = kind(**given)
    more: dict[str, Any] = {}
    if rows.weights is not None:
        if model.name == "knn":
            raise ValueError("nearest neighbours take no weights")
        more["sample_weight"] = rows.weights
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(1):  # sums in one order
        warnings.simplefilter("always")
        estimator.fit(rows.x, rows.y, **more)
    return estimator, sorted({str(w.message).splitlines()[0] for w in caught})


def probabilities(estimator: Any, x: Any) -> Floats:
    """float64[n, classes] of a fitted model."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.asarray(estimator.predict_proba(x), dtype=np.float64)


def recalibrated(method: str, positive: NDArray[np.bool_], p: Floats, asked: Floats) -> Floats:
    """Probabilities `asked`, through a curve fitted to other rows' `p` (`platt` or `isotonic`)."""
    if method == "platt":
        return platted(asked, *platt(positive, p))
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, positive).predict(asked)


class Judged:
    """What one fitted model says of the test rows, ready to be measured under many sets of weights.

    Parameters
    ----------
    test, p
        The rows' classes, and float64[n, classes].
    again
        float64[n], recalibrated probability of the positive class; None: there was nothing to fit a curve to.
    positive
        Its place.
    bins
        Of the calibration error.
    """

    def __init__(self, test: Counts, p: Floats, again: Floats | None, positive: int, bins: int) -> None:
        self.yes = test == positive
        self.p, self.again, self.bins = p[:, positive], again, bins
        self.ranking = Ranking.of(self.yes, self.p)
        self.before = Calibration.of(self.yes, self.p, bins)
        self.after = None if again is None else Calibration.of(self.yes, again, bins)
        each = range(p.shape[1]) if p.shape[1] > 2 else ()
        self.others = [Ranking.of(test == c, p[:, c]) for c in each if 0 < (test == c).sum() < len(test)]

    def measure(self, weights: Floats) -> dict[str, Floats]:
        """Each measure by its key: float64[b], of weights float64[b, n]."""
        roc, ap = self.ranking.areas(weights)
        brier, error = self.before.errors(weights)
        found = {"roc_auc": roc, "average_precision": ap, "brier": brier, "calibration_error": error}
        if self.after is not None:
            found["brier_recalibrated"], found["calibration_error_recalibrated"] = self.after.errors(weights)
        if self.others:
            found[MACRO.key] = np.mean([ranking.areas(weights)[0] for ranking in self.others], axis=0)
        return found

    def drawn(self) -> dict[str, Any]:
        """Curves, to draw: at most some hundred points each, among them all corners of the hull."""
        fp, tp = roc_points(self.yes, self.p)
        corners = hull(fp, tp)
        walk = fp / fp[-1] + tp / tp[-1]
        kept = np.union1d(np.searchsorted(walk, np.linspace(0, 2, _DRAWN)).clip(max=len(fp) - 1), corners)
        kept = kept[(fp[kept] + tp[kept] > 0) | (kept == 0)]
        best = fp[corners], tp[corners]
        recall, precision = achievable(*best)
        seen = kept[kept > 0]
        found = {
            "roc": {
                "false_positive_rate": (fp[kept] / fp[-1]).tolist(),
                "true_positive_rate": (tp[kept] / tp[-1]).tolist(),
                "hull_false_positive_rate": (best[0] / fp[-1]).tolist(),
                "hull_true_positive_rate": (best[1] / tp[-1]).tolist(),
                "hull_area": roc_area(*best),
            },
            "precision_recall": {
                "recall": (tp[seen] / tp[-1]).tolist(),
                "precision": (tp[seen] / (tp[seen] + fp[seen])).tolist(),
                "achievable_recall": recall.tolist(),
                "achievable_precision": precision.tolist(),
                "achievable_area": achievable_area(*best),
            },
            "reliability": _reliability(self.yes, self.p, self.bins),
        }
        if self.again is not None:
            found["reliability_recalibrated"] = _reliability(self.yes, self.again, self.bins)
        return found


def _reliability(yes: NDArray[np.bool_], p: Floats, bins: int) -> dict[str, Any]:
    mean, share, rows = reliability(yes, p, bins)
    return {"probability": mean.tolist(), "share": share.tolist(), "rows": rows.tolist()}


def measured(
    judged: Mapping[str, Judged], strata: Counts, draws: int, seed: int, advance: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    """Measures of each treatment of one model, with bootstrap intervals; paired differences to `BASELINES`.

    Parameters
    ----------
    judged
        By treatment.
    strata
        Classes of the test rows: each sample of them has as many of each.
    advance
        Told how many draws have been measured.

    Returns
    -------
    dict
        By treatment and measure: `value`, `low`, `high`; and `differences`, by baseline, of the same form.
    """
    one = np.ones((1, len(strata)))
    points = {name: {k: float(v[0]) for k, v in which.measure(one).items()} for name, which in judged.items()}
    parts: dict[str, dict[str, list[Floats]]] = {name: {k: [] for k in points[name]} for name in judged}
    for weights in resamples(strata, draws, seed):
        for name, which in judged.items():
            for key, values in which.measure(weights).items():
                parts[name][key].append(values)
        advance(len(weights))
    drawn = {name: {key: np.concatenate(values) for key, values in found.items()} for name, found in parts.items()}
    result: dict[str, dict[str, Any]] = {}
    for name in judged:
        result[name] = {}
        for key, value in points[name].items():
            result[name][key] = _around(value, drawn[name][key])
            result[name][key]["differences"] = {
                base: _around(value - points[base][key], drawn[name][key] - drawn[base][key])
                for base in BASELINES
                if base in judged and base != name
            }
    return result


def _around(value: float, drawn: Floats) -> dict[str, Any]:
    low, high = interval(drawn)
    return {"value": value, "low": low, "high": high}


def effect(measure: Measure, difference: Mapping[str, float]) -> int:
    """1: better than without treatment; -1: worse; 0: the interval holds both."""
    low, high = difference["low"], difference["high"]
    if low <= 0 <= high:
        return 0
    return 1 if (low > 0) == measure.higher_is_better else -1


def verdict(treatment: str, model: str, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Whether a treatment helps a model, in a word and in a sentence.

    Parameters
    ----------
    measures
        Of the treatment, as `measured` gives them.

    Returns
    -------
    dict
        `helps`, by the `DECISIVE` measures (or the Brier score as it is, where nothing was recalibrated): yes
        (something is better than without treatment, nothing worse), no (nothing is better) or mixed. `better`,
        `worse` and `undecided` are keys of all measures. `as_good`: of what helps, other baselines than which no
        decisive measure is better. `text` says it all.
    """
    known = [measure for measure in (*MEASURES, MACRO) if measure.key in measures]
    decisive = {*DECISIVE} if DECISIVE[-1] in measures else {*DECISIVE, "brier"}

    def sorts(base: str) -> dict[int, list[Measure]]:
        found: dict[int, list[Measure]] = {1: [], 0: [], -1: []}
        for measure in known:
            found[effect(measure, measures[measure.key]["differences"][base])].append(measure)
        return found

    def decides(which: list[Measure]) -> bool:
        return any(measure.key in decisive for measure in which)

    found = sorts(NONE)
    helps = "no" if not decides(found[1]) else "mixed" if decides(found[-1]) else "yes"
    words = {"no": "does not help", "mixed": "helps and harms", "yes": "helps"}[helps]
    others = [base for base in BASELINES[1:] if base in measures[known[0].key]["differences"]]
    as_good = [base for base in others if helps != "no" and not decides(sorts(base)[1])]
    parts: list[str] = []
    for what, which in (("better", found[1]), ("worse", found[-1]), ("no difference shown", found[0])):
        if which:
            parts.append(f"{what}: " + ", ".join(_said(m, measures[m.key]["differences"][NONE]) for m in which))
    text = f"{treatment} {words} ({model}). {_capital('; '.join(parts))}."
    if as_good:
        text += f" Not shown to be better than {' or '.join(as_good)}."
    return {
        "treatment": treatment,
        "model": model,
        "helps": helps,
        "better": [m.key for m in found[1]],
        "worse": [m.key for m in found[-1]],
        "undecided": [m.key for m in found[0]],
        "as_good": as_good,
        "text": text,
    }


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _said(measure: Measure, difference: Mapping[str, float]) -> str:
    low, high = difference["low"], difference["high"]
    return f"{measure.words} {signed(difference['value'])} ({signed(low)} to {signed(high)})"


def signed(value: float) -> str:
    """A difference with its sign, to three places; to one digit where that would leave nothing of it."""
    text = f"{value:+.3f}" if abs(value) >= 5e-4 else f"{value:+.1g}"
    return text.replace("-", "−") if value else "0"


def swept(points: Sequence[tuple[int, int]], negative: int, positive: int) -> dict[str, Any]:
    """ROC points of many classifiers' decisions, with their hull.

    Parameters
    ----------
    points
        False and true positives of each.
    negative, positive
        Rows there are of each kind.
    """
    fp = np.array([0, *(f for f, _ in points), negative])
    tp = np.array([0, *(t for _, t in points), positive])
    corners = hull(fp, tp)
    return {
        "false_positive_rate": (fp[1:-1] / negative).tolist(),
        "true_positive_rate": (tp[1:-1] / positive).tolist(),
        "hull_false_positive_rate": (fp[corners] / negative).tolist(),
        "hull_true_positive_rate": (tp[corners] / positive).tolist(),
        "hull_area": roc_area(fp[corners], tp[corners]),
        "on_hull": sorted(int(c) - 1 for c in corners if 0 < c <= len(points)),
    }
