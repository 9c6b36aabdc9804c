"""Mergeable first and second moments of columns, for the scaler and for principal components.

Sums of floats depend on their order, so shards are merged in a fixed binary tree over their planned order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of p columns; a value that is missing in one column is left out of that column's sums only.

    Attributes
    ----------
    rows
        Rows seen.
    mean
        float64[p], of present values.
    pairs
        float64[p, p]: rows in which both columns are present.
    sums
        float64[p, p]: entry (i, j) sums column i's deviations from its mean over those rows.
    products
        float64[p, p]: sums of products of both columns' deviations over those rows.
    """

    rows: int
    mean: Matrix
    pairs: Matrix
    sums: Matrix
    products: Matrix

    @staticmethod
    def schema() -> Any:
        """Arrow schema of the partial state, a row a column."""
        lists = [pa.field(name, pa.list_(pa.float64()), nullable=False) for name in ("pairs", "sums", "products")]
        return pa.schema(
            [pa.field("rows", pa.int64(), nullable=False), pa.field("mean", pa.float64(), nullable=False), *lists]
        )

    def to_table(self) -> Any:
        """As an Arrow table."""
        p = len(self.mean)
        offsets = pa.array(np.arange(p + 1, dtype=np.int32) * p, pa.int32())
        lists = [
            pa.ListArray.from_arrays(offsets, pa.array(m.reshape(-1))) for m in (self.pairs, self.sums, self.products)
        ]
        rows = pa.array(np.full(p, self.rows, dtype=np.int64))
        return pa.Table.from_arrays([rows, pa.array(self.mean), *lists], schema=self.schema())

    @staticmethod
    def from_table(table: Any) -> "Moments":
        """Back from Arrow."""
        p = table.num_rows
        matrices = [
            table.column(name).combine_chunks().flatten().to_numpy().reshape(p, p)
            for name in ("pairs", "sums", "products")
        ]
        return Moments(int(table.column("rows")[0].as_py()), table.column("mean").to_numpy(), *matrices)

    @staticmethod
    def merge(parts: Sequence["Moments"]) -> "Moments":
        """Moments of all rows, merged in a fixed tree over the parts' order."""
        level = list(parts)
        while len(level) > 1:
            level = [_pair(*level[i : i + 2]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
        return level[0]

    @property
    def count(self) -> Matrix:
        """float64[p], present values of each column."""
        return np.diag(self.pairs)

    def scaler(self) -> tuple[Matrix, Matrix]:
        """Mean and standard deviation (population) of each column; 1 for a column that does not vary."""
        variance = np.diag(self.products) / np.maximum(self.count, 1)
        deviation = np.sqrt(np.maximum(variance, 0))
        # What rounding leaves of a constant's variance is not a scale.
        flat = deviation <= 1e-12 * np.maximum(np.abs(self.mean), 1e-300)
        return self.mean, np.where(flat, 1.0, deviation)

    def correlation(self) -> Matrix:
        """Covariance float64[p, p] of the standardised columns, missing values taken for the mean."""
        _, scale = self.scaler()
        result = self.products / max(self.rows, 1) / scale[:, None] / scale[None, :]
        return (result + result.T) / 2  # symmetric to the bit


def moments(x: NDArray[np.float32]) -> Moments:
    """Moments of float32[n, p]; NaN is missing, infinities are taken as missing too."""
    wide = x.astype(np.float64)
    present = np.isfinite(wide)
    count = present.sum(axis=0)
    mean = np.where(present, wide, 0.0).sum(axis=0) / np.maximum(count, 1)
    deviations = np.where(present, wide - mean, 0.0)
    there = present.astype(np.float64)
    return Moments(len(x), mean, there.T @ there, deviations.T @ there, deviations.T @ deviations)


def _about(part: Moments, mean: Matrix) -> tuple[Matrix, Matrix]:
    """Sums and products of a part about other means."""
    shift = part.mean - mean
    sums = part.sums + shift[:, None] * part.pairs
    products = (
        part.products
        + part.sums * shift[None, :]
        + part.sums.T * shift[:, None]
        + shift[:, None] * shift[None, :] * part.pairs
    )
    return sums, products


def _pair(a: Moments, b: Moments) -> Moments:
    share = b.count / np.maximum(a.count + b.count, 1)
    mean = a.mean + (b.mean - a.mean) * share
    (sums_a, products_a), (sums_b, products_b) = _about(a, mean), _about(b, mean)
    return Moments(a.rows + b.rows, mean, a.pairs + b.pairs, sums_a + sums_b, products_a + products_b)
