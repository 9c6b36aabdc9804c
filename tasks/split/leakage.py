"""What splits share: counted for every kind of duplicate, whether or not it kept groups whole.

A row leaks when something of it stands in a split before its own (train, validation, test): what was learned or
tuned there has seen it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.tables import SPLITS
from tasks.jit import compiled
from tasks.split.duplicates import Kind
from tasks.split.near import Rows

Counts = NDArray[np.int64]

FAR = np.iinfo(np.int16).max
BETWEEN = ((0, 1), (0, 2), (1, 2))
"""The earlier and the later split of each comparison."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What one kind of duplicate shares between splits.

    Attributes
    ----------
    rows
        int64[limits, 3]: rows of the later split that have a duplicate in the earlier, by `BETWEEN`.
    pairs
        int64[limits, 3]: pairs of rows.
    leaks
        bool[n]: rows with a duplicate in some split before their own, at the recipe's limit.
    """

    rows: Counts
    pairs: Counts
    leaks: NDArray[np.bool_]


@compiled
def _count(
    a: Rows,
    b: Rows,
    distance: Rows,
    members: NDArray[np.int32],
    best: NDArray[np.int16],
    limits: NDArray[np.int32],
    between: NDArray[np.int64],
    pairs: Counts,
) -> None:
    for i in range(len(a)):
        x, y = a[i], b[i]
        for s in range(3):
            if members[x, s]:
                best[y, s] = min(best[y, s], distance[i])
            if members[y, s]:
                best[x, s] = min(best[x, s], distance[i])
        for k in range(len(between)):
            s, t = between[k, 0], between[k, 1]
            n = np.int64(members[x, s]) * members[y, t] + np.int64(members[y, s]) * members[x, t]
            for m in range(len(limits)):
                if distance[i] <= limits[m]:
                    pairs[m, k] += n


def exposure(kind: Kind, split: NDArray[np.int8], limits: Sequence[int], own: int) -> Exposure:
    """Count what is shared between splits.

    Parameters
    ----------
    kind
        Kind of duplicate.
    split
        int8[n]: 0, 1, 2 for train, validation, test; -1 for a sample in none.
    limits
        Distances to count up to.
    own
        The distance that makes a leak.
    """
    n = len(split)
    placed = np.flatnonzero((split >= 0) & (kind.first >= 0))
    members = np.zeros((n, 3), dtype=np.int32)
    np.add.at(members, (kind.first[placed], split[placed]), 1)
    best = np.where(members > 0, 0, FAR).astype(np.int16)
    pairs = np.zeros((len(limits), len(BETWEEN)), dtype=np.int64)
    pairs[:] = [int((members[:, s].astype(np.int64) * members[:, t]).sum()) for s, t in BETWEEN]
    for found in kind.pairs(max(*limits, own)):
        _count(
            found.a, found.b, found.distance, members, best,
            np.array(limits, dtype=np.int32), np.array(BETWEEN, dtype=np.int64), pairs,
        )  # fmt: skip
    rows = [[int(members[best[:, s] <= limit, t].sum()) for s, t in BETWEEN] for limit in limits]
    leaks = np.zeros(n, dtype=np.bool_)
    for s, t in BETWEEN:
        later = placed[split[placed] == t]
        leaks[later] |= best[kind.first[later], s] <= own
    return Exposure(np.array(rows, dtype=np.int64).reshape(len(limits), -1), pairs, leaks)


def shared_values(database: Any, relation: str) -> tuple[list[int], list[int]]:
    """Rows of a later split that share a value with an earlier one.

    Parameters
    ----------
    relation
        SQL of (sample_id, value). Table `placed` (sample_id, idx, split as 0, 1, 2) must be there.

    Returns
    -------
    rows
        Count for each of `BETWEEN`.
    leaks
        `idx` of the rows, sorted.
    """
    counts = ", ".join(f"count(*) FILTER (split = {t} AND seen{s})" for s, t in BETWEEN)
    row = database.execute(
        f"CREATE OR REPLACE TEMP TABLE sharing AS WITH r(sample_id, value) AS ({relation}), "
        "v AS (SELECT value, bool_or(split = 0) AS seen0, bool_or(split = 1) AS seen1 "
        "FROM r JOIN placed USING (sample_id) WHERE value IS NOT NULL GROUP BY value) "
        "SELECT idx, split, bool_or(seen0) AS seen0, bool_or(seen1) AS seen1 "
        "FROM r JOIN placed USING (sample_id) JOIN v USING (value) GROUP BY ALL; "
        f"SELECT {counts} FROM sharing"
    ).fetchone()
    leaks = database.execute(
        "SELECT idx FROM sharing WHERE (split = 1 AND seen0) OR (split = 2 AND (seen0 OR seen1)) ORDER BY idx"
    ).fetchall()
    return list(row), [idx for (idx,) in leaks]


def lines(
    kind: str, limit: float | None, rows: Sequence[int], pairs: Sequence[int] | None, *, whole: bool
) -> list[dict[str, Any]]:
    """The report's lines for one kind and limit; `whole` says whether the recipe kept this kind in one split."""
    return [
        {
            "kind": kind,
            "limit": limit,
            "earlier": SPLITS[s],
            "later": SPLITS[t],
            "rows": int(rows[k]),
            "pairs": None if pairs is None else int(pairs[k]),
            "kept_whole": whole,
        }
        for k, (s, t) in enumerate(BETWEEN)
    ]
