"""Mergeable first and second moments of columns, for the scaler and for principal components.

Sums of floats depend on their order, so shards are merged in a fixed binary tree over their planned order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of p columns over pairs of present values.

    Attributes
    ----------
    count
        float64[p], present values of each column.
    mean
        float64[p].
    products
        float64[p, p], sums of products of deviations from the mean; a missing value deviates by 0, as if it
        were the mean.
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @staticmethod
    def schema() -> Any:
        """Arrow schema of the partial state."""
        return pa.schema(
            [
                pa.field("count", pa.float64(), nullable=False),
                pa.field("mean", pa.float64(), nullable=False),
                pa.field("products", pa.list_(pa.float64()), nullable=False),
            ]
        )

    def to_table(self) -> Any:
        """As an Arrow table, one row a column."""
        p = len(self.count)
        offsets = pa.array(np.arange(p + 1, dtype=np.int32) * p, pa.int32())
        return pa.Table.from_arrays(
            [
                pa.array(self.count),
                pa.array(self.mean),
                pa.ListArray.from_arrays(offsets, pa.array(self.products.reshape(-1))),
            ],
            schema=self.schema(),
        )

    @staticmethod
    def from_table(table: Any) -> "Moments":
        """Back from Arrow."""
        p = table.num_rows
        flat = table.column("products").combine_chunks().flatten().to_numpy()
        return Moments(table.column("count").to_numpy(), table.column("mean").to_numpy(), flat.reshape(p, p))

    @staticmethod
    def merge(parts: Sequence["Moments"]) -> "Moments":
        """Moments of all rows, merged in a fixed tree over the parts' order (Chan, Golub and LeVeque, 1979)."""
        level = list(parts)
        while len(level) > 1:
            level = [_pair(*level[i : i + 2]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
        return level[0]

    def scaler(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (population) of each column; 1 for a column that does not vary."""
        variance = np.diag(self.products) / np.maximum(self.count, 1)
        deviation = np.sqrt(np.maximum(variance, 0))
        # What rounding leaves of a constant's variance is not a scale.
        flat = deviation <= 1e-12 * np.maximum(np.abs(self.mean), 1e-300)
        return self.mean, np.where(flat, 1.0, deviation)

    def correlation(self) -> NDArray[np.float64]:
        """Covariance float64[p, p] of the standardised columns, symmetric to the bit."""
        _, scale = self.scaler()
        rows = max(float(self.count.max(initial=0)), 1.0)
        result = self.products / rows / scale[:, None] / scale[None, :]
        return (result + result.T) / 2


def moments(x: NDArray[np.float32]) -> Moments:
    """Moments of float32[n, p]; NaN is missing, infinities are taken as missing too."""
    wide = x.astype(np.float64)
    present = np.isfinite(wide)
    count = present.sum(axis=0).astype(np.float64)
    mean = np.where(present, wide, 0.0).sum(axis=0) / np.maximum(count, 1)
    deviations = np.where(present, wide - mean, 0.0)
    return Moments(count, mean, deviations.T @ deviations)


def _pair(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    delta = b.mean - a.mean
    mean = a.mean + delta * share
    # Pairwise weights by the geometric mean of the columns' own: exact where no value is missing.
    weight = np.sqrt(a.count * share)
    products = a.products + b.products + np.outer(delta * weight, delta * weight)
    return Moments(count, mean, products)
