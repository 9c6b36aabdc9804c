"""How imbalanced-learn's SMOTENC and SMOTEN settle what is equal; for `compatible=True` and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.rebalance.mixed import candidates, vdm


def certain_neighbors(
    continuous: NDArray[np.float64], codes: NDArray[np.int32], penalty: float, k: int, rounding: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The k nearest other rows of each row, and for which rows every exact search finds these in this order.

    A row is in doubt where two distances are so close, or one so close to 0 or to that of the next row, that
    another order of additions could put them the other way round: then it depends on the search.

    Parameters
    ----------
    continuous, codes, penalty, k
        As of `mixed_neighbors`.
    rounding
        Of the distances that the search computes, as a share of them, beyond that of float64.

    Returns
    -------
    near : int64[m, k]
    certain : bool[m]
    """
    found = candidates(continuous, codes, penalty, k + 2)
    squared = found.squared[:, : k + 1].copy()
    squared[:, k] = np.minimum(squared[:, k], found.radius)
    steps = np.diff(squared, axis=1, prepend=0.0)
    least = 2 * found.slack + 2 * rounding * np.where(np.isinf(squared), 0.0, squared)
    return found.index[:, :k], np.asarray((steps > least).all(axis=1))


def drawn_votes(
    ballots: NDArray[np.int32], place: NDArray[np.int64], size: int, unit: Any, stream: Any
) -> NDArray[np.int32]:
    """The vote of a nominal column: of the values that are commonest, one is drawn for each row.

    Parameters
    ----------
    ballots
        int32[m, k], codes of each parent's neighbours.
    place
        int64[n], each row's parent.
    size
        Codes there are.
    unit
        What a vote weighs. Sums that differ by less than numpy's `isclose` allows count as equal.
    stream
        A RandomState.

    Returns
    -------
    int32[n]
    """
    m, k = ballots.shape
    sums = np.concatenate([[0], np.cumsum(np.full(k, unit))])
    equal = np.isclose(sums[:, None], sums[None, :])
    if equal[0, 1:].any():  # a vote weighs nothing: every value there is may win
        cells = np.arange(m)[:, None] * size + ballots
        counts = np.bincount(cells.ravel(), minlength=m * size).reshape(-1, size)
        values = np.broadcast_to(np.arange(size, dtype=np.int32), counts.shape)
    else:
        values = np.sort(ballots, axis=1)
        counts = (values[:, :, None] == values[:, None, :]).sum(axis=2)
        counts[:, 1:][values[:, 1:] == values[:, :-1]] = 0
    wins = equal[counts, counts.max(axis=1)[:, None]] & ((counts > 0) | equal[0, 1])
    row, slot = np.nonzero(wins[place])
    order = stream.permutation(len(row))
    turn = np.empty(len(row), dtype=np.int64)
    turn[order] = np.arange(len(row))
    first = np.minimum.reduceat(turn, np.flatnonzero(np.diff(row, prepend=-1)))
    chosen = order[first]
    return values[place[row[chosen]], slot[chosen]]


def partitioned(codes: NDArray[np.int32], shares: Sequence[NDArray[np.float64]], k: int) -> NDArray[np.int64]:
    """The k nearest rows by the value difference metric, of equal ones those that numpy's partition puts first.

    Parameters
    ----------
    codes, shares
        As of `vdm_neighbors`.
    k
        Rows wanted, at most m; the row itself may be one.

    Returns
    -------
    int64[m, k]
    """
    near = np.empty((len(codes), k), dtype=np.int64)
    for start, distance in vdm(codes, shares):
        found = np.argpartition(distance, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distance, found, axis=1))
        near[start : start + len(distance)] = np.take_along_axis(found, order, axis=1)
    return near
