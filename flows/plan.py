"""What a run would compute, without computing it; needs neither Prefect nor Dask."""

import contextlib
from pathlib import Path

from flows.stages import stages_of
from flows.stores import folder_of
from schemas.recipe import Recipe
from tasks.build import Build, InProcess, NotThere
from tasks.ingest.cache import default_cache
from tasks.journal import Journal


def plan_dataset(recipe: Recipe, base: Path, output: str | Path, cache: Path | None = None) -> Build:
    """A dry build, whose `counts` go as far as can be known beforehand.

    When work is missing, the last entry of `counts` is the first step with work; all that follows depends on it.

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
        with contextlib.suppress(NotThere):
            for _, stage in stages_of(recipe):
                stage(build)
    return build
