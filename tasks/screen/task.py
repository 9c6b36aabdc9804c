"""The screen stage: two passes over the shards of train, scores, and the selected columns.

Pass 1 sketches each column (exact integer counts), from which the bins follow; pass 2 counts each column's
bins against the classes. Tables of shards add up, so that neither their order nor their number shows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import RecipeError
from schemas.tables import SCREENING, SPLITS, examples_schema, feature_groups
from tasks.build import Build
from tasks.items import Item, Receipt, Step, Workplace
from tasks.moments import Moments, moments
from tasks.screen.scores import score, select
from tasks.screen.sketch import Sketch, edge_values, merge, quantile_edges, sketch
from tasks.screen.tables import contingency
from tasks.shards import Shard, fitted_path, read_shard, table_path, work_path

SKETCH: Any = pa.schema(
    [
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("codes", pa.list_(pa.uint16()), nullable=False),
        pa.field("counts", pa.list_(pa.int64()), nullable=False),
        pa.field("missing", pa.int64(), nullable=False),
    ]
)
EDGES: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("codes", pa.list_(pa.uint16()), nullable=False),
        pa.field("edges", pa.list_(pa.float32()), nullable=False),
        pa.field("missing", pa.int64(), nullable=False),
    ]
)
COUNTS: Any = pa.schema(
    [
        pa.field("feature", pa.int32(), nullable=False),
        pa.field("table", pa.list_(pa.int64()), nullable=False),
    ]
)
CONTINGENCY: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("bins", pa.list_(pa.int64()), nullable=False),
    ]
)
MOMENTS: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("mean", pa.float64(), nullable=False),
        pa.field("scale", pa.float64(), nullable=False),
        pa.field("covariance", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Fitted on train: mean, scale (standard deviation, 1 for a constant) and covariance of standardised columns."""


def build(build: Build) -> None:
    """Plan and compute both passes, the scores, and the examples of each split."""
    recipe = build.recipe
    features = build.shards("extract.features", "features") + build.shards("extract.rows", "features")
    labels = build.shards("label.labels", "labels")
    splits = build.shards("split.splits", "splits")
    balance = build.receipts["split.splits"][0].facts["balance"]
    classes = sorted(balance["train"])
    if len(classes) < 2:
        raise RecipeError(
            f"label: train has {'only class ' + repr(classes[0]) if classes else 'no labelled row'}, "
            "screening needs two classes or more",
            "check label.origin and label.rules, add sources of the other class, or change seed",
        )
    width = _width(build.root, features[0])
    rows = max(shard.rows for shard in features)
    memory = 4 * width * rows * 3 + 256 * 2**20
    aligned = list(zip(features, labels, splits, strict=True))

    def over_shards(step: str, config: dict[str, Any], extra: Sequence[Shard] = ()) -> list[Item]:
        return [
            build.item(
                "screen", step, f"shard {n} of {len(aligned)}",
                config=config,
                inputs=[s.sha256 for s in (*three, *extra)],
                args=config
                | {"features": three[0].path, "labels": three[1].path, "splits": three[2].path}
                | {shard.table: shard.path for shard in extra},
                weight=three[0].rows + 1, memory=memory,
            )
            for n, three in enumerate(aligned, 1)
        ]  # fmt: skip

    def once(step: str, title: str, config: dict[str, Any], inputs: Sequence[Shard], **args: Any) -> Item:
        digests = [shard.sha256 for shard in inputs]
        return build.item("screen", step, title, config=config, inputs=digests, args=config | args, memory=memory)

    build.compute(over_shards("sketch", {}))
    sketches = build.shards("screen.sketch", "sketches")
    options = {"bins": recipe.screening.bins}
    first = features[0].path
    build.compute([once("edges", "quantile bins", options, sketches, parts=[s.path for s in sketches], features=first)])
    edges = build.shards("screen.edges", "bins")[0]
    build.compute(over_shards("tables", {"classes": classes}, [edges]))
    tables = build.shards("screen.tables", "counts")
    options = {"screening": recipe.screening.model_dump(mode="json"), "classes": classes}
    build.compute(
        [
            once(
                "scores", "scores of all features", options, [edges, *tables],
                parts=[s.path for s in tables], features=first, bins_shard=edges.path,
            )
        ]
    )  # fmt: skip
    screening = build.shards("screen.scores", "screening")[0]
    build.compute(over_shards("apply", {}, [screening]))
    parts = build.shards("screen.apply", "moments")
    build.compute(
        [
            once(
                "scale",
                "scaler",
                {},
                [*parts, screening],
                parts=[s.path for s in parts],
                screening=screening.path,
            )
        ]
    )


