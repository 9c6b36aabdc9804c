"""The build: one run of a recipe, which computes what is not there yet."""

import hashlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from schemas.errors import DatasetError
from schemas.provenance import Provenance, digest
from schemas.recipe import Recipe
from tasks.items import Item, Receipt, perform
from tasks.journal import Journal
from tasks.shards import Shard, is_right

VALUE_LIBRARIES: dict[str, tuple[str, ...]] = {
    "ingest": ("license-expression",),
    "extract": ("numpy", "numba", "lief", "pefile"),
    "label": ("duckdb",),
    "split": ("duckdb",),
    "screen": ("numpy", "numba", "scipy"),
    "rebalance": ("numpy", "numba", "scikit-learn"),
    "binarize": ("numpy", "numba", "scipy"),
}
"""Libraries whose version can change a value that the stage writes (pyarrow: the bytes of every shard)."""

SHARED = {"binarize": ("codes",)}
"""Folders beside the stages whose code decides what a stage writes."""

BESIDE = {"build.py", "drawing.py", "fanout.py", "items.py", "journal.py", "loading.py", "order.py", "versions.py"}
"""Modules beside the stages that decide where and when work is done, how it looks, and what is told of it: not what a
stage writes."""


class Executor(Protocol):
    """Where items run. Yields each item with its receipt as it ends, in any order."""

    @property
    def memory_limit(self) -> int | None:
        """Memory of one worker in bytes; None when unknown."""
        ...

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        """Run the items; the first failure that is not the infrastructure's is raised."""
        ...


class InProcess:
    """The plain loop: no Dask, no other process (but the parser's)."""

    memory_limit: int | None = None

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        """Run the items one after the other."""
        for item in items:
            yield item, perform(root, item)


class Progress(Protocol):
    """Who is told how far the work is."""

    def begin(self, stage: str, step: str, items: int, present: int, weight: int) -> None:
        """Announce that a step starts: so many items, so many of them already there."""
        ...

    def advance(self, weight: int) -> None:
        """Announce that an item of this weight is done."""
        ...

    def end(self) -> None:
        """Announce that the step is done."""
        ...


class Silent:
    """Nobody is told."""

    def begin(self, stage: str, step: str, items: int, present: int, weight: int) -> None:
        """Say nothing."""

    def advance(self, weight: int) -> None:
        """Say nothing."""

    def end(self) -> None:
        """Say nothing."""


class NotThere(Exception):  # noqa: N818  # a signal to `binmill plan`, not an error
    """A dry run came to a step with work to do; what follows depends on it."""


@dataclass(frozen=True, slots=True)
class StepCount:
    """How much of a step was there, and how much was (or would be) computed."""

    stage: str
    step: str
    items: int
    present: int
    memory: int
    titles: tuple[str, ...] = ()
    """Some of the items to compute, by name."""


