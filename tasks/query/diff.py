"""In what two datasets differ: recipe, code, sources, rows, labels, splits, features and scores."""

import contextlib
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from schemas.errors import QueryError
from schemas.manifest import ShardEntry
from schemas.provenance import changes_since, differences
from schemas.tables import feature_groups
from tasks.query.dataset import Dataset
from tasks.shards import read_provenance

MEMORY = "2GiB"
EXAMPLES = 5
KEYS: dict[str, tuple[str, ...]] = {
    "sources": ("kind", "name", "filename"),
    "observations": ("source_id", "path_in_source"),
    "binaries": ("sha256",),
    "screening": ("feature",),
}
"""What names a row of a table, where that is not `sample_id`."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """How the rows of one table differ; a changed row is one of the same name with another value."""

    table: str
    before: int
    after: int
    gone: int
    new: int
    changed: int
    gone_such_as: tuple[str, ...] = ()
    new_such_as: tuple[str, ...] = ()
    columns_gone: tuple[str, ...] = ()
    columns_new: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """How many rows of both datasets went from one label, or split, to another."""

    before: str | None
    after: str | None
    rows: int
    such_as: str


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """A feature's mutual information with the label, in nats, its rank, and whether it was selected."""

    feature: str
    mi_before: float | None
    mi_after: float | None
    rank_before: int | None
    rank_after: int | None
    selected_before: bool | None
    selected_after: bool | None


@dataclass(frozen=True, slots=True)
class Difference:
    """All of it."""

    before: str
    """Digest."""
    after: str
    recipe: tuple[str, ...]
    """Settings that differ: place, before and after."""
    steps: Mapping[str, Mapping[str, str]]
    """By step: which of release, code, configuration, libraries and seed are others, and how."""
    tables: tuple[TableChange, ...]
    labels: tuple[Move, ...]
    splits: tuple[Move, ...]
    features_gone: tuple[str, ...]
    features_new: tuple[str, ...]
    scores: tuple[ScoreChange, ...]
    """Features whose selection changed, then those whose score changed most."""
    fitted: tuple[str, ...]
    """Fitted tables that are not the same."""

    @property
    def same(self) -> bool:
        """Whether they are one dataset."""
        return self.before == self.after


def diff(before: Dataset, after: Dataset, scores: int = 20) -> Difference:
    """In what two datasets differ.

    Tables are joined on disk, so they may be larger than memory; tables with the same shards are not read.

    Parameters
    ----------
    scores
        Most features to list.

    Raises
    ------
    QueryError
        A shard cannot be read.
    """
    with _joined(before, after) as database:
        names = [*before.manifest.tables, *(t for t in after.manifest.tables if t not in before.manifest.tables)]
        tables = [found for name in names if (found := _table(database, before, after, name)) is not None]
        moved = {
            table: _moves(database, table, column) if _both(before, after, table) else ()
            for table, column in (("labels", "label"), ("splits", "split"))
        }
        old, new = _features(before), _features(after)
        return Difference(
            before=before.manifest.digest,
            after=after.manifest.digest,
            recipe=tuple(differences(before.manifest.recipe, after.manifest.recipe)),
            steps=_steps(before, after),
            tables=tuple(tables),
            labels=moved["labels"],
            splits=moved["splits"],
            features_gone=tuple(name for name in old if name not in new),
            features_new=tuple(name for name in new if name not in old),
            scores=_scores(database, scores) if _both(before, after, "screening") else (),
            fitted=tuple(
                name
                for name in sorted({*before.manifest.fitted, *after.manifest.fitted})
                if _sha256(before.manifest.fitted.get(name)) != _sha256(after.manifest.fitted.get(name))
            ),
        )


def _sha256(shard: ShardEntry | None) -> str | None:
    return None if shard is None else shard.sha256


def _both(before: Dataset, after: Dataset, table: str) -> bool:
    """Whether both have a table, and not the same one."""
    old, new = before.manifest.tables.get(table), after.manifest.tables.get(table)
    return bool(old and new) and {_sha256(s) for s in old or ()} != {_sha256(s) for s in new or ()}


@contextlib.contextmanager
def _joined(before: Dataset, after: Dataset) -> Generator[duckdb.DuckDBPyConnection]:
    """A database with the tables that differ, as `before.NAME` and `after.NAME`."""
    with tempfile.TemporaryDirectory(prefix="binmill-diff-") as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with contextlib.closing(duckdb.connect(":memory:", config=config)) as database:
            for schema, dataset in (("before", before), ("after", after)):
                database.execute(f"CREATE SCHEMA {schema}")
                for table in dataset.manifest.tables:
                    if not _both(before, after, table):
                        continue
                    paths = ", ".join("'" + str(p.resolve()).replace("'", "''") + "'" for p in dataset.paths(table))
                    try:
                        database.execute(f'CREATE VIEW {schema}."{table}" AS SELECT * FROM read_parquet([{paths}])')
                    except duckdb.Error as error:
                        raise QueryError(
                            f"{dataset.name}: table '{table}' cannot be read: {error}",
                            f"run 'binmill verify {dataset.name}' to find the damage",
                        ) from error
            try:
                yield database
            except duckdb.Error as error:
                raise QueryError(
                    f"{before.name} and {after.name} cannot be compared: {error}", "run 'binmill verify' on both"
                ) from error


