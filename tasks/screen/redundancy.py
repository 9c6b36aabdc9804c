"""Choosing features one after the other, each for what it adds to those chosen: mRMR, JMI and CMIM.

All information is read from counts, as sums of c ln c in fixed point: integers add up to the same in any order, so
that neither the order of the rows nor the names of the bins change a bit, and twins have equal scores.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from tasks.jit import compiled

MISSING = 255
"""The code of a row without a value."""

_MRMR, _JMI, _CMIM = range(3)
_METHODS = {"mrmr": _MRMR, "jmi": _JMI, "cmim": _CMIM}


@dataclass(frozen=True, slots=True)
class Picked:
    """Features in the order in which they were chosen.

    Attributes
    ----------
    order
        int32[count]; places among the candidates.
    score
        float64[count]; the criterion's value when the feature was chosen, nats (the relevance, for the first).
    """

    order: NDArray[np.int32]
    score: NDArray[np.float64]


@compiled
def _pair_information(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    labels: NDArray[np.int32],
    bins_a: int,
    bins_b: int,
    classes: int,
    method: int,
    logs: NDArray[np.int64],
    cells: NDArray[np.int32],
    pairs: NDArray[np.int32],
) -> float:  # pragma: no cover - compiled
    # Of the rows with both: I(a; b) for mRMR, I(a, b; y) for JMI, I(b; y | a) for CMIM; times the unit of `logs`.
    # `cells` and `pairs` are zero before and after. A missing code falls into a last bin, which is not read.
    wide = bins_b + 1
    n_a = np.zeros(bins_a, dtype=np.int64)
    n_b = np.zeros(bins_b, dtype=np.int64)
    n = 0
    of_pairs, of_a, of_b = 0, 0, 0
    if method == _MRMR:
        for r in range(len(a)):
            pairs[min(np.int64(a[r]), bins_a) * wide + min(np.int64(b[r]), bins_b)] += 1
        for i in range(bins_a):
            for j in range(bins_b):
                count = pairs[i * wide + j]
                n_a[i] += count
                n_b[j] += count
                of_pairs += logs[count]
        for i in range(bins_a):
            of_a += logs[n_a[i]]
            n += n_a[i]
        for j in range(bins_b):
            of_b += logs[n_b[j]]
        pairs[: (bins_a + 1) * wide] = 0
        return 0.0 if n == 0 else max(float(of_pairs - of_a - of_b + logs[n]) / float(n), 0.0)

    n_ay = np.zeros((bins_a, classes), dtype=np.int64)
    n_y = np.zeros(classes, dtype=np.int64)
    of_cells, of_ay, of_y = 0, 0, 0
    for r in range(len(a)):
        cells[(min(np.int64(a[r]), bins_a) * classes + labels[r]) * wide + min(np.int64(b[r]), bins_b)] += 1
    if (bins_a + 1) * classes * wide <= 4 * len(a):
        for i in range(bins_a):
            for y in range(classes):
                start = (i * classes + y) * wide
                for j in range(bins_b):
                    count = cells[start + j]
                    pairs[i * wide + j] += count
                    n_ay[i, y] += count
                    of_cells += logs[count]
        cells[: (bins_a + 1) * classes * wide] = 0
    else:  # a wide table is mostly empty: the rows name the cells to read and to clear
        for r in range(len(a)):
            i, j = min(np.int64(a[r]), bins_a), min(np.int64(b[r]), bins_b)
            cell = (i * classes + labels[r]) * wide + j
            count = cells[cell]
            cells[cell] = 0
            if i < bins_a and j < bins_b:
                pairs[i * wide + j] += count
                n_ay[i, labels[r]] += count
                of_cells += logs[count]
    for i in range(bins_a):
        for j in range(bins_b):
            count = pairs[i * wide + j]
            n_a[i] += count
            of_pairs += logs[count]
        for y in range(classes):
            n_y[y] += n_ay[i, y]
            of_ay += logs[n_ay[i, y]]
        of_a += logs[n_a[i]]
        n += n_a[i]
    pairs[: (bins_a + 1) * wide] = 0
    for y in range(classes):
        of_y += logs[n_y[y]]
    if n == 0:
        return 0.0
    if method == _JMI:
        return max(float(of_cells - of_pairs - of_y + logs[n]) / float(n), 0.0)
    return max(float(of_cells - of_pairs - of_ay + of_a) / float(n), 0.0)


@compiled
def _greedy(
    codes: NDArray[np.uint8],
    labels: NDArray[np.int32],
    bins: NDArray[np.int64],
    classes: int,
    relevance: NDArray[np.float64],
    method: int,
    logs: NDArray[np.int64],
    unit: float,
    order: NDArray[np.int32],
    score: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    candidates = len(codes)
    most = np.max(bins) + 1
    pairs = np.zeros(most * most, dtype=np.int32)
    cells = np.zeros(most * most * (classes if method != _MRMR else 0), dtype=np.int32)
    free = ~np.isnan(relevance)
    seen = np.zeros(candidates, dtype=np.int64)  # how many of those chosen a candidate was compared with
    total = np.zeros(candidates, dtype=np.float64)  # of its information with them
    value = relevance.copy()
    for step in range(len(order)):
        best = -1
        # From the highest value down. CMIM's only fall as more is compared, so the search ends at the first that
        # cannot reach the best, and most pairs are never counted; the others' may rise, and all are compared.
        ranking = np.argsort(-value, kind="mergesort") if method == _CMIM else np.arange(candidates)
        for at in range(candidates):
            place = int(ranking[at])
            if not free[place]:
                continue
            while seen[place] < step:
                if (
                    method == _CMIM
                    and best >= 0
                    and (value[place] < value[best] or (value[place] == value[best] and place > best))
                ):
                    break
                chosen = int(order[seen[place]])
                found = unit * _pair_information(
                    codes[chosen],
                    codes[place],
                    labels,
                    int(bins[chosen]),
                    int(bins[place]),
                    classes,
                    method,
                    logs,
                    cells,
                    pairs,
                )
                seen[place] += 1
                total[place] += found
                if method == _CMIM:
                    value[place] = min(value[place], found)
                elif method == _JMI:
                    value[place] = total[place] / seen[place]
                else:
                    value[place] = relevance[place] - total[place] / seen[place]
            if best < 0 or value[place] > value[best] or (value[place] == value[best] and place < best):
                best = place
        free[best] = False
        order[step] = best
        score[step] = value[best]


def pick(
    codes: NDArray[np.uint8],
    labels: NDArray[np.int32],
    classes: int,
    relevance: NDArray[np.float64],
    count: int,
    method: Literal["mrmr", "jmi", "cmim"],
) -> Picked:
    """Choose `count` candidates greedily: the most relevant one, then by the criterion; ties go to the lower place.

    With S the features chosen so far and I the plug-in information of the rows in which both features are known:

    - `mrmr`: relevance - mean over S of I(x; s). Peng, Long & Ding (2005).
    - `jmi`: mean over S of I(x, s; y). Yang & Moody (1999), in the form of Brown et al. (2012).
    - `cmim`: the least of the relevance and, over S, I(x; y | s). Fleuret (2004).

    `relevance` must be in nats of the same labels for the differences and minima to mean something.

    Time is about 1 ns for each row of each pair of a chosen feature and a candidate; fewer pairs for `cmim`. Memory
    is 4·(bins + 1)²·(classes + 1) bytes and 8 bytes a row.

    Parameters
    ----------
    codes
        uint8[c, n]; the bin of each row, 255 (`MISSING`) for no value.
    labels
        int32[n] in [0, classes).
    relevance
        float64[c]; NaN: never chosen.
    count
        Fewer are chosen if there are fewer candidates with a relevance.

    Raises
    ------
    ValueError
        If lengths differ or a label is outside [0, classes).
    """
    if codes.shape != (len(relevance), len(labels)):
        raise ValueError(f"{codes.shape} codes do not go with {len(labels)} labels and {len(relevance)} relevances")
    n = len(labels)
    if n and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, outside [0, {classes})")
    count = max(min(count, int((~np.isnan(relevance)).sum())), 0)
    picked = Picked(np.empty(count, dtype=np.int32), np.empty(count, dtype=np.float64))
    if count:
        # Sums of c ln c are at most n ln n, which is given 61 of an integer's 63 bits.
        bits = 61 - int(np.ceil(np.log2(max(n, 2) * np.log(max(n, 2)))))
        counts = np.arange(n + 1, dtype=np.float64)
        logs = np.rint(np.ldexp(xlogy(counts, counts), bits)).astype(np.int64)
        bins = np.array([row[row != MISSING].max(initial=0) for row in codes], dtype=np.int64) + 1
        _greedy(
            np.ascontiguousarray(codes), labels, bins, classes, relevance, _METHODS[method], logs, 2.0**-bits,
            picked.order, picked.score,
        )  # fmt: skip
    return picked
