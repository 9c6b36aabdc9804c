"""How well scores rank rows and how far probabilities can be believed: curves, their hulls, areas, and the bootstrap.

Rows are positive or not. Sums over rows are taken with weights, one set of weights for each bootstrap sample.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LEVEL = 0.95
"""Of intervals."""
CHUNK = 2**22
"""Most weights (draws times rows) that are held at once."""
_CLIP = 1e-6
"""Nearest to 0 and 1 that a probability may come before its logit is taken."""


def roc_points(positive: NDArray[np.bool_], score: Floats) -> tuple[Counts, Counts]:
    """Negative and positive rows whose score is at least each threshold, from the strictest to the laxest.

    Parameters
    ----------
    positive, score
        n each.

    Returns
    -------
    fp, tp
        int64[m + 1], for m distinct scores; they begin with 0 and end with all negative and all positive rows.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    tp = np.cumsum(positive[order], dtype=np.int64)[ends]
    return np.concatenate([[0], ends + 1 - tp]), np.concatenate([[0], tp])


def hull(fp: Counts, tp: Counts) -> NDArray[np.intp]:
    """Which ROC points are corners of the ROC convex hull: no other classifier of the set, or mix of two, beats them.

    Parameters
    ----------
    fp, tp
        int64[m] in any order, products of which an int64 holds; (0, 0) and the last corner (all negative, all
        positive rows) must be among them.

    Returns
    -------
    intp[h]
        From (0, 0) on, `fp` rising. Exact: of points on one line only the ends are corners.

    References
    ----------
    Fawcett: An introduction to ROC analysis, Pattern Recognition Letters 27 (2006), section 6.
    """
    corners: list[int] = []
    x, y = fp.tolist(), tp.tolist()
    for i in np.lexsort((tp, fp)).tolist():
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (x[b] - x[a]) * (y[i] - y[a]) < (y[b] - y[a]) * (x[i] - x[a]):
                break
            corners.pop()
        corners.append(i)
    return np.array(corners, dtype=np.intp)


def hull_of(fp: Counts, tp: Counts) -> tuple[Counts, Counts]:
    """The corners themselves, from (0, 0) to all rows."""
    corners = hull(fp, tp)
    return fp[corners], tp[corners]


def roc_area(fp: Counts, tp: Counts) -> float:
    """Area under ROC points that rise, joined by straight lines; as a share."""
    return float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1])) / (2 * fp[-1] * tp[-1]))


def achievable(fp: Counts, tp: Counts, steps: int = 20) -> tuple[Floats, Floats]:
    """Recall and precision along a ROC convex hull: the best precision-recall curve that can be had by thresholds.

    Between corners the counts, not the precision, change in proportion.

    Parameters
    ----------
    fp, tp
        Corners of the hull, from (0, 0) on.
    steps
        Points for each side of the hull.

    Returns
    -------
    recall, precision
        float64; precision at recall 0 is that of the first side.

    References
    ----------
    Davis and Goadrich: The relationship between precision-recall and ROC curves, ICML 2006, theorem 4.1.
    """
    share = np.arange(1, steps + 1) / steps
    across = (fp[:-1, None] + share * np.diff(fp)[:, None]).ravel()
    up = (tp[:-1, None] + share * np.diff(tp)[:, None]).ravel()
    precision = up / (up + across)
    return np.append(0.0, up / tp[-1]), np.append(precision[:1], precision)


def achievable_area(fp: Counts, tp: Counts) -> float:
    """Area under the achievable precision-recall curve, in closed form.

    Along a side true positives t rise from a to b and false ones are f + s (t - a): the integral of t / (c t + d),
    with c = 1 + s and d = f - s a, is (b - a) / c - d / c² · ln((c b + d) / (c a + d)).
    """
    total = 0.0
    for a, b, f, g in zip(tp[:-1].tolist(), tp[1:].tolist(), fp[:-1].tolist(), fp[1:].tolist(), strict=True):
        if a == b:
            continue
        slope = (g - f) / (b - a)
        c, d = 1 + slope, f - slope * a
        total += (b - a) / c - (d / c**2 * np.log((c * b + d) / (c * a + d)) if d else 0.0)
    return float(total / tp[-1])


