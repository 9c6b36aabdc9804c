"""What a query may name: the dataset's tables, and functions that only compute.

DuckDB itself shuts files, network and settings off (`tasks.query.sql.connect`). That leaves functions that act on
the session (logs, profiles, checkpoints), run SQL given as a text, show settings and paths, or take addresses of
memory. So DuckDB's own parser says what a query names, and only what is listed here may be named.
"""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import duckdb

from schemas.errors import QueryError

TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series", "repeat", "repeat_row", "json_each", "json_tree"})
"""Functions that stand where a table does."""

REFUSED_FUNCTIONS = frozenset({"current_setting", "getvariable", "write_log", "pg_get_viewdef", "pg_sleep", "sleep_ms"})
"""Functions of one value that do more than compute it."""

SCHEMA_TABLES = frozenset({"tables", "columns"})
"""What of `information_schema` is about the dataset alone."""

_EXPLAIN = re.compile(r"^\s*explain\s+(analyze\s+)?", re.IGNORECASE)
_SHOWN = frozenset({'"tables"', "__show_tables_expanded"})
_REMEDY = "use SELECT over the dataset's own tables; to write results, pass --json and redirect the output"


def check_statement(sql: str, tables: Collection[str]) -> str:
    """Refuse anything but one SELECT over the dataset (DESCRIBE, SUMMARIZE and SHOW TABLES count) or an EXPLAIN of it.

    Parameters
    ----------
    tables
        Names of the dataset's views.

    Returns
    -------
    str
        The statement, as it can be run.

    Raises
    ------
    QueryError
        Naming what is not allowed.
    """
    inner = _EXPLAIN.sub("", sql, count=1)
    try:
        sql.encode()
        _only(sql, {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN})
        _only(inner, {duckdb.StatementType.SELECT})
        with duckdb.connect(":memory:") as parser:
            answer = parser.execute("SELECT json_serialize_sql(?)", [inner]).fetchall()
        parsed = json.loads(answer[0][0])
        if parsed["error"]:  # PRAGMA, which DuckDB counts as SELECT
            raise QueryError("a statement other than SELECT is not allowed: datasets are read-only", _REMEDY)
        _check(parsed["statements"], frozenset(name.lower() for name in tables))
    except (duckdb.Error, UnicodeEncodeError) as error:
        raise QueryError(f"the query cannot be parsed: {error}", "see DuckDB's SQL reference") from error
    except RecursionError as error:
        raise QueryError("the query is nested too deeply", "write it in steps, with WITH") from error
    return sql


def _only(sql: str, kinds: Collection[duckdb.StatementType]) -> None:
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements in one query", "give exactly one SELECT")
    if statements[0].type not in kinds:
        raise QueryError(f"a {statements[0].type.name} statement is not allowed: datasets are read-only", _REMEDY)


def _check(node: Any, names: frozenset[str]) -> None:
    """Go through a parsed query; `names` are the tables and common table expressions that can be seen here."""
    if isinstance(node, list):
        for part in node:
            _check(part, names)
    if not isinstance(node, dict):
        return
    common = node.get("cte_map")
    if isinstance(common, dict):
        for entry in common["map"]:  # each sees those before it
            _check(entry["value"], names)
            names |= {entry["key"].lower()}
    kind = node.get("type")
    if kind == "RECURSIVE_CTE_NODE":
        names |= {node["cte_name"].lower()}
    elif kind == "BASE_TABLE":
        _check_table(node, names)
    elif kind == "TABLE_FUNCTION":
        name = node["function"]["function_name"].lower()
        if name not in TABLE_FUNCTIONS:
            raise QueryError(f"the function {name}() is not allowed in a query", _REMEDY)
    elif kind == "SHOW_REF" and not node.get("query") and node.get("table_name") not in _SHOWN:
        raise QueryError("only the dataset's tables can be shown", "SHOW TABLES, DESCRIBE or SUMMARIZE one of them")
    elif kind == "FUNCTION" and node["function_name"].lower() in REFUSED_FUNCTIONS:
        raise QueryError(f"the function {node['function_name']}() is not allowed in a query", _REMEDY)
    for key, part in node.items():
        if key != "cte_map":
            _check(part, names)


def _check_table(node: Mapping[str, Any], names: frozenset[str]) -> None:
    catalog, schema = (str(node.get(f"{part}_name") or "").lower() for part in ("catalog", "schema"))
    name = str(node["table_name"])
    if schema == "information_schema" and name.lower() in SCHEMA_TABLES:
        return
    if catalog or schema not in {"", "main"} or name.lower() not in names:
        full = ".".join(part for part in (catalog, schema, name) if part)
        raise QueryError(f"the dataset has no table '{full}'", f"tables here: {', '.join(sorted(names)) or 'none'}")
