"""The screen stage: two passes over the shards of train, scores, and the selected columns.

Pass 1 sketches each column (exact integer counts, refined where a column needs it), from which bins, ranges and
density grids follow; pass 2 counts. What is counted adds up, so that neither the order nor the number of shards shows.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.tables import SPLITS, examples_schema, feature_groups
from tasks.build import Build
from tasks.items import Receipt, Step, Workplace
from tasks.moments import Moments, moments
from tasks.screen.inputs import aligned, matrix
from tasks.screen.passes import STEPS as PASSES
from tasks.screen.passes import Part, Passes, screen
from tasks.screen.source import STEPS as SOURCE
from tasks.shards import Shard, fitted_path, read_shard, table_path, work_path

MOMENTS: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("whole", pa.bool_(), nullable=False),
        pa.field("covariance", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Fitted on train: mean, scale (standard deviation, 1 for a constant), whether a column has whole numbers only, and
covariance of standardised columns."""


def build(build: Build) -> None:
    """Screen the features of train, and write the examples of each split with the selected columns."""
    features = build.shards("extract.features", "features") + build.shards("extract.rows", "features")
    labels = build.shards("label.labels", "labels")
    splits = build.shards("split.splits", "splits")
    width = _width(build.root, features[0])
    memory = 4 * width * max(shard.rows for shard in features) * 4 + 384 * 2**20
    threes = list(zip(features, labels, splits, strict=True))
    parts = [
        Part(
            {"kind": "shards"} | {shard.table: shard.path for shard in three},
            {},
            tuple(shard.sha256 for shard in three),
            f"shard {n} of {len(threes)}",
            three[0].rows,
        )
        for n, three in enumerate(threes, 1)
    ]
    screening = screen(build, Passes(parts, width, memory))
    drops = build.recipe.rebalancing.drops  # then train is published by the stage that leaves rows out
    build.compute(
        [
            build.item(
                "screen", "apply", part.title,
                config={"drops": drops},
                inputs=[*part.digests, screening.sha256],
                args={"input": part.spec, "screening": screening.path, "drops": drops},
                weight=part.rows + 1, memory=memory,
            )
            for part in parts
        ]
    )  # fmt: skip
    moved = build.shards("screen.apply", "moments")
    build.compute(
        [
            build.item(
                "screen", "scale", "scaler",
                config={},
                inputs=[s.sha256 for s in (*moved, screening)],
                args={"parts": [s.path for s in moved], "screening": screening.path},
                memory=memory,
            )
        ]
    )  # fmt: skip


def _width(root: Path, shard: Shard) -> int:
    import pyarrow.parquet as pq

    return sum(len(names) for names in feature_groups(pq.read_schema(root / shard.path)).values())


def selected_features(root: Path, screening: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names and column numbers of the selected features, best first."""
    table = read_shard(root, screening, ["feature", "index", "rank", "selected"])
    rows = sorted((row for row in table.to_pylist() if row["selected"]), key=lambda row: row["rank"])
    return [row["feature"] for row in rows], np.array([row["index"] for row in rows], dtype=np.int64)


def apply(place: Workplace) -> Receipt:
    """Examples of one shard, by split, with the selected columns; and the moments of those in train."""
    features, labels, splits = aligned(place.root, place.item.args["input"])
    names, index = selected_features(place.root, place.item.args["screening"])
    chosen = np.ascontiguousarray(matrix(features)[:, index])
    ids = features.column("sample_id").to_pylist()
    schema = examples_schema(names)
    shards: list[Shard] = []
    counted: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        rows = [i for i, (s, label) in enumerate(zip(splits, labels, strict=True)) if s == split and label]
        if not rows:
            continue
        of = [str(labels[i]) for i in rows]
        counted[split] = {label: of.count(label) for label in sorted(set(of))}
        table = pa.Table.from_arrays(
            [
                pa.array([ids[i] for i in rows], pa.string()),
                pa.array(of, pa.string()),
                *(pa.array(column) for column in np.ascontiguousarray(chosen[rows].T)),
                pa.array([False] * len(rows)),
                pa.nulls(len(rows), pa.string()),
                pa.nulls(len(rows), pa.string()),
                pa.nulls(len(rows), pa.float64()),
            ],
            schema=schema,
        )
        where = work_path if split == "train" and place.item.args["drops"] else table_path
        shards.append(place.write(where(split, place.item.key), schema, [table]))
    train = chosen[[i for i, split in enumerate(splits) if split == "train"]]
    shards.append(place.write(work_path("moments", place.item.key), Moments.schema(), [moments(train).to_table()]))
    return place.receipt(shards, rows=counted)


def scale(place: Workplace) -> Receipt:
    """Merge the moments in a fixed tree: mean, scale and covariance of the selected columns on train."""
    names, _ = selected_features(place.root, place.item.args["screening"])
    parts = [Moments.from_table(read_shard(place.root, part)) for part in place.item.args["parts"]]
    merged = Moments.merge(parts)
    mean, deviation = merged.scaler()
    covariance = merged.correlation()
    table = pa.Table.from_pylist(
        [
            {
                "feature": name,
                "count": int(merged.count[i]),
                "mean": mean[i],
                "scale": deviation[i],
                "whole": bool(merged.exact.whole[i]),
                "covariance": covariance[i],
            }
            for i, name in enumerate(names)
        ],
        MOMENTS,
    )
    return place.receipt([place.write(fitted_path("scaler", place.item.key), MOMENTS, [table])])


STEPS: dict[str, Step] = PASSES | SOURCE | {"apply": apply, "scale": scale}
