"""The passes as work items: over parts of the rows, and over blocks of columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.recipe import Screening
from tasks.build import Build
from tasks.items import Item, Receipt, Step, Workplace
from tasks.screen.inputs import open_input
from tasks.screen.measure import Counts, joined, ranges
from tasks.screen.outcome import Outcome
from tasks.screen.outcome_pass import find_outcome
from tasks.screen.scored import SCORED, scored_table
from tasks.screen.selection import look_at_candidates, rank, select_features
from tasks.screen.sketch import DEPTHS, Counter, heavy, merge, refine, refined, sketch
from tasks.screen.state import (
    BLOCK,
    COUNTS,
    FINER,
    SKETCH,
    add_counts,
    blocks,
    counts_table,
    finer_table,
    read_block,
    read_targets,
    sketch_table,
    to_finer,
    to_sketch,
    write_targets,
)
from tasks.shards import Shard, read_shard, work_path

SHORT_ROWS = 65_536
"""A table of at most so many rows is short."""
SHORT_BYTES = 64 * 2**20
"""Values of the columns that are worked on together, when whole columns are read."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the rows.

    Attributes
    ----------
    spec
        How a worker reads them.
    config
        What of that, but the bytes read, says which rows they are and what they are held against.
    digests
        SHA-256 of what is read.
    """

    spec: dict[str, Any]
    config: dict[str, Any]
    digests: tuple[str, ...]
    title: str
    rows: int


@dataclass(frozen=True, slots=True)
class Passes:
    """What is screened.

    Attributes
    ----------
    parts
        All rows. One part that is `short` is read by columns: whole columns at a time, both passes at once.
    columns
        How many features.
    memory
        Planned memory of an item, in bytes.
    """

    parts: Sequence[Part]
    columns: int
    memory: int
    short: bool = False


def screen(build: Build, what: Passes) -> Shard:
    """Screen all columns of all parts; returns the shard of the table `screening`."""
    plan = _Plan(build, what)
    receipt = build.compute([plan.once("outcome", "outcome", plan.options(*_OUTCOME), plan.every, inputs=plan.specs)])[
        0
    ]
    plan.known |= {"outcome": receipt.facts["outcome"], "threshold": receipt.facts["threshold"]}
    if what.short:
        size = max(BLOCK, SHORT_BYTES // (4 * max(what.parts[0].rows, 1)) // BLOCK * BLOCK)
        config = plan.options(*_COUNTED, *_SCORED) | plan.known | what.parts[0].config
        build.compute(
            [
                plan.once("columns", f"columns {low:,} to {high:,}", config | {"low": low, "high": high}, plan.every,
                          input=plan.specs[0], low=low, high=high)
                for low, high in blocks(what.columns, size)
            ]
        )  # fmt: skip
        return _choose(plan, build.shards("screen.columns", "scored"))
    cut = blocks(what.columns)
    sketches = _first_pass(plan, cut)
    config = plan.options(*_COUNTED) | {"buckets": build.recipe.screening.stability > 0}
    build.compute(plan.over_parts("counts", config, sketches, sketches=[s.path for s in sketches]))
    counted, targets = build.shards("screen.counts", "counts"), build.shards("screen.counts", "targets")
    config = plan.options(*_COUNTED, *_SCORED)
    build.compute(
        [
            plan.once(
                "scores", f"columns {low:,} to {high:,}", config | {"low": low, "high": high},
                _digests([*counted, *targets, sketches[n]]),
                sketch=sketches[n].path, parts=[s.path for s in counted], targets=[s.path for s in targets],
                input=plan.specs[0], low=low, high=high,
            )
            for n, (low, high) in enumerate(cut)
        ]
    )  # fmt: skip
    return _choose(plan, build.shards("screen.scores", "scored"))


_OUTCOME = "outcome", "bins", "binning", "sample"
_COUNTED = "estimator", "bins", "binning"
_SCORED = "bandwidth", "kernel", "neighbors", "permutations", "stability"
_RANKED = "estimator", "permutations", "stability", "fdr", "redundancy", "candidates", "top", "max_q", "share"
"""What of the recipe's section each step depends on: changing `top` counts nothing again."""


