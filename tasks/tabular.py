"""Tables of numbers from files, out of core: CSV, Parquet, Arrow and .npy, a range of rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import RecipeError, SourceError
from schemas.recipe import TableSource

BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read: its format, its columns and how many rows it has."""

    path: Path
    format: str
    schema: Any
    rows: int


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows: float32[n, p] features, and a label and a group each (groups None when the recipe names none)."""

    features: NDArray[np.float32]
    labels: list[str | None]
    groups: list[str | None] | None


def open_table(path: Path) -> Table:
    """Look at a table's columns and count its rows.

    Raises
    ------
    SourceError
        The file's format is not known, or it cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            array = _memmap(path)
            return Table(path, "npy", _npy_schema(path, array), len(array))
        if suffix in {".parquet", ".pq"}:
            file = pq.ParquetFile(path)
            return Table(path, "parquet", file.schema_arrow, file.metadata.num_rows)
        if suffix in {".arrow", ".feather", ".ipc"}:
            with _ipc(path) as reader:
                rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
                return Table(path, "arrow", reader.schema, rows)
        if suffix == ".csv":
            schema, rows = None, 0
            for batch in _csv(path):
                schema, rows = batch.schema, rows + batch.num_rows
            if schema is None:
                raise SourceError(f"{path}: the table is empty", "give a table with rows")
            return Table(path, "csv", schema, rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read as {suffix}: {error}", "check the file") from error
    raise SourceError(
        f"{path}: tables of format '{suffix}' are not known", "use .csv, .parquet, .arrow (IPC file) or .npy"
    )


def _memmap(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in {1, 2} or (array.ndim == 1 and array.dtype.names is None):
        raise ValueError(f"its shape is {array.shape}; a table has two dimensions, or named fields")
    return array


def _npy_schema(path: Path, array: NDArray[Any]) -> Any:
    if array.dtype.names is not None:
        return pa.schema([(n, pa.from_numpy_dtype(array.dtype[n])) for n in array.dtype.names])
    return pa.schema([(f"c{i}", pa.from_numpy_dtype(array.dtype)) for i in range(array.shape[1])])


def _ipc(path: Path) -> Any:
    return pa.ipc.open_file(pa.memory_map(str(path)))


def _csv(path: Path) -> Iterator[Any]:
    # The types of a column are settled by its first block; a later misfit is an error that names the row.
    with pacsv.open_csv(path, read_options=pacsv.ReadOptions(block_size=8 << 20, use_threads=False)) as reader:
        yield from reader


def table_features(table: Table, source: TableSource) -> list[str]:
    """Names of the features: a column each, or one for each place of a fixed-size list.

    Raises
    ------
    RecipeError
        A column that the recipe names is not there, or a feature column does not hold numbers.
    """
    names = table.schema.names
    for field, wanted in (("label_column", source.label_column), ("group_column", source.group_column)):
        if wanted is not None and wanted not in names:
            raise RecipeError(
                f"sources.{field}: {table.path.name} has no column '{wanted}'",
                f"its columns are {', '.join(names[:20])}{', …' if len(names) > 20 else ''}",
            )
    found: list[str] = []
    for name in _feature_columns(table, source):
        if name not in names:
            raise RecipeError(f"sources.columns: {table.path.name} has no column '{name}'", "check the name")
        kind = table.schema.field(name).type
        if pa.types.is_fixed_size_list(kind):
            found += [f"{name}[{i}]" for i in range(kind.list_size)]
        elif (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_null(kind)
        ):
            found.append(name)
        else:
            raise RecipeError(
                f"sources.columns: column '{name}' of {table.path.name} holds {kind}, not numbers",
                "list the feature columns under sources.columns, or encode this one as numbers",
            )
    reserved = {"sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap"} & set(found)
    if reserved:
        raise RecipeError(
            f"sources.columns: {', '.join(sorted(reserved))}: a name that binmill's own tables use",
            "rename the column, or list the others under sources.columns",
        )
    if not found:
        raise RecipeError(f"sources.columns: {table.path.name} has no feature column", "add columns of numbers")
    return found


def _feature_columns(table: Table, source: TableSource) -> list[str]:
    apart = {source.label_column, source.group_column}
    return list(source.columns) or [name for name in table.schema.names if name not in apart]


def batches(table: Table, source: TableSource, start: int, stop: int) -> Iterator[Part]:
    """Rows `start` to `stop`, in order, some thousands at a time."""
    columns = _feature_columns(table, source)
    wanted = list(dict.fromkeys([*columns, source.label_column, *filter(None, [source.group_column])]))
    for batch in _record_batches(table, wanted, start, stop):
        features = [_numbers(batch.column(name)) for name in columns]
        groups = None if source.group_column is None else _texts(batch.column(source.group_column))
        yield Part(np.concatenate(features, axis=1), _texts(batch.column(source.label_column)), groups)


def _record_batches(table: Table, columns: list[str], start: int, stop: int) -> Iterator[Any]:
    if table.format == "npy":
        yield from _npy_batches(table, columns, start, stop)
        return
    place = 0
    for first, source in _pieces(table, columns, start, stop):
        place = first
        for batch in source:
            low, high = max(start - place, 0), min(stop - place, batch.num_rows)
            if low < high:
                yield batch.slice(low, high - low)
            place += batch.num_rows
            if place >= stop:
                return


def _pieces(table: Table, columns: list[str], start: int, stop: int) -> Iterator[tuple[int, Iterator[Any]]]:
    """Parts of a file that can be read by themselves, with the number of their first row; those in range."""
    if table.format == "parquet":
        file = pq.ParquetFile(table.path)
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first < stop and first + rows > start:
                yield first, file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
            first += rows
    elif table.format == "arrow":
        with _ipc(table.path) as reader:
            first = 0
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                if first < stop and first + batch.num_rows > start:
                    yield first, iter([batch.select(columns)])
                first += batch.num_rows
    else:
        yield 0, (batch.select(columns) for batch in _csv(table.path))


def _npy_batches(table: Table, columns: list[str], start: int, stop: int) -> Iterator[Any]:
    array = _memmap(table.path)
    for low in range(start, min(stop, table.rows), BATCH_ROWS):
        rows = array[low : min(low + BATCH_ROWS, stop)]
        named = array.dtype.names is not None
        arrays = [np.array(rows[name] if named else rows[:, int(name[1:])]) for name in columns]
        yield pa.RecordBatch.from_arrays([pa.array(a) for a in arrays], names=columns)


def _numbers(column: Any) -> NDArray[np.float32]:
    """A column (or list column) as float32[n, width]; null is NaN."""
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        # A null list stands for a row of nulls; flattening would drop it.
        rows = [[None] * width if row is None else row for row in column.to_pylist()] if column.null_count else None
        flat = column.flatten() if rows is None else pa.array([v for row in rows for v in row], column.type.value_type)
        return _numbers(flat).reshape(-1, width)
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())
    values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # beyond float32's range a value is infinite
        return values.astype(np.float32).reshape(-1, 1)


def _texts(column: Any) -> list[str | None]:
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())
    if pa.types.is_floating(column.type):
        whole = pc.cast(column, pa.int64(), safe=False)
        if pc.cast(whole, pa.float64()).equals(pc.cast(column, pa.float64())):
            column = whole  # a class "1.0" is the class "1"
    return [None if v is None else str(v) for v in column.to_pylist()]