def mass_bins(p: Floats, bins: int) -> Counts:
    """Bins of equally many rows by rising probability; equal probabilities stay together, in the bin of their middle.

    Returns
    -------
    int64[n]
        0 to `bins` - 1; some may be empty where many probabilities are equal.
    """
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum((middle * bins / len(p)).astype(np.int64), bins - 1)[inverse]


def reliability(positive: NDArray[np.bool_], p: Floats, bins: int) -> tuple[Floats, Floats, Counts]:
    """Mean probability, share of positive rows and number of rows of each bin that has any."""
    where = mass_bins(p, bins)
    rows = np.bincount(where, minlength=bins)
    there = rows > 0
    mean = np.bincount(where, weights=p, minlength=bins)[there] / rows[there]
    share = np.bincount(where, weights=positive, minlength=bins)[there] / rows[there]
    return mean, share, rows[there]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows in the order of a score, for areas under many sets of weights."""

    order: NDArray[np.intp]
    """Rows by falling score."""
    starts: NDArray[np.intp]
    """Where each distinct score begins in `order`."""
    positive: Floats
    """In this order: 1 or 0."""

    @staticmethod
    def of(positive: NDArray[np.bool_], score: Floats) -> "Ranking":
        """Rank rows."""
        order = np.argsort(-score, kind="stable")
        starts = np.append(0, np.flatnonzero(np.diff(score[order])) + 1).astype(np.intp)
        return Ranking(order, starts, positive[order].astype(np.float64))

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """Area under the ROC curve, and average precision.

        Parameters
        ----------
        weights
            float64[b, n], not negative; whole numbers give exact sums.

        Returns
        -------
        roc, ap
            float64[b]. Rows of equal score count half a wrong order, and share a precision.
        """
        ordered = np.take(weights, self.order, axis=1)
        alls = np.add.reduceat(ordered, self.starts, axis=1)
        ups = np.add.reduceat(ordered * self.positive, self.starts, axis=1)
        tp = np.cumsum(ups, axis=1)
        seen = np.cumsum(alls, axis=1)
        P = tp[:, -1]
        N = seen[:, -1] - P
        roc = np.sum((alls - ups) * (tp - ups / 2), axis=1) / (P * N)
        precision = np.divide(tp, seen, out=np.zeros_like(tp), where=seen > 0)
        return roc, np.sum(ups * precision, axis=1) / P


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rows in bins of their probability, for errors under many sets of weights."""

    order: NDArray[np.intp]
    """Rows by bin."""
    starts: NDArray[np.intp]
    """Where each bin that has rows begins in `order`."""
    excess: Floats
    """In this order: 1 or 0, less the probability."""

    @staticmethod
    def of(positive: NDArray[np.bool_], p: Floats, bins: int) -> "Calibration":
        """Put rows into bins of equally many."""
        where = mass_bins(p, bins)
        order = np.argsort(where, kind="stable")
        starts = np.append(0, np.flatnonzero(np.diff(where[order])) + 1).astype(np.intp)
        return Calibration(order, starts, (positive.astype(np.float64) - p)[order])

    def errors(self, weights: Floats) -> tuple[Floats, Floats]:
        """Brier score, and expected calibration error: both float64[b], of weights float64[b, n].

        The error is the mean over rows of what their bin's share of positive rows differs from its mean probability;
        bins stay as they were cut of the rows without weights.
        """
        total = weights.sum(axis=1)
        # einsum and not @: BLAS sums in an order that depends on the machine and its threads.
        ordered = np.take(weights, self.order, axis=1) * self.excess
        brier = np.einsum("bn,n->b", ordered, self.excess) / total
        sums = np.add.reduceat(ordered, self.starts, axis=1)
        return brier, np.abs(sums).sum(axis=1) / total


