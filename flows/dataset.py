"""The flows that make a dataset, or only screen or rebalance a table: a Prefect task a stage, Dask futures in it."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.cluster import cluster_of
from flows.progress import Lines
from flows.recipes import DEMO, check_recipe, load_recipe
from flows.records import Recorded, failure_of, journal_of, note_failure, record_result
from flows.running import make, may_pass
from flows.stages import SCREENING_ONLY, Stage, rebalancing_stages, stages_of
from schemas.cluster import Cluster
from schemas.recipe import Recipe
from tasks.build import Build, Progress

PROGRESS: ContextVar[Progress] = ContextVar("PROGRESS")
"""Who is told how far a run is: the command line sets it, else it is the flow run's log."""

PAUSES_S = [10.0, 60.0]
"""Before a stage that failed is tried again, and once more."""


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
    """Run stages over a recipe, each as a Prefect task, and leave on the server what it shows of them."""
    shown = PROGRESS.get(None) or Lines(get_run_logger().info)
    return make(
        recipe,
        Path(base or "."),
        stages,
        output,
        cluster,
        cache,
        Recorded(shown, recipe.name),
        perform=_perform,
        journal_of=journal_of,
        record=record_result,
    )


def _perform(name: str, stage: Callable[[Build], None], build: Build) -> None:
    """Do a stage as a Prefect task: retried when the infrastructure failed, neither cached nor its result kept.

    Its tags can be limited on a server: `prefect concurrency-limit create binmill-extract 1`.

    The build is not a parameter of the task: Prefect would walk through it.
    """

    @task(
        name=name,
        tags={"binmill", f"binmill-{name}"},
        persist_result=False,
        cache_policy=NO_CACHE,
        retries=2,
        retry_delay_seconds=PAUSES_S,
        retry_condition_fn=lambda _task, _run, state: may_pass(failure_of(state)),
    )
    def run_stage() -> None:
        stage(build)
        if isinstance(build.progress, Recorded):
            build.progress.finish()

    run_stage()
