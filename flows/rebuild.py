"""Some shards of a dataset computed again from their inputs, and held against it, byte for byte."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flows.apply import recipe_of
from flows.stages import Stage, stages_of
from schemas.errors import DatasetError
from schemas.provenance import changes_since
from schemas.recipe import Recipe
from tasks.build import Build, InProcess, NotThere
from tasks.ingest.origin import Origin, is_cached
from tasks.items import Item, Receipt, perform
from tasks.journal import Journal
from tasks.query.dataset import Dataset
from tasks.query.verify import Finding
from tasks.shards import STATE, read_provenance


@dataclass
class Planned(Build):
    """A dry build that keeps the items it planned."""

    items: dict[str, Item] = field(default_factory=lambda: {})
    last: Item | None = None

    def compute(self, items: Sequence[Item]) -> Sequence[Receipt]:
        """Receipts that are there; the items are kept."""
        self.items |= {item.key: item for item in items}
        for item in items:
            self.last = item
            if self.journal.get(item.key) is None:
                break
        return super().compute(items)


def rebuild(
    dataset: Dataset, count: int, base: Path, cache: Path, seed: int = 0
) -> Iterator[tuple[str, list[Finding]]]:
    """Compute some shards again, in a temporary folder; yields each with what is wrong with it.

    Parameters
    ----------
    count
        How many shards, drawn by `seed`.
    base, cache
        Folder that relative paths in the recipe start from; folder of downloaded archives. Nothing is downloaded.

    Raises
    ------
    DatasetError
        Inputs are gone, or code, libraries or recipe are not those that made the dataset.
    """
    with Journal(dataset.root, write=False) as journal:
        recipe = recipe_of(dataset)
        build = Planned(recipe, base, dataset.root, cache, InProcess(), journal, dry=True)
        try:
            for _, stage in _stages(dataset, recipe):
                stage(build)
        except NotThere as error:
            raise _not_there(dataset, build, str(error)) from error
        made = {
            shard.path: receipt for found in build.receipts.values() for receipt in found for shard in receipt.shards
        }
        sums = {shard.path: shard.sha256 for shard in dataset.manifest.shards()}
        again: dict[str, dict[str, str]] = {}
        paths = sorted(sums)
        generator = np.random.Generator(np.random.Philox(key=seed))
        for number in sorted(generator.permutation(len(paths))[:count]):
            path = paths[number]
            if path not in made:
                yield path, [Finding(path, "its recipe, run here, makes no such shard")]
                continue
            item = build.items[made[path].key]
            if item.key not in again:  # an item writes several shards
                again[item.key] = _again(dataset, item, made[path], path, cache)
            sha256 = again[item.key].get(path)
            wrong = f"computed again, its SHA-256 is {sha256}; the manifest says {sums[path]}"
            yield path, [] if sha256 == sums[path] else [Finding(path, wrong)]


def _stages(dataset: Dataset, recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that made a dataset: all, or those of a table that was only screened or rebalanced."""
    if not recipe.is_table or "sources" in dataset.manifest.tables:
        return stages_of(recipe)
    return stages_of(recipe, "rebalance" if "train" in dataset.manifest.tables else "screen")


def _again(dataset: Dataset, item: Item, before: Receipt, path: str, cache: Path) -> dict[str, str]:
    """Do one item again where all is as in the dataset but what it writes: the SHA-256 of each shard."""
    if missing := _gone(item, cache):
        raise DatasetError(
            f"{path}: cannot be computed again: its input {missing} is gone",
            "run the recipe again, which fetches what is missing (--cache names the folder of archives), then rebuild",
        )
    written = {shard.path for shard in before.shards}
    with tempfile.TemporaryDirectory(prefix="binmill-rebuild-") as folder:
        root = Path(folder)
        for part in ("tables", "fitted", f"{STATE}/work"):
            for place in (dataset.root / part).rglob("*"):
                relative = place.relative_to(dataset.root)
                if place.is_file() and relative.as_posix() not in written:
                    (root / relative).parent.mkdir(parents=True, exist_ok=True)
                    (root / relative).symlink_to(place.resolve())
        return {shard.path: shard.sha256 for shard in perform(folder, item).shards}


def _gone(item: Item, cache: Path) -> str | None:
    """An input outside the dataset that is no longer there."""
    origins = [Origin.from_json(value) for value in item.args.get("origins", ())]
    for origin in origins:
        if not is_cached(origin, cache) or not _is_there(origin.location):
            return origin.filename or origin.name
    places: list[Any] = [*item.args.get("locations", {}).values(), item.args.get("path")]
    return next((str(place) for place in places if not _is_there(place)), None)


def _is_there(place: Any) -> bool:
    """Whether a file or folder is there; a commit is named by its repository's folder and its hash."""
    return place is None or Path(place).exists() or (Path(place).parent / "HEAD").exists()


def _not_there(dataset: Dataset, build: Planned, step: str) -> DatasetError:
    """Why a dataset cannot be planned here."""
    item = build.last
    for shard in dataset.manifest.shards() if item is not None else ():
        record = read_provenance(dataset.place(shard.path))
        if item is None or (record["stage"], record["step"]) != (item.stage, item.step):
            continue
        planned = {
            name: getattr(item.provenance, name)
            for name in ("binmill", "code", "config", "inputs", "libraries", "seed")
        }
        if changes := changes_since(record, planned):
            why = "; ".join(f"{name}: {text}" for name, text in changes.items())
            return DatasetError(
                f"{dataset.root}: {step} is not what made this dataset: {why}",
                "rebuild with the same inputs, and the commit and libraries that 'binmill trace' shows",
            )
        break
    return DatasetError(
        f"{dataset.root}: what {step} wrote is not kept ({STATE}, or inputs, code or libraries are others)",
        "run the recipe into another folder and compare the digests",
    )
