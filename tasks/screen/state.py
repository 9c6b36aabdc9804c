"""Partial states of the two passes as tables: a row a column, so that a block of columns can be read by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.items import Workplace
from tasks.screen.measure import Counts
from tasks.screen.sketch import Heavy, Sketch
from tasks.shards import Shard, read_shard, work_path

BLOCK = 512
"""Columns that are worked on at a time, and rows of a row group of partial states."""

SKETCH: Any = pa.schema(
    [
        pa.field("codes", pa.list_(pa.uint32()), nullable=False),
        pa.field("counts", pa.list_(pa.int64()), nullable=False),
        pa.field("missing", pa.int64(), nullable=False),
        pa.field("infinite", pa.int64(), nullable=False),
        pa.field("low", pa.uint32(), nullable=False),
        pa.field("least", pa.uint32(), nullable=False),
        pa.field("greatest", pa.uint32(), nullable=False),
    ]
)
"""See `tasks.screen.sketch.Sketch`."""

FINER: Any = pa.schema(
    [
        pa.field("cells", pa.list_(pa.uint32()), nullable=False),
        pa.field("counts", pa.list_(pa.int64()), nullable=False),
    ]
)
"""Heavy cells of each column (most have none), and 256 counts for each of them."""

COUNTS: Any = pa.schema(
    [
        pa.field("tables", pa.list_(pa.int64()), nullable=False),
        pa.field("sums", pa.list_(pa.int64()), nullable=False),
        pa.field("density", pa.list_(pa.int64()), nullable=False),
        pa.field("sample", pa.list_(pa.float32()), nullable=False),
    ]
)
"""See `tasks.screen.measure.Counts`; lists are empty where a column needs none."""

TARGETS: Any = pa.schema([pa.field("target", pa.float64(), nullable=False)])
"""Outcome of the sampled rows: number of the class, or the quantity."""


def blocks(columns: int, size: int = BLOCK) -> list[tuple[int, int]]:
    """Ranges of columns."""
    return [(low, min(low + size, columns)) for low in range(0, columns, size)]


def read_block(path: Path, low: int, high: int) -> Any:
    """Rows `low` to `high` of a partial state, both multiples of BLOCK (or its end)."""
    file = pq.ParquetFile(path)
    groups = range(low // BLOCK, -(-high // BLOCK))
    return file.read_row_groups(list(groups)).combine_chunks()


def _lists(values: NDArray[Any], offsets: NDArray[np.int64], kind: Any) -> Any:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, kind))


def _even(values: NDArray[Any], columns: NDArray[np.int64], p: int, kind: Any) -> Any:
    """Lists of one length for some of p rows, empty ones for the others."""
    sizes = np.zeros(p, dtype=np.int64)
    sizes[columns] = values[0].size if len(values) else 0
    return _lists(values.reshape(-1), np.concatenate([[0], np.cumsum(sizes)]), kind)


def _values(table: Any, name: str) -> NDArray[Any]:
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False)


def _offsets(table: Any, name: str) -> NDArray[np.int64]:
    lengths = table.column(name).combine_chunks().value_lengths()
    return np.concatenate([[0], np.cumsum(lengths.to_numpy())]).astype(np.int64)


def sketch_table(found: Sketch) -> Any:
    """A sketch as a table."""
    return pa.Table.from_arrays(
        [
            _lists(found.codes, found.offsets, pa.uint32()),
            _lists(found.counts, found.offsets, pa.int64()),
            pa.array(found.missing),
            pa.array(found.infinite),
            pa.array(found.low),
            pa.array(found.extremes[:, 0]),
            pa.array(found.extremes[:, 1]),
        ],
        schema=SKETCH,
    )


def to_sketch(table: Any) -> Sketch:
    """And back."""
    missing, infinite, low, least, greatest = (
        table.column(name).to_numpy() for name in ("missing", "infinite", "low", "least", "greatest")
    )
    counts = _values(table, "counts")
    extremes = np.stack([least, greatest], axis=1)
    return Sketch(_offsets(table, "codes"), _values(table, "codes"), counts, missing, infinite, low, extremes)


def finer_table(cells: Heavy, counts: NDArray[np.int64], columns: int) -> Any:
    """Counts of heavy cells of a block as a table."""
    sizes = np.zeros(columns, dtype=np.int64)
    sizes[cells.columns] = np.diff(cells.offsets)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return pa.Table.from_arrays(
        [_lists(cells.codes, offsets, pa.uint32()), _lists(counts.reshape(-1), offsets * 256, pa.int64())], schema=FINER
    )


def to_finer(table: Any) -> NDArray[np.int64]:
    """int64[cells, 256] of a block."""
    return _values(table, "counts").reshape(-1, 256)


def counts_table(counts: Counts) -> Any:
    """Counts of a block as a table."""
    p = len(counts.tables)
    every = np.arange(p)
    sample, _ = counts.sample()
    return pa.Table.from_arrays(
        [
            _even(counts.tables, every, p, pa.int64()),
            _even(counts.sums, every, p, pa.int64()),
            _even(counts.density, counts.of_density, p, pa.int64()),
            _even(sample, counts.of_sample, p, pa.float32()),
        ],
        schema=COUNTS,
    )


def add_counts(counts: Counts, table: Any, target: NDArray[Any]) -> None:
    """Add a part's counts, and its sampled rows, whose outcome is `target`, to those of the whole."""
    counts.tables += _values(table, "tables").reshape(counts.tables.shape)
    counts.sums += _values(table, "sums").reshape(counts.sums.shape)
    if len(counts.of_density):
        counts.density += _values(table, "density").reshape(counts.density.shape)
    if len(counts.of_sample):
        counts.samples.append(_values(table, "sample").reshape(len(counts.of_sample), -1))
        counts.targets.append(target)


def concatenated(tables: Sequence[Any]) -> Any:
    """Tables one below the other."""
    return pa.concat_tables(list(tables)).combine_chunks()


def write_targets(place: Workplace, target: NDArray[Any]) -> Shard:
    """Write the outcome of the sampled rows of a part."""
    table = pa.Table.from_arrays([pa.array(target.astype(np.float64))], schema=TARGETS)
    return place.write(work_path("targets", place.item.key), TARGETS, [table])


def read_targets(place: Workplace, *, continuous: bool) -> list[NDArray[Any]]:
    """Read the outcome of the sampled rows of all parts: float32[n] a quantity, or int32[n] classes."""
    kind = np.float32 if continuous else np.int32
    shards = [read_shard(place.root, path) for path in place.item.args["targets"]]
    return [shard.column("target").to_numpy().astype(kind) for shard in shards]
