"""Looking at the outcome of all rows, before any column is read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RecipeError
from schemas.recipe import Screening
from tasks.blocks import affine
from tasks.items import Receipt, Workplace
from tasks.screen.draws import sample_keys
from tasks.screen.inputs import open_input
from tasks.screen.outcome import (
    MANY_VALUES,
    MAX_CLASSES,
    Outcome,
    classes_outcome,
    continuous_outcome,
    numbers,
    quantity,
    texts,
)
from tasks.screen.sketch import DEPTHS, Counter, heavy, refine, refined


def find_outcome(place: Workplace) -> Receipt:
    """What the outcome is, and up to which key a row is in the sample; facts `outcome` and `threshold`."""
    args = place.item.args
    options = Screening.model_validate(args["screening"])

    def values() -> Iterator[tuple[Any, NDArray[np.uint64]]]:
        for spec in args["inputs"]:
            yield from open_input(place.root, spec).outcomes()

    kind = options.outcome if options.outcome != "auto" else _guess(values())
    outcome = _continuous(values, options) if kind == "continuous" else _classes(values())
    keys = np.zeros(0, dtype=np.uint64)
    for raw, ids in values():
        there = outcome.labels_of(raw) >= 0 if outcome.classes else ~np.isnan(outcome.quantity_of(raw))
        keys = np.concatenate([keys, sample_keys(args["seed"], ids[there])])
        if len(keys) > options.sample:
            keys = np.partition(keys, options.sample - 1)[: options.sample]
    return place.receipt([], outcome=outcome.to_json(), threshold=int(keys.max()) if len(keys) else 0)


def _guess(values: Iterator[tuple[Any, NDArray[np.uint64]]]) -> str:
    """A quantity is numbers of many values: more than 16, or more than two that are not all whole."""
    found: set[float] = set()
    for raw, _ in values:
        as_numbers = numbers(raw)
        if as_numbers is None:
            return "classes"
        found |= set(np.unique(as_numbers[np.isfinite(as_numbers)])[: MANY_VALUES + 1].tolist())
        if len(found) > MANY_VALUES:
            return "continuous"
    return "continuous" if len(found) > 2 and any(v != int(v) for v in found) else "classes"


def _classes(values: Iterator[tuple[Any, NDArray[np.uint64]]]) -> Outcome:
    counts: dict[str, int] = {}
    for raw, _ in values:
        for row in texts(raw).drop_null().value_counts().to_pylist():
            counts[row["values"]] = counts.get(row["values"], 0) + row["counts"]
        if len(counts) > 64 * MAX_CLASSES:
            break  # too many, whatever follows
    return classes_outcome(counts)


def _continuous(values: Any, options: Screening) -> Outcome:
    low, high = np.inf, -np.inf
    for raw, _ in values():
        found = numbers(raw)
        if found is None:
            raise RecipeError(
                f"screening.outcome: the outcome holds {raw.type}, not numbers",
                "say 'classes', or name another column",
            )
        finite = found[np.isfinite(found)]
        low, high = min(low, finite.min(initial=np.inf)), max(high, finite.max(initial=-np.inf))
    moved = affine(np.array([low]), np.array([high]))
    shift, factor = float(moved[0][0]), float(moved[1][0])

    def quantities() -> Iterator[NDArray[np.float32]]:
        for raw, _ in values():
            found = numbers(raw)
            assert found is not None
            yield quantity(found, shift, factor)[None]

    counter = Counter(1)
    for y in quantities():
        counter.add(y)
    found = counter.sketch()
    for depth in DEPTHS[:-1]:
        cells = heavy(found, options.bins, depth)
        if len(cells.codes):
            found = refined(found, cells, np.sum([refine(y, cells) for y in quantities()], axis=0))
    return continuous_outcome(found, options.bins, options.binning, shift, factor)
