"""Any table as training rows: its columns keep their types. Then the rebalancing itself.

This is the rebalance stage of `binmill rebalance`, which knows no splits: every row with a label counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from schemas.errors import RecipeError
from schemas.recipe import TableSource
from schemas.tables import examples_schema
from tasks.build import Build
from tasks.items import Receipt, Step, Workplace
from tasks.moments import Sums, sums
from tasks.rebalance.rebalancing import rebalance
from tasks.rebalance.typed import is_number, numbers
from tasks.shards import fitted_path, read_shard, table_path, work_path
from tasks.tablefiles import row_id, stamps, table_digest
from tasks.tabular import Table, open_table, ranges_of_rows, record_batches, refuse_reserved, texts

pc: Any = compute  # its functions are made at import, unseen by type checkers

SCALER: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("whole", pa.bool_(), nullable=False),
    ]
)
"""Fitted: finite values, mean and deviation of each column of numbers, and whether they are whole."""

SUMMED = 1 << 22
"""Values that are summed at once."""


def build(build: Build) -> None:
    """Rebalance the rows of the recipe's table.

    Raises
    ------
    RecipeError
        The recipe's source is no table, or a column of it can be no feature.
    """
    source = build.recipe.sources[0]
    if not isinstance(source, TableSource):
        raise RecipeError("sources: rebalancing alone needs a table", "name a source of kind 'table'")
    path = (build.base / source.path).resolve()
    config: dict[str, Any] = {
        "source": source.model_dump(mode="json"),
        "files": stamps(path),
    }
    item = build.item("rebalance", "open", path.name, config=config, inputs=[], args=config | {"path": str(path)})
    facts = build.compute([item])[0].facts
    publishing = build.recipe.publishing
    row_bytes = facts["row_bytes"]
    step = max(1, min(128 * publishing.shard_files, publishing.shard_mib * 2**20 // row_bytes))
    table = open_table(build.root / facts["path"])
    config = {
        "source": source.model_dump(mode="json", exclude={"path"}),
        "sha256": facts["sha256"],
        "drops": build.recipe.rebalancing.drops,
    }
    receipts = build.compute(
        [
            build.item(
                "rebalance", "rows", f"rows {start:,} to {stop:,}",
                config=config | {"start": start, "stop": stop}, inputs=[facts["sha256"]],
                args=config | {"path": facts["path"], "start": start, "stop": stop},
                weight=stop - start, memory=6 * row_bytes * (stop - start) + 256 * 2**20,
            )
            for start, stop in ranges_of_rows(table, step)
        ]
    )  # fmt: skip
    unlabelled = sum(receipt.facts["unlabelled"] for receipt in receipts)
    if unlabelled:
        build.notes.append(f"{unlabelled:,} rows have no value in column '{source.label_column}' and are left out")
    counts: dict[str, int] = {}
    for receipt in receipts:
        for label, count in receipt.facts["rows"]["train"].items():
            counts[label] = counts.get(label, 0) + count
    if not counts:
        raise RecipeError(f"sources.label_column: no row has a value in '{source.label_column}'", "name another column")
    found = build.shards("rebalance.rows", "sums")
    config = {"names": facts["numbers"]}
    item = build.item(
        "rebalance", "scale", "scaler",
        config=config, inputs=[shard.sha256 for shard in found], args=config | {"sums": [s.path for s in found]},
    )  # fmt: skip
    scaler = build.compute([item])[0].shard("scaler")
    rebalance(build, counts, build.shards("rebalance.rows", "train"), scaler, facts["texts"])


@dataclass(frozen=True, slots=True)
class _Feature:
    """A column of the result: a column of the table, or one place of its lists."""

    name: str
    column: str
    place: int | None
    kind: Any

    def of(self, batch: Any) -> Any:
        """Its values in a batch."""
        column = batch.column(self.column)
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        if self.place is not None:
            column = pc.list_element(column, self.place)
        return column.cast(self.kind)


def _features(table: Table, source: TableSource) -> list[_Feature]:
    if table.format == "bed":
        raise RecipeError(
            f"sources.path: {table.path.name} holds genotypes, which `binmill screen` reads alone",
            "screen it, or write the variants that matter as a table of numbers",
        )
    every: list[str] = table.schema.names
    asked = (("label_column", [source.label_column]), ("exclude", source.exclude), ("columns", source.columns))
    for field, names in asked:
        for name in names:
            if name not in every:
                near = get_close_matches(name, every, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"its columns are {', '.join(every[:20])}"
                raise RecipeError(f"sources.{field}: {table.path.name} has no column '{name}'", hint)
    apart = {source.label_column, source.group_column, *source.exclude}
    found: list[_Feature] = []
    for name in source.columns or every:
        if name in apart:
            continue
        kind = table.schema.field(name).type
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        if pa.types.is_fixed_size_list(kind) and is_number(kind.value_type):
            found += [_Feature(f"{name}[{i}]", name, i, kind.value_type) for i in range(kind.list_size)]
        elif (own := kind if is_number(kind) else _text(kind)) is not None:
            found.append(_Feature(name, name, None, own))
        else:
            raise RecipeError(
                f"sources.columns: column '{name}' of {table.path.name} holds {kind}, neither numbers nor texts",
                f"leave it out: exclude '{name}', or write it as numbers",
            )
    refuse_reserved([feature.name for feature in found], table.path.name)
    return found


def _text(kind: Any) -> Any:
    """The type that a column of texts (or categories) is written as; None: it is no such column."""
    types = pa.types
    if types.is_dictionary(kind):
        return kind if _text(kind.value_type) is not None else None
    if types.is_string_view(kind):
        return pa.string()
    return kind if types.is_string(kind) or types.is_large_string(kind) else None


def open_source(place: Workplace) -> Receipt:
    """Digest of the table's files, its columns, and (of a CSV file) its rows in a form that can be read in parts."""
    args = place.item.args
    source = TableSource.model_validate(args["source"])
    path = Path(args["path"])
    table, where = open_table(path), str(path)
    if not table.rows:
        raise RecipeError(f"{path}: the table has no rows", "give a table with rows")
    features = _features(table, source)
    row_bytes = 64 + sum(8 if not is_number(f.kind) else max(1, f.kind.bit_width // 8) for f in features)
    shards: list[Any] = []
    if table.format == "csv":
        group = max(1, (32 << 20) // row_bytes)
        batches = record_batches(table, table.schema.names, 0, table.rows, table.rows)
        shards.append(place.write(work_path("staged", place.item.key), table.schema, batches, group))
        where = shards[0].path
    return place.receipt(
        shards,
        path=where, sha256=table_digest(path), rows=table.rows, row_bytes=row_bytes,
        numbers=[f.name for f in features if is_number(f.kind)],
        texts=[f.name for f in features if not is_number(f.kind)],
    )  # fmt: skip


def rows(place: Workplace) -> Receipt:
    """Some rows of the table as examples, in the order of their ids (a hash of content and place); and their sums."""
    args, key = place.item.args, place.item.key
    table = open_table(place.root / args["path"])
    # The name of a staged table is not the user's, but nothing is refused here that `open` has let through.
    source = TableSource.model_validate(args["source"] | {"path": args["path"]})
    features = _features(table, source)
    wanted = list(dict.fromkeys([*(f.column for f in features), source.label_column]))
    labels: list[str | None] = []
    batches: list[Any] = []
    schema = pa.schema([pa.field(f.name, f.kind) for f in features])
    for batch in record_batches(table, wanted, args["start"], args["stop"]):
        labels += texts(batch.column(source.label_column))
        batches.append(pa.RecordBatch.from_arrays([f.of(batch) for f in features], schema=schema))
    columns = pa.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()
    ids = [row_id(args["sha256"], args["start"] + n) for n in range(len(labels))]
    order = sorted((n for n, label in enumerate(labels) if label is not None), key=ids.__getitem__)
    columns = columns.take(pa.array(order, pa.int64())).combine_chunks()
    chosen = [str(labels[n]) for n in order]
    count = len(order)
    train = pa.Table.from_arrays(
        [
            pa.array([ids[n] for n in order], pa.string()),
            pa.array(chosen, pa.string()),
            *columns.columns,
            pa.array([False] * count),
            pa.nulls(count, pa.string()),
            pa.nulls(count, pa.string()),
            pa.nulls(count, pa.float64()),
        ],
        schema=examples_schema([f.name for f in features], [f.kind for f in features]),
    )
    summed = _sums([columns.column(f.name) for f in features if is_number(f.kind)], count)
    where = work_path if args["drops"] else table_path
    shards = [place.write(work_path("sums", key), Sums.schema(), [summed.to_table()])]
    if count:
        shards.append(place.write(where("train", key), train.schema, [train]))
    counted = {"train": {label: chosen.count(label) for label in sorted(set(chosen))}}
    return place.receipt(shards, rows=counted, unlabelled=len(labels) - count)


def _sums(columns: Sequence[Any], rows: int) -> Sums:
    """Exact sums of columns, as float32."""
    found = sums(np.zeros((0, len(columns)), np.float32))
    step = max(1, SUMMED // max(1, len(columns)))
    for start in range(0, rows, step):
        found = found + sums(_matrix(columns, start, min(step, rows - start)))
    return found


def _matrix(columns: Iterable[Any], start: int, rows: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # beyond float32's range a value is infinite
        parts = [numbers(column.slice(start, rows)).astype(np.float32) for column in columns]
    return np.stack(parts, axis=1) if parts else np.zeros((rows, 0), np.float32)


def scale(place: Workplace) -> Receipt:
    """Mean and deviation of each column of numbers."""
    args = place.item.args
    parts = [Sums.from_table(read_shard(place.root, path)) for path in args["sums"]]
    found = parts[0]
    for part in parts[1:]:
        found = found + part
    mean, deviation = found.scaler()
    table = pa.Table.from_arrays(
        [pa.array(args["names"], pa.string()), *map(pa.array, (found.count, mean, deviation, found.whole))],
        schema=SCALER,
    )
    return place.receipt([place.write(fitted_path("scaler", place.item.key), SCALER, [table])])


STEPS: dict[str, Step] = {"open": open_source, "rows": rows, "scale": scale}
