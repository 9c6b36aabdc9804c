"""Pass 2: contingency tables of bins against classes. Tables of shards add up to the table of the whole."""

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled
from tasks.screen.sketch import edge_values

TILE_ROWS = 256
"""Rows counted for one column before the next: a cache line of 16 columns is used whole, and tables are visited
once a tile instead of once a row."""


@compiled
def _count(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    offsets: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    tables: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    n, p = x.shape
    values = np.empty(TILE_ROWS, dtype=np.float32)
    bins = np.empty(TILE_ROWS, dtype=np.int32)
    for start in range(0, n, TILE_ROWS):
        rows = min(TILE_ROWS, n - start)
        for j in range(p):
            for r in range(rows):
                values[r] = x[start + r, j]
                bins[r] = 0
            # Comparing with every threshold has no branch to mispredict, and runs in vector registers.
            for t in range(offsets[j], offsets[j + 1]):
                threshold = thresholds[t]
                for r in range(rows):
                    bins[r] += np.int32(values[r] >= threshold)
            for r in range(rows):
                if not np.isnan(values[r]):
                    tables[j, bins[r], labels[start + r]] += 1


def contingency(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    offsets: NDArray[np.int64],
    edge_codes: NDArray[np.uint16],
    classes: int,
) -> NDArray[np.int64]:
    """Count the rows in each bin and class, for each column.

    Parameters
    ----------
    x
        float32[n, p], C order; NaN rows of a column are left out of that column only.
    labels
        int32[n]; the compiled loop checks no bounds, so this function does.
    offsets, edge_codes
        Bin edges of each column (see `tasks.screen.sketch.Edges`).
    classes
        Number of classes.

    Returns
    -------
    int64[p, bins, classes]
        `bins` is the most that any column has; unused bins are zero.

    Raises
    ------
    ValueError
        If lengths differ or a label is outside [0, classes).
    """
    if len(labels) != len(x) or len(offsets) != x.shape[1] + 1:
        raise ValueError(
            f"{x.shape} values do not go with {len(labels)} labels and {len(offsets) - 1} columns of edges"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels span {labels.min()} to {labels.max()}, outside [0, {classes})")
    bins = int(np.diff(offsets).max(initial=0)) + 1
    tables = np.zeros((x.shape[1], bins, classes), dtype=np.int64)
    if len(x):
        _count(np.ascontiguousarray(x), labels, offsets, edge_values(edge_codes), tables)
    return tables
