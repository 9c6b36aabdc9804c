"""Scores from contingency tables: mutual information, its bias, its significance, and the selection.

Every score of a column is computed from that column's table alone; only ranks, q-values and the selection look
at all columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from scipy.stats import chi2, false_discovery_control


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of p columns; float64[p] with NaN where there is none, `reason` then says why.

    Attributes
    ----------
    mi
        Plug-in mutual information, nats.
    mi_corrected
        With Miller and Madow's correction of entropies (1955), nats, not below 0.
    g
        G = 2·n·MI, chi-square distributed with `dof` degrees of freedom under independence.
    p_value, q_value
        Upper tail of that chi-square; false-discovery rate after Benjamini and Hochberg (1995).
    """

    mi: NDArray[np.float64]
    mi_corrected: NDArray[np.float64]
    g: NDArray[np.float64]
    dof: NDArray[np.int32]
    p_value: NDArray[np.float64]
    q_value: NDArray[np.float64]
    reason: list[str | None]


def score(tables: NDArray[np.int64]) -> Scores:
    """Score columns from int64[p, bins, classes]."""
    counts = tables.astype(np.float64)
    n = counts.sum(axis=(1, 2))
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # n·MI = Σ c ln c − Σ r ln r − Σ k ln k + n ln n: no logarithm of a quotient, no 0·ln 0.
        total = (
            xlogy(counts, counts).reshape(len(counts), -1).sum(axis=1)
            - xlogy(rows, rows).sum(axis=1)
            - xlogy(columns, columns).sum(axis=1)
            + xlogy(n, n)
        )
        occupied = (tables > 0).reshape(len(tables), -1).sum(axis=1)
        in_x, in_y = (rows > 0).sum(axis=1), (columns > 0).sum(axis=1)
        mi = np.maximum(total / n, 0.0)
        corrected = np.maximum(mi + (in_x + in_y - occupied - 1) / (2 * n), 0.0)
    empty = n == 0
    flat = ~empty & ((in_x < 2) | (in_y < 2))
    mi[flat] = corrected[flat] = 0.0  # exactly: rounding must not rank constants
    mi[empty] = corrected[empty] = np.nan
    g = 2 * n * mi
    g[empty] = np.nan
    dof = np.where(empty, 0, np.maximum(in_x - 1, 0) * np.maximum(in_y - 1, 0)).astype(np.int32)
    p = np.where(dof > 0, chi2.sf(np.nan_to_num(g), np.maximum(dof, 1)), 1.0)
    p[empty] = np.nan
    q = np.full(len(p), np.nan)
    if (~empty).any():
        q[~empty] = false_discovery_control(p[~empty], method="bh")
    reason: list[str | None] = [
        "all values missing" if e else "constant" if x < 2 else "one class only" if y < 2 else None
        for e, x, y in zip(empty, in_x, in_y, strict=True)
    ]
    return Scores(mi, corrected, g, dof, p, q, reason)


@dataclass(frozen=True, slots=True)
class Selection:
    """Ranks from 1 (0 for a column without a score), and which columns are selected."""

    rank: NDArray[np.int32]
    selected: NDArray[np.bool_]


def select(scores: Scores, top: int, max_q: float) -> Selection:
    """Rank by corrected MI, then by p-value, then by place; select the best `top` with q at most `max_q`.

    A column without information (score 0 with a reason, or no score) is never selected.
    """
    p = len(scores.mi)
    known = ~np.isnan(scores.mi_corrected)
    order = np.lexsort((np.arange(p), np.nan_to_num(scores.p_value, nan=2.0), -np.nan_to_num(scores.mi_corrected)))
    order = order[known[order]]
    rank = np.zeros(p, dtype=np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    informative = np.array([r is None for r in scores.reason], dtype=bool)
    allowed = informative & (np.nan_to_num(scores.q_value, nan=2.0) <= max_q)
    selected = np.zeros(p, dtype=bool)
    selected[order[allowed[order]][:top]] = True
    return Selection(rank, selected)
