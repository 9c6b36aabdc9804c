"""The recipe of `binmill index`: files of vectors, coded to be searched."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.recipes import check_recipe, load_recipe
from schemas.errors import RecipeError
from schemas.recipe import Recipe

PUBLISHING = {"shard_mib": 128, "shard_files": 2048}
"""Shards of up to 262 144 vectors: a search likes few large ones."""


def index_recipe(
    paths: Sequence[Path],
    output: Path,
    settings: dict[str, Any],
    columns: Sequence[str] = (),
    id_column: str | None = None,
    seed: int = 0,
    *,
    encoder: str | None = None,
    append: bool = False,
) -> Recipe:
    """The recipe of an index, or that of the one in `output` with more files.

    Paths start from the index's own folder, where the recipe lies too: running that recipe makes the index again.

    Parameters
    ----------
    encoder
        Installed encoder that makes vectors of the texts in the one column that is named.
    settings
        Keys of `binarizing`; none with `append`, since nothing is learned again.

    Raises
    ------
    RecipeError
        A setting that it cannot have, settings beside `append`, a file that is there already, or nothing to append to.
    """
    sources: list[dict[str, Any]] = [
        {
            "kind": "vectors", "path": Path(os.path.relpath(path.resolve(), output.resolve())).as_posix(),
            "columns": list(columns), "id_column": id_column, "encoder": encoder,
        }
        for path in paths
    ]  # fmt: skip
    if not append:
        recipe: dict[str, Any] = {
            "name": "index", "sources": sources, "label": {"origin": "none"},
            "binarizing": {"embedding": "columns", "methods": ["rabitq"]} | settings,
            "publishing": PUBLISHING, "seed": seed,
        }  # fmt: skip
        return check_recipe(recipe, "index")
    if settings:
        raise RecipeError(
            f"--append: {', '.join(sorted(settings))}: an index keeps its settings, and learns nothing again",
            "leave them out, or make another index",
        )
    before = load_recipe(output / "recipe.yaml").model_dump(mode="json")
    there = {source["path"] for source in before["sources"]}
    if encoder is None:
        sources = [source | {"encoder": before["sources"][0].get("encoder")} for source in sources]
    if twice := [source["path"] for source in sources if source["path"] in there]:
        raise RecipeError(f"--append {twice[0]}: the index has this file already", "append files that it has not")
    return check_recipe(before | {"sources": [*before["sources"], *sources]}, "index")
