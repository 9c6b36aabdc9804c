"""Arrays of .npy files, mapped, as tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def memmap(path: Path) -> NDArray[Any]:
    """An array [n, p], or [n] with named fields. The pages that were read of it go when it goes.

    Raises
    ------
    OSError, ValueError
        There is no such array.
    """
    try:
        with np.errstate(over="raise"):  # a shape beyond what there is
            array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ArithmeticError, EOFError, SyntaxError, TokenError, TypeError) as error:  # of a header that is Python's
        raise ValueError(f"it is no whole array: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("it holds several arrays")
    if array.ndim != (1 if array.dtype.names else 2):
        raise ValueError(f"its shape is {array.shape}; a table has two dimensions, or one and named fields")
    return array


def npy_schema(array: NDArray[Any]) -> Any:
    """Its columns as Arrow has them: the fields' names, or c0, c1, ...

    Raises
    ------
    ValueError
        Arrow has no such type.
    """
    kinds = {name: array.dtype[name] for name in array.dtype.names} if array.dtype.names else {"c": array.dtype}
    for name, kind in kinds.items():
        try:
            kinds[name] = pa.from_numpy_dtype(kind)
        except pa.ArrowNotImplementedError as error:
            raise ValueError(f"'{name}' holds {kind}, not numbers or texts") from error
    if array.dtype.names:
        return pa.schema(list(kinds.items()))
    return pa.schema([(f"c{i}", kinds["c"]) for i in range(array.shape[1])])


def npy_columns(array: NDArray[Any], columns: Sequence[int], start: int, stop: int, rows: int) -> Iterator[list[Any]]:
    """Rows `start` to `stop` of some columns, by their places, as Arrow arrays; so many rows at a time."""
    for low in range(start, stop, rows):
        some = array[low : min(low + rows, stop)]
        names = array.dtype.names
        found = [np.array(some[names[place]] if names else some[:, place]) for place in columns]
        yield [pa.array(values.astype(values.dtype.newbyteorder("="), copy=False)) for values in found]
