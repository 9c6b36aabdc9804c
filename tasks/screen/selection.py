"""Ranks over all features, a closer look at the best, and the selection."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.recipe import Screening
from schemas.tables import SCREENING
from tasks.items import Receipt, Workplace
from tasks.screen.inputs import open_input
from tasks.screen.measure import CONTINUOUS, KINDS, neighbours
from tasks.screen.outcome import Outcome
from tasks.screen.permutation import adjust
from tasks.screen.redundancy import pick
from tasks.screen.scored import floats, nullable
from tasks.screen.scores import ranks, select
from tasks.screen.sketch import Edges
from tasks.screen.stability import frequency
from tasks.screen.state import BLOCK, concatenated, read_targets, write_targets
from tasks.screen.tables import bin_codes
from tasks.shards import fitted_path, read_shard, table_path, work_path

PUBLISHED_TABLES = 4096
"""Contingency tables of so many of the best features are published; of all when there are no more."""

BINS: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("minimum", pa.float64()),
        pa.field("maximum", pa.float64()),
        pa.field("edges", pa.list_(pa.float32()), nullable=False),
        pa.field("missing", pa.int64(), nullable=False),
    ]
)
"""Fitted: a value's bin is the number of edges that are at most the value."""

CONTINGENCY: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("bins", pa.list_(pa.int64()), nullable=False),
    ]
)
"""Fitted: rows of each class (or bin of a quantity) in each bin of a feature."""

CANDIDATES: Any = pa.schema(
    [pa.field("column", pa.int32(), nullable=False), pa.field("values", pa.list_(pa.float32()), nullable=False)]
)
"""Partial state: the sampled rows of the columns that are chosen from."""

RANKED: Any = pa.schema(
    [
        pa.field("q_value", pa.float64()),
        pa.field("q_by", pa.float64()),
        pa.field("stability", pa.float64()),
        pa.field("rank", pa.int32(), nullable=False),
    ]
)
"""Partial state: what of a feature's scores needs the others."""


def rank(place: Workplace) -> Receipt:
    """q-values, ranks and stability over all columns; and which of the best are looked at more closely."""
    args = place.item.args
    options = Screening.model_validate(args["screening"])
    names = ["score", "p_value", "p_permutation", "reason", "kind", "subsamples"]
    table = concatenated([read_shard(place.root, part, names) for part in args["parts"]])
    value, p_value = floats(table, "score"), floats(table, "p_value")
    tested = floats(table, "p_permutation") if options.permutations else p_value
    q_value, q_by = adjust(tested, "bh"), adjust(tested, "by")
    placed = ranks(value, p_value)
    informative = np.array([r is None for r in table.column("reason").to_pylist()], dtype=np.bool_)
    stability = np.full(len(value), np.nan)
    if options.stability:
        inside = table.column("subsamples").combine_chunks().flatten().to_numpy()
        stability = frequency(inside.reshape(len(value), options.stability), options.top)
    q = q_by if options.fdr == "by" else q_value
    many = options.candidates if options.redundancy != "none" else options.top
    best = select(placed, value, q, informative, top=many, max_q=options.max_q, share=options.share)
    candidates: list[int] = []
    if options.redundancy != "none" or options.estimator == "auto":
        chosen = np.flatnonzero(best)
        candidates = [int(j) for j in chosen[np.argsort(placed[chosen], kind="stable")]]
    ranked = pa.Table.from_arrays(
        [nullable(q_value), nullable(q_by), nullable(stability), pa.array(placed)], schema=RANKED
    )
    return place.receipt([place.write(work_path("ranked", place.item.key), RANKED, [ranked])], candidates=candidates)


def look_at_candidates(place: Workplace) -> Receipt:
    """The sampled rows of the columns that are chosen from."""
    args = place.item.args
    outcome, threshold = Outcome.from_json(args["outcome"]), args["threshold"]
    columns = np.array(args["chosen"], dtype=np.int64)
    values: list[NDArray[np.float32]] = [np.zeros((len(columns), 0), dtype=np.float32)]
    targets: list[NDArray[Any]] = [np.zeros(0)]
    for batch in open_input(place.root, args["input"]).batches(columns, outcome, args["seed"]):
        inside = batch.keys <= np.uint64(threshold)
        values.append(batch.x[:, inside])
        targets.append(batch.target[inside])
    x = np.concatenate(values, axis=1)
    offsets = pa.array(np.arange(len(columns) + 1) * x.shape[1], pa.int32())
    table = pa.Table.from_arrays(
        [pa.array(columns, pa.int32()), pa.ListArray.from_arrays(offsets, pa.array(x.reshape(-1)))], schema=CANDIDATES
    )
    shard = place.write(work_path("candidates", place.item.key), CANDIDATES, [table])
    return place.receipt([shard, write_targets(place, np.concatenate(targets))])


