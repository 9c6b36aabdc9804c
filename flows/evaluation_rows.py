"""Rows of a dataset for its evaluation: real rows of train, others to recalibrate by, and test; each by itself."""

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from schemas.errors import DatasetError, QueryError
from schemas.recipe import Evaluation, Rebalancing
from tasks.evaluate.curves import Counts, Floats
from tasks.evaluate.prepare import Preparation
from tasks.query.dataset import Dataset
from tasks.shards import read_shard
from tasks.split.groups import assign

pc: Any = compute  # its functions are made at import, unseen by type checkers

AS_MADE = "as made"
HELD_OUT = 0.2
"""Share of train that recalibration is fitted to, where validation cannot serve."""
_FIXED = ("sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap", "dropped_by", "made")
_CLASSES = 256


@dataclass(frozen=True, slots=True)
class Data:
    """Rows of a dataset as models take them; classes by their places in `labels`."""

    labels: list[str]
    """Classes of train, sorted."""
    positive: int
    real: Floats
    real_y: Counts
    """Real rows of train, less what is held out."""
    made: Floats | None
    """The table `train` as it stands, less what is held out and what was made of that; None where that is `real`."""
    made_y: Counts
    held: Floats
    held_y: Counts
    """Rows that recalibration is fitted to."""
    test: Floats
    test_y: Counts
    preparation: Preparation
    described: dict[str, Any]
    """What the report says of the rows."""
    notes: list[str]


def _keys(ids: Iterable[str], seed: int) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.sha256(f"{seed}\0evaluate\0{sample}".encode()).digest()[:8] for sample in ids)
    return np.frombuffer(digests, dtype="<u8")


def _rows(dataset: Dataset, tables: Sequence[str], most: int, seed: int) -> tuple[Any, int]:
    """Rows of some tables by their ids, with `made` (whether in the first of them), and how many real ones there are.

    Of more real rows than `most`, those with the smallest keyed hashes of their ids are taken, and the same share of
    synthetic ones.
    """
    paths = [(path, place == 0) for place, table in enumerate(tables) for path in dataset.paths(table)]
    total, threshold = 0, None
    hashes: list[NDArray[np.uint64]] = []
    for path, _ in paths:
        real = _shard(dataset, path, ["sample_id", "is_synthetic"]).filter(~pc.field("is_synthetic"))
        total += real.num_rows
        hashes.append(_keys(real.column("sample_id").to_pylist(), seed))
        if sum(map(len, hashes)) > 2 * most:
            hashes = [np.partition(np.concatenate(hashes), most)[: most + 1]]
    if total > most:
        threshold = np.partition(np.concatenate(hashes), most)[most]
    parts: list[Any] = []
    for path, made in paths:
        table = _shard(dataset, path)
        if "dropped_by" in table.column_names:
            table = table.drop_columns(["dropped_by"]).filter(~pc.field("is_synthetic"))
        if threshold is not None:
            table = table.filter(pa.array(_keys(table.column("sample_id").to_pylist(), seed) < threshold))
        parts.append(table.append_column("made", pa.array(np.full(table.num_rows, made))))
    if not parts:
        return None, 0
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    return table.take(pc.sort_indices(table.column("sample_id"))), total


def _shard(dataset: Dataset, path: Path, columns: Sequence[str] | None = None) -> Any:
    return read_shard(dataset.root, path.relative_to(dataset.root).as_posix(), columns)


