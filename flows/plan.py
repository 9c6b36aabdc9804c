"""What a run would compute and why, without computing it; needs neither Prefect nor Dask."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.stages import stages_of
from flows.stores import folder_of
from schemas.errors import DatasetError
from schemas.provenance import changes_since
from schemas.recipe import Recipe
from tasks.build import Build, InProcess, NotThere, StepCount
from tasks.ingest.cache import default_cache
from tasks.items import Item, Receipt
from tasks.journal import Journal
from tasks.shards import read_provenance

LOOKED_AT = 500
"""Most earlier items of a step that are held against the new ones."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a run beforehand."""

    counts: tuple[StepCount, ...]
    """As far as can be known: when work is missing, the last entry is the first step with work."""
    why: Mapping[str, int]
    """Why that step has work: reasons, and how many items each concerns."""
    later: tuple[str, ...]
    """Stages whose work depends on what that step gives."""

    @property
    def finished(self) -> bool:
        """Whether everything is there."""
        return all(count.items == count.present for count in self.counts)


def plan_dataset(recipe: Recipe, base: Path, output: str | Path, cache: Path | None = None) -> Plan:
    """What a run of a recipe would compute, and why.

    Parameters
    ----------
    base
        Folder that relative paths in the recipe start from.
    output
        Folder of the dataset, or its URL; nothing is written there.
    cache
        Folder of downloaded archives.
    """
    kept = default_cache() if cache is None else cache
    root = folder_of(str(output), kept)
    later: tuple[str, ...] = ()
    with Journal(root, write=False) as journal:
        build = Build(
            recipe=recipe,
            base=base,
            root=root,
            cache=kept,
            executor=InProcess(),
            journal=journal,
            dry=True,
        )
        stages = stages_of(recipe)
        for number, (_, stage) in enumerate(stages):
            try:
                stage(build)
            except NotThere:
                later = tuple(name for name, _ in stages[number + 1 :] if not name.startswith("check-"))
                break
        why = _why(build.missing, journal.receipts(), root)
    return Plan(tuple(build.counts), why, later)


def _why(missing: Sequence[Item], receipts: Iterable[Receipt], root: Path) -> dict[str, int]:
    """Reasons for which items of one step are to be computed, the commonest first."""
    if not missing:
        return {}
    stage, step = missing[0].stage, missing[0].step
    earlier = [receipt for receipt in receipts if (receipt.stage, receipt.step) == (stage, step)]
    done = {receipt.key for receipt in earlier}
    records = _records(earlier, root)
    found = Counter(
        "its shard is missing or damaged" if item.key in done else _reason(asdict(item.provenance), records)
        for item in missing
    )
    return dict(found.most_common())


def _records(receipts: Sequence[Receipt], root: Path) -> list[dict[str, Any]]:
    """What earlier items of a step depended on."""
    records: list[dict[str, Any]] = []
    for receipt in receipts[:LOOKED_AT]:
        for shard in receipt.shards[:1]:
            try:
                records.append(read_provenance(root / shard.path))
            except DatasetError:
                continue
    return records


def _reason(record: dict[str, Any], earlier: Sequence[dict[str, Any]]) -> str:
    """What sets an item apart from the earlier one that is most like it."""
    if not earlier:
        return "never computed here"
    changes = min((changes_since(before, record) for before in earlier), key=len)
    known = {sha256 for before in earlier for sha256 in before["inputs"]}
    if "inputs" in changes and set(changes) <= {"inputs", "config"} and known.isdisjoint(record["inputs"]):
        return "new or changed inputs"  # of which the configuration says the names
    return "; ".join(f"{part}: {text}" for part, text in changes.items()) or "never finished"
