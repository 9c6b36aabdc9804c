"""SQL over a dataset: DuckDB with nothing in reach but the dataset's own shards, and no way to write."""

import contextlib
import re
from collections.abc import Generator
from typing import Any

import duckdb

from schemas.errors import QueryError
from tasks.query.dataset import Dataset

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@contextlib.contextmanager
def connect(dataset: Dataset) -> Generator[duckdb.DuckDBPyConnection]:
    """A DuckDB session in which each table of the dataset is a view of its name.

    Fitted tables are views named `fitted_<name>`. Everything else is shut: files, network, extensions,
    Python variables, settings.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    with contextlib.closing(duckdb.connect(":memory:", config=config)) as database:
        allowed: list[str] = []
        fitted = {f"fitted_{n}": [s] for n, s in dataset.manifest.fitted.items()}
        for name, shards in (dataset.manifest.tables | fitted).items():
            paths = [str((dataset.root / shard.path).resolve()) for shard in shards]
            if not paths:
                continue
            allowed += paths
            listed = ", ".join(map(_literal, paths))
            quoted = '"' + name.replace('"', '""') + '"'
            try:
                database.execute(f"CREATE VIEW {quoted} AS SELECT * FROM read_parquet([{listed}])")
            except duckdb.Error as error:
                raise QueryError(
                    f"{dataset.root}: table '{name}' cannot be read: {error}",
                    f"run 'binmill verify {dataset.root}' to find the damage",
                ) from error
        database.execute(f"SET allowed_paths = [{', '.join(map(_literal, allowed))}]")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        yield database


def check_statement(sql: str) -> str:
    """Refuse anything but one SELECT (DESCRIBE, SUMMARIZE and SHOW count as such) or an EXPLAIN of one.

    Returns
    -------
    str
        The statement, as it can be run.

    Raises
    ------
    QueryError
        With the kind of statement that was found.
    """
    text = _EXPLAIN.sub("", sql, count=1)
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(f"the query cannot be parsed: {error}", "see DuckDB's SQL reference") from error
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements in one query", "give exactly one SELECT")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError(
            f"a {statements[0].type.name} statement is not allowed: datasets are read-only",
            "use SELECT; to write results, pass --json and redirect the output",
        )
    return sql


def query(dataset: Dataset, sql: str, limit: int | None = None) -> Any:
    """Answer one SELECT as an Arrow table.

    Parameters
    ----------
    limit
        Fetch at most this many rows; None for all.

    Raises
    ------
    QueryError
        The statement is not a query, or DuckDB cannot answer it.
    """
    text = check_statement(sql)
    with connect(dataset) as database:
        try:
            relation = database.sql(text)
            return relation.to_arrow_table() if limit is None else relation.limit(limit).to_arrow_table()
        except duckdb.Error as error:
            names = ", ".join(name for name, shards in dataset.manifest.tables.items() if shards)
            raise QueryError(f"the query failed: {error}", f"tables here: {names}") from error