def _width(root: Path, shard: Shard) -> int:
    import pyarrow.parquet as pq

    return sum(len(names) for names in feature_groups(pq.read_schema(root / shard.path)).values())


def _matrix(table: Any) -> tuple[NDArray[np.float32], list[str], list[str]]:
    """All features side by side (float32[n, p]), their names, and their groups' names."""
    groups = feature_groups(table.schema)
    blocks: list[NDArray[np.float32]] = []
    names: list[str] = []
    of: list[str] = []
    for group, dims in groups.items():
        values = table.column(group).combine_chunks()
        flat = values.flatten() if isinstance(values, pa.FixedSizeListArray) else pa.array([], pa.float32())
        blocks.append(flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, len(dims)))
        names += dims
        of += [group] * len(dims)
    return np.concatenate(blocks, axis=1), names, of


def _names(place: Workplace) -> tuple[list[str], list[str]]:
    import pyarrow.parquet as pq

    groups = feature_groups(pq.read_schema(place.root / place.item.args["features"]))
    names = [name for dims in groups.values() for name in dims]
    return names, [group for group, dims in groups.items() for _ in dims]


def _aligned(place: Workplace) -> tuple[Any, list[str | None], list[str | None]]:
    """The features of a shard, and each row's label and split."""
    args = place.item.args
    features = read_shard(place.root, args["features"])
    labels = read_shard(place.root, args["labels"], ["sample_id", "label"])
    splits = read_shard(place.root, args["splits"], ["sample_id", "split"])
    if not features.column("sample_id").equals(labels.column("sample_id")) or not features.column("sample_id").equals(
        splits.column("sample_id")
    ):
        raise AssertionError(f"{args['features']}: labels and splits are not aligned with the features")
    return features, labels.column("label").to_pylist(), splits.column("split").to_pylist()


def _train(place: Workplace) -> tuple[NDArray[np.float32], list[str]]:
    """Rows of train in a shard: features and labels."""
    features, labels, splits = _aligned(place)
    keep = np.array([split == "train" for split in splits], dtype=bool)
    matrix, _, _ = _matrix(features)
    return matrix[keep], [label for label, k in zip(labels, keep, strict=True) if k and label is not None]


def sketch_shard(place: Workplace) -> Receipt:
    """Pass 1 over one shard."""
    matrix, _ = _train(place)
    shard = place.write(work_path("sketches", place.item.key), SKETCH, [_sketch_table(sketch(matrix))])
    return place.receipt([shard])


def _sketch_table(found: Sketch) -> Any:
    return pa.Table.from_arrays(
        [
            pa.array(np.arange(len(found.missing), dtype=np.int32)),
            pa.ListArray.from_arrays(pa.array(found.offsets, pa.int32()), pa.array(found.codes, pa.uint16())),
            pa.ListArray.from_arrays(pa.array(found.offsets, pa.int32()), pa.array(found.counts, pa.int64())),
            pa.array(found.missing, pa.int64()),
        ],
        schema=SKETCH,
    )


def _sketch(table: Any) -> Sketch:
    codes, counts = table.column("codes").combine_chunks(), table.column("counts").combine_chunks()
    return Sketch(
        offsets=codes.offsets.to_numpy().astype(np.int64),
        codes=codes.values.to_numpy(),
        counts=counts.values.to_numpy(),
        missing=table.column("missing").to_numpy(),
    )


def edges(place: Workplace) -> Receipt:
    """Merge the sketches; bin edges of each feature."""
    names, _ = _names(place)
    merged: Sketch | None = None
    for part in place.item.args["parts"]:
        found = _sketch(read_shard(place.root, part))
        merged = found if merged is None else merge(merged, found)
    assert merged is not None
    found = quantile_edges(merged, place.item.args["bins"])
    offsets = pa.array(found.offsets, pa.int32())
    table = pa.Table.from_arrays(
        [
            pa.array(names, pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array(found.codes, pa.uint16())),
            pa.ListArray.from_arrays(offsets, pa.array(edge_values(found.codes), pa.float32())),
            pa.array(merged.missing, pa.int64()),
        ],
        schema=EDGES,
    )
    return place.receipt([place.write(fitted_path("bins", place.item.key), EDGES, [table])])


