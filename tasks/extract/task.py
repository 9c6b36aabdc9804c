"""The extract stage: bytes to features, in a child process; or rows of a table to features."""

import atexit
import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.recipe import Features, TableSource
from schemas.tables import BINARIES, features_schema
from tasks.archives import Limits, read
from tasks.build import Build
from tasks.extract.binding import DIMENSIONS
from tasks.extract.isolation import IsolatedParser
from tasks.extract.layout import FEATURE_SETS, Groups, dimensions
from tasks.extract.parse import Extracted
from tasks.extract.similarity import PERMUTATIONS, SIGNATURES
from tasks.items import Item, Receipt, Step, Workplace
from tasks.shards import read_shard, table_path, work_path
from tasks.tablefiles import row_id
from tasks.tabular import batches, open_table, table_features

VECTORS: Any = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("vector_sha256", pa.string(), nullable=False),
        pa.field("imports_minhash", pa.binary(4 * PERMUTATIONS)),
        pa.field("strings_minhash", pa.binary(4 * PERMUTATIONS)),
    ]
)
"""Partial state by which duplicates are found: the digest of each sample's features, and MinHash signatures of its
imports and strings (little-endian uint32; null where there are too few, and for rows of a table)."""

DECLARED: Any = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("declared", pa.string()),
        pa.field("project", pa.string(), nullable=False),
    ]
)
"""Partial state: label and group of each row of a table."""


def build(build: Build) -> None:
    """Plan and compute features: an item for each batch of files, or for each range of rows."""
    build.compute(_plan_rows(build) if build.recipe.is_table else _plan_files(build))


def _plan_files(build: Build) -> list[Item]:
    options = build.recipe.features
    config: dict[str, Any] = {"features": options.model_dump(mode="json")}
    vector_bytes = 4 * dimensions(options.set)
    if build.recipe.binarizing.embedding == "structure":  # else no key of what is there moves
        config["structure"] = True
        vector_bytes += 4 * DIMENSIONS
    owners = build.receipts["ingest.assign"][0]
    locations: dict[str, str] = {}
    for receipt in build.receipts["ingest.scan"]:
        locations |= receipt.facts["locations"]
    items: list[Item] = []
    for batch in owners.facts["batches"]:
        sources = {source: locations[source] for source in batch["sources"]}
        items.append(
            build.item(
                "extract",
                "features",
                batch["title"],
                config=config,
                inputs=[batch["digest"]],
                args=config | {"owners": batch["shard"], "batch": batch["batch"], "locations": sources},
                weight=batch["bytes"] + 1,
                # One file and its parse at a time; the features of the batch, twice while they are written.
                memory=3 * batch["largest"] + 2 * vector_bytes * batch["files"] + options.memory_mib * 2**20 // 4,
            )
        )
    return items


@cache
def _parser(options: Features, structure: bool, thread: int) -> IsolatedParser:
    """One parser for a thread of a worker; it ends with the worker."""
    parser = IsolatedParser.of(options, structure=structure)
    atexit.register(parser.close)
    return parser


def features(place: Workplace) -> Receipt:
    """Parse each file of a batch; a row of `binaries` each, and of `features` for those that parsed."""
    args, key = place.item.args, place.item.key
    options = Features.model_validate(args["features"])
    groups, structure = FEATURE_SETS[options.set], bool(args.get("structure"))
    wanted = _batch(place, args["owners"], args["batch"])
    rows: list[dict[str, Any]] = []
    vectors: list[tuple[str, dict[str, Any]]] = []
    digests: list[dict[str, Any]] = []

    def readable() -> Iterator[tuple[str, bytes]]:
        for sha256, size, data, reason in _contents(wanted, args["locations"], options):
            if data is not None:
                yield sha256, data
            else:
                rows.append({"sha256": sha256} | _unread(size, reason or "the file is no longer where it was found"))

    # Files are read, unpacked and hashed while the child parses the ones before them.
    parser = _parser(options, structure, threading.get_ident())  # pyright: ignore[reportArgumentType] # a frozen model has a hash
    for sha256, extracted in parser.extract_all(readable()):
        rows.append({"sha256": sha256} | extracted.row)
        if extracted.row["parse_status"] in {"ok", "partial"}:
            vectors.append((sha256, extracted.vectors))
            digests.append(_digests(sha256, extracted, groups))
    rows.sort(key=lambda row: row["sha256"])
    vectors.sort(key=lambda pair: pair[0])
    digests.sort(key=lambda row: row["sample_id"])
    schema = features_schema(options.set, groups, DIMENSIONS if structure else 0)
    shards = [
        place.write(table_path("binaries", key), BINARIES, [pa.Table.from_pylist(rows, BINARIES)]),
        place.write(table_path("features", key), schema, [_feature_table(schema, vectors)]),
        place.write(work_path("vectors", key), VECTORS, [pa.Table.from_pylist(digests, VECTORS)]),
    ]
    statuses = Counter(row["parse_status"] for row in rows)
    return place.receipt(shards, statuses=dict(sorted(statuses.items())))


def _batch(place: Workplace, shard: str, batch: int) -> list[dict[str, Any]]:
    table = read_shard(place.root, shard)
    return [row for row in table.to_pylist() if row["batch"] == batch]


