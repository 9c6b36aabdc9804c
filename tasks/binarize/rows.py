"""Rows that an embedding is made of: the selected columns of examples, or the header trees of the same samples."""

import hashlib
import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.build import Build
from tasks.shards import Shard, read_shard

Floats = NDArray[np.float32]


class Part:
    """One shard's rows of one split, by places that cross to a worker as JSON."""

    def __init__(self, shards: list[Shard], split: str) -> None:
        self.spec = {shard.table: shard.path for shard in shards} | {"split": split}
        self.digests = [shard.sha256 for shard in shards]
        self.rows = max(shard.rows for shard in shards)


def parts(build: Build, split: str) -> list[Part]:
    """The real rows of a split, part by part."""
    if build.recipe.binarizing.embedding != "structure":
        return [Part([shard], split) for shard in build.shards("screen.apply", split)]
    features, labels, splits = (
        build.shards(step, table)
        for step, table in (("extract.features", "features"), ("label.labels", "labels"), ("split.splits", "splits"))
    )
    # Shards of the three stand side by side, row for row.
    return [Part(list(three), split) for three in zip(features, labels, splits, strict=True)]


def read_part(root: Path, spec: dict[str, str]) -> tuple[list[str], Floats]:
    """Ids of a part's rows, and float32[n, p]."""
    split = spec["split"]
    if "features" not in spec:
        table = read_shard(root, spec[split])
        return table.column("sample_id").to_pylist(), feature_matrix(table)
    table = read_shard(root, spec["features"], ["sample_id", "structure"])
    labels = read_shard(root, spec["labels"], ["label"]).column(0).to_pylist()
    splits = read_shard(root, spec["splits"], ["split"]).column(0).to_pylist()
    rows = [i for i, (of, label) in enumerate(zip(splits, labels, strict=True)) if of == split and label]
    ids = table.column("sample_id").to_pylist()
    return [ids[i] for i in rows], structures(table)[rows]


def structures(table: Any) -> Floats:
    """The embedded header trees of a features table: float32[n, d]."""
    column = table.column("structure").combine_chunks()
    width = column.type.list_size
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def feature_matrix(table: Any) -> Floats:
    """The feature columns of an examples table, float32[n, p]."""
    fixed = {"sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap"}
    names = [name for name in table.schema.names if name not in fixed]
    return np.stack([table.column(n).to_numpy().astype(np.float32) for n in names], axis=1)


def sample_rows(
    root: Path, specs: Iterable[dict[str, str]], count: int, seed: int, use: str
) -> tuple[list[str], Floats]:
    """The `count` rows with the smallest keyed hash of their id, in that order: ids and float32[n, p].

    The sample is the same however rows are cut into shards.
    """
    kept: list[tuple[int, str, Floats]] = []  # a heap, the largest key first
    for spec in specs:
        for sample, row in zip(*read_part(root, spec), strict=True):
            key = int.from_bytes(hashlib.sha256(f"{seed}\0{use}\0{sample}".encode()).digest()[:8])
            entry = (-key, sample, row)
            if len(kept) < count:
                heapq.heappush(kept, entry)
            elif entry[0] > kept[0][0]:
                heapq.heapreplace(kept, entry)
    kept.sort(key=lambda entry: (-entry[0], entry[1]))
    ids = [sample for _, sample, _ in kept]
    return ids, np.stack([row for _, _, row in kept]) if kept else np.zeros((0, 0), np.float32)
