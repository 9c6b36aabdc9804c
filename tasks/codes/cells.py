"""Cells: parts of the space that codes are stored by, so that a search reads only those near the query."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import DatasetError
from tasks.jit import compiled

Floats = NDArray[np.float32]

MOST_CELLS = 8
"""That a row is in, its own among them."""
BLOCK = 2**20
"""Distances that are held at once."""

CELLS: Any = pa.schema(
    [
        pa.field("cell", pa.int32(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("offset", pa.float64(), nullable=False),
        pa.field("border", pa.float64(), nullable=False),
        pa.field("centroid", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Fitted cells, a row each; `rows`: of the sample of train that they were fitted on."""


@compiled
def _squared(x: Floats, columns: NDArray[np.float64], result: NDArray[np.float64]) -> None:
    # Sums in the order of components: a row's distances do not depend on the rows beside it.
    for i in range(len(x)):
        row = result[i]
        row[:] = 0.0
        for j in range(x.shape[1]):
            value = np.float64(x[i, j])
            for c in range(columns.shape[1]):
                apart = value - columns[j, c]
                row[c] += apart * apart


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A power diagram: x belongs to the cell with the least ‖x − centroid‖² + offset, and to those nearly as near.

    Offsets even out the cells' sizes. That rows near a border are in the cells on both sides of it, so that fewer
    cells need be read, is SPANN's idea (Chen and others, NeurIPS 2021).

    Attributes
    ----------
    centroids
        float32[c, d].
    offsets
        float64[c].
    rows
        int64[c], rows of the training sample in each.
    border
        A row is also in cells whose sum is above its own cell's by at most this much.
    """

    centroids: Floats
    offsets: NDArray[np.float64]
    rows: NDArray[np.int64]
    border: float

    def sums(self, x: Floats) -> NDArray[np.float64]:
        """Squared distances to the centroids plus offsets, float64[n, c]."""
        squared = np.empty((len(x), len(self.centroids)))
        _squared(np.ascontiguousarray(x, np.float32), np.ascontiguousarray(self.centroids.T, np.float64), squared)
        squared += self.offsets
        return squared

    def nearest(self, x: Floats, count: int) -> NDArray[np.int64]:
        """The `count` nearest cells of each row of float32[n, d], nearest first, ties by number: int64[n, count]."""
        found = [np.argsort(self.sums(part), axis=1, kind="stable")[:, :count] for part in self._blocks(x)]
        return np.concatenate(found) if found else np.empty((0, count), np.int64)

    def members(self, x: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The cell of each row, and copies of rows for cells that they are nearly in.

        Returns
        -------
        own
            int64[n].
        row, cell
            int64[copies] each: rows and the other cells they are in, by row and then by nearness.
        """
        own, rows, cells, start = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for part in self._blocks(x):
            sums = self.sums(part)
            near = np.argsort(sums, axis=1, kind="stable")[:, :MOST_CELLS]
            least = np.take_along_axis(sums, near, axis=1)
            beside = (least - least[:, :1] <= self.border) & (np.arange(near.shape[1]) > 0)
            row, slot = np.nonzero(beside & (self.border > 0))
            own.append(near[:, 0])
            rows.append(start + row)
            cells.append(near[row, slot])
            start += len(part)
        return np.concatenate(own), np.concatenate(rows), np.concatenate(cells)

    def _blocks(self, x: Floats) -> list[Floats]:
        size = max(1, BLOCK // len(self.centroids))
        return [x[i : i + size] for i in range(0, len(x), size)]

    def table(self) -> Any:
        """An Arrow table, schema CELLS."""
        count = len(self.centroids)
        return pa.Table.from_arrays(
            [
                pa.array(np.arange(count, dtype=np.int32)), pa.array(self.rows), pa.array(self.offsets),
                pa.array(np.full(count, self.border)), pa.array(list(self.centroids), pa.list_(pa.float32())),
            ],
            schema=CELLS,
        )  # fmt: skip


def cells_from_table(table: Any) -> Cells:
    """The cells of an Arrow table.

    Raises
    ------
    DatasetError
        The table has another schema, or values that no fit writes.
    """
    if table.schema.names != CELLS.names or not table.num_rows:
        raise _damaged(f"columns are {', '.join(table.schema.names)}, {table.num_rows} rows")
    number, offsets, border = (table.column(n).to_numpy() for n in ("cell", "offset", "border"))
    centroids = [np.asarray(row, np.float32) for row in table.column("centroid").to_pylist()]
    if not np.array_equal(number, np.arange(len(number))) or len({row.shape for row in centroids}) != 1:
        raise _damaged("cells are not numbered from 0, or centroids are of several sizes")
    stacked = np.stack(centroids)
    if not (
        np.isfinite(stacked).all() and np.isfinite(offsets).all() and border[0] >= 0 and (border == border[0]).all()
    ):
        raise _damaged("values are not finite, or borders differ")
    return Cells(stacked, offsets, table.column("rows").to_numpy(), float(border[0]))


def _damaged(problem: str) -> DatasetError:
    return DatasetError(f"not fitted cells: {problem}", "make the dataset again, or take a whole copy")
