"""Values of new rows in the types of their columns: between two parents, or the commonest of a row's neighbours."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from tasks.tabular import plain_texts

pc: Any = compute  # its functions are made at import, unseen by type checkers


def is_number(kind: Any) -> bool:
    """Whether values of an Arrow type can lie between one another (booleans as 0 and 1), or are names."""
    types = pa.types
    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def numbers(column: Any) -> NDArray[np.float64]:
    """float64[n] of a column of numbers; null is NaN."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def between(a: Any, b: Any, gap: NDArray[np.float64], *, whole: bool, filling: float | None) -> Any:
    """One column of synthetic rows, a + gap · (b - a), computed in float64 and rounded once to the column's type.

    Parameters
    ----------
    a, b
        Arrow arrays of one type, n numbers each: the parents' values.
    gap
        float64[n].
    whole
        Whether new values are whole numbers, of halves the even one; they always are in a column of integers or
        booleans. What an integer cannot hold (a row may lie beyond its parents) is the nearest that it can.
    filling
        Stands in for what is missing or infinite, in the column's own precision; None: nothing does.

    Returns
    -------
    pyarrow.Array
        n values. Where the parents are equal, their value, infinities too; missing where a parent is.
    """
    kind = a.type
    x, y = numbers(a), numbers(b)
    if filling is not None:
        own = float(_as(np.array([filling]), kind)[0])
        x, y = (np.where(np.isfinite(values), values, own) for values in (x, y))
    with np.errstate(invalid="ignore", over="ignore"):
        made = x + gap * np.subtract(y, x, out=np.zeros_like(x), where=x != y)
        if whole:
            made = np.rint(made)
    missing = np.isnan(made)
    if pa.types.is_floating(kind) and not (a.null_count or b.null_count):
        missing = np.zeros(len(made), dtype=bool)  # it is NaN in the parents, and stays that
    return pa.array(_as(np.where(missing, 0.0, made), kind), kind, mask=missing if missing.any() else None)


def _as(values: NDArray[np.float64], kind: Any) -> NDArray[Any]:
    own: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    if own.kind == "b":
        return values > 0.5
    if own.kind in "iu":
        ends = np.iinfo(own)
        # The greatest float64 up to an integer type's end: that of 64 bits is none itself.
        top = np.nextafter(float(ends.max), 0.0) if float(ends.max) > ends.max else float(ends.max)
        return np.clip(np.rint(values), float(ends.min), top).astype(own)
    with np.errstate(over="ignore"):
        return values.astype(own)


def encoded(columns: list[Any]) -> tuple[NDArray[np.int32], list[NDArray[np.int64]], list[Any]]:
    """Columns of names as codes.

    Parameters
    ----------
    columns
        q Arrow arrays of n values each, of any types that can be compared.

    Returns
    -------
    codes : int32[n, q]
        A value's place among its column's, in rising order; a missing value counts as one and is last.
    first : list of int64[size]
        Of each column and code, a row that has it.
    values : list of pyarrow.Array
        Of each column the values by code; texts are plain strings.
    """
    codes = np.empty((len(columns[0]) if columns else 0, len(columns)), dtype=np.int32)
    first: list[NDArray[np.int64]] = []
    values: list[Any] = []
    for place, column in enumerate(columns):
        plain = column if is_number(column.type) else plain_texts(column)
        if pa.types.is_floating(plain.type):  # 0 and -0 are one value; Arrow cannot sort half floats
            kind = pa.float32() if pa.types.is_float16(plain.type) else plain.type
            plain = pc.add(plain.cast(kind), pa.scalar(0, kind))
        known = plain.unique()
        known = known.take(pc.sort_indices(known))
        codes[:, place] = pc.index_in(plain, value_set=known).to_numpy(zero_copy_only=False)
        rows = np.empty(len(known), dtype=np.int64)
        rows[codes[::-1, place]] = np.arange(len(plain))[::-1]
        first.append(rows)
        values.append(known)
    return codes, first, values
