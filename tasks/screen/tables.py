"""Pass 2: contingency tables of bins against classes. Tables of shards add up to the table of the whole."""

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled
from tasks.screen.sketch import Edges

TILE_ROWS = 2048
"""Rows of one column that are binned, then counted: they stay in the first cache."""
FEW_CLASSES = 8
"""Up to so many classes a column of two bins is counted class by class, in vector registers."""


@compiled
def _count(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    offsets: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    tables: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    p, n = x.shape
    classes = tables.shape[2]
    bins = np.empty(TILE_ROWS, dtype=np.int32)
    for j in range(p):
        edges = offsets[j + 1] - offsets[j]
        for start in range(0, n, TILE_ROWS):
            rows = min(TILE_ROWS, n - start)
            values = x[j, start : start + rows]
            of = labels[start : start + rows]
            if edges <= 1 and 1 < classes <= FEW_CLASSES:
                threshold = thresholds[offsets[j]] if edges else np.float32(np.inf)
                all_there = np.int32(0)
                all_above = np.int32(0)
                for c in range(1, classes):  # the first class has the rest
                    there = np.int32(0)
                    above = np.int32(0)
                    every_there = np.int32(0)
                    every_above = np.int32(0)
                    for r in range(rows):
                        mine = np.int32(of[r] == c)
                        known = np.int32(values[r] == values[r])
                        high = np.int32(values[r] >= threshold)
                        there += mine & known
                        above += mine & high
                        every_there += known
                        every_above += high
                    above = above if edges else np.int32(0)
                    every_above = every_above if edges else np.int32(0)
                    if c == 1:
                        all_there, all_above = every_there, every_above
                    all_there -= there
                    all_above -= above
                    tables[j, 0, c] += there - above
                    if edges:
                        tables[j, 1, c] += above
                tables[j, 0, 0] += all_there - all_above
                if edges:
                    tables[j, 1, 0] += all_above
                continue
            # Comparing with every threshold has no branch to mispredict, and runs in vector registers.
            for r in range(rows):
                bins[r] = 0
            for t in range(offsets[j], offsets[j + 1]):
                threshold = thresholds[t]
                for r in range(rows):
                    bins[r] += np.int32(values[r] >= threshold)
            for r in range(rows):
                if values[r] == values[r]:
                    tables[j, bins[r], of[r]] += 1


def contingency(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    edges: Edges,
    classes: int,
    into: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Count the rows in each bin and class, for each column.

    Parameters
    ----------
    x
        float32[p, n]; NaN rows of a column are left out of that column only.
    labels
        int32[n]; the compiled loop checks no bounds, so this function does.
    edges
        Bin edges of the p columns.
    classes
        Number of classes.
    into
        Tables to add to.

    Returns
    -------
    int64[p, bins, classes]
        `bins` is the most that any column has; unused bins are zero.

    Raises
    ------
    ValueError
        If lengths differ or a label is outside [0, classes).
    """
    p, n = x.shape
    if len(labels) != n or len(edges.offsets) != p + 1:
        raise ValueError(
            f"{x.shape} values do not go with {len(labels)} labels and {len(edges.offsets) - 1} columns of edges"
        )
    if n and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, outside [0, {classes})")
    shape = (p, int(edges.bins().max(initial=1)), classes)
    tables = np.zeros(shape, dtype=np.int64) if into is None else into
    if tables.shape != shape:
        raise ValueError(f"tables of {tables.shape} cannot take counts of {shape}")
    if n:
        _count(np.ascontiguousarray(x), labels, edges.offsets, edges.values, tables)
    return tables


@compiled
def _codes(
    x: NDArray[np.float32], offsets: NDArray[np.int64], thresholds: NDArray[np.float32], codes: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    for j in range(x.shape[0]):
        for r in range(x.shape[1]):
            value = x[j, r]
            code = 0
            for t in range(offsets[j], offsets[j + 1]):
                code += value >= thresholds[t]
            codes[j, r] = 255 if np.isnan(value) else code


def bin_codes(x: NDArray[np.float32], edges: Edges) -> NDArray[np.uint8]:
    """uint8[p, n]: the bin of each value of float32[p, n], 255 where it is missing. At most 255 bins."""
    codes = np.empty(x.shape, dtype=np.uint8)
    _codes(np.ascontiguousarray(x), edges.offsets, edges.values, codes)
    return codes
