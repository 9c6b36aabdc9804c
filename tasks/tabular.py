"""Tables in files, out of core: some columns, a range of rows at a time, of CSV, Parquet, Arrow, .npy, PLINK .bed."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import isnan
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
from tasks.arrowfile import arrow_batches, open_arrow
from tasks.csvfile import csv_batches, csv_suffix, scan_csv
from tasks.npyfile import memmap, npy_columns, npy_schema
from tasks.plink import Bed, open_bed

BATCH_ROWS = 16_384
PARQUET = {".parquet", ".pq"}
ARROW = {".arrow", ".arrows", ".feather", ".ipc"}


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
        By unique name, of those columns that have another in the file: that one, and which of the columns of that
        name it is, from 0.
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

    def own(self, name: str) -> tuple[str, int]:
        """The file's own name of a column, and which of the columns of that name it is, from 0."""
        return self.spelled.get(name, (name, 0))


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
        A file (.csv, .csv.gz, .tsv, .parquet, .arrow, .arrows, .feather, .npy, .bed), or a folder of Parquet or Arrow
        files with one schema, whose rows follow each other in the order of the files' names.

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
            array = memmap(path)
            return _table(path, "npy", npy_schema(array), (File(path, 0, (len(array),)),))
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
        "use .csv, .parquet, .arrow (IPC file or stream), .npy, PLINK .bed, or a folder of Parquet or Arrow files",
    )


def _table(path: Path, kind: str, schema: Any, files: tuple[File, ...], about: Any = None) -> Table:
    names: list[str] = about.variants if isinstance(about, Bed) else (about.names if kind == "csv" else schema.names)
    unique = unique_names(names)
    seen: dict[str, int] = {}
    spelled: dict[str, tuple[str, int]] = {}
    for own, name in zip(names, unique, strict=True):
        which = seen.get(own, 0)
        seen[own] = which + 1
        if (own, which) != (name, 0):
            spelled[name] = own, which
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
        file = _opened_parquet(path)
        groups = range(file.metadata.num_row_groups)
        return file.schema_arrow, tuple(file.metadata.row_group(group).num_rows for group in groups)
    return open_arrow(path)


def _opened_parquet(path: Path) -> Any:
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
def reading(path: Path) -> Generator[None]:
    """What Arrow or the system finds wrong with a file, in the user's words."""
    try:
        yield
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: cannot be read: {str(error).strip()}", "the file is damaged: copy or write it again"
        ) from error


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
    start, stop = max(start, 0), min(stop, table.rows)
    if table.format == "npy":
        with reading(table.path):
            places = _places(table, columns)
            for arrays in npy_columns(memmap(table.path), places, start, stop, batch_rows):
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
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
            for piece, first in near:
                place = first
                for batch in parquet_batches(table, file, [piece], columns, batch_rows):
                    if place >= stop:
                        break
                    yield place, batch
                    place += batch.num_rows
            continue
        with reading(file.path):
            found = arrow_batches(file.path, _places(table, columns), [piece for piece, _ in near])
            for (_, first), batch in zip(near, found, strict=True):
                yield first, batch.rename_columns(list(columns))


def _places(table: Table, columns: Sequence[str]) -> list[int]:
    places = {name: place for place, name in enumerate(table.schema.names)}
    return [places[name] for name in columns]


def parquet_batches(
    table: Table, file: File, groups: Sequence[int], columns: Sequence[str], rows: int | None
) -> Iterator[Any]:
    """Some columns of some row groups of a Parquet table's file, so many rows at a time, or (None) as they come.

    Raises
    ------
    SourceError
        The file is damaged.
    """
    own = [table.own(name)[0] for name in columns]
    left = sum(file.pieces[group] for group in groups)
    with reading(file.path):
        reader = _opened_parquet(file.path)
        found = (
            reader.iter_batches(rows, row_groups=list(groups), columns=own, use_threads=False)
            if rows
            else reader.read_row_groups(list(groups), columns=own, use_threads=False).to_batches()
        )
        for batch in found:
            left -= batch.num_rows
            yield _selected(table, batch, columns)
    if left:
        raise SourceError(
            f"{file.path}: row groups {groups[0]} to {groups[-1]} lack {left:,} of the rows that its footer says",
            "the file is damaged: copy or write it again",
        )


