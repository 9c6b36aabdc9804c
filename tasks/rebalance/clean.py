"""Cleaning over shards: rows with a row of another class among their nearest, real and synthetic ones alike.

A row is compared with rows of other classes first. Only where the nearest of these is near are rows of its own class
looked at, those of its own shard first: for most rows these alone show that the nearest are of its class. The answer
is exact; in the worst case every pair of rows is compared.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.items import Receipt, Step, Workplace
from tasks.rebalance.rows import Rows, Space, rows_of
from tasks.rebalance.search import merge, nearest
from tasks.rebalance.under import part
from tasks.shards import read_shard, work_path

CROWD: Any = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("near", pa.int64(), nullable=False),
    ]
)
"""Rows with a row of another class among their nearest; `near` is the key of the nearest such row."""

Best = tuple[NDArray[np.float64], NDArray[np.int64]]


def _nearest_of(
    best: Best, queries: NDArray[np.float64], keys: NDArray[np.int64], rows: NDArray[np.float64], ids: NDArray[np.int64]
) -> Best:
    # `best` with what another part of the rows has nearer.
    if not len(rows) or not len(queries):
        return best
    found = nearest(queries, rows, ids, best[0].shape[1], keys)
    return merge([best[0], found[0]], [best[1], found[1]])


def _nothing(rows: int, k: int) -> Best:
    return np.full((rows, k), np.inf), np.full((rows, k), -1)


def crowd(place: Workplace) -> Receipt:
    """The rows of one shard that have a row of another class among their k nearest in all shards."""
    args = place.item.args
    space = Space.read(place.root, args)
    own = rows_of(read_shard(place.root, args["shards"][args["own"]]))
    chosen = own.take(np.flatnonzero(np.isin(own.labels, args["labels"])))
    spots, labels = space.place(chosen), chosen.labels
    other = _nothing(len(chosen), 1)
    order = [args["own"], *(n for n in range(len(args["shards"])) if n != args["own"])]
    for n in order:
        rows = own if n == args["own"] else rows_of(read_shard(place.root, args["shards"][n]))
        there = space.place(rows)
        for label in dict.fromkeys(labels.tolist()):
            mine, foreign = np.flatnonzero(labels == label), np.flatnonzero(rows.labels != label)
            found = _nearest_of(
                (other[0][mine], other[1][mine]), spots[mine], chosen.keys[mine], there[foreign], rows.keys[foreign]
            )
            other[0][mine], other[1][mine] = found
    open_rows = np.arange(len(chosen))
    same = _nothing(len(chosen), args["k"])
    for n in order:
        if not len(open_rows):
            break
        rows = own if n == args["own"] else rows_of(read_shard(place.root, args["shards"][n]))
        there = space.place(rows)
        for label in dict.fromkeys(labels[open_rows].tolist()):
            mine, alike = open_rows[labels[open_rows] == label], np.flatnonzero(rows.labels == label)
            found = _nearest_of(
                (same[0][mine], same[1][mine]), spots[mine], chosen.keys[mine], there[alike], rows.keys[alike]
            )
            same[0][mine], same[1][mine] = found
        open_rows = open_rows[_later(same, other, open_rows)]
    return place.receipt(
        [place.write(work_path("crowd", place.item.key), CROWD, [_table(chosen, other[1][:, 0], open_rows)])]
    )


def _later(same: Best, other: Best, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    # Whether the k-th nearest of a row's own class comes after the nearest of another, by (distance, key).
    (d, key), (e, far) = ((b[0][rows, -1], b[1][rows, -1]) for b in (same, other))
    return np.isfinite(e) & ((d > e) | ((d == e) & (key > far)))


def _table(chosen: Rows, near: NDArray[np.int64], rows: NDArray[np.int64]) -> Any:
    names = chosen.table.take(pa.array(rows))
    return pa.Table.from_arrays(
        [names.column("sample_id"), names.column("label"), pa.array(chosen.keys[rows]), pa.array(near[rows])],
        schema=CROWD,
    )


def links(place: Workplace) -> Receipt:
    """The rows to leave out: in a Tomek link (each the other's nearest row, of another class), or all in a crowd."""
    args = place.item.args
    table = pa.concat_tables([read_shard(place.root, path) for path in args["crowd"]])
    keys, near = (table.column(n).to_numpy() for n in ("key", "near"))
    drop = np.isin(np.array(table.column("label").to_pylist(), dtype=object), args["labels"])
    if args["method"] == "tomek":
        order = np.argsort(keys, kind="stable")
        at = order[np.minimum(np.searchsorted(keys[order], near), len(keys) - 1)] if len(keys) else near
        drop &= (keys[at] == near) & (near[at] == keys)
    found = table.filter(pa.array(drop)).select(["sample_id"]).sort_by("sample_id")
    return place.receipt([place.write(work_path("drops", place.item.key), found.schema, [found])], rows=found.num_rows)


def clean(place: Workplace) -> Receipt:
    """Part one shard into the rows that stay and those left out."""
    args = place.item.args
    table = read_shard(place.root, args["shard"])
    drops = set(read_shard(place.root, args["drops"]).column("sample_id").to_pylist())
    keep = [sample not in drops for sample in table.column("sample_id").to_pylist()]
    return part(place, table, np.array(keep, dtype=bool), args["method"], last=True)


STEPS: dict[str, Step] = {"crowd": crowd, "links": links, "clean": clean}
