"""Texts of a table, made vectors by an encoder once: from then on they are a table of vectors like any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import SourceError
from schemas.provenance import digest
from schemas.recipe import VectorsSource
from tasks.binarize.encoders import encoded, identity, load_encoder
from tasks.build import Build, code_digest
from tasks.items import Receipt, Workplace
from tasks.shards import STATE
from tasks.tabular import Table, open_table, ranges_of_rows, record_batches
from tasks.tabular import texts as strings

ROWS = 4096
"""Texts that are encoded at once: some seconds of a model's work."""
BATCH = 256
FORMATS = ("parquet", "arrow", "csv")
VECTOR = "vector"


def open_texts(path: Path, source: VectorsSource) -> Table:
    """Look at a table of texts.

    Raises
    ------
    SourceError
        Not a table, without rows, or without the columns that are named.
    """
    table = open_table(path)
    if table.format not in FORMATS:
        raise SourceError(f"{path}: {table.format} holds no texts", "give Parquet, Arrow or CSV")
    for name in filter(None, (*source.columns, source.id_column)):
        if name not in table.schema.names:
            raise SourceError(f"{path}: it has no column '{name}'", f"its columns are {', '.join(table.schema.names)}")
    kind = table.schema.field(source.columns[0]).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise SourceError(f"{path}: column '{source.columns[0]}' is {kind}, no text", "name the column of the texts")
    if not table.rows:
        raise SourceError(f"{path}: the table has no rows", "give a table with rows")
    return table


def encode_texts(build: Build, path: Path, source: VectorsSource, sha256: str) -> dict[str, Any]:
    """Plan and compute the vectors of a file's texts.

    Returns
    -------
    dict
        `path` of the folder of vectors, `columns` and `id_column` in it, and the `input` that stands for its bytes.
    """
    assert source.encoder is not None
    who = identity(source.encoder)
    config = {"encoder": who, "columns": list(source.columns), "id_column": source.id_column, "sha256": sha256}
    # A folder holds the shards of one configuration only: it is read as one table.
    folder = f"{STATE}/work/encoded-{digest(config | {'code': code_digest('binarize'), 'rows': ROWS})[:24]}"
    items = [
        build.item(
            "binarize", "texts", f"{path.name}, rows {start:,} to {stop:,}",
            config=config | {"start": start, "stop": stop}, inputs=[sha256],
            args=config | {"start": start, "stop": stop, "path": str(path), "folder": folder},
            weight=stop - start, memory=8 * ROWS * load_encoder(source.encoder).dimensions + 1024 * 2**20,
        )
        for start, stop in ranges_of_rows(open_texts(path, source), ROWS)
    ]  # fmt: skip
    before = build.receipts.get("binarize.texts", [])
    build.receipts["binarize.texts"] = [*before, *build.compute(items)]
    return {
        "path": str(build.root / folder), "columns": [VECTOR], "id_column": source.id_column,
        "input": digest(config),
    }  # fmt: skip


def vectors_of_texts(place: Workplace) -> Receipt:
    """Vectors of some rows' texts, beside their ids."""
    args = place.item.args
    name, text_column, id_column = args["encoder"]["name"], args["columns"][0], args["id_column"]
    table = open_table(Path(args["path"]))
    vector = pa.list_(pa.field("item", pa.float32()), load_encoder(name).dimensions)
    ids = [] if id_column is None else [pa.field(id_column, table.schema.field(id_column).type)]
    schema = pa.schema([*ids, pa.field(VECTOR, vector, nullable=False)])

    def batches() -> Iterator[Any]:
        row, columns = args["start"], [text_column, *(field.name for field in ids)]
        for whole in record_batches(table, columns, args["start"], args["stop"]):
            for start in range(0, whole.num_rows, BATCH):
                batch = whole.slice(start, BATCH)
                found: list[Any] = []
                for text in strings(batch.column(0)):
                    if text is None:
                        raise SourceError(
                            f"{table.path}: row {row + len(found):,} has no text in '{text_column}'",
                            "fill it, or leave the row out",
                        )
                    found.append(encoded(name, text))
                row += len(found)
                flat = pa.array(np.concatenate(found))
                columns_of = [*batch.columns[1:], pa.FixedSizeListArray.from_arrays(flat, type=vector)]
                yield pa.Table.from_arrays(columns_of, schema=schema)

    path = f"{args['folder']}/part-{args['start']:015d}.parquet"
    return place.receipt([place.write(path, schema, batches())], rows=args["stop"] - args["start"])
