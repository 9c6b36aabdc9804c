"""CSV files, streamed: types that hold for the whole file, and record batches of them."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from schemas.errors import SourceError
from tasks.jit import compiled

BLOCK_BYTES = 16 << 20
"""Text that is parsed together; a wide table's blocks hold more, so that they have rows enough."""
RECORD_BYTES = 1 << 28
"""A record of more is no record: a quote was never closed, or the file is not CSV."""
SUFFIXES = {".csv", ".tsv"}
PACKED = {".gz", ".bz2", ".zst", ".lz4"}
MISSING = [*pacsv.ConvertOptions().null_values, "<NA>", "None", "NAN", "na", "?", "."]
"""Spellings of a missing value: Arrow's (NA, N/A, NULL, NaN, nothing, ...), pandas', UCI's and SAS'."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a CSV file holds, after one pass over it: names as the header has them, a type each, rows, dialect."""

    names: list[str]
    types: list[Any]
    rows: int
    delimiter: str
    latin: bool


def csv_suffix(path: Path) -> bool:
    """Whether a file's name is that of a CSV (or tab-separated) file, packed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return suffixes[-1:] != [] and (
        suffixes[-1] in SUFFIXES or (len(suffixes) == 2 and suffixes[1] in PACKED and suffixes[0] in SUFFIXES)
    )


def scan_csv(path: Path) -> Scan:
    """Read a CSV file once to learn its columns' types and count its rows.

    A column is of the narrowest type that holds each of its values: integers, floats, booleans, dates, times and
    timestamps as Arrow infers them for each block of text; int and float are float, a date and a timestamp are
    timestamp, and what does not go together is text. A file that is not UTF-8 is read as Latin-1.

    Raises
    ------
    SourceError
        The file is empty, or a row has more or fewer fields than the header.
    """
    names: list[str] = []
    types: list[Any] = []
    rows, delimiter, latin = 0, ",", False
    for block in _blocks(path):
        latin = latin or not _is_utf8(block)
        body = block
        if not names:
            names, delimiter, body = _header(path, block)
            if not body.strip():
                types = [pa.null()] * len(names)
                continue
        table = _parse(path, _recoded(body, latin), _numbered(len(names)), delimiter, rows)
        found: list[Any] = table.schema.types
        if not types:
            types = found
        elif found != types:
            types = [one if one == two else _join(one, two) for one, two in zip(types, found, strict=True)]
        rows += table.num_rows
    if not names:
        raise SourceError(f"{path}: the table is empty", "give a table with a header and rows")
    return Scan(names, types, rows, delimiter, latin)


def csv_batches(path: Path, scan: Scan, names: Sequence[str], columns: Sequence[str]) -> Iterator[Any]:
    """The rows of a scanned CSV file, from the first to the last.

    Parameters
    ----------
    path, scan
        The file, and what was found in it.
    names
        What to call its columns, none twice.
    columns
        Those wanted, in the order wanted.

    Yields
    ------
    pyarrow.RecordBatch
        Of the types of the scan.
    """
    rows, first = 0, True
    types = dict(zip(names, scan.types, strict=True))
    convert = _convert({name: types[name] for name in columns}, columns)
    for block in _blocks(path):
        body = _header(path, block)[2] if first else block
        first = False
        if not body.strip():
            continue
        table = _parse(path, _recoded(body, scan.latin), names, scan.delimiter, rows, convert)
        rows += table.num_rows
        yield from table.combine_chunks().to_batches()


def _join(one: Any, two: Any) -> Any:
    """The narrowest type that holds the values of both."""
    if pa.types.is_null(one) or pa.types.is_null(two):
        return two if pa.types.is_null(one) else one
    both = {one, two}
    if both == {pa.int64(), pa.float64()}:
        return pa.float64()
    if both == {pa.date32(), pa.timestamp("s")}:
        return pa.timestamp("s")
    return pa.string()


def _numbered(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def _convert(types: dict[str, Any] | None = None, columns: Sequence[str] | None = None) -> Any:
    return pacsv.ConvertOptions(
        column_types=types,
        include_columns=None if columns is None else list(columns),
        null_values=MISSING,
        strings_can_be_null=True,
    )


def _parse(path: Path, body: bytes, names: Sequence[str], delimiter: str, rows: int, convert: Any = None) -> Any:
    """One block's table; `rows` stand before it."""
    read = pacsv.ReadOptions(column_names=list(names), block_size=min(len(body) + 1, 2**31 - 1))
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        return pacsv.read_csv(pa.BufferReader(body), read, parse, convert or _convert())
    except (pa.ArrowException, ValueError) as error:
        raise SourceError(
            f"{path}: cannot be read as CSV after row {rows:,}: {str(error)[:200]}",
            "give each row as many fields as the header has, and close each quote",
        ) from error


