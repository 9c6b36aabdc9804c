"""The ingest stage: open every source, hash every candidate file, find what is the same file twice."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import SourceError
from schemas.provenance import digest
from schemas.recipe import DebianSource, InstalledSource, Licences, PypiSource, Source
from schemas.tables import OBSERVATIONS, SOURCES
from tasks.archives import Limits
from tasks.build import Build
from tasks.duck import connection, view
from tasks.ingest.allow import permitted
from tasks.ingest.candidates import describe, scan
from tasks.ingest.index import IndexUnreachableError
from tasks.ingest.origin import Origin, is_cached, obtain, resolve
from tasks.items import Item, Receipt, Step, Workplace
from tasks.shards import Shard, table_path, work_path
from tasks.tabular import open_table

ORIGINS_PER_ITEM = 4
"""Archives that one item opens, so that two workers have about a dozen items in the demo."""

OWNERS: Any = pa.schema(
    [
        pa.field("batch", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("path_in_source", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
    ]
)
"""Partial state: which observation of a file is the one that is extracted, and in which batch."""


def build(build: Build) -> None:
    """Plan and compute observations, sources, and batches of distinct files."""
    # An item is of one source: another source in the recipe leaves it, and the batches that are cut from it, as it is.
    build.compute([item for source in build.recipe.sources for item in _plan_scans(build, _origins(build, source))])
    scans = build.receipts["ingest.scan"]
    observations = build.shards("ingest.scan", "observations")
    found = build.shards("ingest.scan", "found_sources")
    publishing = build.recipe.publishing
    config = {
        "bytes": publishing.shard_mib * 2**20,
        "files": publishing.shard_files,
        "licences": build.recipe.licences.model_dump(mode="json"),
    }
    build.compute(
        [
            build.item(
                "ingest",
                "assign",
                "distinct files",
                config=config,
                inputs=[s.sha256 for s in (*found, *observations)],
                args=config | {"sources": [s.path for s in found], "observations": [s.path for s in observations]},
                weight=len(scans),
                memory=1 << 30,
            )
        ]
    )


def _origins(build: Build, source: Source) -> list[Origin]:
    """Origins of a source, or of its fallback when an archive is missing and no index is in reach."""
    try:
        origins = resolve(source, build.base, build.cache, build.dry)
        # That no index is in reach is better known at once.
        if isinstance(source, PypiSource | DebianSource) and not build.dry:
            missing = [origin for origin in origins if not is_cached(origin, build.cache)]
            if missing:
                obtain(missing[0], build.cache)
    except IndexUnreachableError as error:
        if not isinstance(source, PypiSource) or source.fallback == "none":
            raise
        build.notes.append(
            f"sources: {error.problem}. The native modules installed in this environment were used instead, "
            "so the dataset is another than with the index"
        )
        return resolve(InstalledSource(kind="installed", members=source.members), build.base)
    return origins


def _plan_scans(build: Build, origins: Sequence[Origin]) -> list[Item]:
    limit = build.recipe.features.max_file_mib * 2**20
    items: list[Item] = []
    step = 1 if any(origin.part for origin in origins) else ORIGINS_PER_ITEM
    for start in range(0, len(origins), step):
        part = origins[start : start + step]
        # Where an origin lies is not what it is: locations are arguments and not part of the key.
        config = {
            "origins": [{k: v for k, v in o.to_json().items() if k != "location"} for o in part],
            "max_file": limit,
        }
        title = part[0].title
        items.append(
            build.item(
                "ingest",
                "scan",
                title if len(part) == 1 else f"{title} and {len(part) - 1} more",
                config=config,
                inputs=[o.sha256 for o in part],
                args={
                    "origins": [o.to_json() for o in part],
                    "max_file": limit,
                    "cache": str(build.cache.absolute()),
                    "is_table": build.recipe.is_table,
                },
                weight=len(part),
                memory=2 * limit // 4 + 256 * 2**20,
            )
        )
    return items


def scan_origins(place: Workplace) -> Receipt:
    """Open some origins: a row of `sources` each, a row of `observations` for each candidate or refused file."""
    args, key = place.item.args, place.item.key
    limits = Limits(max_member_bytes=args["max_file"])
    sources: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {"locations": {}}
    for value in args["origins"]:
        origin = Origin.from_json(value)
        try:
            path, url = obtain(origin, Path(args["cache"]))
        except SourceError as error:
            sources.append(_failed(origin, error))
            facts["try_again"] = True
            continue
        sources.append(describe(origin, path, url))
        facts["locations"][origin.source_id] = str(path)
        if args["is_table"]:
            table = open_table(path)
            facts |= {"path": str(path), "rows": table.rows, "sha256": origin.sha256}
        else:
            rows += _observe(origin, path, limits)
    rows.sort(key=lambda row: (row["source_id"], row["path_in_source"], row["sha256"] or "", row["reason"] or ""))
    shards = [place.write(work_path("found_sources", key), SOURCES, [pa.Table.from_pylist(sources, SOURCES)])]
    if not args["is_table"]:
        table = pa.Table.from_pylist(rows, OBSERVATIONS)
        shards.append(place.write(table_path("observations", key), OBSERVATIONS, [table]))
    return place.receipt(shards, **facts)


def _failed(origin: Origin, error: SourceError) -> dict[str, Any]:
    row = dict.fromkeys(SOURCES.names)
    return row | {
        "source_id": origin.source_id, "kind": origin.kind, "name": origin.name, "version": origin.version,
        "filename": origin.filename, "archive_sha256": origin.sha256, "status": "failed", "reason": error.problem,
    }  # fmt: skip


def _observe(origin: Origin, path: Path, limits: Limits) -> Iterator[dict[str, Any]]:
    for member, project in scan(origin, path, limits):
        data = member.data
        yield {
            "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
            "source_id": origin.source_id,
            # A name that is not text is kept readable: its odd bytes are escaped.
            "path_in_source": member.path.encode("utf-8", "backslashreplace").decode() or "(the archive itself)",
            "project": project.encode("utf-8", "backslashreplace").decode(),
            "size": None if data is None else len(data),
            "status": "ok" if data is not None else "refused",
            "reason": member.reason,
        }


def assign(place: Workplace) -> Receipt:
    """One table of sources; and of each distinct file, the first observation, cut into batches for extraction.

    A file's batch depends on the scans up to its own, so that a source added at the end moves nothing.
    """
    args, key = place.item.args, place.item.key
    batches: list[dict[str, Any]] = []
    shards: list[Shard] = []
    with connection(place.root) as database:
        view(database, "found", place.root, args["sources"])
        sources = database.sql(
            "SELECT * EXCLUDE (shard) FROM found QUALIFY row_number() OVER (PARTITION BY source_id ORDER BY shard) = 1 "
            "ORDER BY kind, name, version, filename, source_id"
        ).to_arrow_table()
        rows = [_filtered(row, Licences.model_validate(args["licences"])) for row in sources.to_pylist()]
        table = pa.Table.from_pylist(rows, SOURCES)
        shards.append(place.write(table_path("sources", key), SOURCES, [table]))
        database.register("allowed", table.filter(pc.field("status") == "ok").select(["source_id"]))
        titles: dict[str, str] = {}
        if args["observations"]:
            view(database, "o", place.root, args["observations"])
            database.execute(
                "CREATE TABLE owners AS SELECT sha256, source_id, path_in_source, size, shard FROM o "
                "SEMI JOIN allowed USING (source_id) WHERE sha256 IS NOT NULL QUALIFY row_number() OVER "
                "(PARTITION BY sha256 ORDER BY shard, source_id, path_in_source) = 1"
            )
            titles = dict(database.execute("SELECT source_id, coalesce(filename, name) FROM found").fetchall())
            found = database.execute(
                "SELECT shard, sha256, source_id, path_in_source, size FROM owners "
                "ORDER BY shard, source_id, path_in_source"
            )
            for part, rows in itertools.groupby(iter(found.fetchone, None), key=itemgetter(0)):
                numbered = list(_batched([row[1:] for row in rows], args["bytes"], args["files"]))
                table = pa.Table.from_pylist([dict(zip(OWNERS.names, row, strict=True)) for row in numbered], OWNERS)
                shard = place.write(work_path("owners", key, part), OWNERS, [table])
                shards.append(shard)
                batches += _describe_batches(shard.path, numbered, titles)
    return place.receipt(shards, batches=batches)


def _filtered(source: dict[str, Any], licences: Licences) -> dict[str, Any]:
    """A row of `sources`, excluded when the recipe does not allow its licence: none of its files is extracted.

    A file that another source has under an allowed licence stays, as that source's.
    """
    if not licences.allow or source["status"] != "ok":
        return source
    licence = source["licence"]
    allowed = licences.unknown == "keep" if licence is None else permitted(licence, licences.allow)
    reason = f"licence not allowed: {licence}" if licence is not None else "licence unknown"
    return source if allowed else source | {"status": "excluded", "reason": reason}


Row = tuple[str, str, str, int]


def _batched(rows: Sequence[Row], most_bytes: int, most_files: int) -> Iterator[tuple[int, str, str, str, int]]:
    """Number the rows by batch: a batch ends before it grows beyond a limit."""
    batch, size, files = 0, 0, 0
    for row in rows:
        if files and (size + row[3] > most_bytes or files == most_files):
            batch, size, files = batch + 1, 0, 0
        size, files = size + row[3], files + 1
        yield (batch, *row)


def _describe_batches(
    shard: str, rows: Sequence[tuple[int, str, str, str, int]], titles: dict[str, str]
) -> list[dict[str, Any]]:
    batches: dict[int, list[tuple[int, str, str, str, int]]] = {}
    for row in rows:
        batches.setdefault(row[0], []).append(row)
    return [
        {
            "shard": shard,
            "batch": batch,
            "title": titles[part[0][2]],
            "files": len(part),
            "bytes": sum(row[4] for row in part),
            "largest": max(row[4] for row in part),
            "sources": sorted({row[2] for row in part}),
            # What is extracted depends on the bytes alone, wherever they were found.
            "digest": digest(sorted(row[1] for row in part)),
        }
        for batch, part in batches.items()
    ]


STEPS: dict[str, Step] = {"scan": scan_origins, "assign": assign}
