"""Queries, and datasets, from strangers: nothing outside the dataset is read, nothing is written, nothing runs on."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import DatasetError, QueryError
from schemas.manifest import Manifest, ShardEntry
from tasks.query.dataset import Dataset, open_dataset
from tasks.query.sandbox import TABLE_FUNCTIONS
from tasks.query.sql import Limits, connect, query

SECRET = "the-secret-of-another-folder"
ODD = 'odd "name"; DROP VIEW train; --'


def written(root: Path, tables: dict[str, str], *, link: Path | None = None, **changes: Any) -> Path:
    """A dataset by hand: a table by the path that the manifest gives; with `link`, a link stands there instead."""
    entries: dict[str, list[ShardEntry]] = {}
    root.mkdir(parents=True)
    for name, path in tables.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if link is not None:
            place.symlink_to(link)
        elif not set("*?[") & set(place.name):
            pq.write_table(pa.table({"a": [1, 2, 3], "path": ["/etc/passwd", "x", None]}), place)
        entries[name] = [ShardEntry(path=path, sha256="0" * 64, size=1, rows=3)]
    values: dict[str, Any] = {"name": "x", "digest": "0", "recipe": {}, "fitted": {}, "files": {}, "summary": {}}
    manifest = Manifest(tables=entries, run={}, **(values | changes))
    (root / "manifest.json").write_text(manifest.model_dump_json())
    return root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset (`own`) and what it must not reach."""
    root = tmp_path_factory.mktemp("home")
    (root / "secret.csv").write_text(f"word\n{SECRET}\n")
    pq.write_table(pa.table({"word": [SECRET]}), root / "secret.parquet")
    duckdb.connect(str(root / "secret.db")).execute(f"CREATE TABLE t AS SELECT '{SECRET}' AS word").close()
    written(root / "own", {"train": "tables/train/p.parquet", ODD: "tables/odd/it's.parquet"})
    return root


@pytest.fixture
def dataset(home: Path) -> Iterator[Dataset]:
    """The dataset; afterwards every file is as it was, and none has come."""

    def everything() -> dict[Path, tuple[int, int]]:
        return {p: (p.stat().st_size, p.stat().st_mtime_ns) for p in home.rglob("*") if p.is_file()}

    before = everything()
    yield open_dataset(home / "own")
    assert everything() == before


