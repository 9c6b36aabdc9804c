"""The manifest: what a dataset is. Written last; without it there is no dataset."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.provenance import FORMAT, digest

MANIFEST = "manifest.json"


class ShardEntry(BaseModel):
    """One file of the dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    sha256: str
    size: int
    rows: int


class Manifest(BaseModel):
    """Content of `manifest.json`.

    The dataset's digest covers everything but `run` (when, where and how long), `summary` and `files` (which follow
    from the rest), and the recipe's `evaluation` and `publishing.keep_versions`: equal data has an equal digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: str = FORMAT
    name: str
    digest: str
    recipe: dict[str, Any]
    tables: dict[str, list[ShardEntry]]
    fitted: dict[str, ShardEntry]
    files: dict[str, str]
    """SHA-256 of the files for people (README.md, recipe.yaml)."""
    summary: dict[str, Any]
    run: dict[str, Any]

    @property
    def is_index(self) -> bool:
        """Whether it holds vectors without labels, coded to be searched (`binmill index`)."""
        return any(source.get("kind") == "vectors" for source in self.recipe.get("sources", ()))

    def content_digest(self) -> str:
        """SHA-256 over what the dataset is; equals `digest` unless the manifest was changed."""
        return content_digest(self.name, self.recipe, self.tables, self.fitted)

    def shards(self) -> list[ShardEntry]:
        """Every shard of every table and every fitted table."""
        return [shard for shards in self.tables.values() for shard in shards] + list(self.fitted.values())


def content_digest(
    name: str,
    recipe: dict[str, Any],
    tables: dict[str, list[ShardEntry]],
    fitted: dict[str, ShardEntry],
) -> str:
    """Digest of a dataset: of its recipe and of its shards, whose order says nothing.

    The recipe's section `evaluation` and `publishing.keep_versions` are left out: they say how to look at a dataset and
    at earlier ones, not what it is.
    """
    recipe = {key: value for key, value in recipe.items() if key != "evaluation"}
    if isinstance(recipe.get("publishing"), dict):
        recipe["publishing"] = {k: v for k, v in recipe["publishing"].items() if k != "keep_versions"}
    shards = [shard for table in tables.values() for shard in table] + list(fitted.values())
    listed = sorted((shard.path, shard.sha256, shard.size, shard.rows) for shard in shards)
    return digest({"format": FORMAT, "name": name, "recipe": recipe, "shards": listed})
