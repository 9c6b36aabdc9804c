"""Tables in files, out of core: some columns, a range of rows at a time, of CSV, Parquet, Arrow, .npy, PLINK .bed."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import RecipeError, SourceError
from schemas.recipe import TableSource
from tasks.csvfile import csv_batches, csv_suffix, scan_csv
from tasks.plink import Bed, open_bed

BATCH_ROWS = 16_384
PARQUET = {".parquet", ".pq"}
ARROW = {".arrow", ".feather", ".ipc"}


@dataclass(frozen=True, slots=True)
class File:
    """One file of a table: its first row in the table, and how many rows each of its pieces has.

    A piece is what can be read by itself: a Parquet row group, an Arrow record batch, or the whole.
    """

    path: Path
    first: int
    pieces: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return sum(self.pieces)


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read.

    Attributes
    ----------
    path, format
        File or folder; csv, parquet, arrow, npy or bed.
    schema
        Arrow schema. Its names are unique: of columns of one name the second is `name#2`, and so on.
    rows
        How many there are.
    files
        In the order of the rows.
    spelled
        For each column the file's own name and which of the columns of that name it is, from 0; by unique name.
    about
        What the format's own reader has to know (CSV: dialect and types; PLINK: counts), or None.
    """

    path: Path
    format: str
    schema: Any
    rows: int
    files: tuple[File, ...]
    spelled: dict[str, tuple[str, int]]
    about: Any = None


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows: float32[n, p] features, and a label and a group each (groups None when the recipe names none)."""

    features: NDArray[np.float32]
    labels: list[str | None]
    groups: list[str | None] | None


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of which none stands twice: the second `a` is `a#2`, or the next number that is free.

    A column without a name is `c` and its place, from 0; a line feed in a name is a space.
    """
    taken, counts, found = set(names), dict[str, int](), list[str]()
    for place, name in enumerate(names):
        plain = name.replace("\n", " ").replace("\r", " ") or f"c{place}"
        count = counts.get(plain, 0) + 1
        unique = plain if count == 1 and (plain == name or plain not in taken) else f"{plain}#{count}"
        while unique != plain and unique in taken:
            count += 1
            unique = f"{plain}#{count}"
        counts[plain] = count
        taken.add(unique)
        found.append(unique)
    return found


def open_table(path: Path) -> Table:
    """Look at a table's columns and count its rows.

    Parameters
    ----------
    path
        A file (.csv, .csv.gz, .tsv, .parquet, .arrow, .feather, .npy, .bed), or a folder of Parquet or Arrow files
        with one schema, whose rows follow each other in the order of the files' names.

    Raises
    ------
    SourceError
        The format is not known, or a file cannot be read.
    """
    if path.is_dir():
        return _open_folder(path)
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            array = _memmap(path)
            return _table(path, "npy", _npy_schema(path, array), (File(path, 0, (len(array),)),))
        if suffix in PARQUET | ARROW:
            schema, pieces = _pieces_of(path)
            return _table(path, "parquet" if suffix in PARQUET else "arrow", schema, (File(path, 0, pieces),))
        if suffix == ".bed":
            bed = open_bed(path)
            fields = [pa.field(name, pa.float32()) for name in unique_names(bed.variants)]
            return _table(path, "bed", pa.schema(fields), (File(path, 0, (bed.people,)),), bed)
        if csv_suffix(path):
            scan = scan_csv(path)
            schema = pa.schema(list(zip(unique_names(scan.names), scan.types, strict=True)))
            return _table(path, "csv", schema, (File(path, 0, (scan.rows,)),), scan)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read as {suffix}: {error}", "check the file") from error
    raise SourceError(
        f"{path}: tables of format '{suffix}' are not known",
        "use .csv, .parquet, .arrow (IPC file), .npy, PLINK .bed, or a folder of Parquet or Arrow files",
    )


def _table(path: Path, kind: str, schema: Any, files: tuple[File, ...], about: Any = None) -> Table:
    names: list[str] = about.variants if isinstance(about, Bed) else (about.names if kind == "csv" else schema.names)
    unique = unique_names(names)
    seen: dict[str, int] = {}
    spelled: dict[str, tuple[str, int]] = {}
    for own, name in zip(names, unique, strict=True):
        spelled[name] = (own, seen.get(own, 0))
        seen[own] = seen.get(own, 0) + 1
    if unique != schema.names:
        fields = [field.with_name(name) for field, name in zip(schema, unique, strict=True)]
        schema = pa.schema(fields, schema.metadata)
    return Table(path, kind, schema, sum(file.rows for file in files), files, spelled, about)


