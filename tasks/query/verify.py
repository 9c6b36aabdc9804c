"""Checking that a dataset is what its manifest says, and keeps its promises."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import DatasetError, QueryError
from schemas.tables import SPLITS
from tasks.query.dataset import MANIFEST, Dataset
from tasks.query.sql import query
from tasks.shards import read_provenance, schema_fingerprint, sha256_file


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    where: str
    problem: str


def verify(dataset: Dataset) -> Iterator[tuple[str, list[Finding]]]:
    """Check a dataset; yields each place or promise as it has been checked, with what is wrong there.

    Checks the manifest against its own digest; every shard's presence, size, SHA-256, row count and provenance;
    files nobody lists; then the promises: no group or duplicate cluster in two splits, synthetic rows in
    `train` only, each equal to what its parents and gap give.
    """
    yield MANIFEST, _manifest(dataset)
    damaged = False
    for shard in dataset.manifest.shards():
        found = _shard(dataset, shard.path, shard.sha256, shard.size, shard.rows)
        damaged = damaged or bool(found)
        yield shard.path, found
    for name, sha256 in dataset.manifest.files.items():
        path = dataset.root / name
        same = path.is_file() and sha256_file(path) == sha256
        yield name, [] if same else [Finding(name, "missing or changed since the manifest was written")]
    yield "unlisted files", _unlisted(dataset)
    if damaged:  # what a damaged shard says proves nothing
        return
    if dataset.manifest.tables.get("splits"):  # a table that was only screened has none
        yield "whole groups", _straddling(dataset)
    yield "synthetic rows", _synthetic(dataset)


def _manifest(dataset: Dataset) -> list[Finding]:
    if dataset.manifest.content_digest() == dataset.manifest.digest:
        return []
    return [Finding(MANIFEST, "its digest does not match its content: it was changed by hand")]


def _shard(dataset: Dataset, path: str, sha256: str, size: int, rows: int) -> list[Finding]:
    place = dataset.root / path
    if not place.is_file():
        return [Finding(path, "missing")]
    if place.stat().st_size != size:
        return [Finding(path, f"{place.stat().st_size} bytes, the manifest says {size}")]
    if (actual := sha256_file(place)) != sha256:
        return [Finding(path, f"changed: SHA-256 is {actual}, the manifest says {sha256}")]
    findings: list[Finding] = []
    try:
        record = read_provenance(place)
    except DatasetError as error:
        return [Finding(path, error.problem)]
    schema = pq.read_schema(place)
    if record["schema"] != schema_fingerprint(schema.remove_metadata()):
        findings.append(Finding(path, "its columns are not those its provenance names"))
    if not pq.read_metadata(place).num_rows == rows == record["rows"]:
        findings.append(Finding(path, f"its row count is not the manifest's {rows}"))
    return findings


def _unlisted(dataset: Dataset) -> list[Finding]:
    listed = {shard.path for shard in dataset.manifest.shards()}
    findings: list[Finding] = []
    for folder in ("tables", "fitted"):
        for place in sorted((dataset.root / folder).rglob("*")):
            relative = place.relative_to(dataset.root).as_posix()
            if place.is_file() and relative not in listed:
                findings.append(Finding(relative, "not in the manifest (a reader that globs would take it)"))
    return findings


def _straddling(dataset: Dataset) -> list[Finding]:
    findings: list[Finding] = []
    for column in ("group_id", "cluster_id"):
        sql = (
            f"SELECT {column}, string_agg(DISTINCT split, ', ' ORDER BY split) FROM splits "
            f"WHERE split IS NOT NULL GROUP BY {column} HAVING count(DISTINCT split) > 1 ORDER BY ALL LIMIT 20"
        )
        for row in query(dataset, sql).to_pylist():
            key, where = row.values()
            findings.append(Finding("splits", f"{column} {key} stands in {where}: train leaks into evaluation"))
    return findings


def _synthetic(dataset: Dataset) -> list[Finding]:
    """Recompute each synthetic row, shard by shard, from its two parents."""
    findings: list[Finding] = []
    for split in SPLITS[1:]:
        if dataset.manifest.tables.get(split):
            count = query(dataset, f"SELECT count(*) AS n FROM {split} WHERE is_synthetic").to_pylist()[0]["n"]
            if count:
                findings.append(Finding(split, f"{count} synthetic rows outside train"))
    if not dataset.manifest.tables.get("train"):
        return findings
    fixed = {"sample_id", "label", "is_synthetic", "parent_a", "parent_b", "gap"}
    try:
        names = [n for n in pq.read_schema(dataset.paths("train")[0]).names if n not in fixed]
    except OSError as error:
        raise QueryError(f"train cannot be read: {error}", "run the recipe again") from error
    for shard in dataset.manifest.tables["train"]:
        table = pq.ParquetFile(dataset.root / shard.path).read()
        synthetic = table.filter(table.column("is_synthetic"))
        if not synthetic.num_rows:
            continue
        ids = sorted({*synthetic.column("parent_a").to_pylist(), *synthetic.column("parent_b").to_pylist()} - {None})
        parents = _rows_by_id(dataset, ids, names)
        gaps = synthetic.column("gap").to_pylist()
        values = _matrix(synthetic, names)
        labels = synthetic.column("label").to_pylist()
        for i, (sample, a, b) in enumerate(
            zip(*(synthetic.column(n).to_pylist() for n in ("sample_id", "parent_a", "parent_b")), strict=True)
        ):
            if a not in parents or b not in parents:
                findings.append(Finding(shard.path, f"row {sample}: a parent is not a real row of train"))
                continue
            (label_a, x_a), (label_b, x_b) = parents[a], parents[b]
            wide_a, wide_b = x_a.astype(np.float64), x_b.astype(np.float64)
            expected = (wide_a + gaps[i] * (wide_b - wide_a)).astype(np.float32)
            if not (label_a == label_b == labels[i]) or not np.array_equal(expected, values[i], equal_nan=True):
                findings.append(Finding(shard.path, f"row {sample}: not what its parents and gap give"))
    return findings


def _matrix(table: Any, names: list[str]) -> NDArray[np.float32]:
    columns = [table.column(n).to_numpy(zero_copy_only=False).astype(np.float32) for n in names]
    return np.stack(columns, axis=1) if columns else np.zeros((table.num_rows, 0), np.float32)


def _rows_by_id(dataset: Dataset, ids: list[str], names: list[str]) -> dict[str, tuple[str, NDArray[np.float32]]]:
    """Label and values of real training rows, by id."""
    rows: dict[str, tuple[str, NDArray[np.float32]]] = {}
    wanted = set(ids)
    for path in dataset.paths("train"):
        for batch in pq.ParquetFile(path).iter_batches():
            keep = [
                i
                for i, (sample, synthetic) in enumerate(
                    zip(
                        batch.column("sample_id").to_pylist(),
                        batch.column("is_synthetic").to_pylist(),
                        strict=True,
                    )
                )
                if sample in wanted and not synthetic
            ]
            if keep:
                taken = batch.take(keep)
                values = _matrix(taken, names)
                for i, (sample, label) in enumerate(
                    zip(taken.column("sample_id").to_pylist(), taken.column("label").to_pylist(), strict=True)
                ):
                    rows[sample] = (label, values[i])
    return rows
