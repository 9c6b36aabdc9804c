"""Arrow IPC files and streams, mapped: some columns of some record batches."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

MAGIC = b"ARROW1"
"""How a file begins; a stream does not."""


def open_arrow(path: Path) -> tuple[Any, tuple[int, ...]]:
    """The schema, and how many rows each record batch has."""
    with _opened(path, None) as reader:
        schema = reader.schema
    # One column is enough to count with: the others of a compressed file need not be unpacked.
    with _opened(path, [0] if len(schema) else None) as reader:
        if isinstance(reader, pa.RecordBatchFileReader):
            return schema, tuple(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
        return schema, tuple(batch.num_rows for batch in reader)


def arrow_batches(path: Path, columns: Sequence[int], pieces: Sequence[int]) -> Iterator[Any]:
    """Record batches, by their numbers; a stream is gone through from its start, a file is not.

    Parameters
    ----------
    path
        A file or stream.
    columns
        Places, in the order in which the columns are wanted.
    pieces
        Rising numbers, one at least.

    Raises
    ------
    pyarrow.ArrowException
        A batch is not whole, or says of its memory what is not so.
    """
    fields = sorted(columns)
    order = [fields.index(place) for place in columns]
    with _opened(path, fields) as reader:
        if isinstance(reader, pa.RecordBatchFileReader):
            found = (reader.get_batch(piece) for piece in pieces)
        else:
            wanted = set(pieces)
            found = (batch for piece, batch in enumerate(islice(reader, pieces[-1] + 1)) if piece in wanted)
        for batch in found:
            for column in batch.columns:
                _check(column)
            yield batch.select(order)


@contextmanager
def _opened(path: Path, fields: Sequence[int] | None) -> Generator[Any]:
    options = pa.ipc.IpcReadOptions(included_fields=None if fields is None else list(fields), use_threads=False)
    with pa.memory_map(str(path)) as source:
        is_file = source.read(len(MAGIC)) == MAGIC
        source.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source, options=options) as reader:
            yield reader


def _check(column: Any) -> None:
    """Whether following offsets and indices, which are mapped as they stand in the file, leads nowhere outside."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):  # which is looked at last, and is for those who read texts
            raise