def read(dataset: Dataset, settings: Evaluation, rebalancing: Rebalancing, positive: str | None, seed: int) -> Data:
    """Rows of a dataset, checked, prepared by what is learned from real rows of train, in the order of their ids.

    Raises
    ------
    QueryError
        Train or test lacks rows of a class that is asked for, or there are no features.
    DatasetError
        A row of test or validation stands in train.
    """
    train, train_total = _rows(dataset, ["train", "train_dropped"], settings.rows, seed)
    test, test_total = _rows(dataset, ["test"], settings.rows, seed)
    validation, validation_total = _rows(dataset, ["validation"], settings.rows, seed)
    for name, table in (("train", train), ("test", test)):
        if table is None or not table.num_rows:
            raise QueryError(
                f"{dataset.root}: there are no rows of {name}",
                "evaluate a dataset of 'binmill run' whose recipe's 'split' gives train and test a share",
            )
    _apart(dataset, train, test, validation)
    real = train.filter(~pc.field("is_synthetic"))
    counts = Counter(real.column("label").to_pylist())
    labels = sorted(counts)
    if not 2 <= len(labels) <= _CLASSES:
        raise QueryError(
            f"{dataset.root}: train has {len(labels)} classes", f"evaluate a dataset of 2 to {_CLASSES} classes"
        )
    if positive is not None and positive not in counts:
        raise QueryError(f"--positive {positive}: not a class of train", f"choose from {', '.join(labels[:20])}")
    chosen = labels.index(positive if positive is not None else min(labels, key=counts.__getitem__))
    named = labels[chosen]

    def both(table: Any) -> bool:
        ours = table.column("label").to_pylist().count(named) if table is not None else 0
        return 0 < ours < (table.num_rows if table is not None else 0)

    if not both(test):
        raise QueryError(
            f"{dataset.root}: test has no rows of '{named}', or of nothing else",
            "name another class with --positive, or give test a larger share in the recipe's 'split'",
        )
    notes: list[str] = []
    fit, held, source = train, validation, "validation"
    if not both(validation):
        why = "there is no validation split" if not validation_total else f"validation lacks '{named}' or all others"
        fit, held, dropped = held_out(dataset, train, labels, seed)
        source = "train"
        if both(held):
            notes.append(
                f"{why}: recalibration is fitted to {held.num_rows:,} real rows of train (whole groups) that no model "
                "is fitted to" + (f"; '{AS_MADE}' lacks {dropped:,} synthetic rows made of them" if dropped else "")
            )
        else:
            fit, held, source = train, train.slice(0, 0), "none"
            notes.append(f"{why}, and train has too few rows to hold any out: nothing is recalibrated")
    for name, total, table in (("train", train_total, real), ("validation", validation_total, validation)):
        if table is not None and total > table.num_rows:
            notes.append(f"{table.num_rows:,} of {total:,} real rows of {name} are looked at (evaluation.rows)")
    if test_total > test.num_rows:
        notes.append(f"{test.num_rows:,} of {test_total:,} rows of test are looked at (evaluation.rows)")

    features = [name for name in real.column_names if name not in _FIXED]
    nominal = [name for name in features if _is_named(real.schema.field(name).type, name, rebalancing)]
    if not features:
        raise QueryError(f"{dataset.root}: no feature is selected", "raise screening.top or screening.max_q")
    if nominal:
        which = "SMOTE-NC" if len(nominal) < len(features) else "SMOTEN"
        notes.append(f"{which} stands in for SMOTE: {len(nominal):,} of {len(features):,} features are names")
    base = fit.filter(~pc.field("is_synthetic"))
    preparation = Preparation(base, [name for name in features if name not in nominal], nominal)
    as_made = fit.filter(pc.field("made"))
    differs = pc.any(as_made.column("is_synthetic")).as_py() or as_made.num_rows < fit.num_rows
    base_y = _codes(base, labels)
    missing = sorted(set(range(len(labels))) - set(base_y.tolist()))
    if missing:
        raise QueryError(
            f"{dataset.root}: without the rows held out for recalibration train has no '{labels[missing[0]]}'",
            "give validation a share in the recipe's 'split'",
        )
    return Data(
        labels=labels,
        positive=chosen,
        real=preparation.place(base),
        real_y=base_y,
        made=preparation.place(as_made) if differs else None,
        made_y=_codes(as_made, labels),
        held=preparation.place(held),
        held_y=_codes(held, labels),
        test=preparation.place(test),
        test_y=_codes(test, labels),
        preparation=preparation,
        described={
            "train": _counted(base),
            "recalibration": _counted(held),
            "recalibrated_on": source,
            "test": _counted(test),
            "features": len(features),
        },
        notes=notes,
    )


def _apart(dataset: Dataset, train: Any, *others: Any) -> None:
    # What a model was fitted to must not be what it is judged by; that splits are apart is checked, not believed.
    known = train.column("sample_id").combine_chunks()
    for table in others:
        if table is None:
            continue
        wrong = table.filter(pc.or_(pc.is_in(table.column("sample_id"), value_set=known), table.column("is_synthetic")))
        if wrong.num_rows:
            raise DatasetError(
                f"{dataset.root}: {wrong.num_rows:,} rows outside train are synthetic or stand in train too, such as "
                f"{wrong.column('sample_id')[0].as_py()}",
                "do not trust this dataset: run its recipe again",
            )


def held_out(dataset: Dataset, train: Any, labels: Sequence[str], seed: int) -> tuple[Any, Any, int]:
    """A part of train by itself, whole groups, of each class about `HELD_OUT`.

    Returns
    -------
    kept, held
        Train without the part and without synthetic rows of which a parent is in it; and the part's real rows.
    dropped
        How many synthetic rows went.
    """
    real = train.filter(~pc.field("is_synthetic"))
    ids: list[str] = real.column("sample_id").to_pylist()
    wanted = pa.array(ids)
    groups: dict[str, str] = {}
    for path in dataset.paths("splits"):
        table = _shard(dataset, path, ["sample_id", "group_id"])
        table = table.filter(pc.is_in(table.column("sample_id"), value_set=wanted))
        groups.update(zip(*(table.column(name).to_pylist() for name in ("sample_id", "group_id")), strict=True))
    names = sorted({groups.get(sample, sample) for sample in ids})
    place = {name: i for i, name in enumerate(names)}
    of = np.array([place[groups.get(sample, sample)] for sample in ids])
    counts = np.zeros((len(names), len(labels)), dtype=np.int64)
    np.add.at(counts, (of, _codes(real, labels)), 1)
    out = assign(names, counts, [1 - HELD_OUT, HELD_OUT], seed)[of] == 1
    held = real.filter(pa.array(out))
    gone = held.column("sample_id").combine_chunks()
    touched = pc.is_in(train.column("sample_id"), value_set=gone)
    for parent in ("parent_a", "parent_b"):
        touched = pc.or_(touched, pc.is_in(train.column(parent), value_set=gone))
    kept = train.filter(pc.invert(touched))
    return kept, held, train.num_rows - kept.num_rows - held.num_rows


def _is_named(kind: Any, name: str, rebalancing: Rebalancing) -> bool:
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return not numeric or any(fnmatch.fnmatchcase(name, pattern) for pattern in rebalancing.nominal)


def _codes(table: Any, labels: Sequence[str]) -> Counts:
    places = pc.index_in(table.column("label").cast(pa.string()), value_set=pa.array(labels, pa.string()))
    return places.fill_null(-1).to_numpy().astype(np.int64)


def _counted(table: Any) -> dict[str, int]:
    return dict(sorted(Counter(table.column("label").to_pylist()).items()))