def _recoded(body: bytes, latin: bool) -> bytes:
    return body.decode("latin-1").encode() if latin and not body.isascii() else body


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(path: Path, block: bytes) -> tuple[list[str], str, bytes]:
    """Names, delimiter and what follows: the delimiter is the one that the header has most of."""
    block = block.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if block[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise SourceError(f"{path}: the text is UTF-16", "save the table as UTF-8")
    end = block.find(b"\n") + 1 or len(block)
    if b'"' in block[:end]:  # a quoted name may hold a line feed
        end = int(record_end(np.frombuffer(block, np.uint8), _SEPARATORS, 1)) or len(block)
    text = block[:end].decode() if _is_utf8(block[:end]) else block[:end].decode("latin-1")
    text = text.rstrip("\r\n")
    delimiter = max(",;\t|", key=text.count)
    names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    return names, delimiter, block[end:]


def _blocks(path: Path) -> Iterator[bytes]:
    """Text of whole records, some MiB at a time."""
    size, rest = BLOCK_BYTES, b""
    with pa.input_stream(str(path), compression="detect") as stream:
        while True:
            chunk: bytes = stream.read(size)
            text = rest + chunk
            if not chunk:
                break
            cut = _last_end(text)
            rest = text[cut:]
            if len(rest) > RECORD_BYTES:
                raise SourceError(
                    f"{path}: a record of more than {RECORD_BYTES >> 20} MiB", "close each quote, end each row"
                )
            if cut:
                yield text[:cut]
            # A wide table: the longer a record, the more of the time goes into starting a block.
            size = min(max(BLOCK_BYTES, 64 * (cut // max(1, text.count(b"\n", 0, cut)))), 4 * BLOCK_BYTES)
    if b'"' in rest and record_end(np.frombuffer(rest + b"\n", np.uint8), _SEPARATORS, 0) <= len(rest):
        raise SourceError(f"{path}: the last record's quote is not closed", "close each quote")
    if rest:
        yield rest


def _last_end(text: bytes) -> int:
    if b'"' not in text:
        return text.rfind(b"\n") + 1
    # The delimiter is needed only to see where a field starts: any that a header may choose will do.
    return int(record_end(np.frombuffer(text, np.uint8), _SEPARATORS, 0))


_SEPARATORS = np.zeros(256, np.bool_)
_SEPARATORS[[ord(c) for c in ",;\t|"]] = True


@compiled
def record_end(text: NDArray[np.uint8], separators: NDArray[np.bool_], records: int) -> int:
    """Where the last whole record ends (or the `records`th, when that is not 0); 0 when none does.

    A quote opens a quoted field where a field starts; inside, two stand for one, and a line feed is text.

    Parameters
    ----------
    text
        uint8[n], starting at a record.
    separators
        bool[256], which bytes stand between fields.
    records
        How many records to go past; 0 for all.
    """
    start, plain, quoted, closed = 0, 1, 2, 3
    state, end, count = start, 0, 0
    for i in range(len(text)):
        byte = text[i]
        if state == quoted:
            if byte == 34:
                state = closed
        elif byte == 10:
            end = i + 1
            count += 1
            if count == records:
                return end
            state = start
        elif separators[byte]:
            state = start
        elif byte == 34 and state != plain:
            state = quoted
        else:
            state = plain
    return end
