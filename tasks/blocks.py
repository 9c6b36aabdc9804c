"""Blocks of a table's features as float32, feature by feature, whatever the format, larger than memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.columns import BESIDE_BED, NUMBERS, Feature, check_name, encode, features_of, kind_of, repeated_names
from tasks.jit import compiled
from tasks.npyfile import memmap
from tasks.plink import read_fam, read_variants
from tasks.tabular import BATCH_ROWS, File, Table, parquet_batches, plain_texts, record_batches

COLUMNS_TOGETHER = 1024
"""Columns that are decoded together: a Parquet column that is being read holds some 20 kB."""
LIST_VALUES = 1 << 23
"""Values of a list column that are decoded together."""
TILE_BYTES = 64 << 20
"""What of an .npy file is mapped at a time."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `first` to `first + n` of p features: float32[p, n] in C order, NaN where missing."""

    first: int
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Lines:
    """Values of some features as they were read: [k, m] of any number type, with a mask of what is missing."""

    slots: slice
    at: int
    values: NDArray[Any]
    missing: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """The same, row by row: [m, width], of which column `columns[i]` is feature `slots[i]`."""

    slots: NDArray[np.int64]
    at: int
    values: NDArray[Any]
    missing: NDArray[np.bool_] | None
    columns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Texts:
    """The same of a category: its texts."""

    slot: int
    at: int
    values: Any


_Part = _Lines | _Rows | _Texts


def blocks(
    table: Table,
    features: Sequence[Feature],
    start: int,
    stop: int,
    batch_rows: int = BATCH_ROWS,
    *,
    shift: NDArray[np.float64] | None = None,
    factor: NDArray[np.float64] | None = None,
    codes: Mapping[str, Any] | None = None,
) -> Iterator[Block]:
    """Rows `start` to `stop` of some features, in order; of Parquet files only their columns are read.

    Parameters
    ----------
    table
        An open table.
    features
        Some of `features_of`, in any order: row i of the values is feature i.
    start, stop
        Rows; what is outside the table is not there.
    batch_rows
        Rows of a block, at most.
    shift, factor
        float64[p] each, of `affine`: a value x becomes (x - shift) · factor in float64, before
        it is rounded to float32.
    codes
        Texts by category's name, as `codebook` gives them: a text's code is its place, that of any other text their
        number.

    Yields
    ------
    Block
        Each value by itself: it depends neither on the other features nor on how the rows are cut.
    """
    same = identity(len(features))
    shift, factor = same[0] if shift is None else shift, same[1] if factor is None else factor
    for first, count, parts in _windows(table, features, start, stop, batch_rows):
        values = np.empty((len(features), count), np.float32)
        for part in parts:
            if isinstance(part, _Texts):
                texts = (codes or {}).get(features[part.slot].name, pa.array([], pa.string()))
                values[part.slot, part.at : part.at + len(part.values)] = encode(part.values, texts)
                continue
            if isinstance(part, _Rows):
                _transpose(part, shift, factor, values)
                if part.missing is not None:
                    out = values[:, part.at : part.at + len(part.values)]
                    for slot, column in zip(part.slots, part.columns, strict=True):
                        out[slot][part.missing[:, column]] = np.nan
                continue
            out = values[part.slots, part.at : part.at + part.values.shape[1]]
            _scale(part.values, shift[part.slots], factor[part.slots], out)
            if part.missing is not None:
                out[part.missing] = np.nan
        yield Block(first, values)


