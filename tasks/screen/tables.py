"""Pass 2: contingency tables of bins against classes. Tables of shards add up to the table of the whole."""

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled
from tasks.screen.sketch import edge_values


@compiled
def _count(
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
    offsets: NDArray[np.int64],
    thresholds: NDArray[np.float32],
    tables: NDArray[np.int64],
) -> None:
    n, p = x.shape
    for i in range(n):
        label = labels[i]
        for j in range(p):
            value = x[i, j]
            if np.isnan(value):
                continue
            low = offsets[j]
            high = offsets[j + 1]
            start = low
            while low < high:  # the number of thresholds <= value
                middle = (low + high) >> 1
                if thresholds[middle] <= value:
                    low = middle + 1
                else:
                    high = middle
            tables[j, low - start, label] += 1


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
        int32[n], in [0, classes).
    offsets, edge_codes
        Bin edges of each column (see `tasks.screen.sketch.Edges`).
    classes
        Number of classes.

    Returns
    -------
    int64[p, bins, classes]
        `bins` is the most that any column has; unused bins are zero.
    """
    bins = int(np.diff(offsets).max(initial=0)) + 1
    tables = np.zeros((x.shape[1], bins, classes), dtype=np.int64)
    if len(x):
        _count(np.ascontiguousarray(x), labels, offsets, edge_values(edge_codes), tables)
    return tables
