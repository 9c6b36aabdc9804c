"""Opening a dataset: its manifest, and where its tables are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST, Manifest
from schemas.provenance import FORMAT


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that can be read: a folder with a manifest, or the cached part of one in an object store."""

    root: Path
    manifest: Manifest
    name: str = ""
    """What users call it: the folder, or the URL."""
    fetch: Callable[[str], None] | None = None
    """Brings a file into the folder, where the dataset lies in an object store."""

    def place(self, path: str) -> Path:
        """A file of the dataset, by its path in the manifest; fetched if need be.

        Raises
        ------
        DatasetError
            It cannot be fetched.
        """
        if self.fetch is not None:
            self.fetch(path)
        return self.root / path

    def paths(self, table: str) -> list[Path]:
        """Files of one table."""
        return [self.place(shard.path) for shard in self.manifest.tables.get(table, [])]

    def fitted(self, name: str) -> Path:
        """File of one fitted table.

        Raises
        ------
        DatasetError
            The dataset has no such table.
        """
        shard = self.manifest.fitted.get(name)
        if shard is None:
            raise DatasetError(
                f"{self.root}: nothing was fitted under the name '{name}'",
                f"fitted here: {', '.join(self.manifest.fitted) or 'nothing'}; see the recipe's sections",
            )
        return self.place(shard.path)


def open_dataset(root: Path) -> Dataset:
    """Read a dataset's manifest.

    Raises
    ------
    DatasetError
        There is no manifest, it cannot be read, or another version of the layout is in the folder.
    """
    path = root / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise DatasetError(
            f"{root}: no dataset here (no {MANIFEST})",
            "name a folder that 'binmill run' wrote; a run that was cut short has none until it is run again",
        ) from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error}", "run the recipe again") from error
    return Dataset(root, check_manifest(text, str(path), root), str(root))


def check_manifest(text: bytes, path: str, root: Path) -> Manifest:
    """A manifest from its bytes.

    Parameters
    ----------
    path, root
        What it is called in errors; the folder that its files must lie in.

    Raises
    ------
    DatasetError
        It is damaged, of another version of the layout, or lists a file outside the dataset.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path}: cannot be read: {error}", "run the recipe again") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise DatasetError(
            f"{path}: format is {found!r}, this binmill reads {FORMAT!r}",
            "use the binmill release that wrote it, or run the recipe again",
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise DatasetError(f"{path}: field {where} is damaged", "run the recipe again") from error
    home = root.resolve()
    for listed in (*(shard.path for shard in manifest.shards()), *manifest.files):
        inside = (root / listed).resolve().is_relative_to(home)  # links are followed
        if not inside or (listed not in manifest.files and not listed.startswith(("tables/", "fitted/"))):
            raise DatasetError(f"{path}: lists {listed}, which is outside the dataset", "do not trust this dataset")
    for name in manifest.files:
        if Path(name).name != name or name == MANIFEST:
            raise DatasetError(f"{path}: lists {name}, which is no file beside it", "do not trust this dataset")
    return manifest
