"""The split stage: train, validation and test by whole groups, before anything is fitted.

A group is a project, joined with every project that shares a duplicate with it. Groups are laid end to end,
class by class, in an order that only the seed and the group's name decide. What is still shared between splits
is counted, kind by kind, and marked row by row.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.recipe import Dedup, Split
from schemas.tables import SPLIT, SPLITS
from tasks.archives import NESTED
from tasks.build import Build
from tasks.duck import MEMORY_MIB, connection, view
from tasks.items import Receipt, Step, Workplace
from tasks.shards import STATE, Shard, table_path
from tasks.split.duplicates import (
    KINDS,
    PLACES,
    Kind,
    features_kind,
    limit_of,
    minhash_kind,
    sizes,
    tlsh_kind,
    together,
)
from tasks.split.groups import assign, merged_groups
from tasks.split.leakage import exposure, lines, shared_values
from tasks.split.near import Rows, different_places

TABLES = ("features", "vectors", "binaries", "observations", "sources", "declared", "labels")

SAMPLE_BYTES = 512
"""Memory a sample takes while duplicates are found, beside DuckDB's; its signatures are on disk."""

TLSH_LIMITS = (10, 30, 50)
JACCARD_LIMITS = (0.9, 0.8, 0.7)
"""Limits that the leakage report counts at, with the recipe's own."""

GIANT = 3
"""A cluster with more than one in so many samples is told of: a split cannot be shared out around it."""


def build(build: Build) -> None:
    """Plan and compute the splits: one item, one shard for each features shard."""
    recipe = build.recipe
    inputs: dict[str, list[Shard]] = {
        "features": build.shards("extract.features", "features") + build.shards("extract.rows", "features"),
        "vectors": build.shards("extract.features", "vectors") + build.shards("extract.rows", "vectors"),
        "binaries": build.shards("extract.features", "binaries"),
        "observations": build.shards("ingest.scan", "observations"),
        "sources": build.shards("ingest.assign", "sources"),
        "declared": build.shards("extract.rows", "declared"),
        "labels": build.shards("label.labels", "labels"),
    }
    config = {
        "split": recipe.split.model_dump(mode="json"),
        "dedup": recipe.dedup.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    item = build.item(
        "split",
        "splits",
        "splits of all samples",
        config=config,
        inputs=[shard.sha256 for name in TABLES for shard in inputs[name]],
        args=config | {name: [shard.path for shard in shards] for name, shards in inputs.items()},
        memory=MEMORY_MIB * 2**20 + SAMPLE_BYTES * sum(shard.rows for shard in inputs["features"]),
    )
    (receipt,) = build.compute([item])
    note = _giant(receipt.facts, recipe.dedup)
    if note is not None:
        build.notes.append(note)


def _giant(facts: dict[str, Any], dedup: Dedup) -> str | None:
    """What to tell of a cluster or group that holds more than a third of the samples."""
    samples, sized = facts["samples"], facts["clusters"]
    largest = sized["all"]["largest"]
    if largest > 1 and largest * GIANT > samples:
        widest = max((kind for kind in KINDS if kind in sized and kind in dedup.by), key=lambda k: sized[k]["largest"])
        return (
            f"dedup: one cluster of duplicates holds {largest:,} of {samples:,} samples and stays in one split; "
            f"'{widest}' joins most of them: leave it out of dedup.by, or narrow its limit"
        )
    if facts["largest_group"] * GIANT > samples:
        return (
            f"split: one group (projects joined by duplicates) holds {facts['largest_group']:,} of {samples:,} "
            "samples and stays in one split"
        )
    return None


def splits(place: Workplace) -> Receipt:
    """Write the splits, aligned with the features shards, row by row."""
    args = place.item.args
    split, dedup = Split.model_validate(args["split"]), Dedup.model_validate(args["dedup"])
    shards: list[Shard] = []
    scratch = place.root / STATE
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="spill-", dir=scratch) as folder,
        connection(place.root) as database,
    ):
        for name in TABLES:
            if args[name]:
                view(database, name, place.root, args[name])
        if args["declared"]:
            database.execute("CREATE TABLE p AS SELECT sample_id, project FROM declared")
        else:
            database.execute(
                "CREATE TABLE p AS SELECT DISTINCT sha256 AS sample_id, project "
                "FROM observations WHERE sha256 IS NOT NULL"
            )
        database.execute(
            "CREATE TABLE ids AS SELECT sample_id, (row_number() OVER (ORDER BY sample_id) - 1)::INTEGER AS idx "
            "FROM vectors"
        )
        n = _number(database, "SELECT count(*) FROM ids")
        kinds = _kinds(database, n, Path(folder), binaries=bool(args["binaries"]))
        clusters = _clusters(database, kinds, dedup)
        # Links between projects; a chain through the smallest name joins all that share one duplicate.
        links = database.execute(
            "SELECT DISTINCT min(p.project) OVER (PARTITION BY c.cluster_id) AS a, p.project AS b "
            "FROM p JOIN c USING (sample_id) QUALIFY a <> b ORDER BY ALL"
            if dedup.by
            else "SELECT '' AS a, '' AS b WHERE false"
        ).fetchall()
        groups = merged_groups(links)
        _register(
            database,
            "g",
            {"project": pa.array(groups.keys(), pa.string()), "group_id": pa.array(groups.values(), pa.string())},
        )
        database.execute(
            "CREATE TABLE sample AS SELECT p.sample_id, min(p.project) AS project, "
            "min(coalesce(g.group_id, p.project)) AS group_id "
            "FROM p LEFT JOIN g USING (project) GROUP BY p.sample_id"
        )
        database.execute("CREATE TABLE place (group_id VARCHAR, split VARCHAR)")
        _assign_groups(database, split, args["seed"])
        leakage = _leakage(database, kinds, dedup, n, files=bool(args["binaries"]))
        cluster_columns = ", ".join(f"c.{kind}_cluster" for kind in KINDS)
        for part in range(len(args["features"])):
            table = database.sql(
                "SELECT f.sample_id, CASE WHEN l.label IS NOT NULL THEN place.split END AS split, "
                f"s.group_id, c.cluster_id, {cluster_columns}, s.project, coalesce(k.leaks, []) AS leaks "
                "FROM features f JOIN sample s USING (sample_id) "
                "JOIN c USING (sample_id) JOIN labels l USING (sample_id) LEFT JOIN place USING (group_id) "
                "LEFT JOIN leaking k USING (sample_id) WHERE f.shard = ? ORDER BY f.sample_id",
                params=[part],
            ).to_arrow_table()
            table = pa.Table.from_arrays([table.column(name) for name in SPLIT.names], schema=SPLIT)
            shards.append(place.write(table_path("splits", place.item.key, part), SPLIT, [table]))
        counted = database.execute(
            "SELECT place.split, l.label, count(*) FROM labels l JOIN sample s USING (sample_id) "
            "JOIN place USING (group_id) WHERE l.label IS NOT NULL GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        largest = _number(
            database,
            "SELECT coalesce(max(size), 0) FROM (SELECT count(*) AS size FROM sample JOIN ids USING (sample_id) "
            "GROUP BY group_id)",
        )
    balance: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for name, label, count in counted:
        balance[name][label] = count
    return place.receipt(
        shards,
        balance=balance,
        joined_projects=len(groups),
        samples=n,
        clusters=clusters,
        largest_group=largest,
        leakage=leakage,
    )