class _Plan:
    """Makes the items of a screening."""

    def __init__(self, build: Build, what: Passes) -> None:
        self.build, self.what = build, what
        self.screening = build.recipe.screening.model_dump(mode="json")
        self.specs = [part.spec for part in what.parts]
        self.every = [digest for part in what.parts for digest in part.digests]
        self.known: dict[str, Any] = {}
        """Facts that the later steps rest on."""

    def options(self, *names: str) -> dict[str, Any]:
        """Some of the recipe's options, as part of an item's key."""
        return {name: self.screening[name] for name in names}

    def _args(self, args: dict[str, Any]) -> dict[str, Any]:
        return {"screening": self.screening, "seed": self.build.recipe.seed} | self.known | args

    def once(self, step: str, title: str, config: dict[str, Any], digests: Sequence[str], /, **args: Any) -> Item:
        """An item for a block of columns, or for all of them."""
        rows = [part.config for part in self.what.parts]
        return self.build.item(
            "screen", step, title,
            config=config | self.known | {"rows": rows}, inputs=digests, args=self._args(args), memory=self.what.memory,
        )  # fmt: skip

    def over_parts(self, step: str, config: dict[str, Any], shards: Sequence[Shard], /, **args: Any) -> list[Item]:
        """An item for each part of the rows."""
        return [
            self.build.item(
                "screen", step, part.title,
                config=config | self.known | part.config,
                inputs=[*part.digests, *_digests(shards)],
                args=self._args(args | {"input": part.spec, "columns": self.what.columns}),
                weight=part.rows + 1, memory=self.what.memory,
            )
            for part in self.what.parts
        ]  # fmt: skip


def _digests(shards: Sequence[Shard]) -> list[str]:
    return [shard.sha256 for shard in shards]


def _first_pass(plan: _Plan, cut: list[tuple[int, int]]) -> list[Shard]:
    """Sketches of all blocks, merged and refined."""
    build, bins = plan.build, plan.build.recipe.screening.bins
    build.compute(plan.over_parts("sketch", {}, []))
    parts = build.shards("screen.sketch", "sketches")
    merged: list[Shard] = []
    for depth in DEPTHS:
        if depth > DEPTHS[0]:
            step, known = f"refine-{depth}", {"bins": bins, "depth": depth - 8}
            build.compute(plan.over_parts(step, known, merged, sketches=[s.path for s in merged], **known))
            parts = build.shards(f"screen.{step}", "finer")
        items: list[Item] = []
        for n, (low, high) in enumerate(cut):
            before = merged[n : n + 1]
            known = {"low": low, "high": high, "bins": bins, "depth": depth}
            items.append(
                plan.once(
                    f"merge-{depth}",
                    f"columns {low:,} to {high:,}",
                    known,
                    _digests([*parts, *before]),
                    parts=[s.path for s in parts],
                    sketch=before[0].path if before else None,
                    **known,
                )
            )
        receipts = build.compute(items)
        merged = [receipt.shard("sketch") for receipt in receipts]
        if not any(receipt.facts["heavy"] for receipt in receipts):
            break
    return merged


def _choose(plan: _Plan, scored: list[Shard]) -> Shard:
    """Ranks over all columns, a closer look at the best, and the selection."""
    build, paths = plan.build, [s.path for s in scored]
    ranking = build.compute([plan.once("rank", "ranks", plan.options(*_RANKED), _digests(scored), parts=paths)])[0]
    ranked = ranking.shard("ranked")
    chosen = {"chosen": ranking.facts["candidates"]}
    looked: list[Shard] = []
    targets: list[Shard] = []
    if chosen["chosen"]:
        build.compute(plan.over_parts("candidates", chosen, [], **chosen))
        looked = build.shards("screen.candidates", "candidates")
        targets = build.shards("screen.candidates", "targets")
    build.compute(
        [
            plan.once(
                "select", "selection", plan.options(*_RANKED, "neighbors") | chosen,
                _digests([*scored, ranked, *looked, *targets]),
                parts=paths, ranked=ranked.path,
                looked=[s.path for s in looked], targets=[s.path for s in targets], **chosen,
            )
        ]
    )  # fmt: skip
    return build.shards("screen.select", "screening")[0]


# What workers do


def _known(place: Workplace) -> tuple[Screening, Outcome, int]:
    args = place.item.args
    return Screening.model_validate(args["screening"]), Outcome.from_json(args["outcome"]), args["threshold"]


def sketch_part(place: Workplace) -> Receipt:
    """Pass 1 over some rows."""
    args = place.item.args
    rows, outcome = open_input(place.root, args["input"]), Outcome.from_json(args["outcome"])

    def tables() -> Iterator[Any]:
        for low, high in blocks(args["columns"]):
            counter = Counter(high - low)
            for batch in rows.batches(np.arange(low, high), outcome, args["seed"]):
                counter.add(batch.x)
            yield sketch_table(counter.sketch())

    return place.receipt([place.write(work_path("sketches", place.item.key), SKETCH, tables(), BLOCK)])