def _columns(database: duckdb.DuckDBPyConnection, schema: str, table: str) -> list[str]:
    return [row[0] for row in database.execute(f'DESCRIBE {schema}."{table}"').fetchall()]


def _table(database: duckdb.DuckDBPyConnection, before: Dataset, after: Dataset, table: str) -> TableChange | None:
    """How one table differs; None when it does not."""
    rows = [sum(s.rows for s in d.manifest.tables.get(table, ())) for d in (before, after)]
    if not _both(before, after, table):
        alike = bool(rows[0]) == bool(rows[1])
        return None if alike else TableChange(table, rows[0], rows[1], rows[0], rows[1], 0)
    columns = [_columns(database, schema, table) for schema in ("before", "after")]
    common = [name for name in columns[0] if name in columns[1]]
    key = [name for name in KEYS.get(table, ("sample_id",)) if name in common]
    if not key:
        return TableChange(table, rows[0], rows[1], 0, 0, 0)
    values = [name for name in common if name not in key] or key
    sides = [
        f"SELECT concat_ws(' ', {_quoted(key)}) k, hash([{', '.join(f'hash({_quote(v)})' for v in values)}]) h "
        f'FROM {schema}."{table}"'
        for schema in ("before", "after")
    ]
    # Two rows of one name (an archive that was named twice) are one here.
    joined = " FULL JOIN ".join(f"(SELECT k, sum(h::HUGEINT % 1000000007) h FROM ({side}) GROUP BY k) {alias}"
                                for side, alias in zip(sides, "ab", strict=True))  # fmt: skip
    found = database.execute(
        "SELECT count(*) FILTER (b.k IS NULL), count(*) FILTER (a.k IS NULL), "
        "count(*) FILTER (a.k IS NOT NULL AND b.k IS NOT NULL AND a.h <> b.h), "
        f"list_sort(min(a.k, {EXAMPLES}) FILTER (b.k IS NULL)), list_sort(min(b.k, {EXAMPLES}) FILTER (a.k IS NULL)) "
        f"FROM {joined} ON a.k = b.k"
    ).fetchone()
    assert found is not None
    gone, new, changed, gone_such, new_such = found
    columns_gone, columns_new = ([n for n in one if n not in other] for one, other in (columns, reversed(columns)))
    if not (gone or new or changed or columns_gone or columns_new or rows[0] != rows[1]):
        return None  # the same rows in other shards
    return TableChange(
        table, rows[0], rows[1], gone, new, changed,
        tuple(gone_such or ()), tuple(new_such or ()), tuple(columns_gone), tuple(columns_new),
    )  # fmt: skip


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(_quote, names))


def _moves(database: duckdb.DuckDBPyConnection, table: str, column: str) -> tuple[Move, ...]:
    found = database.execute(
        f"SELECT a.{column}, b.{column}, count(*), min(sample_id) FROM before.{table} a "
        f"JOIN after.{table} b USING (sample_id) WHERE a.{column} IS DISTINCT FROM b.{column} "
        "GROUP BY ALL ORDER BY 3 DESC, 1, 2"
    ).fetchall()
    return tuple(Move(*row) for row in found)


def _features(dataset: Dataset) -> dict[str, None]:
    """Names of the features of a dataset's vectors, in order."""
    paths = dataset.paths("features")
    if not paths:
        return {}
    return {name: None for names in feature_groups(pq.read_schema(paths[0])).values() for name in names}


def _scores(database: duckdb.DuckDBPyConnection, most: int) -> tuple[ScoreChange, ...]:
    found = database.execute(
        "SELECT feature, a.mi, b.mi, a.rank, b.rank, a.selected, b.selected "
        "FROM before.screening a FULL JOIN after.screening b USING (feature) "
        "WHERE a.selected IS DISTINCT FROM b.selected OR abs(coalesce(a.mi, 0) - coalesce(b.mi, 0)) > 0 "
        "ORDER BY coalesce(a.selected, false) = coalesce(b.selected, false), "
        f"abs(coalesce(a.mi, 0) - coalesce(b.mi, 0)) DESC, feature LIMIT {most:d}"
    ).fetchall()
    return tuple(ScoreChange(*row) for row in found)


def _steps(before: Dataset, after: Dataset) -> dict[str, dict[str, str]]:
    """By step, what else than its inputs changed; a table's shards have that in common."""
    found: dict[str, dict[str, str]] = {}
    for name in {**before.manifest.tables, **before.manifest.fitted}:
        records = [_record(dataset, name) for dataset in (before, after)]
        if records[0] is None or records[1] is None or records[0]["step"] != records[1]["step"]:
            continue
        changes = changes_since(records[0], records[1])
        changes.pop("inputs", None)
        if changes:
            found[f"{records[0]['stage']}.{records[0]['step']}"] = changes
    return found


def _record(dataset: Dataset, name: str) -> dict[str, Any] | None:
    fitted = dataset.manifest.fitted.get(name)
    shards = dataset.manifest.tables.get(name) or ([] if fitted is None else [fitted])
    return read_provenance(Path(dataset.place(shards[0].path))) if shards else None
