"""How far estimators agree on which features tell most."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def agreement(scores: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of each two estimators, over the features that both measured (three at least)."""
    columns = {name: np.array([np.nan if v is None else v for v in values]) for name, values in scores.items()}
    found: list[dict[str, Any]] = []
    for (first, x), (second, y) in itertools.combinations(columns.items(), 2):
        both = np.isfinite(x) & np.isfinite(y)
        if both.sum() < 3:
            continue
        correlation = spearman(x[both], y[both])
        if correlation is not None:
            found.append({"first": first, "second": second, "correlation": correlation, "features": int(both.sum())})
    return found


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """The correlation of the ranks of x and y; None where all of one are equal.

    SciPy's takes most of a second to import, at each run.
    """
    a, b = (_ranks(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Equal values share the mean of their places.
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
