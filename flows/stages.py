"""The order of the stages, and a run of them in a plain loop."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from schemas.manifest import Manifest
from schemas.recipe import Recipe
from tasks.build import Build

Stage = tuple[str, Callable[[Build], None]]
"""A stage's name and what it does."""


def _in(module: str, name: str = "build") -> Callable[[Build], None]:
    """What a stage does: a function of a module that is loaded when the stage runs."""

    def stage(build: Build) -> None:
        getattr(importlib.import_module(f"tasks.{module}"), name)(build)

    return stage


STAGES: tuple[Stage, ...] = (
    ("ingest", _in("ingest.task")),
    ("extract", _in("extract.task")),
    ("check-inputs", _in("publish.task", "check_tolerance")),
    ("label", _in("label.task")),
    ("check-labels", _in("publish.task", "check_tolerance")),
    ("split", _in("split.task")),
    ("screen", _in("screen.task")),
    ("rebalance", _in("rebalance.task")),
    ("binarize", _in("binarize.task")),
)
"""Each stage plans its items, computes what is missing, and goes on from the receipts. Publishing comes last."""

INDEX: tuple[Stage, ...] = (("binarize", _in("binarize.task", "build_index")),)
"""Codes of vectors without labels."""


SCREENING_ONLY: tuple[Stage, ...] = (("screen", _in("screen.source")),)
"""The screening of a table by itself."""


def rebalancing_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The rebalancing of a table by itself; screened before, where distances go by what columns tell."""
    weighs = recipe.rebalancing.weights == "mi"
    return (*(SCREENING_ONLY if weighs else ()), ("rebalance", _in("rebalance.source")))


def stages_of(recipe: Recipe, only: Literal["screen", "rebalance"] | None = None) -> tuple[Stage, ...]:
    """The stages that a recipe's sources need; or only the screening or rebalancing of its table."""
    if only is not None:
        return SCREENING_ONLY if only == "screen" else rebalancing_stages(recipe)
    return INDEX if recipe.is_vectors else STAGES


def run_stages(build: Build, run: Mapping[str, Any], stages: Sequence[Stage] | None = None) -> Manifest:
    """Every stage after the other, then the commit: no lock, cluster or retry around them."""
    for _, stage in stages or stages_of(build.recipe):
        stage(build)
    from tasks.publish.task import publish

    manifest, _ = publish(build, run)
    return manifest
