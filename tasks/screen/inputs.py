"""Where rows come from: the shards of a dataset's train split, or any table with an outcome column."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.tables import feature_groups
from tasks.blocks import Block, blocks, outcome_of
from tasks.columns import Feature
from tasks.screen.draws import sample_keys
from tasks.screen.measure import Batch
from tasks.screen.outcome import Outcome
from tasks.shards import read_shard
from tasks.tabular import Table, close_parquet, open_table

BATCH_ROWS = 65_536
BATCH_BYTES = 32 * 2**20
"""Values of a batch, in bytes, however many columns are asked for (but 256 rows at least)."""
OUTCOME_ROWS = 1 << 20


class Input(Protocol):
    """A part of the rows, of which columns can be read."""

    @property
    def names(self) -> list[str]:
        """Names of all feature columns."""
        ...

    @property
    def groups(self) -> list[str]:
        """The group of each of them."""
        ...

    @property
    def categorical(self) -> NDArray[np.bool_]:
        """bool[p], columns whose values are numbers of categories."""
        ...

    def batches(self, columns: NDArray[np.int64], outcome: Outcome, seed: int) -> Iterator[Batch]:
        """The rows that have an outcome, of some columns, some rows at a time."""
        ...

    def outcomes(self) -> Iterator[tuple[Any, NDArray[np.uint64]]]:
        """The outcome of each row (an Arrow array; some may be missing), and the rows' ids; some rows at a time."""
        ...


class ShardInput:
    """The train rows of one shard of features, with its shards of labels and of splits.

    Parameters
    ----------
    root
        The dataset's folder.
    spec
        Places of the shards: `features`, `labels`, `splits`.
    """

    def __init__(self, root: Path, spec: dict[str, Any]) -> None:
        self._features, self.labels, self.splits = aligned(root, spec)
        groups = feature_groups(self._features.schema)
        self.names = [name for dims in groups.values() for name in dims]
        self.groups = [group for group, dims in groups.items() for _ in dims]
        self.categorical = np.zeros(len(self.names), dtype=np.bool_)
        self._matrix: NDArray[np.float32] | None = None

        self._keep = np.flatnonzero([split == "train" for split in self.splits])

    def _ids(self) -> NDArray[np.uint64]:
        ids = self._features.column("sample_id").take(pa.array(self._keep)).to_pylist()
        return np.array([int(str(name)[:16], 16) for name in ids], dtype=np.uint64)

    def batches(self, columns: NDArray[np.int64], outcome: Outcome, seed: int) -> Iterator[Batch]:
        """The rows of train, all at once: a shard is small."""
        if not len(self._keep):
            return
        if self._matrix is None:
            self._matrix = np.ascontiguousarray(matrix(self._features)[self._keep].T)
        labels = outcome.labels_of(pa.array([self.labels[i] for i in self._keep], pa.string()))
        yield Batch(self._matrix[columns], labels, sample_keys(seed, self._ids()))

    def outcomes(self) -> Iterator[tuple[Any, NDArray[np.uint64]]]:
        """The labels of train."""
        yield pa.array([self.labels[i] for i in self._keep], pa.string()), self._ids()