def _number(database: Any, sql: str) -> int:
    return int(database.execute(sql).fetchone()[0])


def _kinds(database: Any, n: int, folder: Path, *, binaries: bool) -> list[Kind]:
    if n == 0:
        return []
    found = [features_kind(database, n)]
    if binaries:  # rows of a table are equal or not
        found.append(tlsh_kind(database, n))
        found += [minhash_kind(database, n, name, folder) for name in ("imports", "strings")]
    return found


def _clusters(database: Any, kinds: Sequence[Kind], dedup: Dedup) -> dict[str, dict[str, int]]:
    """Fill table `c` with each sample's clusters; returns their number and sizes by kind."""
    n = len(kinds[0].first) if kinds else 0
    nowhere = np.full(n, -1, dtype=np.int32)
    found: dict[str, Rows] = dict.fromkeys(KINDS, nowhere)
    found |= {kind.name: kind.clusters(limit_of(kind.name, dedup)) for kind in kinds}
    joined = together([found[name] for name in KINDS if name in dedup.by], n)
    columns = {"cluster": joined} | found
    _register(database, "roots", columns | {"idx": np.arange(n, dtype=np.int32)})
    ids = ", ".join(f"i_{name}.sample_id AS {name}_{'id' if name == 'cluster' else 'cluster'}" for name in columns)
    joins = " ".join(f"LEFT JOIN ids i_{name} ON i_{name}.idx = roots.{name}" for name in columns)
    database.execute(f"CREATE TABLE c AS SELECT ids.sample_id, {ids} FROM roots JOIN ids USING (idx) {joins}")
    database.execute("DROP TABLE roots")
    return {"all": sizes(joined)} | {kind.name: sizes(found[kind.name]) for kind in kinds}


