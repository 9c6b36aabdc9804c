"""SQL over a dataset: DuckDB with nothing in reach but the dataset's own shards, and no way to write."""

import contextlib
import sys
import tempfile
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from schemas.errors import QueryError
from tasks.query.dataset import Dataset
from tasks.query.sandbox import check_statement

SPILL = "64GiB"
"""Most that a query may put on disk, in a temporary folder, when it does not fit in memory."""


STACKS = 1 << 30
"""Addresses that DuckDB's threads take for their stacks and arenas."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a query may take.

    Attributes
    ----------
    memory
        Bytes for DuckDB, and as many again for the answer; None: DuckDB's own (80 % of the machine's), any answer.
    seconds
        None: as long as it takes.
    """

    memory: int | None = None
    seconds: float | None = None


UNLIMITED = Limits()


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def views(dataset: Dataset) -> dict[str, list[str]]:
    """Name of each view that a query sees, and its files. Fitted tables are named `fitted_<name>`."""
    fitted = {f"fitted_{name}": [shard] for name, shard in dataset.manifest.fitted.items()}
    return {
        name: [str((dataset.root / shard.path).resolve()) for shard in shards]
        for name, shards in (dataset.manifest.tables | fitted).items()
        if shards
    }


@contextlib.contextmanager
def connect(
    dataset: Dataset, limits: Limits = UNLIMITED, asked: set[str] | None = None
) -> Generator[duckdb.DuckDBPyConnection]:
    """A DuckDB session in which each table of the dataset is a view of its name.

    With `asked`, only these are: of a dataset in an object store, no more is fetched than a question needs.
    Everything else is shut: files, network, extensions, Python variables, settings.
    """
    with tempfile.TemporaryDirectory(prefix="binmill-query-") as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
            "allow_persistent_secrets": False,
            "temp_directory": spill,  # else it is the folder that the user happens to stand in
            "max_temp_directory_size": SPILL,
        }
        if limits.memory is not None:
            config["memory_limit"] = f"{limits.memory >> 20}MiB"
        with contextlib.closing(duckdb.connect(":memory:", config=config)) as database:
            allowed: list[str] = []
            for name, paths in views(dataset).items():
                if asked is not None and name.lower() not in asked:
                    continue
                allowed += paths
                _view(database, dataset, name, paths)
            database.execute(f"SET allowed_paths = [{', '.join(map(_literal, allowed))}]")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            yield database


def _view(database: duckdb.DuckDBPyConnection, dataset: Dataset, name: str, paths: list[str]) -> None:
    remedy = f"run 'binmill verify {dataset.name}' to find the damage"
    for path in paths:
        dataset.place(Path(path).relative_to(dataset.root.resolve()).as_posix())
        # A file that is there is read by its very name; of one that is not, DuckDB would take the name as a pattern.
        if not Path(path).is_file():
            raise QueryError(f"{dataset.root}: table '{name}' cannot be read: {path} is not there", remedy)
    listed = ", ".join(map(_literal, paths))
    quoted = '"' + name.replace('"', '""') + '"'
    try:
        database.execute(f"CREATE VIEW {quoted} AS SELECT * FROM read_parquet([{listed}])")
    except duckdb.Error as error:
        raise QueryError(f"{dataset.root}: table '{name}' cannot be read: {error}", remedy) from error


def _named(sql: str) -> set[str] | None:
    """Tables that a statement names, in small letters; None if it may be asking which there are."""
    with contextlib.closing(duckdb.connect(":memory:")) as database:
        try:
            return {name.lower() for name in database.get_table_names(sql)} or None
        except duckdb.Error:
            return None


def query(dataset: Dataset, sql: str, limit: int | None = None, limits: Limits = UNLIMITED) -> Any:
    """Answer one SELECT as an Arrow table.

    Parameters
    ----------
    limit
        Fetch at most this many rows; None for all.
    limits
        What it may take.

    Raises
    ------
    QueryError
        The statement is not a query of this dataset, DuckDB cannot answer it, or it takes more than it may.
    """
    text = check_statement(sql, views(dataset))
    with connect(dataset, limits, None if dataset.fetch is None else _named(text)) as database:
        clock = None if limits.seconds is None else threading.Timer(limits.seconds, database.interrupt)
        if clock is not None:
            clock.start()
        try:
            relation = database.sql(text)
            if limit is not None:
                relation = relation.limit(limit)
            return _gathered(relation.to_arrow_reader(), limits)
        except duckdb.InterruptException as error:
            raise QueryError(
                f"the query took more than {limits.seconds:g} s", "ask for less, or raise --timeout"
            ) from error
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            raise QueryError(
                "the query needs more memory than it may take", "ask for less, or raise --memory"
            ) from error
        except duckdb.Error as error:
            names = ", ".join(name for name, shards in dataset.manifest.tables.items() if shards)
            raise QueryError(f"the query failed: {error}", f"tables here: {names}") from error
        finally:
            if clock is not None:
                clock.cancel()


def _gathered(reader: Any, limits: Limits) -> Any:
    batches: list[Any] = []
    size = 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if limits.memory is not None and size > limits.memory:
            raise QueryError(f"the answer is larger than {limits.memory >> 20} MiB", "add a LIMIT, or raise --memory")
    return pa.Table.from_batches(batches, schema=reader.schema)


def bound_process(memory: int) -> None:
    """Let this process take no more than DuckDB's memory, an answer's, and as much again for single values.

    DuckDB's own limit counts what it keeps, not a value of gigabytes that a function makes.
    """
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 3 * memory + STACKS
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
