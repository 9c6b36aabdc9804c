"""Between which rows synthetic rows lie, for every method that interpolates; nothing is drawn or made here yet.

Row `i` of a plan depends on the seed, the class and `i` alone, so a plan of any size is carried out piece by piece.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.rebalance.rows import Rows
from tasks.rebalance.smote import draws


@dataclass(frozen=True, slots=True)
class Plan:
    """Pools of parents, and how many synthetic rows each pool gives. Row numbers are the caller's."""

    parents: NDArray[np.int64]
    """int64[r], pool by pool. Within its pool every parent is as likely."""
    near: NDArray[np.int64]
    """int64[r, k], the rows that each parent may be joined with, each as likely."""
    scale: NDArray[np.float64]
    """float64[r, k], what the gap (in [0, 1)) is multiplied by: 1, less where the other row is of another class,
    negative where the row is to lie beyond its parent."""
    starts: NDArray[np.int64]
    """int64[g + 1], where each pool begins among the parents."""
    stops: NDArray[np.int64]
    """int64[g + 1], where each pool begins among the synthetic rows."""

    def __len__(self) -> int:
        return int(self.stops[-1])

    def rows(
        self, seed: int, label: str, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Draw synthetic rows `start` to `stop`: a + gap · (b - a).

        Returns
        -------
        a, b
            int64[stop - start], row numbers of the parents.
        gap
            float64[stop - start].
        """
        pool = np.searchsorted(self.stops, np.arange(start, stop), side="right") - 1
        size = self.starts[pool + 1] - self.starts[pool]
        offset, slot, gap = draws(seed, label, start, stop, size, self.near.shape[1])
        row = self.starts[pool] + offset
        return self.parents[row], self.near[row, slot], gap * self.scale[row, slot]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a method makes new rows of."""

    plan: Plan
    rows: Rows
    """The rows that the plan numbers."""
    voters: NDArray[np.int64] | None = None
    """int64[m, k], of each row those that vote on values that are names."""
    recall: float | None = None
    """Share of the true neighbours that were found, where the search was approximate."""


def pooled(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], int]], scale: NDArray[np.float64] | None = None
) -> Plan:
    """A plan of pools.

    Parameters
    ----------
    parts
        Of each pool: parents int64[r], their partners int64[r, k] with the same k throughout, and how many synthetic
        rows it gives. A pool without parents gives none.
    scale
        float64[r, k] of all parents, in order; 1 if left out.
    """
    parents = np.concatenate([part[0] for part in parts])
    near = np.concatenate([part[1] for part in parts])
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    stops = np.cumsum([0, *(part[2] for part in parts)])
    return Plan(parents, near, np.ones(near.shape) if scale is None else scale, starts, stops)


def copies(rows: NDArray[np.int64], count: int) -> Plan:
    """Rows drawn with replacement: each is both its own parents."""
    return pooled([(rows, rows[:, None], count)], np.zeros((len(rows), 1)))


def shares(weights: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Divide `count` by weight into whole numbers that add up to it (largest remainder; of equal ones the first).

    Parameters
    ----------
    weights
        float64[n], 0 or more, not all 0.
    count
        What is divided.

    Returns
    -------
    int64[n]
    """
    share = weights / weights.max()
    exact = share / share.sum() * count
    whole = np.floor(exact).astype(np.int64)
    rest = count - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return whole


def by_difficulty(others: NDArray[np.int64], near: NDArray[np.int64], count: int) -> Plan:
    """ADASYN (He et al., 2008): a row gives the more synthetic rows, the more of its neighbours are of other classes.

    Parameters
    ----------
    others
        int64[m], of each row of the class how many of its neighbours among all rows are of another class.
    near
        int64[m, k], its neighbours within the class.
    count
        Synthetic rows; exactly so many are planned.

    Raises
    ------
    ValueError
        No row has a neighbour of another class: there is nothing to go by.
    """
    if not others.any():
        raise ValueError("no row has a neighbour of another class, and ADASYN goes by these; use SMOTE instead")
    given = shares(others.astype(np.float64), count)
    every = np.arange(len(near))
    return pooled([(every[i : i + 1], near[i : i + 1], int(given[i])) for i in every])


def danger(others: NDArray[np.int64], m: int) -> NDArray[np.bool_]:
    """Rows with at least half, but not all, of their m neighbours in other classes (Han et al., 2005)."""
    return (2 * others >= m) & (others < m)


def two_sides(
    seed: int,
    label: str,
    groups: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    count: int,
    out_step: float,
) -> Plan:
    """SVM-SMOTE's plan: rows towards the neighbours of some support vectors, and beyond the others.

    Parameters
    ----------
    groups
        Support vectors int64[r] in danger and their partners int64[r, k]; the same of the safe ones.
    count
        Synthetic rows: each side's share is drawn from Beta(10, 10), where there are support vectors of both kinds.
    out_step
        How far beyond its parent a row may lie, as a share of the way to the neighbour.
    """
    (inside, towards), (beyond, away) = groups
    # Beta(10, 10) as the tenth smallest of 19 uniform numbers, from a stream of its own.
    share = float(np.sort(draws(seed, f"{label}\0beta", 0, 19, 1, 1)[2])[9])
    if not (len(inside) and len(beyond)):
        share = float(len(inside) > 0)
    first = round(share * count)
    scale = np.concatenate([np.ones(towards.shape), np.full(away.shape, -out_step)])
    return pooled([(inside, towards, first), (beyond, away, count - first)], scale)


def sparsity(mean_distance: float, rows: int, exponent: float | None) -> float:
    """How sparse a cluster's rows of one class are: mean distance ** exponent / rows (Last et al., section 3).

    Parameters
    ----------
    mean_distance
        Mean distance between two different rows.
    rows
        Rows of the class in the cluster, 2 or more.
    exponent
        None: grows with the rows, 0.16 · log(rows, 1.6) ** 1.8.
    """
    power = math.log(rows, 1.6) ** 1.8 * 0.16 if exponent is None else exponent
    return mean_distance**power / rows