def _register(database: Any, name: str, columns: dict[str, Any]) -> None:
    database.register("registered", pa.table(columns))
    database.execute(f"CREATE TABLE {name} AS SELECT * FROM registered")
    database.unregister("registered")


def _leakage(database: Any, kinds: Sequence[Kind], dedup: Dedup, n: int, *, files: bool) -> list[dict[str, Any]]:
    """Count what splits share, and fill table `leaking` with the kinds by which each row leaks."""
    order = ", ".join(f"'{name}'" for name in SPLITS)
    database.execute(
        f"CREATE TABLE placed AS SELECT i.sample_id, i.idx, (list_position([{order}], place.split) - 1)::TINYINT "
        "AS split FROM ids i JOIN sample USING (sample_id) JOIN labels l USING (sample_id) "
        "JOIN place USING (group_id) WHERE l.label IS NOT NULL"
    )
    split = np.full(n, -1, dtype=np.int8)
    for batch in database.execute("SELECT idx, split FROM placed").to_arrow_reader(65_536):
        split[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    report: list[dict[str, Any]] = []
    leaking: list[tuple[str, NDArray[np.int32]]] = []
    values = {"sha256": "SELECT sample_id, sample_id FROM p", "project": "SELECT sample_id, project FROM p"}
    if files:
        values["build_id"] = "SELECT sha256, build_id FROM binaries"
        # The archive that was fetched, or the one in a folder that holds the file.
        values["archive"] = (
            "SELECT o.sha256, CASE WHEN s.archive_sha256 IS NOT NULL THEN s.archive_sha256 "
            f"WHEN contains(o.path_in_source, '{NESTED}') "
            f"THEN o.source_id || '{NESTED}' || split_part(o.path_in_source, '{NESTED}', 1) END "
            "FROM observations o JOIN sources s USING (source_id)"
        )
    for name, relation in values.items():
        rows, where = shared_values(database, relation)
        report += lines(name, None, rows, None, whole=bool(dedup.by) if name == "project" else name in dedup.by)
        leaking.append((name, np.array(where, dtype=np.int32)))
    for kind in kinds:
        limits = _limits(kind.name, dedup)
        own = limit_of(kind.name, dedup)
        found = exposure(kind, split, [distance for distance, _ in limits], own)
        for (distance, limit), rows, pairs in zip(limits, found.rows, found.pairs, strict=True):
            whole = kind.name in dedup.by and distance <= own
            report += lines(kind.name, limit, rows.tolist(), pairs.tolist(), whole=whole)
        leaking.append((kind.name, np.flatnonzero(found.leaks).astype(np.int32)))
    _register(
        database,
        "leaks",
        {
            "idx": np.concatenate([where for _, where in leaking]),
            "rank": np.repeat(np.arange(len(leaking)), [len(where) for _, where in leaking]),
            "kind": np.array([name for name, where in leaking for _ in where], dtype=object),
        },
    )
    database.execute(
        "CREATE TABLE leaking AS SELECT sample_id, list(kind::VARCHAR ORDER BY rank) AS leaks "
        "FROM leaks JOIN ids USING (idx) GROUP BY sample_id"
    )
    return report


def _limits(kind: str, dedup: Dedup) -> list[tuple[int, float | None]]:
    """Distances the report counts at, nearest first, each with the limit as the recipe would write it."""
    if kind == "features":
        return [(0, None)]
    if kind == "tlsh":
        return [(limit, limit) for limit in sorted({*TLSH_LIMITS, dedup.tlsh_distance})]
    found = sorted({*JACCARD_LIMITS, dedup.jaccard}, reverse=True)
    return [(different_places(limit, PLACES), limit) for limit in found]


def _assign_groups(database: Any, split: Split, seed: int) -> None:
    """Fill table `place` with the split of each group that has a labelled sample."""
    rows: Sequence[tuple[str, str, int]] = database.execute(
        "SELECT s.group_id, l.label, count(*) FROM sample s JOIN labels l USING (sample_id) "
        "WHERE l.label IS NOT NULL GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    if not rows:
        return
    names = sorted({row[0] for row in rows})
    classes = sorted({row[1] for row in rows})
    at, of = {n: i for i, n in enumerate(names)}, {c: i for i, c in enumerate(classes)}
    counts = np.zeros((len(names), len(classes)), dtype=np.int64)
    for name, label, count in rows:
        counts[at[name], of[label]] = count
    where = assign(names, counts, (split.train, split.validation, split.test), seed)
    _register(database, "assigned", {"group_id": np.array(names), "split": np.array([SPLITS[i] for i in where])})
    database.execute("INSERT INTO place SELECT group_id, split FROM assigned")


STEPS: dict[str, Step] = {"splits": splits}
