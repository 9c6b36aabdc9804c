"""Columns whose values are names, over shards: neighbours that count them, and the votes on those of new rows."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from schemas.tables import VOTERS
from tasks.items import Receipt, Step, Workplace
from tasks.rebalance.mixed import mixed_neighbors, penalty_of, vdm_neighbors, vote
from tasks.rebalance.plan import Planned, copies, pooled
from tasks.rebalance.rows import Rows, Space
from tasks.rebalance.typed import encoded
from tasks.shards import Shard, read_shard, table_path, work_path

pc: Any = compute  # its functions are made at import, unseen by type checkers

VALUES: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("label", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
"""Partial state: rows of one class with one value (as text) in one column."""


def smote_nc(place: Workplace, space: Space, rows: Rows) -> Planned:
    """SMOTE, a differing name counting the median of the deviations of the numbers (Chawla et al., 2002, 6.1)."""
    args = place.item.args
    spots = space.place(rows)
    codes, _, _ = encoded([rows.column(name) for name in space.nominal])
    near = mixed_neighbors(spots, codes, penalty_of(spots), args["k"])
    return Planned(pooled([(np.arange(len(rows)), near, args["count"])]), rows, near)


def values(place: Workplace) -> Receipt:
    """How many rows of each class one shard of train has with each value of each column of names."""
    args = place.item.args
    table = read_shard(place.root, args["shard"]).unify_dictionaries()
    found: list[Any] = []
    for name in args["nominal"]:
        codes, _, known = encoded([table.column(name).combine_chunks()])
        pairs = pa.table({"code": codes[:, 0], "label": table.column("label")}).group_by(["code", "label"])
        counted = pairs.aggregate([([], "count_all")])
        texts = known[0].cast(pa.string()).take(counted.column("code").combine_chunks())
        named = pa.array([name] * len(texts), pa.string())
        found.append(
            pa.Table.from_arrays([named, texts, *(counted.column(n) for n in ("label", "count_all"))], schema=VALUES)
        )
    return place.receipt([place.write(work_path("values", place.item.key), VALUES, found)])


def smoten(place: Workplace, space: Space, rows: Rows) -> Planned:
    """Rows of names alone: each takes what its parent's neighbours by the value difference metric have."""
    args = place.item.args
    codes, _, known = encoded([rows.column(name) for name in space.nominal])
    counted = pa.concat_tables([read_shard(place.root, path) for path in args["values"]])
    labels: list[str] = sorted(counted.column("label").unique().to_pylist())
    shares: list[NDArray[np.float64]] = []
    for name, values in zip(space.nominal, known, strict=True):
        table = counted.filter(pc.field("feature") == name)
        at = pc.index_in(table.column("value").combine_chunks(), value_set=values.cast(pa.string()))
        there = at.is_valid().to_numpy(zero_copy_only=False)
        of = pc.index_in(table.column("label").combine_chunks(), value_set=pa.array(labels)).to_numpy()
        counts = np.zeros((len(values), len(labels)))
        np.add.at(counts, (at.drop_null().to_numpy(), of[there]), table.column("rows").to_numpy()[there])
        shares.append(counts / counts.sum(axis=1, keepdims=True))
    every = np.arange(len(rows))
    near = vdm_neighbors(codes, shares, args["k"])
    # Nothing lies between two names, so a row is its new rows' only parent; it votes as well.
    return Planned(copies(every, args["count"]), rows, np.column_stack([every, near]))


def votes(place: Workplace, space: Space, rows: Rows, voters: NDArray[np.int64]) -> list[Shard]:
    """Who votes on the names of each row's new rows; and of each column of names a row that has what was voted."""
    codes, first, _ = encoded([rows.column(name) for name in space.nominal])
    voted = vote(codes, voters)
    votes = pa.table({name: first[c][voted[:, c]] for c, name in enumerate(space.nominal)})
    flat = rows.column("sample_id").take(pa.array(voters.reshape(-1)))
    offsets = pa.array(np.arange(0, voters.size + 1, voters.shape[1], dtype=np.int32))
    schema = VOTERS.with_metadata({"nominal": "\n".join(space.nominal)})
    table = pa.Table.from_arrays(
        [rows.column("sample_id"), rows.column("label"), pa.ListArray.from_arrays(offsets, flat)], schema=schema
    )
    return [
        place.write(work_path("votes", place.item.key), votes.schema, [votes]),
        place.write(table_path("voters", place.item.key), schema, [table]),
    ]


STEPS: dict[str, Step] = {"values": values}