def _open_folder(folder: Path) -> Table:
    paths = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "_")))
    strangers = [p.name for p in paths if p.is_dir() or p.suffix.lower() == ".npy" or csv_suffix(p)]
    if strangers:
        raise SourceError(
            f"{folder}: '{strangers[0]}' is not one of a table's Parquet or Arrow files",
            "give a file, or a folder that holds the files of one table and no folders",
        )
    paths = [p for p in paths if p.suffix.lower() in PARQUET | ARROW]
    kinds = {p.suffix.lower() in PARQUET for p in paths}
    if len(kinds) != 1:
        raise SourceError(
            f"{folder}: {'Parquet and Arrow files stand together' if kinds else 'no Parquet or Arrow file is there'}",
            "give a file, or a folder of Parquet or Arrow files with one schema",
        )
    files: list[File] = []
    schema: Any = None
    for path in paths:
        try:
            own, pieces = _pieces_of(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise SourceError(f"{path}: cannot be read as {path.suffix}: {error}", "check the file") from error
        schema = own if schema is None else schema
        if not own.equals(schema):
            raise SourceError(
                f"{path}: {_difference(own, schema)} as in {paths[0].name}",
                "the files of one table have the same columns of the same types in the same order",
            )
        files.append(File(path, files[-1].first + files[-1].rows if files else 0, pieces))
    return _table(folder, "parquet" if True in kinds else "arrow", schema, tuple(files))


def _difference(one: Any, other: Any) -> str:
    for mine, yours in zip(one, other, strict=False):
        if not mine.equals(yours):
            return f"column '{mine.name}' ({mine.type}) is not '{yours.name}' ({yours.type})"
    return f"it has not {len(other)} but {len(one)} columns" if len(one) != len(other) else "its metadata is not"


def _pieces_of(path: Path) -> tuple[Any, tuple[int, ...]]:
    if path.suffix.lower() in PARQUET:
        file = opened_parquet(path)
        groups = range(file.metadata.num_row_groups)
        return file.schema_arrow, tuple(file.metadata.row_group(group).num_rows for group in groups)
    with opened_arrow(path) as reader:
        schema = reader.schema
    # One column is enough to count with: the others of a compressed file need not be unpacked.
    with opened_arrow(path, [0] if len(schema) else None) as reader:
        return schema, tuple(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))


def opened_parquet(path: Path) -> Any:
    """A Parquet file, ready to read. The footer of a file of 150 000 columns takes most of a second, so it is kept."""
    about = path.stat()
    return _parquet(path, about.st_size, about.st_mtime_ns, get_ident())


@lru_cache(maxsize=2)
def _parquet(path: Path, _size: int, _changed: int, _thread: int) -> Any:
    # Buffering ahead holds a whole row group, which a wide table does not leave room for.
    return pq.ParquetFile(path, pre_buffer=False)


def close_parquet() -> None:
    """Let go of the footers that are kept."""
    _parquet.cache_clear()


@contextmanager
def opened_arrow(path: Path, fields: Sequence[int] | None = None) -> Generator[Any]:
    """An Arrow IPC file; of its columns only those at `fields`, in the file's order."""
    options = pa.ipc.IpcReadOptions(included_fields=None if fields is None else list(fields), use_threads=False)
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source, options=options) as reader:
        yield reader


def _memmap(path: Path) -> NDArray[Any]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in {1, 2} or (array.ndim == 1 and array.dtype.names is None):
        raise ValueError(f"its shape is {array.shape}; a table has two dimensions, or named fields")
    return array


def _npy_schema(path: Path, array: NDArray[Any]) -> Any:
    if array.dtype.names is not None:
        return pa.schema([(n, pa.from_numpy_dtype(array.dtype[n])) for n in array.dtype.names])
    kind = pa.from_numpy_dtype(array.dtype)
    return pa.schema([(f"c{i}", kind) for i in range(array.shape[1])])


def memmap(table: Table) -> NDArray[Any]:
    """The array of an .npy table: [n, p] of numbers, or [n] with named fields. Pages it read go when it goes."""
    return _memmap(table.path)


def ranges_of_rows(table: Table, rows_per_part: int) -> list[tuple[int, int]]:
    """Cut the rows into ranges of about `rows_per_part`, between pieces of the files wherever that is near.

    Parameters
    ----------
    table
        Any table.
    rows_per_part
        At least 1. A range has at most that many rows, or those of one piece of less than twice as many.

    Returns
    -------
    list of (start, stop)
        Without gaps, in order, none empty.
    """
    found: list[tuple[int, int]] = []
    start = place = 0
    for rows in (rows for file in table.files for rows in file.pieces):
        end = place + rows
        if end - start > rows_per_part and place > start:
            found.append((start, place))
            start = place
        while end - start >= 2 * rows_per_part:
            found.append((start, start + rows_per_part))
            start += rows_per_part
        if end - start >= rows_per_part:
            found.append((start, end))
            start = end
        place = end
    return [*found, (start, place)] if start < place else found


PACK_BEYOND = 4096
"""Columns of numbers in a CSV beyond which they are staged as one list column: Parquet reads it 5 times faster."""


