"""The score of `auto`: estimates of different kinds, made comparable.

An estimate of information is above 0 by chance alone: a table of 15 degrees of freedom by more than a correlation of
one. What an estimate says is therefore put as the information that a statistic of one degree of freedom would need
to say it with the same probability of error. Of a column's estimates the one that says most counts: a relation that is
linear shows best in the correlation, a bent one in the density (or, of few values, in the table).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincc, gammaln, ndtri_exp

_TINY = 1e-280
_FRACTIONS = 60


HANDICAP = {1: 0.4, 2: 0.9}
"""Nats of probability that a correlation gives away against the density (by class; in the plane): it is told of what
is linear only. So auto loses as little where all is linear, to the correlation, as where nothing is, to the density:
.01 to .02 of AUROC in the settings of `tests/tasks/screen/test_auto.py`, of which these are the round numbers."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A statistic that is, without dependence, about chi-square distributed.

    Attributes
    ----------
    statistic, dof
        float64[p] each, NaN for none.
    handicap
        Nats by which the logarithm of its p-value is raised.
    limit
        float64[p], nats: the score is not above it.
    """

    statistic: NDArray[np.float64]
    dof: NDArray[np.float64]
    handicap: float = 0.0
    limit: NDArray[np.float64] | None = None


def density_evidence(
    mi: NDArray[np.float64], expected: NDArray[np.float64], n: NDArray[np.int64], dims: int
) -> Evidence:
    """Of a density estimate, whose null distribution is a scaled chi-square.

    Parameters
    ----------
    mi, expected
        float64[p], nats; the estimate, and what it would be by chance.
    dims
        1 for densities by class, 2 for densities in the plane.

    Notes
    -----
    Without dependence 2n·mi is a sum of squares weighted by what the kernel leaves of each frequency, about as
    chi-square times the ratio of the sums of the squared weights and of the weights (Satterthwaite 1946). For a
    Gaussian kernel that is narrow against the data the ratio is 1/√2 in one dimension and 1/2 in two; it was 0.65 and
    0.4, on average, in simulations of 300 to 2,000 normal, uniform and exponential values.
    """
    scale = 0.4 if dims == 2 else 0.65
    # Far out the tail is that of the greatest weight alone, which is nearly 1: the estimate itself is the limit.
    return Evidence(2 * n * mi / scale, np.maximum(2 * n * expected / scale, 1.0), limit=mi)


def equivalent(evidence: Evidence, n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Information, nats, at which a G-test of one degree of freedom has the same p-value: float64[p].

    With one degree of freedom it is statistic / 2n; NaN where there is no statistic.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        tail = _log_tail(evidence.statistic, evidence.dof) + evidence.handicap
        half = ndtri_exp(np.minimum(tail, 0.0) - np.log(2.0))
        value = np.where(n > 0, half * half / (2 * np.maximum(n, 1)), np.nan)
    return value if evidence.limit is None else np.minimum(value, evidence.limit)


def _log_tail(statistic: NDArray[np.float64], dof: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of chi-square's upper tail, also where the tail itself is below the least number."""
    a, z = dof / 2, np.maximum(statistic, 0.0) / 2
    tail = gammaincc(a, z)
    far = tail < _TINY
    result = np.log(np.where(far, 1.0, tail))
    if far.any():
        # Legendre's continued fraction (DLMF 8.9.2), from its end; z is far above a here.
        a, z = a[far], z[far]
        fraction = np.zeros(len(a))
        for i in range(_FRACTIONS, 0, -1):
            fraction = i * (a - i) / (z + 2 * i + 1 - a + fraction)
        result[far] = a * np.log(z) - z - gammaln(a) - np.log(z + 1 - a + fraction)
    return np.where(np.isnan(statistic), np.nan, result)


def strongest(of: Mapping[str, Evidence], n: NDArray[np.int64]) -> tuple[list[str | None], NDArray[np.float64]]:
    """The estimator whose evidence says most, and how much in nats; None and NaN where there is none.

    Of equal ones the first counts.
    """
    best = np.full(len(n), np.nan)
    names: list[str | None] = [None] * len(n)
    for name, evidence in of.items():
        value = equivalent(evidence, n)
        better = ~np.isnan(value) & ~(value <= best)
        best[better] = value[better]
        for j in np.flatnonzero(better):
            names[j] = name
    return names, best
