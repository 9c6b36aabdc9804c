"""From a row back to where it came from."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas.errors import QueryError
from schemas.tables import SPLITS
from tasks.query.dataset import Dataset
from tasks.query.lineage import Lineage, lineage
from tasks.shards import find_rows, read_provenance
from tasks.tablefiles import row_id

KEYS = {
    **dict.fromkeys((*SPLITS, "train_dropped"), "sample_id"),
    "voters": "sample_id",
    "codes": "sample_id",
    "borders": "sample_id",
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
    tree: dict[str, Any] = field(default_factory=lambda: {})
    """Commit of the checkout whose code made the shard, and whether it was changed (`dirty`); empty when unknown."""
    derived_from: tuple["Trace", ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """The chain of one row, from model-ready example to archive."""

    sample_id: str
    links: list[Link] = field(default_factory=lambda: [])
    learned_from: Lineage | None = None
    """Of a row that tells of many others (a feature's score, a fitted value): what they were."""


def resolve_id(dataset: Dataset, prefix: str, tables: Mapping[str, str] = KEYS) -> str:
    """The one id that starts with `prefix`, in the key columns of these tables.

    Raises
    ------
    QueryError
        None does, or several do.
    """
    found: set[str] = set()
    for table, key in tables.items():
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


def trace_row(dataset: Dataset, what: str) -> Trace:
    """The chain of any row of any table.

    Parameters
    ----------
    what
        An id (of a sample or a source) or its beginning; the name of a feature; or `TABLE:NUMBER`, a row of any
        table by its number, from 0 (fitted tables are `fitted_NAME`).

    Raises
    ------
    QueryError
        There is no such row, or several.
    """
    if numbered := re.fullmatch(r"(\w+):(\d+)", what):
        return _numbered(dataset, numbered[1], int(numbered[2]))
    scores = _found(dataset, "screening", "feature", what)
    if scores:
        return Trace(what, scores, lineage(dataset, [link.shard for link in scores]))
    found = resolve_id(dataset, what, {**KEYS, "sources": "source_id"})
    return (
        Trace(found, sources) if (sources := _found(dataset, "sources", "source_id", found)) else trace(dataset, found)
    )


def trace(dataset: Dataset, sample_id: str, parents: frozenset[str] = frozenset()) -> Trace:
    """The chain of one sample: each table it stands in, each parent, each source."""
    chain = Trace(sample_id)
    for table, key in KEYS.items():
        for link in _found(dataset, table, key, sample_id):
            names = (link.values.get(name) for name in ("parent_a", "parent_b"))
            ids = [name for name in names if name is not None and name not in parents]
            above = tuple(trace(dataset, name, parents | {sample_id}) for name in ids)
            chain.links.append(_with_parents(link, above))
    for name, value in dict.fromkeys(key for link in chain.links for key in _source_of(link)):
        chain.links.extend(_found(dataset, "sources", name, value) or _read_table(dataset, name, value))
    return chain


def _numbered(dataset: Dataset, table: str, number: int) -> Trace:
    """The chain of the row with this number, counted from 0 through a table's shards in the manifest's order."""
    fitted = dataset.manifest.fitted.get(table.removeprefix("fitted_")) if table.startswith("fitted_") else None
    shards = dataset.manifest.tables.get(table, []) if fitted is None else [fitted]
    if not shards:
        tables = [*dataset.manifest.tables, *(f"fitted_{name}" for name in dataset.manifest.fitted)]
        raise QueryError(f"{dataset.root}: no table '{table}'", f"its tables are {', '.join(tables)}")
    left = number
    for shard in shards:
        if left < shard.rows:
            break
        left -= shard.rows
    else:
        raise QueryError(
            f"{table}:{number}: the table has {sum(shard.rows for shard in shards)} rows", "rows count from 0"
        )
    path = dataset.place(shard.path)
    names = _columns(path, table, KEYS.get(table, ""))
    row = pq.ParquetFile(path).read(columns=names).slice(left, 1).to_pylist()[0]
    if (key := KEYS.get(table)) and row[key] is not None:
        return trace(dataset, row[key])
    link = _link(dataset, table, path, _plain(row))
    if table == "observations":  # refused: it has no content to be known by
        return Trace(f"{table}:{number}", [link, *_found(dataset, "sources", "source_id", row["source_id"])])
    learned = None if table == "sources" else lineage(dataset, [link.shard])
    return Trace(f"{table}:{number}", [link], learned)


def _found(dataset: Dataset, table: str, key: str, value: str) -> list[Link]:
    """Links of all rows of a table whose `key` is `value`."""
    found: list[Link] = []
    for path in dataset.paths(table):
        rows = find_rows(path, key, value, _columns(path, table, key)).to_pylist()
        found += [_link(dataset, table, path, _plain(row)) for row in rows]
    return found


def _columns(path: Path, table: str, key: str) -> list[str]:
    """Columns of a table that are worth showing."""
    names: list[str] = pq.read_schema(path).names
    if table in HIDDEN:
        return [key]
    return [name for name in names if name in FIXED] if table in {*SPLITS, "train_dropped"} else names


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell.hex() if isinstance(cell, bytes) else cell for name, cell in row.items() if cell is not None}


def _link(dataset: Dataset, table: str, path: Path, row: dict[str, Any]) -> Link:
    made = read_provenance(path)
    number = _row_of_a_table(made, row.get("sample_id"))
    values = row if number is None else row | {"row": number}
    return Link(table, path.relative_to(dataset.root).as_posix(), values, made, _tree(dataset, made))


def _with_parents(link: Link, parents: tuple[Trace, ...]) -> Link:
    return Link(link.table, link.shard, link.values, link.provenance, link.tree, parents)


def _tree(dataset: Dataset, made: Mapping[str, Any]) -> dict[str, Any]:
    """Commit of the code that made a shard, as the manifest's `run` says it."""
    code = dataset.manifest.run.get("code")
    known: Any = code.get(made["stage"]) if isinstance(code, dict) else None
    if not isinstance(known, dict) or known.get("digest") != made["code"]:
        return {}
    return {name: known[name] for name in ("commit", "dirty") if name in known}


def _source_of(link: Link) -> Iterable[tuple[str, str]]:
    """Column of `sources` and its value that say where a row's bytes were read from."""
    if link.table in {"observations", "codes"} and "source_id" in link.values:
        yield "source_id", link.values["source_id"]
    elif "row" in link.values:
        yield "archive_sha256", link.provenance["config"]["sha256"]


def _read_table(dataset: Dataset, name: str, value: str) -> list[Link]:
    """A table that was only screened or rebalanced has no table `sources`: its recipe says where it was."""
    source = dataset.manifest.recipe.get("sources", [{}])[0]
    if name != "archive_sha256" or dataset.manifest.tables.get("sources"):
        return []
    return [Link("sources", "recipe.yaml", {"kind": "table", "path": source.get("path"), name: value}, {})]


def _row_of_a_table(made: dict[str, Any], sample: Any) -> int | None:
    """Which row (from 0) of the table that was read this is: the one whose number gives its id."""
    config = made["config"]
    if made["step"] != "rows" or not {"sha256", "start", "stop"} <= config.keys():
        return None
    for number in range(config["start"], config["stop"]):
        if row_id(config["sha256"], number) == sample:
            return number
    return None
