"""Any table as a source of features: opening, staging, what its columns are; then the screening itself.

This is the screen stage of `binmill screen`, which knows no splits: every row counts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.errors import RecipeError
from schemas.recipe import TableSource
from tasks.blocks import affine, identity
from tasks.blocks import ranges as ends
from tasks.build import Build
from tasks.columns import CATEGORY_COUNTS, categories, codebook, features_of, merge_categories
from tasks.items import Receipt, Step, Workplace
from tasks.screen.inputs import TableInput, forget_tables, opened
from tasks.screen.passes import SHORT_ROWS, Part, Passes, screen
from tasks.screen.state import BLOCK
from tasks.shards import Shard, fitted_path, read_shard, sha256_file, work_path
from tasks.tablefiles import stamps, table_files
from tasks.tabular import ranges_of_rows, staged

PART_BYTES = 1 << 30
"""Values of a part of the rows of a tall table, in bytes."""
PART_ROWS = 8 << 20
"""Rows of a part at most: the outcome of all of them is held."""
DEAR_COLUMNS = 4096
"""A Parquet or Arrow file of more columns is dear to open (150 000: a second, 500 MB), and is read but once."""
GATHERED = 2048
"""Columns that are read together for that."""
STAGED_BYTES = 32 << 20
"""Values of a row group of what a CSV file is staged as."""

COLUMNS: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("place", pa.int32()),
        pa.field("category", pa.bool_(), nullable=False),
        pa.field("wide", pa.bool_(), nullable=False),
        pa.field("shift", pa.float64(), nullable=False),
        pa.field("factor", pa.float64(), nullable=False),
    ]
)
"""Fitted: the features of a table. A value v counts as float32((v - shift) · factor)."""

CODES: Any = pa.schema(
    [pa.field("feature", pa.string(), nullable=False), pa.field("values", pa.list_(pa.string()), nullable=False)]
)
"""Fitted: the number of a category is its place in `values`; all that are not there share the next one."""

APART: Any = pa.schema(
    [pa.field("column", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)]
)
"""Partial state: columns that are no features."""

ENDS: Any = pa.schema(
    [pa.field("minimum", pa.float64(), nullable=False), pa.field("maximum", pa.float64(), nullable=False)]
)
"""Partial state: least and greatest finite value of each feature in some rows (inf and -inf where there is none)."""


def build(build: Build) -> None:
    """Screen the columns of the recipe's table against its outcome.

    Raises
    ------
    RecipeError
        The recipe's source is no table.
    """
    source = build.recipe.sources[0]
    if not isinstance(source, TableSource):
        raise RecipeError("sources: screening alone needs a table", "name a source of kind 'table'")
    path = (build.base / source.path).resolve()
    config = {
        "source": source.model_dump(mode="json"),
        "files": stamps(path),
    }
    args = config | {"path": str(path), "part_bytes": PART_BYTES, "part_rows": SHORT_ROWS}
    item = build.item("screen", "open", path.name, config=config, inputs=[], args=args)
    opening = build.compute([item])[0]
    facts = opening.facts
    where: str = facts["path"]
    digests = list(facts["digests"])
    columns = opening.shard("columns")
    rows: int = facts["rows"]
    memory = 512 * 2**20
    fine = {"outcome": source.label_column, "exclude": list(source.exclude), "only": list(source.columns)}
    looked: list[Shard] = []
    counted: list[Shard] = []
    if facts["wide"] or facts["categories"]:
        build.compute(
            [
                build.item(
                    "screen", "look", f"rows {start:,} to {stop:,}",
                    config=fine | {"start": start, "stop": stop}, inputs=digests,
                    args=fine | {"path": where, "start": start, "stop": stop},
                    weight=stop - start, memory=memory,
                )
                for start, stop in facts["cuts"]
            ]
        )  # fmt: skip
        looked, counted = build.shards("screen.look", "ends"), build.shards("screen.look", "categories")
    settled = build.compute(
        [
            build.item(
                "screen", "settle", "columns", config={},
                inputs=[columns.sha256, *(s.sha256 for s in (*looked, *counted))],
                args={"columns": columns.path, "ends": [s.path for s in looked],
                      "categories": [s.path for s in counted]},
            )
        ]
    )[0]  # fmt: skip
    columns, codes = settled.shard("columns"), settled.shard("codes")
    apart: dict[str, str] = facts["apart"] | settled.facts["apart"]
    for name, reason in list(apart.items())[:20]:
        build.notes.append(f"column '{name}' is no feature: {reason}")
    if len(apart) > 20:
        build.notes.append(f"{len(apart) - 20:,} more columns are no features")
    spec = {
        "kind": "table",
        "path": where,
        "outcome": source.label_column,
        "columns": columns.path,
        "codes": codes.path,
    }
    short = rows <= SHORT_ROWS
    cuts = [(0, rows)] if short else facts["cuts"]
    known = (*digests, columns.sha256, codes.sha256)
    if short and facts["dear"]:
        item = build.item(
            "screen", "gather", "all columns",
            config={"outcome": source.label_column}, inputs=known,
            args={"input": spec | {"start": 0, "stop": rows}}, memory=memory,
        )  # fmt: skip
        kept = build.compute([item])[0]
        values, outcome = kept.shard("gathered"), kept.shard("outcome")
        spec = {"kind": "gathered", "gathered": values.path, "values": outcome.path, "columns": columns.path}
        known = (values.sha256, outcome.sha256, columns.sha256)
    parts = [
        Part(
            spec | {"start": start, "stop": stop},
            {"outcome_column": source.label_column, "start": start, "stop": stop},
            known,
            f"rows {start:,} to {stop:,}",
            stop - start,
        )
        for start, stop in cuts
    ]
    screen(build, Passes(parts, columns.rows, memory, short))


def open_source(place: Workplace) -> Receipt:
    """Digests of the table's files, its columns, and (of a CSV file) its rows in a form that can be read in parts."""
    args = place.item.args
    source = TableSource.model_validate(args["source"])
    path = Path(args["path"])
    digests = [sha256_file(p) for p in table_files(path)]
    table, where = opened(str(path)), str(path)
    shards: list[Any] = []
    if table.format == "csv":
        schema, batches = staged(table)
        rows = max(1, STAGED_BYTES // (8 * len(table.schema)))
        shards.append(place.write(work_path("staged", place.item.key), schema, batches, rows))
        where = shards[0].path
        table = opened(str(place.root / where))
    if not table.rows:
        raise RecipeError(f"{path}: the table has no rows", "give a table with rows")
    features, apart = features_of(table, source.label_column, source.exclude, source.columns)
    shift, factor = identity(len(features))
    listed = pa.Table.from_arrays(
        [
            pa.array([f.name for f in features], pa.string()),
            pa.array([f.column for f in features], pa.string()),
            pa.array([f.place for f in features], pa.int32()),
            pa.array([f.storage == "category" for f in features]),
            pa.array([f.wide64 for f in features]),
            pa.array(shift),
            pa.array(factor),
        ],
        schema=COLUMNS,
    )
    shards.append(place.write(work_path("columns", place.item.key), COLUMNS, [listed]))
    rows = min(max(args["part_rows"], args["part_bytes"] // (4 * len(features))), PART_ROWS)
    forget_tables()
    return place.receipt(
        shards,
        path=where, digests=digests, rows=table.rows, apart=apart,
        cuts=[list(cut) for cut in ranges_of_rows(table, rows)],
        wide=any(f.wide64 for f in features), dear=table.format != "npy" and len(table.schema) > DEAR_COLUMNS,
        categories=any(f.storage == "category" for f in features),
    )  # fmt: skip


def look_at_rows(place: Workplace) -> Receipt:
    """Ranges of 64-bit numbers and counts of categories in some rows."""
    args = place.item.args
    table = opened(str(place.root / args["path"]))
    features, _ = features_of(table, args["outcome"], args["exclude"], args["only"])
    low, high = np.full(len(features), np.inf), np.full(len(features), -np.inf)
    wide = [i for i, f in enumerate(features) if f.wide64]
    for start in range(0, len(wide), 512):
        some = wide[start : start + 512]
        low[some], high[some] = ends(table, [features[i] for i in some], args["start"], args["stop"])
    counted = categories(table, features, args["start"], args["stop"])
    found = pa.Table.from_arrays([pa.array(low), pa.array(high)], schema=ENDS)
    return place.receipt(
        [
            place.write(work_path("ends", place.item.key), ENDS, [found]),
            place.write(work_path("categories", place.item.key), CATEGORY_COUNTS, [counted]),
        ]
    )


def gather_columns(place: Workplace) -> Receipt:
    """A copy of a table of few rows and many columns: a row for each column, and the outcome."""
    shards = _gather(place, TableInput(place.root, place.item.args["input"]), place.item.args["input"]["stop"])
    forget_tables()
    return place.receipt(shards)


def _gather(place: Workplace, table: TableInput, rows: int) -> list[Shard]:
    schema = pa.schema([pa.field("values", pa.binary(4 * rows), nullable=False)])
    count = len(table.names)

    def tables() -> Iterator[Any]:
        for low in range(0, count, GATHERED):
            columns = np.arange(low, min(low + GATHERED, count))
            x = np.concatenate([block.values for block in table.blocks(columns, rows)], axis=1)
            lines = pa.FixedSizeBinaryArray.from_buffers(schema.field(0).type, len(x), [None, pa.py_buffer(x)])
            yield pa.Table.from_arrays([lines], schema=schema)

    outcome = pa.table({"outcome": next(iter(table.outcomes()))[0]})
    return [
        place.write(work_path("gathered", place.item.key), schema, tables(), BLOCK, raw=True),
        place.write(work_path("outcome", place.item.key), outcome.schema, [outcome]),
    ]


def settle_columns(place: Workplace) -> Receipt:
    """How the values of every feature become float32; texts of too many kinds are no features."""
    args = place.item.args
    columns = read_shard(place.root, args["columns"])
    low, high = np.full(columns.num_rows, np.inf), np.full(columns.num_rows, -np.inf)
    for path in args["ends"]:
        part = read_shard(place.root, path)
        low = np.minimum(low, part.column("minimum").to_numpy())
        high = np.maximum(high, part.column("maximum").to_numpy())
    shift, factor = affine(low, high)
    codes, apart = codebook(merge_categories([read_shard(place.root, path) for path in args["categories"]]))
    columns = columns.set_column(5, "shift", pa.array(shift)).set_column(6, "factor", pa.array(factor))
    keep = [name not in apart for name in columns.column("feature").to_pylist()]
    columns = columns.filter(pa.array(keep)).cast(COLUMNS)
    if not columns.num_rows:
        raise RecipeError("the table has no feature column", f"left out: {apart}")
    book = pa.Table.from_pylist([{"feature": n, "values": v.to_pylist()} for n, v in sorted(codes.items())], CODES)
    return place.receipt(
        [
            place.write(fitted_path("columns", place.item.key), COLUMNS, [columns]),
            place.write(fitted_path("codes", place.item.key), CODES, [book]),
        ],
        apart=apart,
    )


STEPS: dict[str, Step] = {"open": open_source, "look": look_at_rows, "settle": settle_columns, "gather": gather_columns}
