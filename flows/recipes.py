"""Reading recipes: YAML in, a checked recipe out, and errors that name file, field and remedy."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from schemas.errors import RecipeError
from schemas.recipe import Recipe

DEMO = Path(__file__).with_name("demo.yaml")
"""The recipe of `binmill demo`."""


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises
    ------
    RecipeError
        The file cannot be read, is not YAML, or a field is wrong; every wrong field is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise RecipeError(f"{path}: cannot read the recipe: {reason}", "give the path of a YAML file") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}", "mend the line that is named") from error
    return check_recipe(data, str(path))


def check_recipe(data: Any, where: str) -> Recipe:
    """Check a recipe that was read; `where` names it in errors."""
    if not isinstance(data, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of sections", "start from: binmill demo --print-recipe")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = [f"{where}: {_field(e['loc'])}{e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise RecipeError(
            "\n".join(problems), "mend these fields; 'binmill schema' prints the JSON Schema for your editor"
        ) from error


def _field(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return f"{text.removeprefix('.')}: " if text else ""


def table_recipe(
    table: Path,
    label: str,
    section: str,
    given: dict[str, Any],
    others: Sequence[str],
    exclude: Sequence[str],
    only: Sequence[str],
    seed: int,
) -> Recipe:
    """The recipe of `binmill screen` and `binmill rebalance`: a table, its label, and one section.

    The table's path starts from its own folder, so that the recipe says the same wherever that folder is.

    Parameters
    ----------
    section
        `screening` or `rebalancing`.
    given, others
        Keys of the section; and more of them as texts `key=value`.

    Raises
    ------
    RecipeError
        An option is not known, or has a value that it cannot have.
    """
    settings = dict(given)
    for text in others:
        key, mark, value = text.partition("=")
        if not mark:
            example = {"screening": "bandwidth=isj", "rebalancing": "m_neighbors=20"}[section]
            raise RecipeError(f"--set {text}: no '='", f"write --set key=value, as --set {example}")
        settings[key.strip()] = yaml.safe_load(value)
    name = re.sub(r"[^a-z0-9._-]+", "-", table.name.split(".")[0].lower()).strip("-._")
    recipe = {
        "name": name or "table",
        "sources": [
            {
                "kind": "table", "path": table.name, "label_column": label,
                "exclude": list(exclude), "columns": list(only),
            }
        ],
        "label": {"origin": "column"},
        section: settings,
        "seed": seed,
    }  # fmt: skip
    return check_recipe(recipe, section)


def recipe_schema() -> str:
    """JSON Schema of recipes, for editors."""
    schema = Recipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "binmill recipe"
    return json.dumps(schema, indent=2)
