"""Scores from contingency tables: mutual information, its bias, its significance, and the selection.

Every score of a column is computed from that column's table alone; only ranks, q-values and the selection look
at all columns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, xlogy

from tasks.jit import compiled

WIDE = 25.0
"""Of a cell whose count has a greater variance over shuffles, the mean is taken from moments: to 3e-4 of it."""
_SMALL = xlogy(np.arange(256.0), np.arange(256.0))


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
        G = 2·n·MI.
    g_expected
        Mean of G over all shuffles of the outcome. Where cells hold few rows it is well above `dof`.
    p_value
        Upper tail of chi-square with `dof` degrees of freedom at G · dof / g_expected (Bartlett's correction, with
        the mean itself in place of its first terms). Uncorrected, tables of 16 x 16 bins of 600 rows give p-values
        below 0.001 eighteen times too often.
    """

    mi: NDArray[np.float64]
    mi_corrected: NDArray[np.float64]
    g: NDArray[np.float64]
    g_expected: NDArray[np.float64]
    dof: NDArray[np.int32]
    p_value: NDArray[np.float64]
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


@compiled
def _expected_g(
    rows: NDArray[np.int64], columns: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    # A cell of a shuffled table is hypergeometric; its mean of N ln N is summed from the mode outwards. That of N is
    # r·k / n.
    result = np.empty(len(rows), dtype=np.float64)
    of_row = np.empty(rows.shape[1], dtype=np.float64)
    for j in range(len(rows)):
        size = n[j]
        total = 0.0
        for b in range(rows.shape[1]):
            r = rows[j, b]
            if r == 0:
                continue
            earlier = 0
            while rows[j, earlier] != r:
                earlier += 1
            if earlier < b:  # quantile bins are mostly of one size
                of_row[b] = of_row[earlier]
                total += of_row[b]
                continue
            of_row[b] = 0.0
            for c in range(columns.shape[1]):
                k = columns[j, c]
                if k == 0:
                    continue
                scale = float(size) / (float(r) * float(k))
                in_r, in_k = float(r) / float(size), float(k) / float(size)
                part = (1.0 - in_r) * (1.0 - in_k) * float(size) / max(float(size) - 1.0, 1.0)
                if part / scale > WIDE:  # the first terms of the expansion are exact here
                    of_row[b] += part / 2 + part * scale * (part / 4 - (1 - 2 * in_r) * (1 - 2 * in_k) / 6)
                    continue
                mode = min(int((float(r) + 1.0) * (float(k) + 1.0) / (float(size) + 2.0)), r, k)
                mode = max(mode, r + k - size)
                weights, mean = 0.0, 0.0
                w, at = 1.0, mode
                while w > 1e-14 and at <= min(r, k):
                    weights += w
                    mean += w * (_SMALL[at] if at < len(_SMALL) else at * np.log(at))
                    w *= float(r - at) * float(k - at) / (float(at + 1) * float(size - r - k + at + 1))
                    at += 1
                w, at = 1.0, mode
                while True:
                    w *= float(at) * float(size - r - k + at) / (float(r - at + 1) * float(k - at + 1))
                    at -= 1
                    if w <= 1e-14 or at < 0:
                        break
                    weights += w
                    mean += w * (_SMALL[at] if at < len(_SMALL) else at * np.log(at))
                of_row[b] += mean / weights + np.log(scale) / scale
            total += of_row[b]
        result[j] = 2.0 * total
    return result


def score(tables: NDArray[np.int64]) -> Scores:
    """Score columns from int64[p, bins, classes].

    A column's scores have the same bits in whatever block of columns it is scored.
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
    by_chance = _expected_g(rows, columns, n)
    tested = dof > 0
    p = np.where(empty, np.nan, 1.0)
    p[tested] = chdtrc(dof[tested], g[tested] * dof[tested] / by_chance[tested])
    reason: list[str | None] = [
        "all values missing" if e else "constant" if x < 2 else "one class only" if y < 2 else None
        for e, x, y in zip(empty, in_x, in_y, strict=True)
    ]
    return Scores(mi, corrected, g, by_chance, dof, p, reason)


def ranks(score: NDArray[np.float64], p_value: NDArray[np.float64]) -> NDArray[np.int32]:
    """Rank by score, then by p-value, then by place: int32[p] from 1; 0 for a column without a score (NaN)."""
    p = len(score)
    order = np.lexsort((np.arange(p), np.nan_to_num(p_value, nan=2.0), -np.nan_to_num(score)))
    order = order[~np.isnan(score[order])]
    rank = np.zeros(p, dtype=np.int32)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def select(
    rank: NDArray[np.int32],
    score: NDArray[np.float64],
    q_value: NDArray[np.float64],
    informative: NDArray[np.bool_],
    *,
    top: int,
    max_q: float = 1.0,
    share: float = 1.0,
) -> NDArray[np.bool_]:
    """The best `top` columns with q at most `max_q`, as many of them as make up `share` of all their scores' sum.

    Parameters
    ----------
    rank
        int32[p] from 1, 0 for none; the best come first.
    informative
        bool[p]: a column that is False (a constant, say) is never selected.
    share
        The fewest of the best, whose scores add up to this share of the scores of all columns that may be selected.

    Returns
    -------
    bool[p]
    """
    allowed = informative & (rank > 0) & (np.nan_to_num(q_value, nan=2.0) <= max_q)
    order = np.flatnonzero(allowed)
    order = order[np.argsort(rank[order], kind="stable")]
    if share < 1 and len(order):
        total = np.cumsum(score[order])
        order = order[: int(np.searchsorted(total, share * total[-1] * (1 - 1e-12), side="left")) + 1]
    selected = np.zeros(len(rank), dtype=np.bool_)
    selected[order[:top]] = True
    return selected
