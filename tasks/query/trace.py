"""From a row back to where it came from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas.errors import QueryError
from schemas.tables import SPLITS
from tasks.query.dataset import Dataset
from tasks.shards import find_rows, read_provenance
from tasks.tablefiles import row_id

KEYS = {
    **dict.fromkeys((*SPLITS, "train_dropped"), "sample_id"),
    "voters": "sample_id",
    "codes": "sample_id",
    "splits": "sample_id",
    "labels": "sample_id",
    "features": "sample_id",
    "binaries": "sha256",
    "observations": "sha256",
}
"""Tables a row is looked for in, from the end of the pipeline to its beginning, and their key column."""

HIDDEN = {"features"}
"""Tables whose values are too many to show."""

FIXED = ("sample_id", "label", "split", "is_synthetic", "parent_a", "parent_b", "gap", "dropped_by")


@dataclass(frozen=True, slots=True)
class Link:
    """One row of the chain: the table it stands in, the shard, and what made the shard."""

    table: str
    shard: str
    values: dict[str, Any]
    provenance: dict[str, Any]
    derived_from: tuple["Trace", ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """The chain of one id, from model-ready example to archive."""

    sample_id: str
    links: list[Link] = field(default_factory=lambda: [])


def resolve_id(dataset: Dataset, prefix: str) -> str:
    """The one id that starts with `prefix`.

    Raises
    ------
    QueryError
        None does, or several do.
    """
    found: set[str] = set()
    for table, key in KEYS.items():
        if table in HIDDEN:
            continue
        for path in dataset.paths(table):
            column = pq.ParquetFile(path).read(columns=[key]).column(key).unique()
            found.update(value for value in column.to_pylist() if value is not None and value.startswith(prefix))
        if len(found) > 1:
            break
    if prefix in found:
        return prefix  # an id of the user's may be how another begins
    if not found or not prefix:
        raise QueryError(
            f"{dataset.root}: no row has an id that starts with '{prefix}'",
            'list ids with: binmill query DATASET "SELECT sample_id, project FROM splits"',
        )
    if len(found) > 1:
        raise QueryError(
            f"'{prefix}' fits {len(found)} or more ids, {min(found)} and {max(found)} among them",
            "give more of the id",
        )
    return found.pop()


def trace(dataset: Dataset, sample_id: str) -> Trace:
    """The chain of one row: each table it stands in, each parent, each source."""
    chain = Trace(sample_id)
    for table, key in KEYS.items():
        for path in dataset.paths(table):
            for row in _rows(path, table, key, sample_id):
                parents = tuple(
                    trace(dataset, row[name]) for name in ("parent_a", "parent_b") if row.get(name) is not None
                )
                chain.links.append(_link(dataset, table, path, row, parents))
    for source in dict.fromkeys(link.values["source_id"] for link in chain.links if link.table == "observations"):
        for path in dataset.paths("sources"):
            for row in _rows(path, "sources", "source_id", source):
                chain.links.append(_link(dataset, "sources", path, row))
    return chain


def _rows(path: Path, table: str, key: str, value: str) -> list[dict[str, Any]]:
    names = pq.read_schema(path).names
    columns = (
        [key] if table in HIDDEN else [n for n in names if n in FIXED] if table in {*SPLITS, "train_dropped"} else names
    )
    found = find_rows(path, key, value, columns)
    return [
        {name: cell.hex() if isinstance(cell, bytes) else cell for name, cell in row.items() if cell is not None}
        for row in found.to_pylist()
    ]


def _link(dataset: Dataset, table: str, path: Path, row: dict[str, Any], parents: tuple[Trace, ...] = ()) -> Link:
    made = read_provenance(path)
    number = _row_of_a_table(made, row.get("sample_id"))
    values = row if number is None else row | {"row": number}
    return Link(table, path.relative_to(dataset.root).as_posix(), values, made, parents)


def _row_of_a_table(made: dict[str, Any], sample: Any) -> int | None:
    """Which row (from 0) of the table that was read this is: the one whose number gives its id."""
    config = made["config"]
    if made["step"] != "rows" or not {"sha256", "start", "stop"} <= config.keys():
        return None
    for number in range(config["start"], config["stop"]):
        if row_id(config["sha256"], number) == sample:
            return number
    return None
