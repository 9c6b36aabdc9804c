"""Rows of train as the rebalance stage sees them: read from shards, in the order of their ids, and placed in space."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from tasks.rebalance.typed import numbers
from tasks.shards import read_shard

pc: Any = compute  # its functions are made at import, unseen by type checkers

FIXED = ("sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap", "dropped_by")
"""Columns of examples that are not features."""

FARTHEST = 1e6
"""Standard deviations from the mean at which an infinite value stands."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Examples in the order of their ids."""

    table: Any
    """Arrow table: `sample_id`, `label` and the features, each column in one piece."""
    keys: NDArray[np.int64]
    """int64[n], the first 60 bits of each id, rising: what settles equal distances."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return self.table.column("sample_id").to_pylist()

    @property
    def labels(self) -> NDArray[Any]:
        """object[n], their labels."""
        return np.array(self.table.column("label").to_pylist(), dtype=object)

    def column(self, name: str) -> Any:
        """One column, an Arrow array."""
        return self.table.column(name).combine_chunks()

    def take(self, places: NDArray[np.int64]) -> "Rows":
        """Some of them; `places` must rise."""
        return Rows(self.table.take(pa.array(places)), self.keys[places])


def feature_names(table: Any) -> list[str]:
    """The features among the columns of examples."""
    return [name for name in table.schema.names if name not in FIXED]


def key_of(sample: str) -> int:
    """The first 60 bits of an id (a hash in hexadecimal)."""
    return int(sample[:15], 16)


def rows_of(table: Any) -> Rows:
    """Rows from an Arrow table of examples."""
    chosen = table.select(["sample_id", "label", *feature_names(table)]).unify_dictionaries()
    ordered = chosen.take(pc.sort_indices(chosen.column("sample_id"))).combine_chunks()
    keys = np.fromiter(map(key_of, ordered.column("sample_id").to_pylist()), np.int64, ordered.num_rows)
    return Rows(ordered, keys)


def parts(root: Path, paths: Iterable[str], where: Any = None) -> Iterator[Any]:
    """Shard by shard, the examples that a filter (a `pyarrow.compute` expression) lets through."""
    for path in paths:
        table = read_shard(root, path)
        yield table if where is None else table.filter(where)


@dataclass(frozen=True, slots=True)
class Space:
    """Where rows stand: standardised by the scaler that was fitted on train, columns weighed where that is asked."""

    names: list[str]
    """Columns of numbers that have a distance."""
    nominal: list[str]
    """Columns whose values are names."""
    mean: NDArray[np.float64]
    factor: NDArray[np.float64]
    """float64[p], what a deviation from the mean is multiplied by."""
    whole: NDArray[np.bool_]
    """bool[p], whether the column has whole numbers only, and so must new rows."""
    fills: bool
    """Whether the mean stands in for what is missing in new rows' parents."""

    @staticmethod
    def read(root: Path, args: dict[str, Any]) -> "Space":
        """From the scaler (and the scores) that an item's arguments name."""
        scaler = read_shard(root, args["scaler"], ["feature", "mean", "scale", "whole"])
        nominal: list[str] = args["nominal"]
        scaler = scaler.filter(~pc.field("feature").isin(pa.array(nominal, pa.string())))
        names: list[str] = scaler.column("feature").to_pylist()
        factor = 1 / scaler.column("scale").to_numpy()
        if args["weights"] is not None:
            table = read_shard(root, args["weights"], ["feature", "mi_corrected"])
            found = dict(zip(*(table.column(n).to_pylist() for n in ("feature", "mi_corrected")), strict=True))
            weights = np.array([max(found.get(name) or 0.0, 0.0) for name in names])
            if weights.any():
                factor = factor * np.sqrt(weights / weights.mean())
        mean, whole = (scaler.column(name).to_numpy() for name in ("mean", "whole"))
        return Space(names, nominal, mean, factor, whole, args["missing"] == "mean")

    def place(self, rows: Rows) -> NDArray[np.float64]:
        """float64[n, p]: a missing value stands at the mean, an infinite one far away."""
        spots = np.empty((len(rows), len(self.names)))
        for c, name in enumerate(self.names):
            spots[:, c] = (numbers(rows.column(name)) - self.mean[c]) * self.factor[c]
        return np.nan_to_num(spots, copy=False, nan=0.0, posinf=FARTHEST, neginf=-FARTHEST)

    def check(self, table: Any) -> None:
        """Refuse examples whose features are not the scaler's."""
        assert set(feature_names(table)) == {*self.names, *self.nominal}, "the scaler is of other columns"


def smallest(keys: NDArray[np.uint64], ids: Sequence[str], count: int) -> NDArray[np.int64]:
    """Places of the `count` smallest, by (key, id), in that order."""
    order = np.lexsort((np.asarray(ids, dtype=object).astype(str), keys))
    return order[:count]
