"""Computing synthetic rows again from their parents, apart from the code that made them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute
from scipy.stats import mode

from schemas.errors import QueryError
from schemas.tables import SPLITS
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.shards import read_shard

pc: Any = compute  # its functions are made at import, unseen by type checkers

EXAMPLES = ("train", "train_dropped")
"""Tables of train's examples: those to train on, and those that rebalancing left out."""

FIXED = ("sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap", "dropped_by")


@dataclass(frozen=True, slots=True)
class _Real:
    """Real rows that synthetic ones name, in the order of their ids; and of some those that vote on names."""

    table: Any
    voters: dict[str, list[str]]
    nominal: list[str]
    """Columns whose values are voted on."""

    def find(self, ids: Any) -> NDArray[np.int64]:
        """Their places; -1 where there is none."""
        known = self.table.column("sample_id").combine_chunks()
        at = pc.index_in(ids, value_set=known)
        return pc.fill_null(at, -1).to_numpy(zero_copy_only=False).astype(np.int64)

    def column(self, name: str) -> Any:
        return self.table.column(name).combine_chunks()


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
        real = _real(dataset, paths, names)
    except OSError as error:
        raise QueryError(f"train cannot be read: {error}", "run the recipe again") from error
    options = dataset.manifest.recipe["rebalancing"]
    scaler = _scaler(dataset)
    for path in paths:
        table = read_shard(dataset.root, path).filter(pc.field("is_synthetic")).unify_dictionaries().combine_chunks()
        if not table.num_rows:
            continue
        ids = table.column("sample_id").to_pylist()
        a, b = (real.find(table.column(n).combine_chunks()) for n in ("parent_a", "parent_b"))
        there = (a >= 0) & (b >= 0)
        for row in np.flatnonzero(~there):
            yield path, f"row {ids[row]}: a parent is not a real row of train"
        table, a, b = table.filter(pa.array(there)), a[there], b[there]
        if not table.num_rows:
            continue
        labels = real.column("label")
        same = pc.equal(labels.take(pa.array(a)), table.column("label").combine_chunks()).to_numpy(zero_copy_only=False)
        if options["method"] != "borderline-2":  # there the second parent may be of any class
            same &= pc.equal(labels.take(pa.array(a)), labels.take(pa.array(b))).to_numpy(zero_copy_only=False)
        gap = table.column("gap").to_numpy()
        voters = _voters(real, a)
        for name in names:
            column, made = real.column(name), table.column(name).combine_chunks()
            if name in real.nominal or name not in scaler:
                same &= _voted(column, a if voters is None or name not in real.nominal else voters, made)
            else:
                mean, whole = scaler[name]
                filling = mean if options.get("missing") == "mean" else None
                same &= _between(column.take(pa.array(a)), column.take(pa.array(b)), gap, whole, filling, made)
        for sample in table.filter(pa.array(~same)).column("sample_id").to_pylist():
            yield path, f"row {sample}: not what its parents and gap give"


def _between(
    a: Any, b: Any, gap: NDArray[np.float64], whole: bool, filling: float | None, made: Any
) -> NDArray[np.bool_]:
    # Whether each value is a + gap · (b - a), rounded to its column's type.
    own: np.dtype[Any] = np.dtype(made.type.to_pandas_dtype())
    x, y, found = (_floats(column) for column in (a, b, made))
    if filling is not None:
        value = np.rint(filling) if own.kind in "iu" else float(filling > 0.5) if own.kind == "b" else filling
        value = float(np.array(value).astype(own if own.kind == "f" else np.float64))
        x, y = (np.where(np.isfinite(values), values, value) for values in (x, y))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = np.where(x == y, x, x + gap * (y - x))
        if own.kind in "iub" or whole:
            expected = np.rint(expected)
        if own.kind in "iu":
            expected = np.clip(expected, float(np.iinfo(own).min), float(np.iinfo(own).max))
        if own.kind == "f":
            expected = expected.astype(own).astype(np.float64)
    return (expected == found) | (np.isnan(expected) & np.isnan(found))


def _floats(column: Any) -> NDArray[np.float64]:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _voters(real: _Real, a: NDArray[np.int64]) -> NDArray[np.int64] | None:
    # Places of the rows that vote on each row's names; a row whose voters nobody lists is its own.
    if not real.voters:
        return None
    ids = real.table.column("sample_id").take(pa.array(a)).to_pylist()
    k = max(map(len, real.voters.values()))
    return real.find(pa.array([v for sample in ids for v in (real.voters.get(sample) or [sample] * k)])).reshape(-1, k)


def _voted(column: Any, voters: NDArray[np.int64], made: Any) -> NDArray[np.bool_]:
    # Whether each value is the commonest of those of its voters (of equally common ones the first in order).
    if pa.types.is_dictionary(column.type):
        column, made = (part.cast(column.type.value_type) for part in (column, made))
    if pa.types.is_floating(column.type):  # 0 and -0 are one value; Arrow cannot sort half floats
        column, made = (pc.add(part.cast(pa.float64()), 0.0) for part in (column, made))
    known = column.unique()
    known = known.take(pc.sort_indices(known))
    codes = pc.index_in(column, value_set=known).to_numpy(zero_copy_only=False)
    found = pc.fill_null(pc.index_in(made, value_set=known), -1).to_numpy(zero_copy_only=False)
    votes = codes[voters].reshape(len(voters), -1)
    return np.asarray(mode(votes, axis=1).mode) == found


def _real(dataset: Dataset, paths: list[str], names: list[str]) -> _Real:
    root = dataset.root
    wanted: set[str] = set()
    for path in paths:
        table = read_shard(root, path, ["is_synthetic", "parent_a", "parent_b"]).filter(pc.field("is_synthetic"))
        for name in ("parent_a", "parent_b"):
            wanted.update(value for value in table.column(name).unique().to_pylist() if value is not None)
    voters: dict[str, list[str]] = {}
    nominal: list[str] = []
    for shard in dataset.manifest.tables.get("voters", []):
        table = read_shard(root, shard.path)
        nominal = (table.schema.metadata or {}).get(b"nominal", b"").decode().split("\n")
        table = table.filter(pc.field("sample_id").isin(pa.array(sorted(wanted), pa.string())))
        voters |= dict(zip(*(table.column(name).to_pylist() for name in ("sample_id", "voters")), strict=True))
    wanted.update(voter for found in voters.values() for voter in found)
    chosen = pa.array(sorted(wanted), pa.string())
    columns = ["sample_id", "label", "is_synthetic", *names]
    found = pa.concat_tables(
        [
            read_shard(root, path, columns).filter(~pc.field("is_synthetic") & pc.field("sample_id").isin(chosen))
            for path in paths
        ]
    )
    found = found.unify_dictionaries().combine_chunks()
    return _Real(found, voters, nominal)


def _scaler(dataset: Dataset) -> dict[str, tuple[float, bool]]:
    """Means of train, and which columns have whole numbers only: those of new rows are rounded."""
    table = read_shard(dataset.root, dataset.manifest.fitted["scaler"].path, ["feature", "mean", "whole"])
    return {row["feature"]: (row["mean"], row["whole"]) for row in table.to_pylist()}