def count_tables(place: Workplace) -> Receipt:
    """Pass 2 over one shard: bins of each feature against the classes."""
    args = place.item.args
    matrix, labels = _train(place)
    bins = read_shard(place.root, args["bins"], ["codes"]).column("codes").combine_chunks()
    classes: list[str] = args["classes"]
    codes = np.array([classes.index(label) for label in labels], dtype=np.int32)
    counts = contingency(
        np.ascontiguousarray(matrix),
        codes,
        bins.offsets.to_numpy().astype(np.int64),
        bins.values.to_numpy(),
        len(classes),
    )
    width = counts.shape[1] * counts.shape[2]
    offsets = pa.array(np.arange(len(counts) + 1, dtype=np.int32) * width, pa.int32())
    table = pa.Table.from_arrays(
        [
            pa.array(np.arange(len(counts), dtype=np.int32)),
            pa.ListArray.from_arrays(offsets, pa.array(counts.reshape(-1), pa.int64())),
        ],
        schema=COUNTS,
    )
    return place.receipt([place.write(work_path("counts", place.item.key), COUNTS, [table])])


def scores(place: Workplace) -> Receipt:
    """Add the tables up; score, test, rank and select every feature."""
    args = place.item.args
    names, groups = _names(place)
    classes: list[str] = args["classes"]
    options = args["screening"]
    total: NDArray[np.int64] | None = None
    for part in args["parts"]:
        values = read_shard(place.root, part, ["table"]).column("table").combine_chunks().values.to_numpy()
        total = values.copy() if total is None else total + values
    assert total is not None
    counts = total.reshape(len(names), -1, len(classes))
    missing = read_shard(place.root, args["bins_shard"], ["missing"]).column("missing").to_numpy()
    found = score(counts)
    chosen = select(found, options["top"], options["max_q"])
    n = counts.sum(axis=(1, 2))
    occupied = (counts.sum(axis=2) > 0).sum(axis=1)
    table = pa.Table.from_arrays(
        [
            pa.array(names, pa.string()),
            pa.array(groups, pa.string()),
            pa.array(np.arange(len(names)), pa.int32()),
            pa.array([options["estimator"]] * len(names), pa.string()),
            pa.array(n, pa.int64()),
            pa.array(missing, pa.int64()),
            pa.array(occupied, pa.int32()),
            _nullable(found.mi),
            _nullable(found.mi_corrected),
            _nullable(found.g),
            pa.array(found.dof, pa.int32()),
            _nullable(found.p_value),
            _nullable(found.q_value),
            pa.array(chosen.rank, pa.int32(), mask=chosen.rank == 0),
            pa.array(chosen.selected, pa.bool_()),
            pa.array(found.reason, pa.string()),
        ],
        schema=SCREENING,
    )
    flat = np.ascontiguousarray(counts.transpose(0, 2, 1))
    bins = flat.shape[2]
    offsets = pa.array(np.arange(len(names) * len(classes) + 1, dtype=np.int32) * bins, pa.int32())
    contingency_table = pa.Table.from_arrays(
        [
            pa.array([name for name in names for _ in classes], pa.string()),
            pa.array(classes * len(names), pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array(flat.reshape(-1), pa.int64())),
        ],
        schema=CONTINGENCY,
    )
    shards = [
        place.write(table_path("screening", place.item.key), SCREENING, [table]),
        place.write(fitted_path("contingency", place.item.key), CONTINGENCY, [contingency_table]),
    ]
    return place.receipt(shards, selected=int(chosen.selected.sum()))


def _nullable(values: NDArray[np.float64]) -> Any:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def selected_features(root: Path, screening: str) -> tuple[list[str], NDArray[np.int64]]:
    """Names and column numbers of the selected features, best first."""
    table = read_shard(root, screening, ["feature", "index", "rank", "selected"])
    rows = sorted((row for row in table.to_pylist() if row["selected"]), key=lambda row: row["rank"])
    return [row["feature"] for row in rows], np.array([row["index"] for row in rows], dtype=np.int64)


def apply(place: Workplace) -> Receipt:
    """Examples of one shard, by split, with the selected columns; and the moments of those in train."""
    features, labels, splits = _aligned(place)
    names, index = selected_features(place.root, place.item.args["screening"])
    matrix, _, _ = _matrix(features)
    chosen = np.ascontiguousarray(matrix[:, index])
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
        shards.append(place.write(table_path(split, place.item.key), schema, [table]))
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
                "covariance": covariance[i],
            }
            for i, name in enumerate(names)
        ],
        MOMENTS,
    )
    return place.receipt([place.write(fitted_path("scaler", place.item.key), MOMENTS, [table])])


STEPS: dict[str, Step] = {
    "sketch": sketch_shard,
    "edges": edges,
    "tables": count_tables,
    "scores": scores,
    "apply": apply,
    "scale": scale,
}