def _contents(
    wanted: list[dict[str, Any]], locations: dict[str, str], options: Features
) -> Iterator[tuple[str, int, bytes | None, str | None]]:
    """SHA-256, size, bytes and reason of each wanted file; each archive is opened once."""
    limit = options.max_file_mib * 2**20
    limits = Limits(max_member_bytes=limit)
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in wanted:
        by_source.setdefault(row["source_id"], []).append(row)
    for source, rows in by_source.items():
        left = {row["path_in_source"]: row for row in rows}
        for member in read(Path(locations[source]), list(left), limits):
            row = left.pop(member.path, None)
            if row is None:
                continue
            data, reason = member.data, member.reason
            if data is not None and hashlib.sha256(data).hexdigest() != row["sha256"]:
                data, reason = None, "changed while it was read: run again"
            yield row["sha256"], row["size"], data, reason
        for row in left.values():
            yield row["sha256"], row["size"], None, None


def _unread(size: int, reason: str) -> dict[str, Any]:
    return {
        "size": size, "parse_status": "error", "parse_error": reason, "parser": "none", "parser_version": "",
    }  # fmt: skip


def _feature_table(schema: Any, vectors: list[tuple[str, dict[str, Any]]]) -> Any:
    columns: list[Any] = [pa.array([sample for sample, _ in vectors], pa.string())]
    for group in schema.names[1:]:
        rows = [np.asarray(found[group], np.float32) for _, found in vectors]
        flat = pa.array(np.concatenate(rows) if rows else np.zeros(0, np.float32))
        columns.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(group).type))
    return pa.Table.from_arrays(columns, schema=schema)


def _digests(sample: str, extracted: Extracted, groups: Groups) -> dict[str, Any]:
    row: dict[str, Any] = {
        "sample_id": sample,
        "vector_sha256": _vector_digest([extracted.vectors[group] for group in groups]),
    }
    for name in SIGNATURES:
        text = extracted.row.get(name)
        row[name] = None if text is None else base64.b64decode(text)
    return row


def _vector_digest(parts: list[Any]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(np.ascontiguousarray(part, dtype="<f4").tobytes())
    return sha.hexdigest()


def _plan_rows(build: Build) -> list[Item]:
    source = build.recipe.sources[0]
    assert isinstance(source, TableSource)
    scan = build.receipts["ingest.scan"][0]
    path, rows, sha256 = scan.facts["path"], scan.facts["rows"], scan.facts["sha256"]
    names = table_features(open_table(Path(path)), source)
    row_bytes = 4 * max(1, len(names)) + 64
    step = max(
        1,
        min(128 * build.recipe.publishing.shard_files, build.recipe.publishing.shard_mib * 2**20 // row_bytes),
    )
    config = {"source": source.model_dump(mode="json", exclude={"path"}), "sha256": sha256}
    return [
        build.item(
            "extract",
            "rows",
            f"rows {start:,} to {min(start + step, rows):,}",
            config=config | {"start": start, "stop": min(start + step, rows)},
            inputs=[sha256],
            args=config | {"path": path, "start": start, "stop": min(start + step, rows)},
            weight=min(start + step, rows) - start,
            memory=6 * row_bytes * step + 256 * 2**20,
        )
        for start in range(0, rows, step)
    ]


def rows(place: Workplace) -> Receipt:
    """Rows of a table: an id each (its content and place), its features, its declared label and group."""
    args, key = place.item.args, place.item.key
    source = TableSource.model_validate(args["source"] | {"path": args["path"]})
    table = open_table(Path(args["path"]))
    names = table_features(table, source)
    matrices: list[Any] = []
    labels: list[str | None] = []
    groups: list[str | None] = []
    for part in batches(table, source, args["start"], args["stop"]):
        matrices.append(part.features)
        labels += part.labels
        groups += part.groups if part.groups is not None else [None] * len(part.labels)
    matrix = np.concatenate(matrices) if matrices else np.zeros((0, len(names)), np.float32)
    ids = [row_id(args["sha256"], args["start"] + n) for n in range(len(matrix))]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    schema = features_schema("table", {"table": tuple(names)})
    flat = pa.array(np.ascontiguousarray(matrix[order]).reshape(-1), pa.float32())
    vectors = pa.Table.from_arrays(
        [
            pa.array([ids[i] for i in order], pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, type=schema.field("table").type),
        ],
        schema=schema,
    )
    declared = [
        {
            "sample_id": ids[i],
            "declared": labels[i],
            "project": f"group {groups[i]}" if groups[i] is not None else ids[i],
        }
        for i in order
    ]
    digests = [{"sample_id": ids[i], "vector_sha256": _vector_digest([matrix[i]])} for i in order]
    shards = [
        place.write(table_path("features", key), schema, [vectors]),
        place.write(work_path("declared", key), DECLARED, [pa.Table.from_pylist(declared, DECLARED)]),
        place.write(work_path("vectors", key), VECTORS, [pa.Table.from_pylist(digests, VECTORS)]),
    ]
    return place.receipt(shards, rows=len(ids))


STEPS: dict[str, Step] = {"features": features, "rows": rows}
