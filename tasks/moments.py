"""Mergeable first and second moments of columns, for the scaler and for principal components.

A column's mean and deviation come from sums that are exact: they are the same however rows are cut into shards. Sums
of products are of floats, whose sum depends on its order, so shards are merged in a fixed binary tree over their
planned order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.jit import compiled

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of p columns of float32 that are exact: the same however rows are cut, in any order.

    Attributes
    ----------
    count
        int64[p], finite values.
    digits
        int64[p, 256, 3]: by binary exponent of a float32, the sum of the 24-bit whole numbers that its values are
        at that exponent, and of their squares (over 2^24, and the rest): exact for up to 2^38 rows.
    whole
        bool[p], whether every finite value is a whole number.
    """

    count: NDArray[np.int64]
    digits: NDArray[np.int64]
    whole: NDArray[np.bool_]

    @staticmethod
    def schema() -> Any:
        """Arrow schema of the partial state, a row a column."""
        return pa.schema(
            [
                pa.field("count", pa.int64(), nullable=False),
                pa.field("digits", pa.list_(pa.int64(), 256 * 3), nullable=False),
                pa.field("whole", pa.bool_(), nullable=False),
            ]
        )

    def to_table(self) -> Any:
        """As an Arrow table."""
        digits = pa.FixedSizeListArray.from_arrays(pa.array(self.digits.reshape(-1)), 256 * 3)
        return pa.Table.from_arrays([pa.array(self.count), digits, pa.array(self.whole)], schema=self.schema())

    @staticmethod
    def from_table(table: Any) -> "Sums":
        """Back from Arrow."""
        digits = table.column("digits").combine_chunks().flatten().to_numpy().reshape(-1, 256, 3)
        return Sums(table.column("count").to_numpy(), digits, table.column("whole").to_numpy())

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.count + other.count, self.digits + other.digits, self.whole & other.whole)

    def scaler(self) -> tuple[Matrix, Matrix]:
        """Mean and standard deviation (population) of each column; 1 for a column that does not vary."""
        mean, deviation = np.zeros(len(self.count)), np.ones(len(self.count))
        for c, n in enumerate(self.count.tolist()):
            if n:
                first, second = _total(self.digits[c])
                mean[c] = float(first / n)
                # The root of the quotient of whole numbers, scaled so that a variance no float can hold has one.
                deviation[c] = _root(second / n - (first / n) ** 2) or 1.0
        return mean, deviation


def sums(x: NDArray[np.float32]) -> Sums:
    """Exact sums of float32[n, p]; what is missing or infinite is left out."""
    digits = np.zeros((x.shape[1], 256, 3), dtype=np.int64)
    count = np.zeros(x.shape[1], dtype=np.int64)
    whole = np.ones(x.shape[1], dtype=np.bool_)
    _add_digits(np.ascontiguousarray(x, dtype=np.float32), digits, count, whole)
    return Sums(count, digits, whole)


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
    exact
        Sums that are exact, of each column.
    """

    rows: int
    mean: Matrix
    pairs: Matrix
    sums: Matrix
    products: Matrix
    exact: "Sums"

    @staticmethod
    def schema() -> Any:
        """Arrow schema of the partial state, a row a column."""
        lists = [pa.field(name, pa.list_(pa.float64()), nullable=False) for name in ("pairs", "sums", "products")]
        return pa.schema(
            [
                pa.field("rows", pa.int64(), nullable=False),
                pa.field("mean", pa.float64(), nullable=False),
                *lists,
                *Sums.schema(),
            ]
        )

    def to_table(self) -> Any:
        """As an Arrow table."""
        p = len(self.mean)
        offsets = pa.array(np.arange(p + 1, dtype=np.int32) * p, pa.int32())
        lists = [
            pa.ListArray.from_arrays(offsets, pa.array(m.reshape(-1))) for m in (self.pairs, self.sums, self.products)
        ]
        rows = pa.array(np.full(p, self.rows, dtype=np.int64))
        columns = [rows, pa.array(self.mean), *lists, *self.exact.to_table().columns]
        return pa.Table.from_arrays(columns, schema=self.schema())

    @staticmethod
    def from_table(table: Any) -> "Moments":
        """Back from Arrow."""
        p = table.num_rows
        pairs, sums, products = (
            table.column(name).combine_chunks().flatten().to_numpy().reshape(p, p)
            for name in ("pairs", "sums", "products")
        )
        rows = int(table.column("rows")[0].as_py())
        return Moments(rows, table.column("mean").to_numpy(), pairs, sums, products, Sums.from_table(table))

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
        """As of the exact sums."""
        return self.exact.scaler()

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
    return Moments(len(x), mean, there.T @ there, deviations.T @ there, deviations.T @ deviations, sums(x))


@compiled
def _add_digits(
    x: NDArray[np.float32], digits: NDArray[np.int64], count: NDArray[np.int64], whole: NDArray[np.bool_]
) -> None:  # pragma: no cover - compiled
    bits = x.view(np.uint32)
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            word = np.int64(bits[r, c])
            exponent = (word >> 23) & 255
            if exponent == 255:  # infinite or missing
                continue
            count[c] += 1
            whole[c] &= x[r, c] == np.rint(x[r, c])
            number = word & 0x7FFFFF
            if exponent > 0:
                number |= 0x800000
            else:
                exponent = 1  # a subnormal has the smallest exponent, without the leading bit
            square = number * number
            digits[c, exponent, 0] += -number if word >> 31 else number
            digits[c, exponent, 1] += square >> 24
            digits[c, exponent, 2] += square & 0xFFFFFF


def _total(digits: NDArray[np.int64]) -> tuple[Fraction, Fraction]:
    """The sum of a column's values and of their squares, exactly: float32s are whole numbers · 2^(exponent - 150)."""
    first = second = 0
    for exponent, (number, high, low) in enumerate(digits.tolist()):
        first += number << exponent
        second += ((high << 24) + low) << (2 * exponent)
    return Fraction(first, 1 << 150), Fraction(second, 1 << 300)


def _root(value: Fraction) -> float:
    """The square root of an exact value of any size, to a float's precision."""
    if value <= 0:
        return 0.0
    shift = (value.numerator.bit_length() - value.denominator.bit_length()) // 2
    return math.ldexp(math.sqrt(value / Fraction(4) ** shift), shift)


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
    return Moments(
        a.rows + b.rows,
        mean,
        a.pairs + b.pairs,
        sums_a + sums_b,
        products_a + products_b,
        a.exact + b.exact,
    )