def identity(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shift and factor that change nothing, float64[count] each."""
    return np.zeros(count), np.ones(count)


def ranges(
    table: Table, features: Sequence[Feature], start: int, stop: int, batch_rows: int = BATCH_ROWS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest finite value of each feature: exact, and so are their extremes over ranges.

    Returns
    -------
    minimum, maximum
        float64[p] each; +inf and -inf where no value is finite (or the feature is a category).
    """
    minimum, maximum = np.full(len(features), np.inf), np.full(len(features), -np.inf)
    for _, _, parts in _windows(table, features, start, stop, batch_rows):
        for part in parts:
            if isinstance(part, _Texts):
                continue
            if isinstance(part, _Rows):
                values = np.ascontiguousarray(part.values[:, part.columns].T)
                missing = None if part.missing is None else part.missing[:, part.columns].T
                slots: Any = part.slots
            else:
                values, missing, slots = part.values, part.missing, part.slots
            use = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
            if missing is not None:
                use &= ~missing
            low, high = _bounds(values.dtype)
            found = use.any(axis=1)
            least = np.where(use, values, high).min(axis=1).astype(np.float64)
            most = np.where(use, values, low).max(axis=1).astype(np.float64)
            minimum[slots] = np.minimum(minimum[slots], np.where(found, least, np.inf))
            maximum[slots] = np.maximum(maximum[slots], np.where(found, most, -np.inf))
    return minimum, maximum


def _bounds(kind: Any) -> tuple[Any, Any]:
    info: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return kind.type(info.min), kind.type(info.max)


def affine(
    minimum: NDArray[np.float64], maximum: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How to bring features into what float32 resolves.

    A feature whose spread is below 2^-8 of its magnitude (times, large identifiers) is moved to begin at 0. One whose
    spread (or magnitude) is then beyond float32, or below 2^-100, is scaled by a power of two to between 1/2 and 1.
    All others stay as they are.

    Parameters
    ----------
    minimum, maximum
        float64[p] each, of `ranges`.

    Returns
    -------
    shift, factor
        float64[p] each, for `blocks`.
    """
    shift, factor = identity(len(minimum))
    there = minimum <= maximum
    low, high = np.where(there, minimum, 0.0), np.where(there, maximum, 0.0)
    size = np.maximum(np.abs(low), np.abs(high))
    half = high / 2 - low / 2  # the spread itself may be beyond float64
    near = (half > 0) & (half < size * 2.0**-9)
    # Integers that differ may be one float64; a constant is as well at 0.
    same = (half == 0) & (size >= 2.0**53)
    shift[near | same] = low[near | same]
    size = np.where(near, 2 * np.where(near, half, 0.0), np.where(same, 0.0, size))
    scaled = (size > np.finfo(np.float32).max) | ((size > 0) & (size < 2.0**-100))
    exponent = np.minimum(-np.frexp(size)[1], 1000)
    factor[scaled] = np.ldexp(1.0, exponent[scaled])
    return shift, factor


def outcome_of(table: Table, column: str, start: int, stop: int) -> Any:
    """The outcome of rows `start` to `stop`, as the file has it.

    Parameters
    ----------
    table, column
        Any table; a column, a place of a list column as `features_of` names it, or `phenotype` or `sex` of a .fam.

    Returns
    -------
    pyarrow.Array
        One value a row.

    Raises
    ------
    RecipeError
        There is no such column.
    """
    if table.format == "bed" and column in BESIDE_BED:
        return read_fam(table.about, column, start, stop)
    if table.format != "bed" and table.schema.get_field_index(column) >= 0:
        check_name(table, "outcome", column, {column}, repeated_names(table))
        found = [batch.column(0) for batch in record_batches(table, [column], start, stop)]
        whole = pa.chunked_array(found, table.schema.field(column).type).combine_chunks()
        return _outcome(whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole, column)
    features, _ = features_of(table, None, only=[column])
    found = [block.values[0].copy() for block in blocks(table, features[:1], start, stop)]
    return pa.array(np.concatenate(found) if found else np.zeros(0, np.float32), from_pandas=True)


def _outcome(array: Any, name: str) -> Any:
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    kind = array.type
    if kind_of(kind) == "text" or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return plain_texts(array)
    if kind_of(kind) not in NUMBERS:
        raise RecipeError(f"outcome: column '{name}' {kind_of(kind)}", "name a column of numbers or texts")
    return array


def _windows(
    table: Table, features: Sequence[Feature], start: int, stop: int, batch_rows: int
) -> Iterator[tuple[int, int, Iterator[_Part]]]:
    """First row, count of rows and parts of each block. The parts of one are taken before the next is asked for."""
    start, stop = max(start, 0), min(stop, table.rows)
    if start >= stop:
        return
    if table.format == "bed" or (table.format == "npy" and memmap(table.path).dtype.kind in "biuf"):
        places = {name: place for place, name in enumerate(table.schema.names)}
        columns = np.array([places[feature.column] for feature in features], np.int64)
        read = _from_bed if table.format == "bed" else _from_npy
        for low in range(start, stop, batch_rows):
            high = min(low + batch_rows, stop)
            yield low, high - low, read(table, columns, low, high)
    elif table.format == "parquet":
        yield from _parquet_windows(table, features, start, stop, batch_rows)
    else:
        slots = _slots_of(features)
        plan = _Plan(features, list(slots), slots)
        low = start
        for batch in record_batches(table, plan.names, start, stop, batch_rows):
            yield low, batch.num_rows, plan.parts(batch, 0)
            low += batch.num_rows


def _parquet_windows(
    table: Table, features: Sequence[Feature], start: int, stop: int, batch_rows: int
) -> Iterator[tuple[int, int, Iterator[_Part]]]:
    slots = _slots_of(features)
    whole = _Plan(features, list(slots), slots)
    lists = [name for name, here in slots.items() if features[here[0]].place is not None]
    plain = [name for name in slots if name not in set(lists)] if lists else list(slots)
    some = [[name] for name in lists] + [
        plain[i : i + COLUMNS_TOGETHER] for i in range(0, len(plain), COLUMNS_TOGETHER)
    ]
    plans = [_Plan(features, names, slots) for names in some]
    for file in table.files:
        if file.first >= stop or file.first + file.rows <= start:
            continue
        for first, groups, rows in _together(file.pieces, file.first, start, stop, batch_rows):
            low, high = max(first, start), min(first + rows, stop)
            if rows <= batch_rows:
                yield low, high - low, _from_groups(table, file, groups, plans, low - first, high - low)
                continue
            place = first
            for batch in parquet_batches(table, file, groups, whole.names, batch_rows):
                if place >= stop:
                    break
                a, b = max(start - place, 0), min(stop - place, batch.num_rows)
                if a < b:
                    yield place + a, b - a, whole.parts(batch.slice(a, b - a), 0)
                place += batch.num_rows


def _together(
    pieces: Sequence[int], first: int, start: int, stop: int, most: int
) -> Iterator[tuple[int, list[int], int]]:
    """First row, numbers and rows of row groups near `start` to `stop`; small ones together, up to `most` rows."""
    groups: list[int] = []
    begin = place = first
    for group, rows in enumerate(pieces):
        if groups and (place + rows - begin > most):
            yield begin, groups, place - begin
            groups = []
        if rows and place < stop and place + rows > start:
            begin = begin if groups else place
            groups.append(group)
        place += rows
        if groups and place >= stop:
            break
    if groups:
        yield begin, groups, place - begin


def _from_groups(
    table: Table, file: File, groups: list[int], plans: Sequence["_Plan"], skip: int, count: int
) -> Iterator[_Part]:
    """Rows `skip` to `skip + count` of some row groups, some columns after the other."""
    for plan in plans:
        # A list is read some rows at a time: while it is, each of its values takes several times its size.
        width = max([table.schema.field(plan.names[column]).type.list_size for column in plan.lists], default=0)
        place = -skip
        for batch in parquet_batches(table, file, groups, plan.names, max(1, LIST_VALUES // width) if width else None):
            low, high = max(-place, 0), min(count - place, batch.num_rows)
            if low < high:
                yield from plan.parts(batch.slice(low, high - low), place + low)
            place += batch.num_rows
            if place >= count:
                break


def _slots_of(features: Sequence[Feature]) -> dict[str, list[int]]:
    """The features in each column, by their numbers."""
    found: dict[str, list[int]] = {}
    for slot, feature in enumerate(features):
        found.setdefault(feature.column, []).append(slot)
    return found


class _Plan:
    """Which features stand in which of some columns."""

    def __init__(self, features: Sequence[Feature], names: Sequence[str], slots: Mapping[str, Sequence[int]]) -> None:
        self.names = names
        self.plain: list[tuple[int, int, bool]] = []
        """Column and slot of each feature that has a column to itself, and whether it is a category."""
        self.lists: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        """Slots and places of the features in each list column."""
        for column, name in enumerate(names):
            here = slots[name]
            if features[here[0]].place is None:
                self.plain += [(column, slot, features[slot].storage == "category") for slot in here]
            else:
                places = [features[slot].place for slot in here]
                self.lists[column] = np.array(here, np.int64), np.array(places, np.int64)
        first = self.plain[0][1] if self.plain else 0
        order = [(i, first + i, False) for i in range(len(names))]
        self.straight = slice(first, first + len(names)) if self.plain == order else None
        """Where the features stand, when each column is one and they follow each other."""

    def parts(self, batch: Any, at: int) -> Iterator[_Part]:
        """What a batch of the columns holds, for rows that begin at `at` of the block."""
        if self.straight and set(batch.schema.types) == {pa.float32()}:
            values = batch.to_tensor(null_to_nan=True, row_major=False).to_numpy().T
            yield _Lines(self.straight, at, values, None)
            return
        columns = batch.columns
        for column, slot, category in self.plain:
            if category:
                yield _Texts(slot, at, columns[column])
                continue
            values, missing = _numbers(columns[column])
            yield _Lines(slice(slot, slot + 1), at, values[None, :], None if missing is None else missing[None, :])
        for column, (slots, places) in self.lists.items():
            values, missing = _list_numbers(columns[column])
            yield _Rows(slots, at, values, missing, places)


def _numbers(array: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """An array's values as numpy has them, and where they are missing (None for nowhere, or where it is NaN)."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _numbers(array.storage)
    if pa.types.is_dictionary(kind):
        return _numbers(array.dictionary_decode())
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan, np.float32), None
    if pa.types.is_boolean(kind):
        array = array.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif pa.types.is_temporal(kind):
        array = array.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    if pa.types.is_floating(array.type) or not array.null_count:
        return array.to_numpy(zero_copy_only=False), None
    missing = array.is_null().to_numpy(zero_copy_only=False)
    return array.fill_null(0).to_numpy(zero_copy_only=False), missing


def _list_numbers(array: Any) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The same of a fixed-size list: [n, width] each; a null list is a row of missing values."""
    width = array.type.list_size
    values, missing = _numbers(array.values.slice(array.offset * width, len(array) * width))
    values = values.reshape(len(array), width)
    missing = None if missing is None else missing.reshape(values.shape)
    if array.null_count:
        gone = array.is_null().to_numpy(zero_copy_only=False)[:, None]
        missing = np.broadcast_to(gone, values.shape) if missing is None else missing | gone
    return values, missing


def _from_npy(table: Table, columns: NDArray[np.int64], start: int, stop: int) -> Iterator[_Part]:
    array = memmap(table.path)
    if array.flags.f_contiguous:
        for low in range(0, len(columns), COLUMNS_TOGETHER):
            some = columns[low : low + COLUMNS_TOGETHER]
            values = _native(memmap(table.path).T[some, start:stop])
            yield _Lines(slice(low, low + len(some)), 0, values, None)
        return
    rows = max(1, TILE_BYTES // max(1, array.strides[0]))
    slots = np.arange(len(columns))
    for low in range(start, stop, rows):
        values = _native(memmap(table.path)[low : min(low + rows, stop)])
        yield _Rows(slots, low - start, values, None, columns)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """In this machine's byte order, and of a type that kernels know."""
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype.kind == "f" and values.dtype.itemsize not in {4, 8}:
        return values.astype(np.float32 if values.dtype.itemsize == 2 else np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _from_bed(table: Table, columns: NDArray[np.int64], start: int, stop: int) -> Iterator[_Part]:
    for low in range(0, len(columns), COLUMNS_TOGETHER):
        some = columns[low : low + COLUMNS_TOGETHER]
        yield _Lines(slice(low, low + len(some)), 0, read_variants(table.about, some, start, stop), None)


def _scale(
    values: NDArray[Any], shift: NDArray[np.float64], factor: NDArray[np.float64], out: NDArray[np.float32]
) -> None:
    """Put (values - shift) · factor into `out`; all [k, m]."""
    with np.errstate(over="ignore"):  # beyond float32's range a value is infinite
        if not shift.any() and (factor == 1).all():
            out[:] = values if values.dtype.itemsize < 8 and values.dtype.kind == "f" else values.astype(np.float64)
            return
        for row in range(len(values)):
            moved = _moved(values[row], float(shift[row]))
            out[row] = moved * factor[row]


def _moved(values: NDArray[Any], shift: float) -> NDArray[np.float64]:
    if shift and values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        # Exact: both stand within 2^-8 of each other, so that the difference modulo 2^64 is the difference.
        return (values.view(np.uint64) - np.uint64(int(shift) % 2**64)).view(np.int64).astype(np.float64)
    return values.astype(np.float64) - shift


def _transpose(part: _Rows, shift: NDArray[np.float64], factor: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Put rows into `out`, float32[p, n], scaled as `_scale` does."""
    values, columns, slots, at = part.values, part.columns, part.slots, part.at
    if values.dtype == np.float32 and not shift[slots].any() and (factor[slots] == 1).all():
        _transpose_plain(values, columns, slots, at, out)
    elif values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        modulo = np.array([int(s) % 2**64 for s in shift], np.uint64)
        _transpose_integers(values, columns, slots, shift != 0, modulo, factor, at, out)
    else:
        _transpose_scaled(values, columns, slots, shift, factor, at, out)


SIDE = 32
"""Side of the square that is transposed at a time, so that the lines of both its sides stay in the cache."""


@compiled
def _transpose_plain(
    values: NDArray[np.float32],
    columns: NDArray[np.int64],
    slots: NDArray[np.int64],
    at: int,
    out: NDArray[np.float32],
) -> None:
    for left in range(0, len(columns), SIDE):
        for top in range(0, len(values), SIDE):
            for i in range(left, min(left + SIDE, len(columns))):
                column, slot = columns[i], slots[i]
                for row in range(top, min(top + SIDE, len(values))):
                    out[slot, at + row] = values[row, column]


@compiled
def _transpose_scaled(
    values: NDArray[Any],
    columns: NDArray[np.int64],
    slots: NDArray[np.int64],
    shift: NDArray[np.float64],
    factor: NDArray[np.float64],
    at: int,
    out: NDArray[np.float32],
) -> None:
    for left in range(0, len(columns), SIDE):
        for top in range(0, len(values), SIDE):
            for i in range(left, min(left + SIDE, len(columns))):
                column, slot = columns[i], slots[i]
                for row in range(top, min(top + SIDE, len(values))):
                    out[slot, at + row] = np.float32((np.float64(values[row, column]) - shift[slot]) * factor[slot])


@compiled
def _transpose_integers(
    values: NDArray[Any],
    columns: NDArray[np.int64],
    slots: NDArray[np.int64],
    moved: NDArray[np.bool_],
    shift: NDArray[np.uint64],
    factor: NDArray[np.float64],
    at: int,
    out: NDArray[np.float32],
) -> None:
    for left in range(0, len(columns), SIDE):
        for top in range(0, len(values), SIDE):
            for i in range(left, min(left + SIDE, len(columns))):
                column, slot = columns[i], slots[i]
                for row in range(top, min(top + SIDE, len(values))):
                    value = values[row, column]
                    near = np.float64(np.int64(np.uint64(value) - shift[slot])) if moved[slot] else np.float64(value)
                    out[slot, at + row] = np.float32(near * factor[slot])