def _selected(table: Table, batch: Any, columns: Sequence[str]) -> Any:
    """The columns asked for, by their unique names, out of a batch that was read by the file's own."""
    names: list[str] = batch.schema.names
    if names == list(columns):
        return batch
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    found: list[int] = []
    for name in columns:
        own, which = table.own(name)
        found.append(places[own][which])  # a reader asked for one of several columns of a name gives all
    return batch.select(found).rename_columns(list(columns))


def table_features(table: Table, source: TableSource) -> list[str]:
    """Names of the features: a column each, or one for each place of a fixed-size list.

    Raises
    ------
    RecipeError
        A column that the recipe names is not there, or a feature column does not hold numbers.
    """
    if table.format == "bed":
        raise RecipeError(
            f"sources.path: {table.path.name} holds genotypes, which `binmill screen` reads alone",
            "screen it, or write the variants that matter as a table of numbers",
        )
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
        places = range(kind.list_size) if pa.types.is_fixed_size_list(kind) else None
        of = kind if places is None else kind.value_type
        types = pa.types
        if not (types.is_integer(of) or types.is_floating(of) or types.is_boolean(of) or types.is_null(of)):
            raise RecipeError(
                f"sources.columns: column '{name}' of {table.path.name} holds {kind}, not numbers",
                "list the feature columns under sources.columns, or encode this one as numbers",
            )
        found += [name] if places is None else [f"{name}[{i}]" for i in places]
    refuse_reserved(found, table.path.name)
    return found


def refuse_reserved(features: Sequence[str], table: str) -> None:
    """Refuse names of features that stand twice, or that binmill's own tables use; and a table without any.

    Raises
    ------
    RecipeError
        Naming the columns.
    """
    if len(set(features)) < len(features):
        twice = next(name for i, name in enumerate(features) if name in features[:i])
        raise RecipeError(f"sources.columns: {table} has two features '{twice}'", "rename or leave one out")
    reserved = {"sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap", "dropped_by"} & set(features)
    if reserved:
        raise RecipeError(
            f"sources.columns: {', '.join(sorted(reserved))}: a name that binmill's own tables use",
            "rename the column, or list the others under sources.columns",
        )
    if not features:
        raise RecipeError(f"sources.columns: {table} has no feature column", "add columns of numbers")


def _feature_columns(table: Table, source: TableSource) -> list[str]:
    apart = set(source.exclude) if source.columns else {source.label_column, source.group_column, *source.exclude}
    return [name for name in source.columns or table.schema.names if name not in apart]


def batches(table: Table, source: TableSource, start: int, stop: int) -> Iterator[Part]:
    """Rows `start` to `stop`, in order, some thousands at a time."""
    columns = _feature_columns(table, source)
    wanted = list(dict.fromkeys([*columns, source.label_column, *filter(None, [source.group_column])]))
    for batch in record_batches(table, wanted, start, stop):
        features = [_numbers(batch.column(name)) for name in columns]
        groups = None if source.group_column is None else texts(batch.column(source.group_column))
        yield Part(np.concatenate(features, axis=1), texts(batch.column(source.label_column)), groups)


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


def plain_texts(texts: Any) -> Any:
    """Texts (or bytes) as Arrow's strings, however they are held; what is not UTF-8 in them is U+FFFD."""
    if isinstance(texts.type, pa.BaseExtensionType):
        texts = texts.storage
    if pa.types.is_dictionary(texts.type):
        # Its texts first: Arrow cannot decode a dictionary of string views.
        return pa.DictionaryArray.from_arrays(texts.indices, plain_texts(texts.dictionary)).cast(pa.string())
    try:
        found = texts.cast(pa.string())
        found.validate(full=True)
    except pa.ArrowInvalid:
        found = pa.array([bytes(v.as_buffer()).decode(errors="replace") if v.is_valid else None for v in texts])
    return found


def texts(column: Any) -> list[str | None]:
    """Classes or groups of rows as texts: 1.0 and True are "1", a missing value is None."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = plain_texts(column).to_pylist()
    return [_text(value) for value in values]


def _text(value: Any) -> str | None:
    """1.0 is "1", True is "1", NaN is none."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53):
        value = int(value)
    return str(value)
