"""Computing synthetic rows again from their parents, apart from the code that made them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import QueryError
from schemas.tables import SPLITS
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.shards import read_shard

EXAMPLES = ("train", "train_dropped")
"""Tables of train's examples: those to train on, and those that rebalancing left out."""

FIXED = ("sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap", "dropped_by")


@dataclass(frozen=True, slots=True)
class _Parents:
    """Real rows that synthetic ones name, in the order of their ids."""

    ids: NDArray[Any]
    labels: NDArray[Any]
    values: NDArray[np.float32]

    def find(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Their places; -1 where there is none."""
        if not len(self.ids):
            return np.full(len(ids), -1)
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, at, -1)


def wrong_rows(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Synthetic rows that are not what their parents and gap give, or stand where none may: place and problem.

    Parents are held in memory: rows of the classes that new ones were made for.
    """
    for split in SPLITS[1:]:
        if dataset.manifest.tables.get(split):
            count = query(dataset, f"SELECT count(*) AS n FROM {split} WHERE is_synthetic").to_pylist()[0]["n"]
            if count:
                yield split, f"{count} synthetic rows outside train"
    paths = [shard.path for table in EXAMPLES for shard in dataset.manifest.tables.get(table, [])]
    if not paths:
        return
    try:
        names = [n for n in pq.read_schema(dataset.root / paths[0]).names if n not in FIXED]
    except OSError as error:
        raise QueryError(f"train cannot be read: {error}", "run the recipe again") from error
    parents = _parents(dataset.root, paths, names)
    options = dataset.manifest.recipe["rebalancing"]
    mean, whole = _scaler(dataset, names)
    for path in paths:
        table = read_shard(dataset.root, path).filter(pc.field("is_synthetic"))
        if not table.num_rows:
            continue
        ids, labels, *named = (_text(table, n) for n in ("sample_id", "label", "parent_a", "parent_b"))
        a, b = (parents.find(column) for column in named)
        there = (a >= 0) & (b >= 0)
        for sample in ids[~there]:
            yield path, f"row {sample}: a parent is not a real row of train"
        if not there.any():
            continue
        expected = parents.labels[a] == labels
        if options["method"] != "borderline-2":  # there the second parent may be of any class
            expected &= parents.labels[b] == labels
        wide_a, wide_b = (parents.values[at].astype(np.float64) for at in (a, b))
        if options.get("missing") == "mean":
            wide_a, wide_b = (np.where(np.isfinite(x), x, mean.astype(np.float32)) for x in (wide_a, wide_b))
        gap = table.column("gap").to_numpy()[:, None]
        with np.errstate(invalid="ignore"):
            made = np.where(wide_a == wide_b, wide_a, wide_a + gap * (wide_b - wide_a)).astype(np.float32)
        made[:, whole] = np.rint(made[:, whole])
        same = ((made == _matrix(table, names)) | (np.isnan(made) & np.isnan(_matrix(table, names)))).all(axis=1)
        for sample in ids[there & ~(expected & same)]:
            yield path, f"row {sample}: not what its parents and gap give"


def _parents(root: Path, paths: list[str], names: list[str]) -> _Parents:
    wanted: NDArray[Any] = np.empty(0, dtype=object)
    for path in paths:
        table = read_shard(root, path, ["is_synthetic", "parent_a", "parent_b"]).filter(pc.field("is_synthetic"))
        wanted = np.union1d(wanted, np.concatenate([_text(table, n) for n in ("parent_a", "parent_b")]))
    chosen = pa.array(wanted.tolist(), pa.string())
    columns = ["sample_id", "label", "is_synthetic", *names]
    found = pa.concat_tables(
        [
            read_shard(root, path, columns).filter(~pc.field("is_synthetic") & pc.field("sample_id").isin(chosen))
            for path in paths
        ]
    ).sort_by("sample_id")
    return _Parents(_text(found, "sample_id"), _text(found, "label"), _matrix(found, names))


def _scaler(dataset: Dataset, names: list[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Means of train, and which columns have whole numbers only: those of new rows are rounded."""
    table = read_shard(dataset.root, dataset.manifest.fitted["scaler"].path, ["feature", "mean", "whole"])
    if table.column("feature").to_pylist() != names:
        raise QueryError("fitted/scaler is of other columns than train", "run the recipe again")
    return table.column("mean").to_numpy(), table.column("whole").to_numpy()


def _text(table: Any, name: str) -> NDArray[Any]:
    return np.array([value or "" for value in table.column(name).to_pylist()], dtype=object)


def _matrix(table: Any, names: list[str]) -> NDArray[np.float32]:
    columns = [table.column(n).to_numpy().astype(np.float32) for n in names]
    return np.stack(columns, axis=1) if columns else np.zeros((table.num_rows, 0), np.float32)
