"""The split stage: train, validation and test by whole groups, before anything is fitted.

A group is a project, joined with every project that shares a duplicate with it. Groups are laid end to end,
class by class, in an order that only the seed and the group's name decide.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.recipe import Split
from schemas.tables import SPLIT, SPLITS
from tasks.build import Build
from tasks.duck import connection, view
from tasks.items import Receipt, Step, Workplace
from tasks.shards import Shard, table_path
from tasks.split.groups import assign, merged_groups


def build(build: Build) -> None:
    """Plan and compute the splits: one item, one shard for each features shard."""
    recipe = build.recipe
    features = build.shards("extract.features", "features") + build.shards("extract.rows", "features")
    inputs: dict[str, list[Shard]] = {
        "features": features,
        "vectors": build.shards("extract.features", "vectors") + build.shards("extract.rows", "vectors"),
        "observations": build.shards("ingest.scan", "observations"),
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
        inputs=[shard.sha256 for name in inputs for shard in inputs[name]],
        args=config | {name: [shard.path for shard in shards] for name, shards in inputs.items()},
    )
    build.compute([item])


def splits(place: Workplace) -> Receipt:
    """Write the splits, aligned with the features shards, row by row."""
    args = place.item.args
    split = Split.model_validate(args["split"])
    shards: list[Shard] = []
    with connection(place.root) as database:
        for name in ("features", "vectors", "observations", "declared", "labels"):
            if args[name]:
                view(database, name, place.root, args[name])
        if args["declared"]:
            database.execute("CREATE TABLE p AS SELECT sample_id, project FROM declared")
        else:
            database.execute(
                "CREATE TABLE p AS SELECT DISTINCT sha256 AS sample_id, project "
                "FROM observations WHERE sha256 IS NOT NULL"
            )
        by = args["dedup"]["by"]
        database.execute(
            "CREATE TABLE c AS SELECT sample_id, min(sample_id) OVER (PARTITION BY vector_sha256) AS cluster_id "
            "FROM vectors"
            if "features" in by
            else "CREATE TABLE c AS SELECT sample_id, sample_id AS cluster_id FROM vectors"
        )
        # Links between projects; a chain through the smallest name joins all that share one duplicate.
        cluster = "c.cluster_id" if "features" in by else "p.sample_id"
        links = database.execute(
            f"SELECT DISTINCT min(p.project) OVER (PARTITION BY {cluster}) AS a, p.project AS b "
            f"FROM p JOIN c USING (sample_id) QUALIFY a <> b ORDER BY ALL"
            if by
            else "SELECT '' AS a, '' AS b WHERE false"
        ).fetchall()
        groups = merged_groups(links)
        database.execute("CREATE TABLE g (project VARCHAR, group_id VARCHAR)")
        if groups:
            database.executemany("INSERT INTO g VALUES (?, ?)", list(groups.items()))
        database.execute(
            "CREATE TABLE sample AS SELECT p.sample_id, min(p.project) AS project, "
            "min(coalesce(g.group_id, p.project)) AS group_id "
            "FROM p LEFT JOIN g USING (project) GROUP BY p.sample_id"
        )
        database.execute("CREATE TABLE place (group_id VARCHAR, split VARCHAR)")
        _assign_groups(database, split, args["seed"])
        for part in range(len(args["features"])):
            table = database.sql(
                "SELECT f.sample_id, CASE WHEN l.label IS NOT NULL THEN place.split END AS split, "
                "s.group_id, c.cluster_id, s.project FROM features f JOIN sample s USING (sample_id) "
                "JOIN c USING (sample_id) JOIN labels l USING (sample_id) LEFT JOIN place USING (group_id) "
                "WHERE f.shard = ? ORDER BY f.sample_id",
                params=[part],
            ).to_arrow_table()
            table = pa.Table.from_arrays([table.column(name) for name in SPLIT.names], schema=SPLIT)
            shards.append(place.write(table_path("splits", place.item.key, part), SPLIT, [table]))
        counted = database.execute(
            "SELECT place.split, l.label, count(*) FROM labels l JOIN sample s USING (sample_id) "
            "JOIN place USING (group_id) WHERE l.label IS NOT NULL GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    balance: dict[str, dict[str, int]] = {name: {} for name in SPLITS}
    for name, label, count in counted:
        balance[name][label] = count
    return place.receipt(shards, balance=balance, joined_projects=len(groups))


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
    table = pa.table({"group_id": names, "split": [SPLITS[i] for i in where]})
    database.register("assigned", table)
    database.execute("INSERT INTO place SELECT group_id, split FROM assigned")
    database.unregister("assigned")


STEPS: dict[str, Step] = {"splits": splits}