READS = [
    "FROM '{home}/secret.csv'",
    "FROM '{home}/secret.parquet'",
    "FROM '{home}/*.parquet'",
    'SELECT * FROM "{home}/secret.csv"',
    "FROM 'https://localhost/x.parquet'",
    "FROM 's3://bucket/x.parquet'",
    "SUMMARIZE '{home}/secret.csv'",
    "DESCRIBE '{home}/secret.csv'",
    "FROM read_csv('{home}/secret.csv')",
    "FROM read_csv_auto('{home}/secret.csv')",
    "FROM read_text('{home}/secret.csv')",
    "FROM read_blob('{home}/secret.csv')",
    "FROM read_json('{home}/secret.csv')",
    "FROM read_json_objects('{home}/secret.csv')",
    "FROM read_ndjson_auto('{home}/secret.csv')",
    "FROM read_parquet('{home}/secret.parquet')",
    "FROM parquet_scan('{home}/secret.parquet')",
    "FROM parquet_metadata('{home}/secret.parquet')",
    "FROM parquet_schema('{home}/secret.parquet')",
    "FROM parquet_kv_metadata('{home}/secret.parquet')",
    "FROM read_duckdb('{home}/secret.db', table_name = 't')",
    "FROM sniff_csv('{home}/secret.csv')",
    "FROM glob('{home}/*')",
    "FROM read_parquet('https://localhost/x.parquet')",
    "FROM main.read_csv('{home}/secret.csv')",
    "FROM system.main.read_csv('{home}/secret.csv')",
    "FROM query_table('{home}/secret.csv')",
    "FROM query_table(['train', '{home}/secret.csv'])",
    "FROM query('FROM ''{home}/secret.csv''')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM ''{home}/secret.csv'''))",
    "FROM histogram('{home}/secret.csv', word)",
    "SELECT (SELECT count(*) FROM read_csv('{home}/secret.csv')) FROM train",
    "FROM train, LATERAL (FROM read_text(train.path))",
    "FROM train t, LATERAL (SELECT * FROM glob(t.path) g)",
    "FROM train WHERE a IN (SELECT 1 FROM read_text('{home}/secret.csv'))",
    "FROM train ORDER BY (SELECT max(content) FROM read_text('{home}/secret.csv'))",
    "FROM train QUALIFY row_number() OVER (ORDER BY (SELECT 1 FROM '{home}/secret.csv')) = 1",
    "WITH t AS (FROM read_text('{home}/secret.csv')) FROM t",
    "WITH t AS MATERIALIZED (FROM '{home}/secret.csv') SELECT 1",
    "WITH a AS (FROM duckdb_settings), duckdb_settings AS (SELECT 1) FROM a",
    "WITH duckdb_settings AS (FROM duckdb_settings) FROM duckdb_settings",
    "SELECT * FROM (WITH duckdb_views AS (SELECT 1) FROM duckdb_views), duckdb_views",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT 2 FROM read_text('{home}/secret.csv')) FROM r",
    "FROM (PIVOT read_csv('{home}/secret.csv') ON word IN ('x') USING count(*))",
    "FROM (UNPIVOT (FROM '{home}/secret.csv') ON word)",
    "FROM (SUMMARIZE '{home}/secret.csv')",
    "EXPLAIN ANALYZE FROM read_text('{home}/secret.csv')",
    "FROM (VALUES ((SELECT content FROM read_text('{home}/secret.csv'))))",
    "SELECT list_transform([1], lambda x: (SELECT max(content) FROM read_text('{home}/secret.csv')))",
    "FROM train UNION ALL BY NAME FROM '{home}/secret.csv'",
    "FROM train POSITIONAL JOIN '{home}/secret.csv'",
    "FROM train ASOF JOIN '{home}/secret.csv' s ON train.a >= s.word",
]
WRITES = [
    "COPY train TO '{home}/stolen.csv'",
    "COPY (SELECT 1) TO '{shard}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{shard}' (USE_TMP_FILE false)",
    "EXPORT DATABASE '{home}/stolen'",
    "IMPORT DATABASE '{home}'",
    "ATTACH '{home}/secret.db'",
    "ATTACH '{home}/new.db' (TYPE sqlite)",
    "COPY FROM DATABASE memory TO other",
    "CREATE TABLE t AS SELECT 1",
    "CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')",
    "CREATE MACRO m() AS TABLE FROM read_text('{home}/secret.csv')",
    "DROP VIEW train",
    "INSERT INTO train VALUES (1)",
    "DELETE FROM train",
    "UPDATE train SET a = 1",
    "MERGE INTO train USING train t ON true WHEN MATCHED THEN DELETE",
    "PREPARE p AS FROM train",
    "EXECUTE p",
    "USE memory",
    "VACUUM",
    "CHECKPOINT",
    "FROM force_checkpoint()",
    "FROM enable_logging(storage = 'file', storage_path = '{home}/log')",
    "CALL enable_logging(storage = 'file', storage_path = '{home}/log')",
    "FROM enable_profiling(save_location = '{home}/profile.txt')",
    "SELECT write_log('x')",
]
SETTINGS = [
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL httpfs FROM community",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "RESET enable_external_access",
    "SET VARIABLE x = 1",
    "SELECT getvariable('x')",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "PRAGMA version",
    "PRAGMA database_size; DROP VIEW train",
    "SHOW DATABASES",
    "SHOW SETTINGS",
    "FROM duckdb_settings()",
    "FROM duckdb_settings",
    "FROM duckdb_views",
    "FROM sqlite_master",
    "FROM pg_catalog.pg_views",
    "FROM information_schema.views",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "FROM duckdb_external_file_cache()",
    "SELECT current_setting('allowed_paths')",
    "SELECT pg_get_viewdef(0)",
    "SELECT getenv('HOME')",
]
ODDITIES = [
    "",
    ";",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY train TO '{home}/stolen.csv'",
    "EXPLAIN EXPLAIN SELECT 1",
    "FROM home",  # a variable of this test
    "FROM arrow_scan(0, 0, 0)",
    "FROM pandas_scan(4096)",
    "FROM python_map_function(4096)",
    "FROM seq_scan()",
    "SELECT '\udcff'",
    "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "SELECT " + "-" * 3_000 + "(1)",
    "SELECT " + "1 + " * 20_000 + "1",
]


@pytest.mark.parametrize("sql", [*READS, *WRITES, *SETTINGS, *ODDITIES], ids=lambda sql: ascii(sql)[:60])
def test_nothing_outside_is_read_written_or_set(dataset: Dataset, home: Path, sql: str) -> None:
    shard = dataset.root / "tables/train/p.parquet"
    with pytest.raises(QueryError) as caught:
        query(dataset, sql.replace("{home}", str(home)).replace("{shard}", str(shard)))
    assert SECRET not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "sql", [sql for sql in READS if re.search(r"\{home\}/(secret|\*)", sql) and not sql.endswith("SELECT 1")]
)
def test_duckdb_by_itself_reads_no_file_either(dataset: Dataset, home: Path, sql: str) -> None:
    """The second wall: what the allow-list might let through one day."""
    with connect(dataset) as database, pytest.raises(duckdb.Error):
        database.execute(sql.replace("{home}", str(home))).fetchall()