def merge_block(place: Workplace) -> Receipt:
    """Add up the sketches of a block, or the finer counts of its heavy cells."""
    args = place.item.args
    low, high, depth = args["low"], args["high"], args["depth"]
    paths = [place.root / part for part in args["parts"]]
    if args["sketch"] is None:
        found = to_sketch(read_block(paths[0], low, high))
        for path in paths[1:]:
            found = merge(found, to_sketch(read_block(path, low, high)))
    else:
        found = to_sketch(read_shard(place.root, args["sketch"]))
        cells = heavy(found, args["bins"], depth - 8)
        counts = np.zeros((len(cells.codes), 256), dtype=np.int64)
        for path in paths:
            counts += to_finer(read_block(path, low, high))
        found = refined(found, cells, counts)
    shard = place.write(work_path("sketch", place.item.key), SKETCH, [sketch_table(found)], BLOCK)
    return place.receipt([shard], heavy=len(heavy(found, args["bins"], depth).codes))


def refine_part(place: Workplace) -> Receipt:
    """Count the values of heavy cells by their next 8 bits, over some rows."""
    args = place.item.args
    rows, outcome = open_input(place.root, args["input"]), Outcome.from_json(args["outcome"])

    def tables() -> Iterator[Any]:
        for (low, high), path in zip(blocks(args["columns"]), args["sketches"], strict=True):
            cells = heavy(to_sketch(read_shard(place.root, path)), args["bins"], args["depth"])
            counts = np.zeros((len(cells.codes), 256), dtype=np.int64)
            if len(cells.codes):
                within = np.arange(len(cells.columns))
                for batch in rows.batches(low + cells.columns, outcome, args["seed"]):
                    counts += refine(batch.x, cells, within)
            yield finer_table(cells, counts, high - low)

    return place.receipt([place.write(work_path("finer", place.item.key), FINER, tables(), BLOCK)])


def count_part(place: Workplace) -> Receipt:
    """Pass 2 over some rows."""
    args = place.item.args
    options, outcome, threshold = _known(place)
    rows = open_input(place.root, args["input"])
    targets: list[NDArray[Any]] = []

    def tables() -> Iterator[Any]:
        for (low, high), path in zip(blocks(args["columns"]), args["sketches"], strict=True):
            found = ranges(to_sketch(read_shard(place.root, path)), options, rows.categorical[low:high])
            counts = Counts(found, outcome, options, threshold)
            for batch in rows.batches(np.arange(low, high), outcome, args["seed"]):
                counts.add(batch)
            if counts.samples and not targets:
                targets.append(counts.sample()[1])
            yield counts_table(counts)

    shards = [place.write(work_path("counts", place.item.key), COUNTS, tables(), BLOCK)]
    shards.append(write_targets(place, targets[0] if targets else np.zeros(0)))
    return place.receipt(shards)


def score_block(place: Workplace) -> Receipt:
    """Add up the counts of a block of columns, and score them."""
    args = place.item.args
    options, outcome, threshold = _known(place)
    low, high = args["low"], args["high"]
    rows = open_input(place.root, args["input"])
    found = ranges(to_sketch(read_shard(place.root, args["sketch"])), options, rows.categorical[low:high])
    counts = Counts(found, outcome, options, threshold)
    for path, target in zip(args["parts"], read_targets(place, continuous=outcome.continuous), strict=True):
        add_counts(counts, read_block(place.root / path, low, high), target)
    table = scored_table(counts, rows.names[low:high], rows.groups[low:high], args["seed"])
    return place.receipt([place.write(work_path("scored", place.item.key), SCORED, [table])])


def score_columns(place: Workplace) -> Receipt:
    """Both passes and the scores of some columns, all rows of which fit in memory."""
    args = place.item.args
    options, outcome, threshold = _known(place)
    rows = open_input(place.root, args["input"])
    names, groups, categorical = rows.names, rows.groups, rows.categorical

    def tables() -> Iterator[Any]:
        for low, high in blocks(args["high"] - args["low"]):
            mine = slice(args["low"] + low, args["low"] + high)
            batch = joined(list(rows.batches(np.arange(mine.start, mine.stop), outcome, args["seed"])))
            counts = Counts(
                ranges(sketch(batch.x, options.bins), options, categorical[mine]), outcome, options, threshold
            )
            counts.add(batch)
            yield scored_table(counts, names[mine], groups[mine], args["seed"])

    return place.receipt([place.write(work_path("scored", place.item.key), SCORED, tables(), BLOCK)])


STEPS: dict[str, Step] = {
    "outcome": find_outcome,
    "columns": score_columns,
    "sketch": sketch_part,
    **{f"merge-{depth}": merge_block for depth in DEPTHS},
    **{f"refine-{depth}": refine_part for depth in DEPTHS[1:]},
    "counts": count_part,
    "scores": score_block,
    "rank": rank,
    "candidates": look_at_candidates,
    "select": select_features,
}
