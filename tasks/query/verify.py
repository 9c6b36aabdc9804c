"""Checking that a dataset is what its manifest says, and keeps its promises."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST
from schemas.statement import ENVELOPE, STATEMENT
from tasks.query.attest import is_current, signature_problems, statement_problems
from tasks.query.dataset import Dataset
from tasks.query.ordering import order_problems
from tasks.query.sql import query
from tasks.query.synthetic import wrong_rows
from tasks.shards import read_provenance, schema_fingerprint, sha256_file


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    where: str
    problem: str


def verify(dataset: Dataset, key: bytes | None = None) -> Iterator[tuple[str, list[Finding]]]:
    """Check a dataset; yields each place or promise as it has been checked, with what is wrong there.

    Checks the manifest against its own digest; every shard's presence, size, SHA-256, row count and provenance;
    files nobody lists; then the promises: no group or duplicate cluster in two splits, synthetic rows in
    `train` only, each equal to what its parents and gap give. The order to train in must be the one that is
    committed to, where it is no secret. The statement of provenance must describe this manifest; and be signed by
    `key`, a public key in PEM, if one is given.
    """
    yield MANIFEST, _manifest(dataset)
    damaged = False
    for shard in dataset.manifest.shards():
        found = _shard(dataset, shard.path, shard.sha256, shard.size, shard.rows)
        damaged = damaged or bool(found)
        yield shard.path, found
    for name, sha256 in dataset.manifest.files.items():
        path = dataset.place(name)
        same = path.is_file() and sha256_file(path) == sha256
        yield name, [] if same else [Finding(name, "missing or changed since the manifest was written")]
    if is_current(dataset) and (path := dataset.place(STATEMENT)).is_file():  # each look asks the store
        yield STATEMENT, [Finding(STATEMENT, problem) for problem in statement_problems(dataset, path.read_bytes())]
    if key is not None:
        yield ENVELOPE, [Finding(ENVELOPE, problem) for problem in signature_problems(dataset, key)]
    yield "unlisted files", _unlisted(dataset)
    if damaged:  # what a damaged shard says proves nothing
        return
    if dataset.manifest.tables.get("splits"):  # a table that was only screened has none
        yield "whole groups", _straddling(dataset)
    yield "training order", [Finding(MANIFEST, problem) for problem in order_problems(dataset)]
    yield "synthetic rows", [Finding(where, problem) for where, problem in wrong_rows(dataset)]


def _manifest(dataset: Dataset) -> list[Finding]:
    if dataset.manifest.content_digest() == dataset.manifest.digest:
        return []
    return [Finding(MANIFEST, "its digest does not match its content: it was changed by hand")]


def _shard(dataset: Dataset, path: str, sha256: str, size: int, rows: int) -> list[Finding]:
    place = dataset.place(path)
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
