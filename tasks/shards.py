"""Shards: Parquet files written beside their place, flushed, and renamed; and how they are read."""

import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import DatasetError
from schemas.provenance import METADATA_KEY, Provenance

STATE = ".binmill"
"""Folder inside a dataset for what only binmill needs: journal, lock, partial states."""


WHOLE = 1 << 30
"""Bytes or rows of a page that holds a whole row group's column."""
PAGE_HEADER = 48
"""Bytes that the header of one page takes at most; of two pages, headers would lie between the values."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dataset, by its place relative to the dataset, and what it must be."""

    path: str
    sha256: str
    size: int
    rows: int

    @property
    def table(self) -> str:
        """Name of the table (or fitted table, or partial state) the shard belongs to."""
        folder, name = self.path.rsplit("/", 1)
        return folder.rsplit("/", 1)[1] if name.startswith("part-") else name.rsplit("-", 1)[0]


def table_path(table: str, key: str, part: int | None = None) -> str:
    """Place of a published table's shard."""
    suffix = "" if part is None else f"-{part:05d}"
    return f"tables/{table}/part-{key}{suffix}.parquet"


def fitted_path(name: str, key: str) -> str:
    """Place of something learned from the training split."""
    return f"fitted/{name}-{key}.parquet"


def work_path(table: str, key: str, part: int | None = None) -> str:
    """Place of a partial state: kept so that the next run need not compute it, never published."""
    suffix = "" if part is None else f"-{part:05d}"
    return f"{STATE}/work/{table}/part-{key}{suffix}.parquet"


class _HashingFile:
    """A file that hashes what is written to it, so that a shard is read once less."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.sha256.update(view)
        self.size += view.nbytes
        return self.file.write(view)

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def fsync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(path: Path) -> Generator[None]:
    """Say what a file system's refusal means.

    Raises
    ------
    DatasetError
        The disk is full or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written: {error.strerror or error}",
            "free disk space or make the folder writable, then run again: finished work is kept",
        ) from error


def replace_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file, whole or piece by piece, beside its place, flush it, and rename it.

    Raises
    ------
    DatasetError
        The disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)


def schema_fingerprint(schema: Any) -> str:
    """SHA-256 of names, types and nullability (not of metadata)."""
    text = "\n".join(f"{f.name}\t{_type_name(f.type)}\t{f.nullable}" for f in schema)
    return hashlib.sha256(text.encode()).hexdigest()


