"""What is told of a dataset: counts, failures by reason, balance, top features, recall. All from its tables."""

import math
from pathlib import Path
from typing import Any

from schemas.tables import SPLITS
from tasks.build import Build
from tasks.duck import connection, view
from tasks.shards import Shard, read_shard

LN2 = math.log(2)

_FAILURES = {
    "sources": "SELECT 'fetch' AS stage, reason, coalesce(filename, name) AS example "
    "FROM sources WHERE status = 'failed'",
    # What the recipe keeps out did not fail.
    "observations": "SELECT 'ingest', reason, path_in_source FROM observations SEMI JOIN "
    "(FROM sources WHERE status = 'ok') USING (source_id) WHERE status <> 'ok'",
    "binaries": "SELECT 'extract', parse_status || ': ' || coalesce(parse_error, '?'), coalesce(place, sha256) "
    "FROM binaries LEFT JOIN places USING (sha256) WHERE parse_status NOT IN ('ok', 'partial')",
    "labels": "SELECT 'label', reason, coalesce(place, sample_id) FROM labels "
    "LEFT JOIN places ON sha256 = sample_id WHERE reason IS NOT NULL",
}


def failures(build: Build) -> tuple[list[dict[str, Any]], int]:
    """Inputs that are not in train, validation or test, by stage and reason, and how many inputs there were.

    A reason is counted up to its first bracket, quotation mark or second colon, where it begins to name
    one file; `example` is one of the places.
    """
    shards: dict[str, list[Shard]] = {
        "sources": build.shards("ingest.assign", "sources"),
        "observations": build.shards("ingest.scan", "observations"),
        "binaries": build.shards("extract.features", "binaries"),
        "labels": build.shards("label.labels", "labels"),
    }
    with connection(build.root) as database:
        present = [name for name, found in shards.items() if found]
        for name in present:
            view(database, name, build.root, shards[name])
        database.execute(
            "CREATE TABLE places AS SELECT sha256, min(path_in_source) AS place FROM observations "
            "WHERE sha256 IS NOT NULL GROUP BY sha256"
            if "observations" in present
            else "CREATE TABLE places (sha256 VARCHAR, place VARCHAR)"
        )
        union = " UNION ALL ".join(_FAILURES[name] for name in present) or "SELECT '', '', '' WHERE false"
        rows = database.execute(
            f"WITH f(stage, reason, example) AS ({union}) "
            "SELECT stage, regexp_extract(reason, '^[^:''\"(]*(: [^:''\"(]*)?') AS why, count(*) AS n, "
            "min(example) FROM f GROUP BY ALL ORDER BY n DESC, stage, why"
        ).fetchall()
        # A table's inputs are its rows.
        total = sum(shard.rows for shard in build.shards("extract.rows", "features"))
        steps = ("screen.open", "rebalance.open", "binarize.open")
        opened = next((build.receipts[step] for step in steps if step in build.receipts), [])
        total += sum(receipt.facts["rows"] for receipt in opened)
        if "observations" in present:
            total = _count(
                database,
                "SELECT (SELECT count(*) FILTER (sha256 IS NULL) + count(DISTINCT sha256) FROM observations "
                "SEMI JOIN (FROM sources WHERE status = 'ok') USING (source_id)) + "
                "(SELECT count(*) FROM sources WHERE status = 'failed')",
            )
    found = [{"stage": stage, "reason": why.strip(), "count": n, "example": example} for stage, why, n, example in rows]
    return found, total


def _count(database: Any, sql: str) -> int:
    row = database.execute(sql).fetchone()
    return int(row[0]) if row else 0


def summarise(build: Build) -> dict[str, Any]:
    """The summary that the manifest, the card and the command line show."""
    failed, total = failures(build)
    summary: dict[str, Any] = {
        "inputs": total,
        "failed": sum(f["count"] for f in failed),
        "failures": failed,
        "files": _files(build),
        "licences": _licences(build),
        "excluded": excluded(build),
        "balance": _balance(build),
        "duplicates": _duplicates(build),
        "top_features": _top_features(build.root, build.shards("screen.select", "screening")),
        "recall": _recall(build),
        "cells": _cells(build),
        "neighbours_found": _neighbours_found(build),
    }
    summary["features"] = _feature_count(build)
    summary["sample"] = _sample(build)
    return summary


