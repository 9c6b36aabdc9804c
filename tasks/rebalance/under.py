"""Under-sampling over shards: each row has a score of its own, and of each class those with the smallest stay."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.tables import DROPPED_BY
from tasks.items import Receipt, Step, Workplace
from tasks.rebalance.over import hashed
from tasks.rebalance.rows import Rows, Space, rows_of, smallest
from tasks.rebalance.search import farthest, merge, nearest
from tasks.shards import Shard, read_shard, table_path, work_path

RANKS: Any = pa.schema(
    [
        pa.field("label", pa.string(), nullable=False),
        pa.field("score", pa.uint64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
    ]
)
"""Rows that may stay, the smallest (score, sample_id) first within a class."""


def near(place: Workplace) -> Receipt:
    """NearMiss-3: the nearest rows of a class, in one shard, to each row of the smallest class."""
    args = place.item.args
    space = Space.read(place.root, args)
    asking = space.place(rows_of(read_shard(place.root, args["class"])))
    rows = rows_of(read_shard(place.root, args["shard"]))
    own = rows.take(np.flatnonzero(rows.labels == args["label"]))
    shape = len(asking), args["k"]
    found = (np.full(shape, np.inf), np.full(shape, -1))
    if len(own):
        found = nearest(asking, space.place(own), own.keys, args["k"])
    flat = [pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), args["k"]) for part in found]
    table = pa.Table.from_arrays(flat, names=["squared", "near"])
    return place.receipt([place.write(work_path("near", place.item.key), table.schema, [table])])


def candidates(place: Workplace) -> Receipt:
    """NearMiss-3: keys of the rows that are among the nearest to some row of the smallest class."""
    k = place.item.args["k"]
    best: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None
    for path in place.item.args["near"]:
        table = read_shard(place.root, path)
        squared, keys = (
            table.column(n).combine_chunks().flatten().to_numpy().reshape(-1, k) for n in ("squared", "near")
        )
        best = (squared, keys) if best is None else merge([best[0], squared], [best[1], keys])
    assert best is not None
    chosen = np.unique(best[1])
    table = pa.table({"key": chosen[chosen >= 0]})
    shard = place.write(work_path("candidates", place.item.key), table.schema, [table])
    return place.receipt([shard], rows=table.num_rows)


def rank(place: Workplace) -> Receipt:
    """The rows of one shard that may stay: of each class no more than are to stay in all."""
    args = place.item.args
    rows = rows_of(read_shard(place.root, args["shard"]))
    labels, ids = rows.labels, rows.ids
    tables: list[Any] = []
    for label, count in args["keep"].items():
        own = np.flatnonzero(labels == label)
        if label in args["candidates"]:
            chosen = read_shard(place.root, args["candidates"][label]).column("key").to_numpy()
            own = own[np.isin(rows.keys[own], chosen)]
        if not len(own):
            continue
        names = [ids[i] for i in own]
        scores = hashed(args["seed"], "under", names) if args["method"] == "random" else _distances(place, rows, own)
        best = smallest(scores, names, count)
        tables.append(
            pa.Table.from_arrays(
                [
                    pa.array([label] * len(best)),
                    pa.array(scores[best]),
                    pa.array([names[i] for i in best], pa.string()),
                ],
                schema=RANKS,
            )
        )
    return place.receipt([place.write(work_path("ranks", place.item.key), RANKS, tables or [RANKS.empty_table()])])


def _distances(place: Workplace, rows: Rows, own: NDArray[np.int64]) -> NDArray[np.uint64]:
    """NearMiss's scores: the sum of distances to rows of the smallest class, as whole numbers of the same order."""
    args = place.item.args
    space = Space.read(place.root, args)
    spots = space.place(rows.take(own))
    rare = space.place(rows_of(read_shard(place.root, args["class"])))
    k = min(args["k"], len(rare))
    squared = (
        farthest(spots, rare, k) if args["method"] == "nearmiss-2" else nearest(spots, rare, np.arange(len(rare)), k)[0]
    )
    # Bits of floats that are not negative are ordered as they are.
    bits = np.ascontiguousarray(np.sqrt(squared).sum(axis=1)).view(np.uint64)
    return ~bits if args["method"] == "nearmiss-3" else bits


def limit(place: Workplace) -> Receipt:
    """Of each class the last row that stays; shard by shard, so that only rows that may stay are held in memory."""
    args = place.item.args
    kept: dict[str, Any] = {}
    for path in args["ranks"]:
        table = read_shard(place.root, path)
        for label, count in args["keep"].items():
            part = table.filter(pc.field("label") == label)
            both = part if label not in kept else pa.concat_tables([kept[label], part])
            best = smallest(both.column("score").to_numpy(), both.column("sample_id").to_pylist(), count)
            kept[label] = both.take(pa.array(best))
    last = pa.concat_tables([RANKS.empty_table(), *(part.slice(max(0, part.num_rows - 1)) for part in kept.values())])
    found = {label: part.num_rows for label, part in kept.items()}
    return place.receipt([place.write(work_path("limits", place.item.key), RANKS, [last])], kept=found)


def under(place: Workplace) -> Receipt:
    """Part one shard of train into the rows that stay and those left out."""
    args = place.item.args
    table = read_shard(place.root, args["shard"])
    ranks = read_shard(place.root, args["ranks"]).to_pylist()
    limits = {
        row["label"]: (row["score"], row["sample_id"]) for row in read_shard(place.root, args["limits"]).to_pylist()
    }
    stays = {row["sample_id"] for row in ranks if (row["score"], row["sample_id"]) <= limits[row["label"]]}
    keep = [
        label not in args["keep"] or sample in stays
        for label, sample in zip(*(table.column(n).to_pylist() for n in ("label", "sample_id")), strict=True)
    ]
    return part(place, table, np.array(keep, dtype=bool), args["method"], last=args["last"])


def part(place: Workplace, table: Any, keep: NDArray[np.bool_], reason: str, *, last: bool) -> Receipt:
    """Write the examples that stay and those left out; what stays is published if no other step follows."""
    shards: list[Shard] = []
    if keep.any():
        where = table_path if last else work_path
        shards.append(place.write(where("train", place.item.key), table.schema, [table.filter(pa.array(keep))]))
    if not keep.all():
        out = table.filter(pa.array(~keep))
        out = out.append_column(DROPPED_BY, pa.array([reason] * out.num_rows, pa.string()))
        shards.append(place.write(table_path("train_dropped", place.item.key), out.schema, [out]))
    labels, counts = np.unique(np.array(table.column("label").to_pylist(), dtype=str)[keep], return_counts=True)
    return place.receipt(shards, rows=dict(zip(labels.tolist(), counts.tolist(), strict=True)))


STEPS: dict[str, Step] = {
    "near": near,
    "candidates": candidates,
    "rank": rank,
    "limit": limit,
    "under": under,
}