def _type_name(kind: Any) -> str:
    """A type's name without the name of a list's items, which Parquet does not keep."""
    if pa.types.is_fixed_size_list(kind):
        return f"list<{_type_name(kind.value_type)}>[{kind.list_size}]"
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def write_shard(
    root: Path,
    path: str,
    schema: Any,
    batches: Iterable[Any],
    provenance: Provenance,
    *,
    row_group_rows: int = 65_536,
    zstd_level: int = 3,
    raw: bool | Collection[str] = False,
    grouped: bool = False,
) -> Shard:
    """Write record batches (or tables) as one Parquet file: temporary file, fsync, rename.

    Parameters
    ----------
    root, path
        The dataset and the shard's place in it.
    schema
        Arrow schema; each batch is cast to it, so that a drift is an error here and not at a reader.
    batches
        Record batches or tables, in order; at most one row group of them is held in memory.
    provenance
        Record for the file's metadata.
    row_group_rows, zstd_level
        Rows in a row group; compression level.
    raw
        Columns (True: all) whose bytes are stored as they are, without compression, dictionaries and statistics, in
        one page a row group: they can be mapped into memory (`mapped`), and are read at its speed.
    grouped
        Each batch is a row group (or several, if it is longer than one); none is joined with the next.

    Raises
    ------
    DatasetError
        The disk is full or the folder cannot be written.
    """
    place = root / path
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    with writing(place):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            # The row count is known only at the end: it goes in by add_key_value_metadata.
            with temporary.open("wb") as file:
                sink = _HashingFile(file)
                rows = 0
                with pq.ParquetWriter(
                    pa.PythonFile(sink, mode="w"),
                    schema,
                    write_page_checksum=True,
                    store_schema=True,
                    **_layout(schema.names, raw, zstd_level),
                ) as writer:
                    alone = ([batch] for batch in batches) if grouped else (batches,)
                    for group in itertools.chain.from_iterable(_row_groups(schema, b, row_group_rows) for b in alone):
                        writer.write_table(group, row_group_size=row_group_rows)
                        rows += group.num_rows
                    writer.add_key_value_metadata(provenance.metadata(rows, schema_fingerprint(schema)))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(place)
            fsync_folder(place.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return Shard(path, sink.sha256.hexdigest(), sink.size, rows)


def _layout(names: Sequence[str], raw: bool | Collection[str], zstd_level: int) -> dict[str, Any]:
    """What the Parquet writer is told of compression, dictionaries, statistics and pages."""
    if raw is False:
        return {
            "compression": "zstd",
            "compression_level": zstd_level,
            "use_dictionary": True,
            "write_statistics": True,
        }
    pages = {"data_page_size": WHOLE, "max_rows_per_page": WHOLE, "use_dictionary": False}
    if raw is True:
        return pages | {"compression": "none", "write_statistics": False}
    cooked = [name for name in names if name not in raw]
    kinds = {name: "zstd" if name in cooked else "none" for name in names}
    levels = dict.fromkeys(cooked, zstd_level)
    return pages | {"compression": kinds, "compression_level": levels, "write_statistics": cooked}


def _row_groups(schema: Any, batches: Iterable[Any], rows: int) -> Iterator[Any]:
    """Regroup batches into tables of `rows` rows (the last one shorter; at least none)."""
    pending: list[Any] = []
    count = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        pending.append(table.cast(schema))
        count += table.num_rows
        while count >= rows:
            whole = pa.concat_tables(pending).combine_chunks()
            yield whole.slice(0, rows)
            rest = whole.slice(rows)
            pending, count = [rest], rest.num_rows
    if count:
        yield pa.concat_tables(pending).combine_chunks()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_right(root: Path, shard: Shard) -> bool:
    """Whether the shard is there and has the size and bytes it must have."""
    place = root / shard.path
    try:
        return place.stat().st_size == shard.size and sha256_file(place) == shard.sha256
    except OSError:
        return False


def read_shard(root: Path, path: str, columns: Sequence[str] | None = None) -> Any:
    """A whole shard as an Arrow table (a shard is bounded by the partition)."""
    place = root / path
    try:
        # A file by itself: what stands in the folders of its path is not data.
        return pq.ParquetFile(place).read(columns=None if columns is None else list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(
            f"{place}: cannot read the shard: {error}", "run the recipe again: what is missing is made anew"
        ) from error


def mapped(path: Path, group: int, column: str, width: int, footer: Any = None) -> NDArray[np.uint8] | None:
    """A column of one row group as it lies in the file, uint8[rows, width]: a view, nothing is read before it is used.

    None where it does not lie there as plain bytes of that width in one page: as written with `raw`, it does.
    `footer` is the file's metadata, where it was read before: that of many row groups takes a while.
    """
    about = pq.read_metadata(path) if footer is None else footer
    rows = about.row_group(group).num_rows
    chunk = about.row_group(group).column(about.schema.to_arrow_schema().get_field_index(column))
    header = chunk.total_compressed_size - rows * width
    plain = chunk.compression == "UNCOMPRESSED" and chunk.dictionary_page_offset is None
    if not rows or not plain or not 0 < header <= PAGE_HEADER:
        return None
    return np.memmap(path, np.uint8, "r", chunk.data_page_offset + header, (rows, width))


def find_rows(path: Path, key: str, value: str, columns: Sequence[str] | None = None) -> Any:
    """Rows of one Parquet file whose `key` is `value`; row groups whose statistics exclude it are not read."""
    from pyarrow import dataset  # imports pandas where there is one

    data = dataset.dataset(path, format="parquet")
    return data.to_table(filter=dataset.field(key) == value, columns=None if columns is None else list(columns))


def read_provenance(path: Path) -> dict[str, Any]:
    """The provenance record of a shard.

    Raises
    ------
    DatasetError
        The file is not a shard that binmill wrote.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
        return json.loads(metadata[METADATA_KEY])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: no provenance record: {error}", "use a dataset made by binmill") from error


def sweep(root: Path, keep: set[str]) -> list[str]:
    """Remove shards that nothing lists, and temporary files of writers that died. Returns their places."""
    removed: list[str] = []
    for spill in (root / STATE).glob("spill-*"):  # of a database whose process was killed
        shutil.rmtree(spill, ignore_errors=True)
    for place in [*root.glob(".*.tmp"), *(root / STATE).glob(".*.tmp")]:
        place.unlink(missing_ok=True)
    for folder in ("tables", "fitted", f"{STATE}/work"):
        base = root / folder
        for place in sorted(base.rglob("*")) if base.is_dir() else []:
            relative = place.relative_to(root).as_posix()
            ours = place.name.endswith((".parquet", ".tmp"))
            if place.is_file() and not place.is_symlink() and ours and relative not in keep:
                place.unlink()
                removed.append(relative)
        for place in sorted(base.rglob("*"), reverse=True) if base.is_dir() else []:
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
    return removed
