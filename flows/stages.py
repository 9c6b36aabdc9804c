"""The order of the stages, and a run of them in a plain loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tasks.binarize.task
import tasks.extract.task
import tasks.ingest.task
import tasks.label.task
import tasks.publish.task
import tasks.rebalance.source
import tasks.rebalance.task
import tasks.screen.source
import tasks.screen.task
import tasks.split.task
from schemas.manifest import Manifest
from schemas.recipe import Recipe
from tasks.build import Build

Stage = tuple[str, Callable[[Build], None]]
"""A stage's name and what it does."""

STAGES: tuple[Stage, ...] = (
    ("ingest", tasks.ingest.task.build),
    ("extract", tasks.extract.task.build),
    ("check-inputs", tasks.publish.task.check_tolerance),
    ("label", tasks.label.task.build),
    ("check-labels", tasks.publish.task.check_tolerance),
    ("split", tasks.split.task.build),
    ("screen", tasks.screen.task.build),
    ("rebalance", tasks.rebalance.task.build),
    ("binarize", tasks.binarize.task.build),
)
"""Each stage plans its items, computes what is missing, and goes on from the receipts. Publishing comes last."""

INDEX: tuple[Stage, ...] = (("binarize", tasks.binarize.task.build_index),)
"""Codes of vectors without labels."""


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe's sources need."""
    return INDEX if recipe.is_vectors else STAGES


SCREENING_ONLY: tuple[Stage, ...] = (("screen", tasks.screen.source.build),)
"""The screening of a table by itself."""


def rebalancing_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The rebalancing of a table by itself; screened before, where distances go by what columns tell."""
    weighs = recipe.rebalancing.weights == "mi"
    return (*(SCREENING_ONLY if weighs else ()), ("rebalance", tasks.rebalance.source.build))


def run_stages(build: Build, run: Mapping[str, Any], stages: Sequence[Stage] | None = None) -> Manifest:
    """Every stage after the other, then the commit: what the flow does, without Prefect."""
    for _, stage in stages or stages_of(build.recipe):
        stage(build)
    manifest, _ = tasks.publish.task.publish(build, run)
    return manifest
