"""The flows that make a dataset, or only screen or rebalance a table: a Prefect task a stage, Dask futures in it."""

import datetime
import errno
import subprocess
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.cluster import LazyCluster, cluster_of, executor
from flows.progress import Lines
from flows.recipes import DEMO, check_recipe, load_recipe
from flows.records import Recorded, failure_of, journal_of, note_failure, record_result
from flows.server import TEMPORARY
from flows.stages import SCREENING_ONLY, Stage, rebalancing_stages, stages_of
from flows.stores import staging
from schemas.cluster import Cluster
from schemas.errors import WorkerError
from schemas.recipe import Recipe
from tasks.build import Build, Progress, release
from tasks.ingest.cache import default_cache
from tasks.ingest.remote import BrokenOffError
from tasks.publish.task import publish
from tasks.store.objects import is_url

PROGRESS: ContextVar[Progress] = ContextVar("PROGRESS")
"""Who is told how far a run is: the command line sets it, else it is the flow run's log."""


@flow(name="build-dataset", persist_result=False, validate_parameters=False, on_failure=[note_failure])
def build_dataset(
    recipe: str | dict[str, Any],
    output: str,
    base: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    memory_mib: int | None = None,
    cluster: str | dict[str, Any] | None = None,
    tls: str | None = None,
    cache: str | None = None,
) -> dict[str, Any]:
    """Run a recipe and commit the dataset it describes.

    Parameters
    ----------
    recipe
        Path of a recipe, or its content; `demo` stands for the demo's.
    output
        Folder of the dataset; or its URL in an object store, where it is pushed when it is made.
    base
        Folder that relative paths in the recipe start from; by default the recipe's own.
    workers, scheduler, memory_mib, tls
        Shortcuts: Dask workers, or the address of a Dask scheduler and its certificates; memory of each worker.
    cluster
        Where the work runs (`schemas.cluster`): a kind, an address, a YAML file, or its content. Default: one worker
        here.
    cache
        Folder of downloaded archives.

    Returns
    -------
    dict
        `digest`, `root`, `changed`, `computed` (items that were run) and `notes`.
    """
    where = cluster_of(cluster, workers=workers, scheduler=scheduler, memory_mib=memory_mib, tls=tls)
    checked, folder = _checked(recipe, base)
    return _made(checked, folder, stages_of(checked), output, where, cache)


@flow(name="screen-table", persist_result=False, validate_parameters=False, on_failure=[note_failure])
def screen_table(
    recipe: str | dict[str, Any],
    output: str,
    base: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    memory_mib: int | None = None,
    cluster: str | dict[str, Any] | None = None,
    tls: str | None = None,
) -> dict[str, Any]:
    """Screen the features of a table against an outcome, and nothing else.

    Parameters
    ----------
    recipe
        Path of a recipe (such as `binmill screen` leaves in its folder), or its content; its source is a table, and
        `label_column` the outcome.
    output, base, workers, scheduler, memory_mib, cluster, tls
        As for `build_dataset`.

    Returns
    -------
    dict
        As of `build_dataset`.
    """
    where = cluster_of(cluster, workers=workers, scheduler=scheduler, memory_mib=memory_mib, tls=tls)
    return _made(*_checked(recipe, base), SCREENING_ONLY, output, where, None)


@flow(name="rebalance-table", persist_result=False, validate_parameters=False, on_failure=[note_failure])
def rebalance_table(
    recipe: str | dict[str, Any],
    output: str,
    base: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    memory_mib: int | None = None,
    cluster: str | dict[str, Any] | None = None,
    tls: str | None = None,
) -> dict[str, Any]:
    """Rebalance the classes of a table of training rows, and nothing else.

    Parameters
    ----------
    recipe
        Path of a recipe (such as `binmill rebalance` leaves in its folder), or its content; its source is a table, and
        `label_column` the class.
    output, base, workers, scheduler, memory_mib, cluster, tls
        As for `build_dataset`.

    Returns
    -------
    dict
        As of `build_dataset`.
    """
    where = cluster_of(cluster, workers=workers, scheduler=scheduler, memory_mib=memory_mib, tls=tls)
    checked, folder = _checked(recipe, base)
    return _made(checked, folder, rebalancing_stages(checked), output, where, None)


def _checked(recipe: str | dict[str, Any], base: str | None) -> tuple[Recipe, str | None]:
    """A flow's recipe, and the folder that its paths start from."""
    if recipe == "demo":
        recipe = str(DEMO)
    if isinstance(recipe, str):
        return load_recipe(Path(recipe)), base or str(Path(recipe).resolve().parent)
    return check_recipe(recipe, "recipe"), base


def _made(
    recipe: Recipe,
    base: str | None,
    stages: Sequence[Stage],
    output: str,
    cluster: Cluster,
    cache: str | None,
) -> dict[str, Any]:
    """Run stages over a recipe, each as a Prefect task, and commit what they made."""
    started = datetime.datetime.now(datetime.UTC)
    kept = default_cache() if cache is None else Path(cache)
    progress = PROGRESS.get(None) or Lines(get_run_logger().info)
    with staging(output, kept, journal_of) as (place, journal), executor(cluster) as where:
        build = Build(
            recipe=recipe,
            base=Path(base or "."),
            root=place.root,
            cache=kept,
            executor=where,
            journal=journal,
            progress=progress if TEMPORARY.get() else Recorded(progress, recipe.name),
        )
        for name, stage in stages:
            _stage_task(name, stage, build)()
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
        manifest, changed = publish(build, run)
        place.publish(changed)
        computed = sum(count.items - count.present for count in build.counts)
        record_result(manifest, computed, build.notes)
    return {
        "digest": manifest.digest,
        "root": output if is_url(output) else str(place.root),
        "changed": changed,
        "computed": computed,
        "notes": build.notes,
    }


def _stage_task(name: str, stage: Callable[[Build], None], build: Build) -> Callable[[], None]:
    """A stage as a Prefect task: retried when the infrastructure failed, neither cached nor its result kept.

    Its tags can be limited on a server: `prefect concurrency-limit create binmill-extract 1`.

    The build is not a parameter of the task: Prefect would walk through it.
    """

    @task(
        name=name,
        tags=None if TEMPORARY.get() else {"binmill", f"binmill-{name}"},  # the server is asked for each: 0.7 s
        persist_result=False,
        cache_policy=NO_CACHE,
        retries=1 if TEMPORARY.get() else 2,
        retry_delay_seconds=_pauses,
        retry_condition_fn=lambda _task, _run, state: _may_pass(failure_of(state)),
    )
    def run_stage() -> None:
        stage(build)

    return run_stage


PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""What a shared folder says when its server is away for a while."""


def _may_pass(error: Any) -> bool:
    """Whether a stage that failed so may succeed when it is run again: workers, network or disks, not the data."""
    passing = isinstance(error, OSError) and error.errno in PASSING
    return passing or isinstance(error, WorkerError | BrokenOffError)


def _pauses(retries: int) -> list[float]:
    """Seconds before each try; a person who waits at a terminal is told at once."""
    return [0.0 if TEMPORARY.get() else 10.0 * 6**number for number in range(retries)]


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