@dataclass
class Build:
    """One run of one recipe over one dataset folder.

    A stage's `build(build)` plans its items, calls `compute`, and goes on from the receipts.
    """

    recipe: Recipe
    base: Path
    """Folder that relative paths in the recipe start from."""
    root: Path
    """The dataset's folder."""
    cache: Path
    """Folder of downloaded archives."""
    executor: Executor
    journal: Journal
    progress: Progress = field(default_factory=Silent)
    dry: bool = False
    receipts: dict[str, Sequence[Receipt]] = field(default_factory=lambda: {})
    """Receipts of this run by `stage.step`, in the order of the plan."""
    counts: list[StepCount] = field(default_factory=lambda: [])
    notes: list[str] = field(default_factory=lambda: [])
    """What the user must be told at the end (a fallback taken, a stage left out)."""
    missing: list[Item] = field(default_factory=lambda: [])
    """Of a dry run: the items to compute in the step that it came to."""

    def item(
        self,
        stage: str,
        step: str,
        title: str,
        *,
        config: dict[str, Any],
        inputs: Iterable[str],
        args: dict[str, Any],
        weight: int = 1,
        memory: int = 0,
    ) -> Item:
        """Plan an item. Its key is the digest of `config`, `inputs`, the stage's code and libraries.

        Parameters
        ----------
        config
            Whatever else than the inputs' bytes the result depends on.
        inputs
            SHA-256 of every shard or archive that is read.
        args
            What the step needs to do the work (places of shards); not part of the key.
        """
        publishing = self.recipe.publishing
        config = config | {"row_group_rows": publishing.row_group_rows, "zstd_level": publishing.zstd_level}
        record: dict[str, Any] = {
            "stage": stage,
            "step": step,
            "binmill": release(),
            "code": code_digest(stage),
            "config": config,
            "inputs": tuple(inputs),
            "libraries": libraries(stage),
            "seed": self.recipe.seed,
            "dataset": self.recipe.name,
        }
        key = digest(record)[:32]
        provenance = Provenance(key=key, **record)
        args = args | {"row_group_rows": publishing.row_group_rows, "zstd_level": publishing.zstd_level}
        return Item(stage, step, key, title, args, provenance, weight, memory)

    def compute(self, items: Sequence[Item]) -> Sequence[Receipt]:
        """Receipts of the items, in their order; only those that are not there and right are run.

        Raises
        ------
        NotThere
            In a dry run, when something would have to be computed.
        DatasetError
            A worker has less memory than the largest item needs.
        """
        if not items:
            return []
        stage, step = items[0].stage, items[0].step
        done: set[str] = set()
        for item in items:
            receipt = self.journal.get(item.key)
            if receipt is not None and all(is_right(self.root, shard) for shard in receipt.shards):
                done.add(item.key)
        # Two items may be the same work (one archive named twice): it is done once.
        missing = list({item.key: item for item in items if item.key not in done}.values())
        largest = max((item.memory for item in missing), default=0)
        titles = tuple(item.title for item in missing[:3])
        self.counts.append(StepCount(stage, step, len(items), len(items) - len(missing), largest, titles))
        if self.dry and missing:
            self.missing = missing
            raise NotThere(f"{stage}.{step}")
        limit = self.executor.memory_limit if missing else None
        if limit is not None and largest > limit:
            raise DatasetError(
                f"{stage}.{step}: the largest item needs {largest / 2**20:.0f} MiB, "
                f"a worker has {limit / 2**20:.0f} MiB",
                "lower publishing.shard_mib or publishing.shard_files in the recipe, or give workers more memory",
            )
        self.progress.begin(stage, step, len(items), len(items) - len(missing), sum(item.weight for item in missing))
        for item, receipt in self.executor.run(str(self.root), missing):
            if receipt.facts.get("try_again"):  # a download that failed today may work tomorrow
                self.journal.add_passing(receipt)
            else:
                self.journal.add(receipt)
            self.progress.advance(item.weight)
        self.progress.end()
        receipts = self.journal.of([item.key for item in items])
        self.receipts[f"{stage}.{step}"] = receipts
        return receipts

    @property
    def stages(self) -> set[str]:
        """Names of the stages that have receipts."""
        return {step.split(".")[0] for step, receipts in self.receipts.items() if receipts}

    def shards(self, step: str, table: str) -> list[Shard]:
        """All shards of a table that a step (`stage.name`) wrote, in the order of the plan, each once."""
        found = [s for receipt in self.receipts.get(step, []) for s in receipt.all_of(table)]
        return list(dict.fromkeys(found))


@cache
def release() -> str:
    """Version of the installed binmill."""
    return importlib.metadata.version("binmill")


@cache
def code_digest(stage: str) -> str:
    """SHA-256 over the source files that decide what a stage writes."""
    tasks = Path(__file__).parent
    folders = (stage, *SHARED.get(stage, ()))
    files = [
        *(path for folder in folders for path in sorted((tasks / folder).rglob("*.py"))),
        *(path for path in sorted(tasks.glob("*.py")) if path.name not in BESIDE),
    ]
    files.append(tasks.parent / "schemas" / "tables.py")
    sha = hashlib.sha256()
    for path in files:
        sha.update(path.relative_to(tasks.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


@cache
def libraries(stage: str) -> dict[str, str]:
    """Versions of the libraries that can change what a stage writes."""
    names = ("pyarrow", *VALUE_LIBRARIES[stage])
    return {name: importlib.metadata.version(name) for name in sorted(names)}
