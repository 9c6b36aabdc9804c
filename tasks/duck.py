"""DuckDB for joins over shards that together do not fit in memory: one thread, a limit, a place to spill."""

import contextlib
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path

import duckdb

from tasks.shards import STATE, Shard

MEMORY_MIB = 512
"""Memory of a joining query; what does not fit goes to the dataset's own disk."""


@contextlib.contextmanager
def connection(root: Path) -> Generator[duckdb.DuckDBPyConnection]:
    """A private in-memory database that spills beside the dataset.

    One thread and an `ORDER BY` in every query that feeds a shard: the rows have one order.
    """
    scratch = root / STATE
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spill-", dir=scratch) as spill:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{MEMORY_MIB}MiB",
            "threads": 1,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with contextlib.closing(duckdb.connect(":memory:", config=config)) as database:
            yield database


def view(database: duckdb.DuckDBPyConnection, name: str, root: Path, shards: Sequence[Shard | str]) -> None:
    """Show shards as a view; column `shard` is the place of a row's shard in `shards`."""
    paths = [str(root / (s if isinstance(s, str) else s.path)) for s in shards]
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    # Literals: to pass parameters, DuckDB imports pandas, for half a second.
    database.execute(
        f"CREATE TABLE {name}_shards AS "
        f"SELECT unnest([{listed}]::VARCHAR[]) AS shard_file, unnest(range({len(paths)}))::INTEGER AS shard"
    )
    database.execute(
        f"CREATE VIEW {name} AS SELECT t.* EXCLUDE (shard_file), s.shard "
        f"FROM read_parquet([{listed}], filename = 'shard_file') t JOIN {name}_shards s USING (shard_file)"
    )
