"""Stability selection: how often a feature is among the best when only half of the rows are looked at.

The rows were assigned to buckets by a hash of their keys, and there is a contingency table for each bucket; a
subsample is half of the buckets, so that its table is a sum and no row is read again.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.screen.scores import score

BLOCK_CELLS = 1 << 22
"""Cells of the tables summed and scored at once (32 MiB)."""


def halves(buckets: int, subsamples: int, seed: int) -> NDArray[np.bool_]:
    """Which buckets make up each subsample: bool[subsamples, buckets], half of them (rounded down) in each.

    Subsamples 2i and 2i + 1 have no bucket in common: complementary pairs, after Shah and Samworth (J. R. Stat. Soc.
    B 75, 2013).
    """
    # Raw words of the counter-based generator, which no release of NumPy draws differently.
    pairs = (subsamples + 1) // 2
    words = np.random.Philox(key=seed & 0xFFFFFFFFFFFFFFFF).random_raw(pairs * buckets)
    places = np.argsort(words.reshape(pairs, buckets), axis=1, kind="stable")
    chosen = np.zeros((pairs, 2, buckets), dtype=np.bool_)
    np.put_along_axis(chosen[:, 0], places[:, : buckets // 2], True, axis=1)
    np.put_along_axis(chosen[:, 1], places[:, buckets // 2 : 2 * (buckets // 2)], True, axis=1)
    return chosen.reshape(2 * pairs, buckets)[:subsamples]


def subsample_scores(tables: NDArray[np.int64], subsamples: int, seed: int) -> NDArray[np.float64]:
    """Corrected information of each feature in each subsample, float64[p, subsamples]; NaN where there is no row.

    Parameters
    ----------
    tables
        int64[p, buckets, bins, classes].

    Notes
    -----
    A feature's scores do not depend on those it is scored with, so blocks of features may be scored anywhere.
    """
    p, buckets, bins, classes = tables.shape
    chosen = halves(buckets, subsamples, seed)
    result = np.empty((p, subsamples), dtype=np.float64)
    block = max(BLOCK_CELLS // max(bins * classes, 1), 1)
    for start in range(0, p, block):
        for s, inside in enumerate(chosen):
            result[start : start + block, s] = score(tables[start : start + block, inside].sum(axis=1)).mi_corrected
    return result


def frequency(scores: NDArray[np.float64], top: int) -> NDArray[np.float64]:
    """Share of the subsamples in which a feature is among the `top` best, float64[p]; ties go to the lower place.

    A score that is not above 0 is never among the best: it would be its place that chose it. Meinshausen and Buehlmann
    (J. R. Stat. Soc. B 72, 2010), over complementary pairs of halves.

    Parameters
    ----------
    scores
        float64[p, subsamples].
    """
    p, subsamples = scores.shape
    times = np.zeros(p, dtype=np.int64)
    for s in range(subsamples):
        values = np.nan_to_num(scores[:, s], nan=0.0, posinf=np.inf)
        best = np.argsort(-values, kind="stable")[:top]
        times[best[values[best] > 0]] += 1
    return times / max(subsamples, 1)


def expected_false(p: int, top: int, threshold: float) -> float:
    """At most how many of the features with a share of at least `threshold` are false, in expectation.

    top² / ((2·threshold - 1)·p) for thresholds above ½: theorem 1 of Meinshausen and Buehlmann (2010) for
    exchangeable null features; Shah and Samworth (2013, theorem 1) hold it without that for the features that are
    chosen no more often than at random. Whatever the features, shares add up to at most `top`, so no more than
    top / threshold can reach the threshold.
    """
    least = min(top / threshold, float(p)) if threshold > 0 else float(p)
    return min(least, top**2 / ((2 * threshold - 1) * p)) if threshold > 0.5 else least