class TableInput:
    """Some rows of a table in files.

    Parameters
    ----------
    root
        The dataset's folder.
    spec
        `path` of the table (relative to the dataset when it was staged there), `outcome` (a column), `start` and
        `stop`, and `columns` and `codes`, shards of `tasks.screen.source`.
    """

    def __init__(self, root: Path, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._table = opened(str(root / spec["path"]))
        self._columns = read_shard(root, spec["columns"])
        book = read_shard(root, spec["codes"])
        lists = book.column("values").combine_chunks()
        self._codes = {name: lists[i].values for i, name in enumerate(book.column("feature").to_pylist())}
        self._raw: Any = None

    @property
    def names(self) -> list[str]:
        """Names of all features."""
        return self._columns.column("feature").to_pylist()

    @property
    def groups(self) -> list[str]:
        """The column that each of them is, or is a place of."""
        return self._columns.column("column").to_pylist()

    @property
    def categorical(self) -> NDArray[np.bool_]:
        """bool[p], texts."""
        return self._columns.column("category").to_numpy(zero_copy_only=False).astype(np.bool_)

    def batches(self, columns: NDArray[np.int64], outcome: Outcome, seed: int) -> Iterator[Batch]:
        """The rows that have an outcome, so many at a time that they stay within BATCH_BYTES."""
        start, stop = self._spec["start"], self._spec["stop"]
        if self._raw is None:
            raw = outcome_of(self._table, self._spec["outcome"], start, stop)
            self._raw = outcome.quantity_of(raw) if outcome.continuous else outcome.labels_of(raw)
        rows = max(256, min(BATCH_ROWS, BATCH_BYTES // (4 * max(len(columns), 1))))
        for block in self.blocks(columns, rows):
            target = self._raw[block.first - start : block.first - start + block.values.shape[1]]
            yield _with_outcome(block.values, target, block.first, outcome, seed)

    def blocks(self, columns: NDArray[np.int64], rows: int) -> Iterator[Block]:
        """All rows of some columns, so many rows at a time."""
        mine = self._columns.take(pa.array(columns))
        features = [
            Feature(name, column, place, "category" if category else "number", wide64=wide)
            for name, column, place, category, wide in zip(
                *(mine.column(c).to_pylist() for c in ("feature", "column", "place", "category", "wide")), strict=True
            )
        ]
        shift, factor = mine.column("shift").to_numpy(), mine.column("factor").to_numpy()
        start, stop = self._spec["start"], self._spec["stop"]
        return blocks(self._table, features, start, stop, rows, shift=shift, factor=factor, codes=self._codes)

    def outcomes(self) -> Iterator[tuple[Any, NDArray[np.uint64]]]:
        """The outcome column."""
        for start in range(self._spec["start"], self._spec["stop"], OUTCOME_ROWS):
            stop = min(start + OUTCOME_ROWS, self._spec["stop"])
            raw = outcome_of(self._table, self._spec["outcome"], start, stop)
            yield raw, np.arange(start, stop, dtype=np.uint64)


class GatheredInput:
    """All rows of a table of few rows and many columns, of which `tasks.screen.source` keeps a copy by columns.

    Parameters
    ----------
    root
        The dataset's folder.
    spec
        Places of the shards `gathered`, `outcome` and `columns`.
    """

    def __init__(self, root: Path, spec: dict[str, Any]) -> None:
        self._values = root / spec["gathered"]
        self._raw = read_shard(root, spec["values"]).column("outcome").combine_chunks()
        columns = read_shard(root, spec["columns"], ["feature", "column", "category"])
        self.names = columns.column("feature").to_pylist()
        self.groups = columns.column("column").to_pylist()
        self.categorical = columns.column("category").to_numpy(zero_copy_only=False).astype(np.bool_)

    def batches(self, columns: NDArray[np.int64], outcome: Outcome, seed: int) -> Iterator[Batch]:
        """The rows that have an outcome, all at once."""
        target = outcome.quantity_of(self._raw) if outcome.continuous else outcome.labels_of(self._raw)
        yield _with_outcome(gathered(self._values, columns), target, 0, outcome, seed)

    def outcomes(self) -> Iterator[tuple[Any, NDArray[np.uint64]]]:
        """The outcome column."""
        yield self._raw, np.arange(len(self._raw), dtype=np.uint64)


def _with_outcome(values: NDArray[np.float32], target: NDArray[Any], first: int, outcome: Outcome, seed: int) -> Batch:
    keys = sample_keys(seed, np.arange(first, first + len(target), dtype=np.uint64))
    there = ~np.isnan(target) if outcome.continuous else target >= 0
    if there.all():
        return Batch(values, target, keys)
    return Batch(np.ascontiguousarray(values[:, there]), target[there], keys[there])


def gathered(path: Path, columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Whole columns, float32[k, rows], of a shard that has a row for each of them."""
    file = pq.ParquetFile(path)
    size = file.metadata.row_group(0).num_rows
    x = np.empty((len(columns), file.schema_arrow.field("values").type.byte_width // 4), dtype=np.float32)
    of = columns // size
    for group in np.unique(of):
        values = file.read_row_group(int(group), columns=["values"]).column(0).combine_chunks()
        lines = np.frombuffer(values.buffers()[1], dtype=np.float32).reshape(-1, x.shape[1])[values.offset :]
        mine = of == group
        x[mine] = lines[columns[mine] - group * size]
    return x


@lru_cache(maxsize=2)
def opened(path: str) -> Table:
    """A table; looking at one of 150 000 columns takes a second, so it is kept."""
    return open_table(Path(path))


def forget_tables() -> None:
    """Close the tables that are kept open, and give their memory back: 500 MB for 150 000 columns of Parquet."""
    opened.cache_clear()
    close_parquet()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc; other C libraries have none
        if trim is not None:
            trim(0)


def open_input(root: Path, spec: dict[str, Any]) -> Input:
    """The rows that a part's specification names."""
    kinds: dict[str, Callable[[Path, dict[str, Any]], Input]] = {
        "shards": ShardInput,
        "table": TableInput,
        "gathered": GatheredInput,
    }
    return kinds[spec["kind"]](root, spec)


def aligned(root: Path, spec: dict[str, Any]) -> tuple[Any, list[str | None], list[str | None]]:
    """The features of a shard, and each row's label and split."""
    features = read_shard(root, spec["features"])
    labels = read_shard(root, spec["labels"], ["sample_id", "label"])
    splits = read_shard(root, spec["splits"], ["sample_id", "split"])
    ids = features.column("sample_id")
    if not ids.equals(labels.column("sample_id")) or not ids.equals(splits.column("sample_id")):
        raise AssertionError(f"{spec['features']}: labels and splits are not aligned with the features")
    return features, labels.column("label").to_pylist(), splits.column("split").to_pylist()


def matrix(table: Any) -> NDArray[np.float32]:
    """All features side by side: float32[n, p]."""
    blocks: list[NDArray[np.float32]] = []
    for group, dims in feature_groups(table.schema).items():
        values = table.column(group).combine_chunks()
        flat = values.flatten() if isinstance(values, pa.FixedSizeListArray) else pa.array([], pa.float32())
        blocks.append(flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, len(dims)))
    return np.concatenate(blocks, axis=1)