def staged(table: Table) -> tuple[Any, Iterator[Any]]:
    """What a CSV file is written as, to go on from there: typed columns that can be read alone and from the middle.

    Parameters
    ----------
    table
        An open CSV table.

    Returns
    -------
    schema, batches
        Of Arrow, some 16 to 64 MiB of text each. Beyond PACK_BEYOND columns of numbers these are one column
        `fixed_size_list<float64>`, with their names in the field's metadata under `names` (whole numbers beyond 2^53
        are rounded); texts and times stay columns of their own.
    """
    packed = [field.name for field in table.schema if field.type in {pa.int64(), pa.float64(), pa.bool_(), pa.null()}]
    every: list[str] = table.schema.names
    if len(packed) <= PACK_BEYOND:
        return table.schema, record_batches(table, every, 0, table.rows, table.rows)
    apart = set(packed)
    plain = [name for name in every if name not in apart]
    own = unique_names([*plain, "numbers"])[-1]
    kind = pa.list_(pa.field("item", pa.float64()), len(packed))
    fields = [table.schema.field(name) for name in plain]
    schema = pa.schema([*fields, pa.field(own, kind, metadata={"names": "\n".join(packed)})])

    def batches() -> Iterator[Any]:
        for batch in record_batches(table, [*plain, *packed], 0, table.rows, table.rows):
            values = np.empty((batch.num_rows, len(packed)))
            for i in range(len(packed)):
                values[:, i] = _doubles(batch.column(len(plain) + i))
            flat = pa.array(values.reshape(-1), from_pandas=True)
            arrays = [batch.column(i) for i in range(len(plain))]
            yield pa.RecordBatch.from_arrays(
                [*arrays, pa.FixedSizeListArray.from_arrays(flat, type=kind)], schema=schema
            )

    return schema, batches()


def _doubles(array: Any) -> NDArray[np.float64]:
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    if not pa.types.is_floating(array.type):
        array = array.cast(pa.float64(), safe=False)
    return array.to_numpy(zero_copy_only=False)


def record_batches(
    table: Table, columns: Sequence[str], start: int, stop: int, batch_rows: int = BATCH_ROWS
) -> Iterator[Any]:
    """Rows `start` to `stop` of some columns, in order.

    Parameters
    ----------
    table
        Any table but PLINK's.
    columns
        Names as the schema has them, none twice.
    start, stop
        Rows; what is outside the table is not there.
    batch_rows
        Rows of a batch, at most.

    Yields
    ------
    pyarrow.RecordBatch
        The columns in the order asked for.
    """
    if table.format == "npy":
        yield from _npy_batches(table, columns, start, stop, batch_rows)
        return
    for place, batch in _batches_near(table, columns, start, stop, batch_rows):
        low, high = max(start - place, 0), min(stop - place, batch.num_rows)
        for first in range(low, high, batch_rows):
            yield batch.slice(first, min(batch_rows, high - first))


def _batches_near(
    table: Table, columns: Sequence[str], start: int, stop: int, batch_rows: int
) -> Iterator[tuple[int, Any]]:
    """Batches that may hold wanted rows, with the number of their first row."""
    if table.format == "csv":
        place = 0
        for batch in csv_batches(table.path, table.about, table.schema.names, columns):
            if place >= stop:
                return
            yield place, batch
            place += batch.num_rows
        return
    places = {name: place for place, name in enumerate(table.schema.names)}
    for file in table.files:
        place = file.first
        near: list[tuple[int, int]] = []  # pieces, by their first rows
        for piece, rows in enumerate(file.pieces):
            if place < stop and place + rows > start and rows:
                near.append((piece, place))
            place += rows
        if not near:
            continue
        if table.format == "parquet":
            reader = opened_parquet(file.path)
            own = [table.spelled[name][0] for name in columns]
            for piece, first in near:
                place = first
                for batch in reader.iter_batches(batch_rows, row_groups=[piece], columns=own, use_threads=False):
                    if place >= stop:
                        break
                    yield place, selected(table, batch, columns)
                    place += batch.num_rows
        else:
            fields = sorted(places[name] for name in columns)
            order = [fields.index(places[name]) for name in columns]
            with opened_arrow(file.path, fields) as reader:
                for piece, first in near:
                    yield first, reader.get_batch(piece).select(order).rename_columns(list(columns))


def selected(table: Table, batch: Any, columns: Sequence[str]) -> Any:
    """The columns asked for, by their unique names, out of a batch (or table) read from Parquet by the file's own."""
    names: list[str] = batch.schema.names
    if names == list(columns):
        return batch
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    found: list[int] = []
    for name in columns:
        own, which = table.spelled[name]
        found.append(places[own][which])  # a reader asked for one of several columns of a name gives all
    return batch.select(found).rename_columns(list(columns))


def _npy_batches(table: Table, columns: Sequence[str], start: int, stop: int, batch_rows: int) -> Iterator[Any]:
    array = _memmap(table.path)
    places = {name: place for place, name in enumerate(table.schema.names)}
    for low in range(start, min(stop, table.rows), batch_rows):
        rows = array[low : min(low + batch_rows, stop)]
        named = array.dtype.names is not None
        arrays = [np.array(rows[name] if named else rows[:, places[name]]) for name in columns]
        arrays = [pa.array(a.astype(a.dtype.newbyteorder("="), copy=False)) for a in arrays]
        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))


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
    for batch in record_batches(table, wanted, start, stop):
        features = [_numbers(batch.column(name)) for name in columns]
        groups = None if source.group_column is None else _texts(batch.column(source.group_column))
        yield Part(np.concatenate(features, axis=1), _texts(batch.column(source.label_column)), groups)


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