def resamples(strata: Counts, draws: int, seed: int) -> Iterator[Floats]:
    """Bootstrap samples of rows, each stratum's rows drawn from among themselves, with replacement.

    Draw i depends on the seed, the strata and i alone: Philox4x64 (Salmon et al., 2011) keyed by SHA-256 of the seed,
    a counter's stretch for each draw.

    Parameters
    ----------
    strata
        int64[n], the stratum of each row.

    Yields
    ------
    float64[b, n]
        How often each row is in each of the next b draws.
    """
    n = len(strata)
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    key = np.frombuffer(hashlib.sha256(f"{seed}\0evaluate\0bootstrap".encode()).digest()[:16], dtype="<u8")
    blocks = -(-n // 4)  # a block of the counter is four words
    size = max(1, CHUNK // n)
    for start in range(0, draws, size):
        count = min(size, draws - start)
        words = np.random.Philox(key=key).advance(start * blocks).random_raw(count * blocks * 4)
        unit = (words.reshape(count, -1)[:, :n] >> np.uint64(11)).astype(np.float64) * 2.0**-53
        weights = np.zeros((count, n))
        for rows in members:
            chosen = rows[np.minimum((unit[:, rows] * len(rows)).astype(np.int64), len(rows) - 1)]
            for i in range(count):
                weights[i] += np.bincount(chosen[i], minlength=n)
        yield weights


def interval(values: Floats) -> tuple[float, float]:
    """Ends of the percentile interval at `LEVEL`."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def logit(p: Floats) -> Floats:
    """Log of the odds, of probabilities kept away from 0 and 1."""
    inside = np.clip(p, _CLIP, 1 - _CLIP)
    return np.log(inside) - np.log1p(-inside)


def platt(positive: NDArray[np.bool_], p: Floats) -> tuple[float, float]:
    """Slope a and intercept b of the probability 1 / (1 + exp(-(a logit(p) + b))), of greatest likelihood.

    As Platt has it, positive rows count as (P + 1) / (P + 2) and others as 1 / (N + 2), so that there is always a
    finite answer. Newton's steps, halved where they overshoot.

    Parameters
    ----------
    positive, p
        n each, with a positive row and another.

    References
    ----------
    Platt: Probabilistic outputs for support vector machines (1999). Lin, Lin, Weng: A note on Platt's probabilistic
    outputs, Machine Learning 68 (2007).
    """
    given = logit(p)
    P, N = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (P + 1) / (P + 2), 1 / (N + 2))
    middle, width = float(given.mean()), float(given.std())
    if width < 1e-12:  # one probability for all
        share = float(target.mean())
        return 0.0, float(np.log(share / (1 - share)))
    x = (given - middle) / width
    at = np.array([0.0, np.log((P + 1) / (N + 1))], dtype=np.float64)

    def loss(at: Floats) -> float:
        z = at[0] * x + at[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    now = loss(at)
    for _ in range(100):
        q = _sigmoid(at[0] * x + at[1])
        slope = np.array([np.sum((q - target) * x), np.sum(q - target)], dtype=np.float64)
        if np.abs(slope).max() < 1e-10 * len(x):
            break
        w = q * (1 - q)
        across = np.sum(w * x)
        inside = np.array([[np.sum(w * x * x), across], [across, np.sum(w)]])
        step = np.asarray(np.linalg.solve(inside, slope), dtype=np.float64)
        size = 1.0
        while size > 1e-10 and loss(at - size * step) > now:
            size /= 2
        at = at - size * step
        now = loss(at)
    return float(at[0] / width), float(at[1] - at[0] * middle / width)


def _sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(z, -700, 700)))


def platted(p: Floats, slope: float, intercept: float) -> Floats:
    """Probabilities through Platt's curve."""
    return _sigmoid(slope * logit(p) + intercept)
