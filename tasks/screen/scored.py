"""Everything about a feature but what needs the others: the partial state that a block of columns ends in."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.screen.measure import KINDS, Counts, evaluate

FLOATS = (
    "score", "mi", "mi_corrected", "g", "p_value", "p_permutation", "mi_binned", "mi_kde", "mi_knn", "mi_pearson",
    "pearson",
)  # fmt: skip

SCORED: Any = pa.schema(
    [
        pa.field("feature", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("missing", pa.int64(), nullable=False),
        pa.field("infinite", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in FLOATS),
        pa.field("dof", pa.int32()),
        pa.field("estimator", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("minimum", pa.float64()),
        pa.field("maximum", pa.float64()),
        pa.field("edges", pa.list_(pa.float32()), nullable=False),
        pa.field("table", pa.list_(pa.int64()), nullable=False),
        pa.field("subsamples", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Scores, bins and contingency table of a feature, and its information in each subsample of the rows."""


def name_keys(names: Sequence[str]) -> NDArray[np.uint64]:
    """uint64[p]: a number of each name, the same everywhere."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def nullable(values: NDArray[np.float64]) -> Any:
    """Floats whose NaN are nulls."""
    return pa.array(values, pa.float64(), mask=np.isnan(values))


def floats(table: Any, name: str) -> NDArray[np.float64]:
    """And back: a column as float64[p], NaN for null."""
    return table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)


def scored_table(counts: Counts, names: Sequence[str], groups: Sequence[str], seed: int) -> Any:
    """Score a block of columns all of whose rows were counted: a table of schema SCORED."""
    p, found = len(names), counts.ranges
    scored = evaluate(counts, name_keys(names), seed)
    tables = counts.tables.sum(axis=1)
    subsamples = scored.subsamples
    steps = np.arange(p + 1)
    return pa.Table.from_arrays(
        [
            pa.array(names, pa.string()),
            pa.array(groups, pa.string()),
            pa.array([KINDS[k] for k in found.kind], pa.string()),
            pa.array(scored.n),
            pa.array(found.missing),
            pa.array(found.infinite),
            *(nullable(scored.values[name]) for name in FLOATS),
            pa.array(scored.dof, pa.int32(), mask=scored.n == 0),
            pa.array(scored.estimator, pa.string()),
            pa.array(scored.reason, pa.string()),
            nullable(found.low),
            nullable(found.high),
            pa.ListArray.from_arrays(pa.array(found.edges.offsets, pa.int32()), pa.array(found.edges.values)),
            pa.ListArray.from_arrays(
                pa.array(steps * (tables.shape[1] * tables.shape[2]), pa.int32()), pa.array(tables.reshape(-1))
            ),
            pa.ListArray.from_arrays(
                pa.array(steps * subsamples.shape[1], pa.int32()), pa.array(subsamples.reshape(-1), pa.float64())
            ),
        ],
        schema=SCORED,
    )