def select_features(place: Workplace) -> Receipt:
    """The tables `screening`, `bins` and `contingency`, with what is selected."""
    args = place.item.args
    options, outcome = Screening.model_validate(args["screening"]), Outcome.from_json(args["outcome"])
    table = concatenated([read_shard(place.root, part) for part in args["parts"]])
    ranked = read_shard(place.root, args["ranked"])
    p = table.num_rows
    placed = ranked.column("rank").to_numpy()
    q = floats(ranked, "q_by" if options.fdr == "by" else "q_value")
    value = floats(table, "score")
    informative = np.array([r is None for r in table.column("reason").to_pylist()], dtype=np.bool_)
    mi_knn, redundancy = floats(table, "mi_knn"), np.full(p, np.nan)
    selected = select(placed, value, q, informative, top=options.top, max_q=options.max_q, share=options.share)
    if args["chosen"]:
        columns = np.array(args["chosen"], dtype=np.int64)
        x = np.concatenate(
            [
                read_shard(place.root, path).column("values").combine_chunks().flatten().to_numpy()
                .reshape(len(columns), -1)
                for path in args["looked"]
            ],
            axis=1,
        )  # fmt: skip
        target = np.concatenate(read_targets(place, continuous=outcome.continuous))
        if options.redundancy != "none":
            lists = table.column("edges").combine_chunks().take(pa.array(columns))
            offsets = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
            codes = bin_codes(x, Edges(offsets.astype(np.int64), lists.flatten().to_numpy()))
            levels = outcome.levels_of(target) if outcome.continuous else target
            relevance = floats(table, "mi_binned")[columns]  # in the same bins, as what it is held against
            picked = pick(codes, levels, outcome.levels, relevance, options.top, options.redundancy)
            selected = np.zeros(p, dtype=np.bool_)
            selected[columns[picked.order]] = True
            redundancy[columns[picked.order]] = picked.score
        if options.estimator == "auto":
            kinds = np.array(table.column("kind").to_pylist())[columns]
            of = np.flatnonzero((kinds == KINDS[CONTINUOUS]) & selected[columns])
            mi_knn[columns[of]] = neighbours(x[of], target, outcome, options.neighbors)
    index = pa.array(np.arange(p), pa.int32())
    edges = table.column("edges").combine_chunks()
    by_name = {
        "index": index,
        "bins": pa.array(edges.value_lengths().to_numpy() + 1, pa.int32()),
        "mi_knn": nullable(mi_knn),
        "q_value": ranked.column("q_value"),
        "q_by": ranked.column("q_by"),
        "stability": ranked.column("stability"),
        "redundancy": nullable(redundancy),
        "rank": pa.array(placed, pa.int32(), mask=placed == 0),
        "selected": pa.array(selected),
    }
    columns_of = [by_name[name] if name in by_name else table.column(name) for name in SCREENING.names]
    screening = pa.Table.from_arrays(columns_of, schema=SCREENING)
    shards = [
        place.write(table_path("screening", place.item.key), SCREENING, [screening]),
        place.write(fitted_path("bins", place.item.key), BINS, [table.select(BINS.names).cast(BINS)]),
        place.write(fitted_path("contingency", place.item.key), CONTINGENCY, _contingency(table, outcome, placed)),
    ]
    return place.receipt(shards, selected=int(selected.sum()))


def _contingency(table: Any, outcome: Outcome, placed: NDArray[np.int32]) -> Iterator[Any]:
    """Tables of the best features, class by class."""
    names = outcome.classes or tuple(f"bin {i}" for i in range(outcome.levels))
    shown = np.flatnonzero((placed > 0) & (placed <= PUBLISHED_TABLES)) if len(placed) > PUBLISHED_TABLES else None
    mine = table.select(["feature", "edges", "table"])
    mine = mine if shown is None else mine.take(pa.array(shown))
    for start in range(0, mine.num_rows, BLOCK):
        rows = mine.slice(start, BLOCK).to_pylist()
        yield pa.Table.from_pylist(
            [
                {"feature": row["feature"], "label": name, "bins": counts}
                for row in rows
                for name, counts in zip(
                    names,
                    np.array(row["table"], dtype=np.int64).reshape(-1, len(names))[: len(row["edges"]) + 1].T.tolist(),
                    strict=True,
                )
            ],
            CONTINGENCY,
        )
