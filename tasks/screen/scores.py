"""Scores from contingency tables: mutual information, its bias, its significance, and the selection.

Every score of a column is computed from that column's table alone; only ranks, q-values and the selection look
at all columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, false_discovery_control

from tasks.jit import compiled


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


@compiled
def _weighted_logs(
    tables: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    # n·MI = Σ c ln(c·n / (r·k)) of each table, r and k the sums of the cell's row and column. Empty cells are
    # skipped and the order is fixed, so that bins of padding, which a wider neighbour causes, change no bit;
    # numpy's pairwise sum would. Neumaier's compensation keeps the sum's error at one rounding.
    result = np.empty(len(tables), dtype=np.float64)
    for j in range(len(tables)):
        total = 0.0
        lost = 0.0
        for b in range(tables.shape[1]):
            for c in range(tables.shape[2]):
                count = float(tables[j, b, c])
                if count == 0.0:
                    continue
                term = count * np.log((count * float(n[j])) / (float(rows[j, b]) * float(columns[j, c])))
                following = total + term
                if abs(total) >= abs(term):
                    lost += (total - following) + term
                else:
                    lost += (term - following) + total
                total = following
        result[j] = total + lost
    return result


def score(tables: NDArray[np.int64]) -> Scores:
    """Score columns from int64[p, bins, classes].

    A column's MI, G and p-value have the same bits in whatever block of columns it is scored; its q-value is over
    all columns given.
    """
    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    n = rows.sum(axis=1)
    occupied = (tables > 0).sum(axis=(1, 2))
    in_x, in_y = (rows > 0).sum(axis=1), (columns > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mi = np.maximum(_weighted_logs(tables, rows, columns, n) / n, 0.0)
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
