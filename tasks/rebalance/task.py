"""The rebalance stage: synthetic minority rows for train, each naming its parents and the gap between them.

Only the smaller classes are gathered; the majority is never read. Synthetic rows are drawn by (seed, class,
number), so that they are the same however they are cut into shards.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import examples_schema
from tasks.build import Build
from tasks.items import Item, Receipt, Step, Workplace
from tasks.rebalance.search import neighbors
from tasks.rebalance.smote import draws, interpolate, sampling_targets
from tasks.shards import read_shard, table_path, work_path

CHUNK_ROWS = 65_536
"""Synthetic rows in one shard."""


def build(build: Build) -> None:
    """Plan and compute synthetic rows up to the size the recipe asks for."""
    options = build.recipe.rebalancing
    counts: dict[str, int] = {}
    for receipt in build.receipts["screen.apply"]:
        for label, count in receipt.facts["rows"].get("train", {}).items():
            counts[label] = counts.get(label, 0) + count
    if options.method == "none":
        return
    wanted = {label: n for label, n in sampling_targets(counts, options.target).items() if n > 0}
    for label in [label for label in wanted if counts[label] < 2]:
        build.notes.append(f"rebalancing: class '{label}' has one row in train; SMOTE needs two, so it stays as it is")
        del wanted[label]
    train = build.shards("screen.apply", "train")
    scaler = build.shards("screen.scale", "scaler")[0]
    gather = [
        build.item(
            "rebalance",
            "neighbors",
            f"class {label}",
            config={"label": label, "k": min(options.k_neighbors, counts[label] - 1)},
            inputs=[s.sha256 for s in (*train, scaler)],
            args={
                "label": label,
                "k": min(options.k_neighbors, counts[label] - 1),
                "train": [s.path for s in train],
                "scaler": scaler.path,
            },
            weight=counts[label],
            memory=_memory(counts[label], scaler.rows),
        )
        for label in wanted
    ]
    for label in wanted:
        if counts[label] <= options.k_neighbors:
            build.notes.append(
                f"rebalancing: class '{label}' has {counts[label]} rows in train, "
                f"so {counts[label] - 1} neighbours are used where the recipe asks for {options.k_neighbors}"
            )
    receipts = build.compute(gather)
    items: list[Item] = []
    for label, receipt in zip(wanted, receipts, strict=True):
        shard = receipt.shard("neighbors")
        for start in range(0, wanted[label], CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, wanted[label])
            config = {"label": label, "start": start, "stop": stop, "seed": build.recipe.seed}
            items.append(
                build.item(
                    "rebalance",
                    "synthesize",
                    f"class {label}, rows {start:,} to {stop:,}",
                    config=config,
                    inputs=[shard.sha256],
                    args=config | {"neighbors": shard.path},
                    weight=stop - start,
                    memory=_memory(counts[label], scaler.rows) + 24 * scaler.rows * (stop - start),
                )
            )
    build.compute(items)


def _memory(rows: int, columns: int) -> int:
    return 3 * 8 * rows * columns + 256 * 2**20


def _columns(table: Any) -> list[str]:
    fixed = {"sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap", "neighbors"}
    return [name for name in table.schema.names if name not in fixed]


def _matrix(table: Any, names: list[str]) -> NDArray[np.float32]:
    return np.stack([table.column(n).to_numpy().astype(np.float32) for n in names], axis=1)


def gather_neighbors(place: Workplace) -> Receipt:
    """Gather one class of train, in the order of its ids, and find each row's nearest neighbours in it.

    Distances are Euclidean over columns standardised by the fitted scaler; a missing value counts as the mean.
    """
    args = place.item.args
    parts = [read_shard(place.root, path) for path in args["train"]]
    rows = pa.concat_tables([p.filter(pc.field("label") == args["label"]) for p in parts]).sort_by("sample_id")
    names = _columns(rows)
    scaler = read_shard(place.root, args["scaler"], ["feature", "mean", "scale"])
    assert scaler.column("feature").to_pylist() == names, "the scaler is of other columns"
    mean, scale = (scaler.column(n).to_numpy() for n in ("mean", "scale"))
    standard = np.nan_to_num((_matrix(rows, names).astype(np.float64) - mean) / scale, nan=0.0)
    near = neighbors(standard, args["k"])
    schema = pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            *(pa.field(n, pa.float32()) for n in names),
            pa.field("neighbors", pa.list_(pa.int32(), args["k"]), nullable=False),
        ]
    )
    flat = pa.array(near.reshape(-1).astype(np.int32))
    table = pa.Table.from_arrays(
        [
            rows.column("sample_id"),
            *(rows.column(n) for n in names),
            pa.FixedSizeListArray.from_arrays(flat, args["k"]),
        ],
        schema=schema,
    )
    return place.receipt([place.write(work_path("neighbors", place.item.key), schema, [table])])


def synthesize(place: Workplace) -> Receipt:
    """Synthetic rows `start` to `stop` of one class."""
    args = place.item.args
    rows = read_shard(place.root, args["neighbors"])
    names = _columns(rows)
    near = rows.column("neighbors").combine_chunks()
    k = near.type.list_size
    table_of = near.flatten().to_numpy().reshape(rows.num_rows, k)
    parent, slot, gap = draws(args["seed"], args["label"], args["start"], args["stop"], rows.num_rows, k)
    other = table_of[parent, slot]
    matrix = _matrix(rows, names)
    values = interpolate(matrix[parent], matrix[other], gap)
    ids = rows.column("sample_id").to_pylist()
    schema = examples_schema(names)
    numbers = range(args["start"], args["stop"])
    table = pa.Table.from_arrays(
        [
            pa.array([_synthetic_id(args["seed"], args["label"], n) for n in numbers], pa.string()),
            pa.array([args["label"]] * len(numbers), pa.string()),
            *(pa.array(column) for column in np.ascontiguousarray(values.T)),
            pa.array([True] * len(numbers)),
            pa.array([ids[i] for i in parent], pa.string()),
            pa.array([ids[i] for i in other], pa.string()),
            pa.array(gap, pa.float64()),
        ],
        schema=schema,
    )
    shard = place.write(table_path("train", place.item.key), schema, [table])
    return place.receipt([shard], label=args["label"], rows=len(numbers))


def _synthetic_id(seed: int, label: str, number: int) -> str:
    return hashlib.sha256(f"smote\0{seed}\0{label}\0{number}".encode()).hexdigest()


STEPS: dict[str, Step] = {"neighbors": gather_neighbors, "synthesize": synthesize}