def test_a_table_function_that_is_new_in_duckdb_is_refused_until_it_is_listed(dataset: Dataset) -> None:
    found = duckdb.sql("SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type LIKE 'table%'")
    names = {name for (name,) in found.fetchall()}
    assert names > TABLE_FUNCTIONS
    for name in names - TABLE_FUNCTIONS:
        with pytest.raises(QueryError, match="not allowed"):
            query(dataset, f'FROM "{name.upper()}"()')


@pytest.mark.parametrize(
    "sql",
    [
        "DESCRIBE train",
        "SUMMARIZE train",
        "SHOW TABLES",
        "FROM (DESCRIBE train)",
        "EXPLAIN FROM train",
        "EXPLAIN ANALYZE SELECT count(*) FROM Main.TRAIN",
        "TABLE train",
        "VALUES (1), (2)",
        "WITH x AS (FROM train), y AS (FROM x) FROM y JOIN x USING (a)",
        "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 5) FROM r",
        "FROM train, unnest([1, 2]) u, range(3), generate_series(1, 2), json_each('[1]') j",
        "FROM (PIVOT train ON a IN (1, 2) USING count(*))",
        "UNPIVOT (SELECT a FROM train) ON a",
        "SELECT a, (SELECT max(t.a) FROM train t WHERE t.a < train.a) FROM train QUALIFY row_number() OVER () < 3",
        "FROM information_schema.columns",
        f'FROM "{ODD.replace(chr(34), chr(34) * 2)}"',
    ],
)
def test_questions_about_the_dataset_are_answered(dataset: Dataset, sql: str) -> None:
    assert query(dataset, sql).num_rows > 0
    assert query(dataset, sql, limit=1).num_rows == 1


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.parquet", "tables/../../secret.parquet", "secret.parquet"])
def test_a_manifest_that_leads_outside_is_refused(home: Path, tmp_path: Path, path: str) -> None:
    root = written(tmp_path / "bad", {"train": "tables/train/p.parquet"})
    told = json.loads((root / "manifest.json").read_text())
    told["tables"]["train"][0]["path"] = path
    (root / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(DatasetError, match="outside the dataset"):
        open_dataset(root)


def test_links_patterns_and_files_that_lead_outside_are_refused(home: Path, tmp_path: Path) -> None:
    linked = written(tmp_path / "linked", {"train": "tables/train/p.parquet"}, link=home / "secret.parquet")
    with pytest.raises(DatasetError, match="outside the dataset"):
        open_dataset(linked)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "tables").symlink_to(home)
    (folder / "manifest.json").write_text(
        (linked / "manifest.json").read_text().replace("tables/train/p.parquet", "tables/secret.parquet")
    )
    with pytest.raises(DatasetError, match="outside the dataset"):
        open_dataset(folder)
    # The listed name is a pattern, and what it matches a link.
    pattern = written(tmp_path / "pattern", {"train": "tables/train/*.parquet"})
    (pattern / "tables" / "train" / "x.parquet").symlink_to(home / "secret.parquet")
    with pytest.raises(QueryError, match="is not there"):
        query(open_dataset(pattern), "FROM train")
    with pytest.raises(DatasetError, match="outside the dataset"):
        open_dataset(written(tmp_path / "files", {}, files={"../secret.csv": "0" * 64}))


def test_a_folder_with_a_name_like_a_pattern_is_read(tmp_path: Path) -> None:
    root = written(tmp_path / "a[bc]*? it's", {"train": "tables/train/p.parquet"})
    assert query(open_dataset(root), "FROM train").num_rows == 3


def test_time_memory_and_answers_have_limits(dataset: Dataset) -> None:
    began = time.monotonic()
    with pytest.raises(QueryError, match=r"took more than 0\.5 s"):
        query(dataset, "SELECT count(*) FROM range(10_000_000_000) a, range(1000)", limits=Limits(seconds=0.5))
    endless = "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT max(i) FROM r"
    with pytest.raises(QueryError, match=r"took more than 0\.5 s"):
        query(dataset, endless, limits=Limits(seconds=0.5))
    with pytest.raises(QueryError, match="larger than 16 MiB"):
        query(dataset, "FROM range(100_000_000_000)", limits=Limits(memory=16 << 20))
    assert time.monotonic() - began < 30


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of address space is Linux's")
def test_the_command_cannot_take_the_machines_memory(home: Path, tmp_path: Path) -> None:
    huge = "SELECT length(repeat('x', 1_500_000_000) || repeat('y', 1_500_000_000))"  # DuckDB counts no single values
    command = [sys.executable, "-m", "flows.cli", "query", str(home / "own"), huge, "--memory", "256"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ})
    assert done.returncode == 6, done.stderr
    assert "--memory" in done.stderr
    assert list(tmp_path.iterdir()) == []
