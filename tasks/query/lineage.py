"""What a shard was computed from, all the way back."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tasks.journal import Journal
from tasks.query.dataset import Dataset
from tasks.query.sql import query
from tasks.shards import STATE, read_provenance

SOURCE = ("source_id", "kind", "name", "version", "filename", "url", "archive_sha256", "licence")


@dataclass(frozen=True, slots=True)
class Lineage:
    """The shards and the sources behind a row that was learned.

    Attributes
    ----------
    shards
        Published shards that it was computed from, directly or through others.
    states
        How many partial states lay between them.
    outside
        SHA-256 of what was read and is no shard: archives, tables, contents of files; and of partial states that
        are no longer kept.
    sources
        Sources of the rows of `train`: nothing is learned from others.
    """

    shards: tuple[str, ...]
    states: int
    outside: tuple[str, ...]
    sources: tuple[dict[str, Any], ...]


def lineage(dataset: Dataset, shards: Iterable[str]) -> Lineage:
    """All that some shards were computed from."""
    published = {shard.sha256: shard.path for shard in dataset.manifest.shards()}
    # A journal can be written by hand: it leads nowhere else.
    kept = (dataset.root / STATE).resolve()
    with Journal(dataset.root, write=False) as journal:
        states = {
            s.sha256: s.path
            for receipt in journal.receipts()
            for s in receipt.shards
            if s.sha256 not in published and (dataset.root / s.path).resolve().is_relative_to(kept)
        }
    reached: dict[str, str] = {}
    outside: set[str] = set()
    waiting = list(shards)
    while waiting:
        for sha256 in read_provenance(dataset.place(waiting.pop()))["inputs"]:
            place = published.get(sha256) or states.get(sha256)
            if place is None or (sha256 in states and not (dataset.root / place).is_file()):
                outside.add(sha256)
            elif sha256 not in reached:
                reached[sha256] = place
                waiting.append(place)
    return Lineage(
        shards=tuple(sorted(place for sha256, place in reached.items() if sha256 in published)),
        states=sum(sha256 not in published for sha256 in reached),
        outside=tuple(sorted(outside)),
        sources=_sources(dataset),
    )


def _sources(dataset: Dataset) -> tuple[dict[str, Any], ...]:
    tables = dataset.manifest.tables
    if not tables.get("sources"):
        recipe = dataset.manifest.recipe.get("sources", ())
        return tuple({"kind": source.get("kind"), "path": source.get("path")} for source in recipe)
    sql = f"SELECT {', '.join(SOURCE)} FROM sources WHERE status = 'ok'"
    if tables.get("observations") and tables.get("splits"):
        sql += (
            " AND source_id IN (SELECT source_id FROM observations JOIN splits ON sha256 = sample_id "
            "WHERE split = 'train')"
        )
    rows = query(dataset, f"{sql} ORDER BY ALL").to_pylist()
    return tuple({name: value for name, value in row.items() if value is not None} for row in rows)
