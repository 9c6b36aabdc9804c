"""Over-sampling over shards: one class is gathered and planned, its new rows are drawn and written piece by piece.

Of the other classes rows stream by, where a method looks at them at all.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import DatasetError
from schemas.tables import examples_schema
from tasks.items import Receipt, Step, Workplace
from tasks.rebalance.approximate import approximate
from tasks.rebalance.named import smote_nc, smoten, votes
from tasks.rebalance.plan import Plan, Planned, by_difficulty, copies, danger, pooled, shares, sparsity, two_sides
from tasks.rebalance.rows import Rows, Space, feature_names, parts, rows_of, smallest
from tasks.rebalance.search import merge, nearest, neighbors
from tasks.rebalance.typed import between
from tasks.shards import Shard, read_shard, table_path, work_path

CHUNK_ROWS = 65_536
"""Synthetic rows in one shard."""

LOOKS_AROUND = ("borderline-1", "borderline-2", "adasyn", "svm-smote")
"""Methods that look at the neighbours of a row among all of train."""


def gather(place: Workplace) -> Receipt:
    """Gather some classes of train, each in the order of its ids."""
    args = place.item.args
    labels = pa.array(args["labels"], pa.string())
    found = pa.concat_tables(parts(place.root, args["train"], pc.field("label").isin(labels)))
    shards: list[Shard] = []
    for number, label in enumerate(args["labels"]):
        rows = rows_of(found.filter(pc.field("label") == label))
        shards.append(place.write(work_path("class", place.item.key, number), rows.table.schema, [rows.table]))
    return place.receipt(shards)


def around(place: Workplace) -> Receipt:
    """Neighbours in one shard of train of each row of a gathered class: squared distance, key, whether of another."""
    args = place.item.args
    space = Space.read(place.root, args)
    asking = rows_of(read_shard(place.root, args["class"]))
    rows = rows_of(read_shard(place.root, args["shard"]))
    squared, near = nearest(space.place(asking), space.place(rows), rows.keys, args["m"], asking.keys)
    at = np.searchsorted(rows.keys, near)
    foreign = (rows.labels != args["label"])[np.minimum(at, len(rows) - 1)] & (near >= 0)
    table = pa.Table.from_arrays([_lists(a) for a in (squared, near, foreign)], names=["squared", "near", "foreign"])
    return place.receipt([place.write(work_path("around", place.item.key), table.schema, [table])])


def _lists(values: NDArray[Any]) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _array(table: Any, name: str) -> NDArray[Any]:
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)


def _surroundings(place: Workplace, m: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    # Keys of each row's m nearest in all of train, and which are of another class: shard by shard, merged.
    best: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None
    foreign: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for path in place.item.args["around"]:
        table = read_shard(place.root, path)
        squared, near, other = (_array(table, name) for name in ("squared", "near", "foreign"))
        # The class rides along in the key's lowest bit: equal keys are one row.
        found = squared, np.where(near >= 0, 2 * near + other, -1)
        best = found if best is None else merge([best[0], found[0]], [best[1], found[1]])
    assert best is not None
    foreign = best[1][:, :m]
    return np.where(foreign >= 0, foreign >> 1, -1), (foreign >= 0) & ((foreign & 1) == 1)


def plan(place: Workplace) -> Receipt:
    """Between which rows the new rows of a class lie."""
    args = place.item.args
    rows = rows_of(read_shard(place.root, args["class"]))
    space = Space.read(place.root, args)
    space.check(rows.table)
    planned = _METHODS[args["method"]](place, space, rows)
    found, rows = planned.plan, planned.rows
    pool = np.repeat(np.arange(len(found.starts) - 1), np.diff(found.starts))
    made = np.zeros(len(found.parents), dtype=np.int64)
    filled = np.diff(found.starts) > 0
    made[found.starts[:-1][filled]] = np.diff(found.stops)[filled]
    table = pa.Table.from_arrays(
        [pa.array(found.parents), _lists(found.near), _lists(found.scale), pa.array(pool), pa.array(made)],
        names=["parent", "near", "scale", "pool", "made"],
    )
    shards = [
        place.write(work_path("parents", place.item.key), rows.table.schema, [rows.table]),
        place.write(work_path("plan", place.item.key), table.schema, [table]),
    ]
    if planned.voters is not None:
        shards += votes(place, space, rows, planned.voters)
    return place.receipt(shards, label=args["label"], recall=planned.recall)


def read_plan(place: Workplace) -> Plan:
    """A plan as `plan` wrote it."""
    table = read_shard(place.root, place.item.args["plan"])
    pool, made = (table.column(n).to_numpy() for n in ("pool", "made"))
    first = np.flatnonzero(np.diff(pool, prepend=-1))
    return Plan(
        table.column("parent").to_numpy(),
        _array(table, "near"),
        _array(table, "scale"),
        np.append(first, len(pool)),
        np.cumsum([0, *made[first]]),
    )


def _smote(place: Workplace, space: Space, rows: Rows) -> Planned:
    args = place.item.args
    spots, recall = space.place(rows), None
    if args["search"] == "ivf":
        near, recall = approximate(spots, args["k"], args["recall"], args["seed"])
    else:
        near = neighbors(spots, args["k"])
    return Planned(pooled([(np.arange(len(rows)), near, args["count"])]), rows, recall=recall)


def _random(place: Workplace, space: Space, rows: Rows) -> Planned:
    return Planned(copies(np.arange(len(rows)), place.item.args["count"]), rows)


def _adasyn(place: Workplace, space: Space, rows: Rows) -> Planned:
    args = place.item.args
    others = _surroundings(place, args["k"])[1].sum(axis=1)
    _border_or_refuse(place, others, "has a neighbour of another class", "k_neighbors")
    return Planned(by_difficulty(others, neighbors(space.place(rows), args["k"]), args["count"]), rows)


def _border_or_refuse(place: Workplace, chosen: NDArray[Any], what: str, setting: str) -> None:
    if not chosen.any():
        args = place.item.args
        raise DatasetError(
            f"rebalancing.method: no row of class '{args['label']}' {what}, and {args['method']} goes by these",
            f"use method: smote, or raise rebalancing.{setting}",
        )


def _borderline(place: Workplace, space: Space, rows: Rows) -> Planned:
    args = place.item.args
    k, m = args["k"], args["m_neighbors"]
    keys, foreign = _surroundings(place, args["m"])
    risky = danger(foreign[:, :m].sum(axis=1), m)
    _border_or_refuse(place, risky, "has from half to all but one of its neighbours in other classes", "m_neighbors")
    own = np.flatnonzero(risky)
    if args["method"] == "borderline-1":
        spots = space.place(rows)
        at = np.arange(len(rows))
        return Planned(pooled([(own, nearest(spots[own], spots, at, k, own)[1], args["count"])]), rows)
    # Partners of any class: those of others are fetched, in one pass over train.
    partners, other = keys[own, :k], foreign[own, :k]
    wanted = set(partners[other].tolist())
    rest = parts(place.root, args["train"], pc.field("label") != args["label"])
    fetched = [_with_keys(part, wanted) for part in rest]
    columns = ["sample_id", "label", *feature_names(rows.table)]
    all_rows = rows_of(pa.concat_tables([rows.table.select(columns), *(part.select(columns) for part in fetched)]))
    parents = np.searchsorted(all_rows.keys, rows.keys[own])
    near = np.searchsorted(all_rows.keys, partners)
    return Planned(pooled([(parents, near, args["count"])], np.where(other, 0.5, 1.0)), all_rows)


def _with_keys(table: Any, wanted: set[int]) -> Any:
    found = rows_of(table)
    return found.table.take(pa.array([i for i, key in enumerate(found.keys.tolist()) if key in wanted], pa.int64()))


def sampled(place: Workplace, where: Any, count: int, use: str) -> Rows:
    """The `count` rows of train with the smallest keyed hash of their id, in the order of their ids."""
    args = place.item.args
    kept: Any = None
    for part in parts(place.root, args["train"], where):
        columns = part.select(["sample_id", "label", *feature_names(part)])
        kept = columns if kept is None else pa.concat_tables([kept, columns])
        if kept.num_rows > count:
            ids = kept.column("sample_id").to_pylist()
            kept = kept.take(pa.array(smallest(hashed(args["seed"], use, ids), ids, count)))
    return rows_of(kept)


def hashed(seed: int, use: str, ids: list[str]) -> NDArray[np.uint64]:
    """uint64[n], a random number of each row: of the seed, the use and the row's id alone."""
    digests = b"".join(hashlib.sha256(f"{seed}\0{use}\0{sample}".encode()).digest()[:8] for sample in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _svm(place: Workplace, space: Space, rows: Rows) -> Planned:
    """Support vectors of a machine fitted to the class and as many of the other rows as the recipe's sample allows."""
    from sklearn.svm import SVC  # scikit-learn takes a second to import

    args = place.item.args
    label, k, m = args["label"], args["k"], args["m_neighbors"]
    own = np.arange(len(rows))
    if len(rows) > args["sample"] // 2:
        own = np.sort(smallest(hashed(args["seed"], "svm", rows.ids), rows.ids, args["sample"] // 2))
    others = sampled(place, pc.field("label") != label, args["sample"] - len(own), "svm")
    spots = space.place(rows)
    x = np.concatenate([spots[own], space.place(others)])
    y = np.concatenate([rows.labels[own], others.labels])
    support = np.asarray(SVC(gamma="scale").fit(x, y.astype(str)).support_, dtype=np.int64)
    vectors = own[support[support < len(own)]]
    foreign = _surroundings(place, m)[1].sum(axis=1)
    vectors = vectors[foreign[vectors] < m]
    _border_or_refuse(place, np.ones(len(vectors)), "is a support vector with a neighbour of its class", "m_neighbors")
    risky = danger(foreign[vectors], m)
    at = np.arange(len(rows))
    groups = [(part, nearest(spots[part], spots, at, k, part)[1]) for part in (vectors[risky], vectors[~risky])]
    return Planned(two_sides(args["seed"], label, groups, args["count"], 0.5), rows)


def centres(place: Workplace) -> Receipt:
    """Centres of clusters of a sample of train."""
    from sklearn.cluster import MiniBatchKMeans

    args = place.item.args
    space = Space.read(place.root, args)
    spots = space.place(sampled(place, None, args["sample"], "clusters"))
    make: Any = MiniBatchKMeans  # scikit-learn declares wrong types
    found = make(min(args["clusters"], len(spots)), random_state=args["seed"] % 2**32, n_init=3).fit(spots)
    table = pa.Table.from_arrays([_lists(np.asarray(found.cluster_centers_, dtype=np.float64))], names=["centre"])
    return place.receipt([place.write(work_path("centres", place.item.key), table.schema, [table])])


def clusters(place: Workplace) -> Receipt:
    """How many rows one shard of train has in each cluster."""
    args = place.item.args
    space = Space.read(place.root, args)
    rows = rows_of(read_shard(place.root, args["shard"]))
    middle = _array(read_shard(place.root, args["centres"]), "centre")
    inside = nearest_centre(space.place(rows), middle)
    return place.receipt([], counts=np.bincount(inside, minlength=len(middle)).tolist())


def nearest_centre(spots: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64[n], the nearest of the centres to each row, of equally near ones the first; exact."""
    return nearest(spots, middle, np.arange(len(middle)), 1)[1][:, 0]


def _kmeans(place: Workplace, space: Space, rows: Rows) -> Planned:
    """SMOTE within the clusters in which the class has its share of rows, the sparser the more."""
    from sklearn.metrics import pairwise_distances_chunked

    args = place.item.args
    spots = space.place(rows)
    middle = _array(read_shard(place.root, args["centres"]), "centre")
    inside = nearest_centre(spots, middle)
    sizes = np.array(args["sizes"])
    least = args["count"] / args["total"] / 2
    usable: list[NDArray[np.int64]] = []
    weights: list[float] = []
    for cluster in range(len(middle)):
        own = np.flatnonzero(inside == cluster)
        if len(own) > args["k"] and len(own) >= least * sizes[cluster]:
            distance = sum(float(part.sum()) for part in pairwise_distances_chunked(spots[own]))
            usable.append(own)
            weights.append(sparsity(distance / (len(own) ** 2 - len(own)), len(own), None))
    _border_or_refuse(place, np.ones(len(usable)), "is in a cluster with enough rows of its class", "clusters")
    heavy = np.array(weights) if any(weights) else np.ones(len(weights))
    given = shares(heavy, args["count"])
    pools = [(own, own[neighbors(spots[own], args["k"])], int(n)) for own, n in zip(usable, given, strict=True)]
    return Planned(pooled(pools), rows)


_METHODS: dict[str, Callable[[Workplace, Space, Rows], Planned]] = {
    "smote": _smote,
    "smote-nc": smote_nc,
    "smoten": smoten,
    "random": _random,
    "adasyn": _adasyn,
    "borderline-1": _borderline,
    "borderline-2": _borderline,
    "svm-smote": _svm,
    "kmeans-smote": _kmeans,
}


def synthesize(place: Workplace) -> Receipt:
    """Synthetic rows `start` to `stop` of one class."""
    args = place.item.args
    space = Space.read(place.root, args)
    rows = rows_of(read_shard(place.root, args["parents"]))
    space.check(rows.table)
    a, b, gap = read_plan(place).rows(args["seed"], args["label"], args["start"], args["stop"])
    voted = None if args["votes"] is None else read_shard(place.root, args["votes"])
    names = feature_names(rows.table)
    numbers = range(args["start"], args["stop"])
    count = len(numbers)
    ids = rows.column("sample_id")
    table = pa.Table.from_arrays(
        [
            pa.array([_synthetic_id(args["seed"], args["label"], n) for n in numbers], pa.string()),
            pa.array([args["label"]] * count, pa.string()),
            *(_made(space, rows, voted, name, (a, b, gap)) for name in names),
            pa.array([True] * count),
            ids.take(pa.array(a)),
            ids.take(pa.array(b)),
            pa.array(gap, pa.float64()),
        ],
        schema=examples_schema(names, [rows.table.schema.field(name).type for name in names]),
    )
    where = work_path if args["cleaned"] else table_path
    shard = place.write(where("train", place.item.key), table.schema, [table])
    return place.receipt([shard], label=args["label"], rows=count)


Drawn = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _made(space: Space, rows: Rows, voted: Any, name: str, drawn: Drawn) -> Any:
    a, b, gap = drawn
    column = rows.column(name)
    if name in space.nominal:
        chosen = a if voted is None else voted.column(name).to_numpy()[a]
        return column.take(pa.array(chosen))
    c = space.names.index(name)
    filling = float(space.mean[c]) if space.fills else None
    return between(column.take(pa.array(a)), column.take(pa.array(b)), gap, whole=bool(space.whole[c]), filling=filling)


def _synthetic_id(seed: int, label: str, number: int) -> str:
    return hashlib.sha256(f"smote\0{seed}\0{label}\0{number}".encode()).hexdigest()


STEPS: dict[str, Step] = {
    "gather": gather,
    "around": around,
    "centres": centres,
    "clusters": clusters,
    "plan": plan,
    "synthesize": synthesize,
}