def _files(build: Build) -> list[dict[str, Any]]:
    shards = build.shards("extract.features", "binaries")
    if not shards:
        return []
    with connection(build.root) as database:
        view(database, "binaries", build.root, shards)
        rows = database.execute(
            "SELECT coalesce(format, 'none'), coalesce(machine, '-'), count(*), sum(size)::BIGINT, "
            "count(*) FILTER (parse_status = 'ok'), count(*) FILTER (parse_status = 'partial') "
            "FROM binaries GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    names = ("format", "machine", "files", "bytes", "ok", "partial")
    return [dict(zip(names, row, strict=True)) for row in rows]


def excluded(build: Build) -> list[dict[str, Any]]:
    """What the recipe's `licences` keep out: sources and distinct files by reason, the commonest first.

    A file that an allowed source has as well is not out.
    """
    sources, observations = build.shards("ingest.assign", "sources"), build.shards("ingest.scan", "observations")
    if not sources or not observations:
        return []
    with connection(build.root) as database:
        view(database, "sources", build.root, sources)
        view(database, "observations", build.root, observations)
        rows = database.execute(
            "WITH kept AS (SELECT DISTINCT sha256 FROM observations JOIN sources s USING (source_id) "
            "WHERE s.status = 'ok' AND sha256 IS NOT NULL) "
            "SELECT s.reason, count(DISTINCT s.source_id), count(DISTINCT o.sha256) FILTER "
            "(o.sha256 NOT IN (SELECT sha256 FROM kept)) AS files FROM sources s LEFT JOIN observations o "
            "USING (source_id) WHERE s.status = 'excluded' GROUP BY ALL ORDER BY files DESC, 1"
        ).fetchall()
    return [dict(zip(("reason", "sources", "files"), row, strict=True)) for row in rows]


def _licences(build: Build) -> dict[str, int]:
    shards = build.shards("ingest.assign", "sources")
    if not shards:
        return {}
    with connection(build.root) as database:
        view(database, "sources", build.root, shards)
        return dict(
            database.execute(
                "SELECT coalesce(licence, 'unknown'), count(*) AS n FROM sources GROUP BY ALL ORDER BY n DESC, 1"
            ).fetchall()
        )


def _balance(build: Build) -> dict[str, dict[str, dict[str, int]]]:
    """Rows by split and label: real ones, and after rebalancing."""
    before: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for receipt in (*build.receipts.get("screen.apply", []), *build.receipts.get("rebalance.rows", [])):
        for split, labels in receipt.facts["rows"].items():
            for label, count in labels.items():
                before[split][label] = before[split].get(label, 0) + count
    after = {name: dict(sorted(labels.items())) for name, labels in before.items()}
    last = next((found for step in ("clean", "under") if (found := build.receipts.get(f"rebalance.{step}"))), None)
    if last is not None:  # rows were left out: what stays is what these say
        after["train"] = dict.fromkeys(after["train"], 0)
    for receipt in last or []:
        for label, count in receipt.facts["rows"].items():
            after["train"][label] += count
    if "rebalance.clean" not in build.receipts:
        for receipt in build.receipts.get("rebalance.synthesize", []):
            after["train"][receipt.facts["label"]] += receipt.facts["rows"]
    return {"before": {name: dict(sorted(labels.items())) for name, labels in before.items()}, "after": after}


def _neighbours_found(build: Build) -> dict[str, float]:
    """Share of the true neighbours that an approximate search found, by class; measured on a sample."""
    planned = [receipt.facts for receipt in build.receipts.get("rebalance.plan", [])]
    return {facts["label"]: facts["recall"] for facts in planned if facts["recall"] is not None}


def _duplicates(build: Build) -> dict[str, Any]:
    """Clusters of duplicates by kind, and what the splits still share."""
    if "split.splits" not in build.receipts:
        return {}
    facts = build.receipts["split.splits"][0].facts
    return {name: facts[name] for name in ("samples", "clusters", "largest_group", "leakage")}


def _top_features(root: Path, shards: list[Shard], count: int = 15) -> list[dict[str, Any]]:
    if not shards:
        return []
    table = read_shard(root, shards[0].path, ["feature", "mi", "estimator", "q_value", "rank", "selected"])
    rows = [row for row in table.to_pylist() if row["rank"] is not None and row["rank"] <= count]
    return [
        {
            "rank": row["rank"],
            "feature": row["feature"],
            "mi_bits": row["mi"] / LN2,
            "estimator": row["estimator"],
            "q_value": row["q_value"],
            "selected": row["selected"],
        }
        for row in sorted(rows, key=lambda row: row["rank"])
    ]


def _feature_count(build: Build) -> dict[str, int]:
    shards = build.shards("screen.select", "screening")
    if not shards:
        return {}
    table = read_shard(build.root, shards[0].path, ["selected", "q_value"])
    selected = table.column("selected").to_pylist()
    q = [value for value in table.column("q_value").to_pylist() if value is not None]
    return {"screened": len(selected), "selected": sum(selected), "q_below_0.05": sum(v <= 0.05 for v in q)}


def _sample(build: Build) -> str | None:
    """Some row to begin looking at: the first of test, of the rarest class there."""
    shards = build.shards("screen.apply", "test")
    if not shards:
        return None
    with connection(build.root) as database:
        view(database, "test", build.root, shards)
        row = database.execute(
            "SELECT sample_id FROM test ORDER BY count(*) OVER (PARTITION BY label), sample_id LIMIT 1"
        ).fetchone()
    return row[0] if row else None


def _cells(build: Build) -> list[dict[str, Any]]:
    """What a search finds that reads only the nearest cells."""
    shards = build.shards("binarize.recall", "probes")
    return read_shard(build.root, shards[0].path).to_pylist() if shards else []


def _recall(build: Build) -> list[dict[str, Any]]:
    shards = build.shards("binarize.recall", "recall")
    return read_shard(build.root, shards[0].path).to_pylist() if shards else []
