"""Work items, what doing one gives back, and how one is done."""

import importlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from schemas.provenance import Provenance
from tasks.shards import Shard, write_shard


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of work that can be done anywhere the dataset's folder is in reach.

    It crosses to a worker, so it is small and holds only JSON values; data stays in shards.
    """

    stage: str
    step: str
    key: str
    title: str
    args: dict[str, Any]
    provenance: Provenance
    weight: int = 1
    """Size for progress and estimates, in the step's unit."""
    memory: int = 0
    """Planned peak memory in bytes."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished item says: its shards and small facts, never data."""

    stage: str
    step: str
    key: str
    shards: tuple[Shard, ...]
    facts: dict[str, Any] = field(default_factory=lambda: {})
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for the journal."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Receipt":
        """Back from the journal."""
        record: dict[str, Any] = value | {"shards": tuple(Shard(**shard) for shard in value["shards"])}
        return Receipt(**record)

    def shard(self, table: str) -> Shard:
        """The shard of one table; for steps that write one of each."""
        for shard in self.shards:
            if shard.table == table:
                return shard
        raise KeyError(table)

    def all_of(self, table: str) -> tuple[Shard, ...]:
        """The shards of one table, in order."""
        return tuple(shard for shard in self.shards if shard.table == table)


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where a worker reads and writes while it does one item."""

    root: Path
    item: Item

    def write(
        self,
        path: str,
        schema: Any,
        batches: Iterable[Any],
        row_group_rows: int | None = None,
        *,
        raw: bool | Collection[str] = False,
        grouped: bool = False,
    ) -> Shard:
        """Write one shard of this item; it carries the item's provenance."""
        return write_shard(
            self.root,
            path,
            schema,
            batches,
            self.item.provenance,
            row_group_rows=row_group_rows or self.item.args.get("row_group_rows", 65_536),
            zstd_level=self.item.args.get("zstd_level", 3),
            raw=raw,
            grouped=grouped,
        )

    def receipt(self, shards: Sequence[Shard], **facts: Any) -> Receipt:
        """The receipt of this item."""
        return Receipt(self.item.stage, self.item.step, self.item.key, tuple(shards), facts)


Step = Callable[[Workplace], Receipt]

BRIEF_S = 0.1
"""Seconds after which no further item of a batch is begun."""


def perform(root: str, item: Item) -> Receipt:
    """Do one item, on whichever machine this is called.

    Linear algebra runs on one thread: sums then have one order, and workers do not crowd each other.
    """
    start = time.perf_counter()
    steps: dict[str, Step] = importlib.import_module(f"tasks.{item.stage}.task").STEPS
    with threadpool_limits(limits=1):
        receipt = steps[item.step](Workplace(Path(root), item))
    return Receipt(receipt.stage, receipt.step, receipt.key, receipt.shards, receipt.facts, time.perf_counter() - start)


def perform_some(root: str, items: Sequence[Item]) -> list[Receipt]:
    """Do the first of a batch of items and, as long as that takes no time worth a word, those behind it.

    Where an item fails that is not the first, those before it are given back: it will come again, as the first.
    """
    start = time.perf_counter()
    done = [perform(root, items[0])]
    for item in items[1:]:
        if time.perf_counter() - start > BRIEF_S:
            break
        try:
            done.append(perform(root, item))
        except Exception:
            break
    return done
