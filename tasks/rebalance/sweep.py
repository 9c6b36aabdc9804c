"""The grid of Chawla et al. (2002): over-sampling of the minority and under-sampling of the rest, combined."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

Label = TypeVar("Label")

OVER = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
"""Synthetic rows for each real row of the minority; 1.0 is the paper's "SMOTE at 100 %", 0.0 none."""

UNDER = (0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 20.0)
"""Minority rows for each row left in another class; 2.0 is the paper's "under-sampled at 200 %"."""


def sweep(
    counts: Mapping[Label, int], over: Sequence[float] = OVER, under: Sequence[float] = UNDER
) -> list[dict[Label, int]]:
    """Rows wanted of each class at each point of the grid, over-sampling varying slowest.

    The smallest class (the first in `counts` of several) is the minority. It grows to `round((1 + o) * n)` rows;
    every other class is cut to `round(minority / u)` rows, with the minority as grown, but never below one row and
    never above what there is: under-sampling adds nothing. So points may coincide; each is given once.

    Parameters
    ----------
    counts
        Rows of each class in train, each 1 or more, two classes or more.
    over
        Synthetic rows for each real row of the minority, 0 or more.
    under
        Minority rows for each row left in another class, above 0.

    Returns
    -------
    list of dict
        At most `len(over) * len(under)` points, each with the keys of `counts` in their order.

    Raises
    ------
    ValueError
        If there are fewer than two classes, a class without rows, or a share out of range.

    References
    ----------
    Chawla, Bowyer, Hall, Kegelmeyer: SMOTE, JAIR 16 (2002), sections 4.2 and 5.
    """
    if len(counts) < 2 or min(counts.values()) < 1:
        raise ValueError(f"a sweep needs two classes or more, each with a row; counts are {dict(counts)}")
    if not all(0 <= o < float("inf") for o in over) or not all(0 < u < float("inf") for u in under):
        raise ValueError("over-sampling shares must be 0 or more, under-sampling shares above 0, all finite")
    minority = min(counts, key=lambda label: counts[label])
    points: list[dict[Label, int]] = []
    for o in over:
        grown = round((1 + o) * counts[minority])
        for u in under:
            # Compared before rounding: a tiny share would overflow an integer's worth of rows.
            rest = {label: n if grown / u >= n else max(1, round(grown / u)) for label, n in counts.items()}
            point = rest | {minority: grown}
            if point not in points:
                points.append(point)
    return points
