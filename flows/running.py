"""A run: the stages of a recipe, one after the other, then the commit.

Nothing of Prefect is needed here: a flow says how each stage is done on its behalf, the command line just does it.
"""

import datetime
import errno
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.cluster import LazyCluster, executor
from flows.stages import Stage
from flows.stores import at_once, staging
from schemas.cluster import Cluster
from schemas.errors import WorkerError
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from tasks.build import Build, Progress, release
from tasks.ingest.cache import default_cache
from tasks.journal import Journal
from tasks.store.objects import is_url

Perform = Callable[[str, Callable[[Build], None], Build], None]
"""How a stage is done: its name, what it does, and the build."""


PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""What a shared folder says when its server is away for a while."""


def may_pass(error: Any) -> bool:
    """Whether a stage that failed so may succeed when it is run again: workers, network or disks, not the data."""
    from tasks.ingest.remote import BrokenOffError

    passing = isinstance(error, OSError) and error.errno in PASSING
    return passing or isinstance(error, WorkerError | BrokenOffError)


def once_more(name: str, stage: Callable[[Build], None], build: Build) -> None:
    """Do a stage in this thread; once more, if it may pass."""
    try:
        stage(build)
    except Exception as error:
        if not may_pass(error):
            raise
        stage(build)


def make(
    recipe: Recipe,
    base: Path,
    stages: Sequence[Stage],
    output: str,
    cluster: Cluster,
    cache: str | None,
    progress: Progress,
    *,
    perform: Perform = once_more,
    journal_of: Callable[[Path], Journal] = at_once,
    record: Callable[[Manifest, int, list[str]], None] = lambda manifest, computed, notes: None,
) -> dict[str, Any]:
    """Run stages over a recipe, and commit what they made.

    Parameters
    ----------
    base
        Folder that relative paths in the recipe start from.
    output
        Folder of the dataset; or its URL in an object store, where it is pushed when it is made.
    cache
        Folder of downloaded archives; the default one when None.
    perform
        How a stage is done; by default in this thread, and once more if its infrastructure failed.
    journal_of
        Takes the dataset's lock.
    record
        Is told of the manifest, of how many items were computed, and of the notes.

    Returns
    -------
    dict
        `digest`, `root`, `changed`, `computed` (items that were run) and `notes`.

    Raises
    ------
    BinmillError
        What a stage raised; another run writes the dataset; the store is out of reach.
    """
    started = datetime.datetime.now(datetime.UTC)
    kept = default_cache() if cache is None else Path(cache)
    with staging(output, kept, journal_of) as (place, journal), executor(cluster) as where:
        if isinstance(where, LazyCluster) and place.is_new:
            where.prepare()
        build = Build(
            recipe=recipe, base=base, root=place.root, cache=kept, executor=where, journal=journal, progress=progress
        )
        for name, stage in stages:
            perform(name, stage, build)
        if isinstance(where, LazyCluster):
            where.leave()
        finished = datetime.datetime.now(datetime.UTC)
        run = {
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round((finished - started).total_seconds(), 3),
            "cluster": cluster.model_dump(mode="json", exclude_none=True),
            "binmill": release(),
            "tree": source_tree(),
            "notes": build.notes,
        }
        from tasks.publish.task import publish

        manifest, changed = publish(build, run)
        place.publish(changed)
        computed = sum(count.items - count.present for count in build.counts)
        record(manifest, computed, build.notes)
    return {
        "digest": manifest.digest,
        "root": output if is_url(output) else str(place.root),
        "changed": changed,
        "computed": computed,
        "notes": build.notes,
    }


def source_tree() -> dict[str, Any]:
    """Commit of the checkout that binmill runs from and whether it was changed; empty when not a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return {}
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout.strip()  # fmt: skip
        status = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain"],  # noqa: S607
            capture_output=True, text=True, check=True, timeout=10,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(status.strip())}
