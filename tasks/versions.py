"""A folder's earlier datasets: kept by hard links when another is committed, each a dataset that anybody can read."""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST, Manifest
from schemas.statement import ATTESTED
from tasks.shards import STATE

VERSIONS = f"{STATE}/versions"
SHORT = 12
"""Digits of a digest in a version's name."""
_NAME = re.compile(rf"(\d+)-[0-9a-f]{{{SHORT}}}")


@dataclass(frozen=True, slots=True)
class Version:
    """One dataset that a folder held, or holds."""

    root: Path
    """Its own folder, to be read as any dataset."""
    manifest: Manifest
    current: bool


def _folders(root: Path) -> list[tuple[int, Path]]:
    """Folders of versions with their numbers, the oldest first."""
    names = [(_NAME.fullmatch(place.name), place) for place in (root / VERSIONS).glob("*")]
    return sorted((int(found[1]), place) for found, place in names if found)


def _read(root: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def versions(root: Path) -> list[Version]:
    """The dataset in a folder and those it held before, the newest first."""
    now = _read(root)
    found = [Version(root, now, current=True)] if now is not None else []
    for _, place in reversed(_folders(root)):
        before = _read(place)
        if before is not None and (now is None or before.digest != now.digest):
            found.append(Version(place, before, current=False))
    return found


def version_at(root: Path, at: str) -> Path:
    """Folder of the version whose digest begins with `at`; `previous` is the last one before what is there now.

    Raises
    ------
    DatasetError
        There is none, or several.
    """
    there = versions(root)
    if at == "previous":
        found = [version for version in there if not version.current][:1]
    else:
        found = [version for version in there if version.manifest.digest.startswith(at.lower())] if at else []
    if len(found) == 1:
        return found[0].root
    held = ", ".join(version.manifest.digest[:SHORT] for version in there) or "none"
    raise DatasetError(
        f"--at {at}: {'several versions begin so' if found else 'no such version'} in {root}",
        f"it has {held} (binmill versions {root})",
    )


def keep(root: Path, manifest: Manifest) -> bool:
    """Keep a folder's dataset, before another is committed there; False when its files are not all there.

    The files are linked, not copied, where the file system can do that: what two versions share is there once. A
    version that a run which died has kept already is left as it is.
    """
    there = _folders(root)
    name = manifest.digest[:SHORT]
    for number, place in there:
        before = _read(place)
        if place.name.endswith(name) and before is not None and before.digest == manifest.digest:
            if number == there[-1][0]:
                return True
            shutil.rmtree(place)  # it was current again: its turn is now
    unfinished = root / VERSIONS / ".unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    for path, size in _files(root, manifest):
        source, target = root / path, unfinished / path
        if not source.is_file() or (size is not None and source.stat().st_size != size):
            shutil.rmtree(unfinished, ignore_errors=True)
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError:  # a file system without hard links, or with too many of this file
            shutil.copy2(source, target)
    _sync(unfinished)
    unfinished.rename(root / VERSIONS / f"{there[-1][0] + 1 if there else 1:04d}-{name}")
    _sync(root / VERSIONS)
    return True


def _files(root: Path, manifest: Manifest) -> Iterator[tuple[str, int | None]]:
    """Files of a dataset, with their sizes where the manifest lists them; the manifest last."""
    for shard in manifest.shards():
        yield shard.path, shard.size
    for name in manifest.files:
        yield name, None
    for name in ATTESTED:
        if (root / name).is_file():
            yield name, None
    yield MANIFEST, None


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def prune(root: Path, most: int) -> list[str]:
    """Remove all but the newest `most` versions that were kept; returns the names of those removed."""
    now = _read(root)
    there = [place for _, place in _folders(root)]
    if now is not None:  # kept by a run that died before it committed another: it is the current one
        there = [place for place in there if not place.name.endswith(now.digest[:SHORT])]
    gone = there[: max(0, len(there) - most)]
    for place in gone:
        # First the name: what is left of one that is half removed must not look like a version.
        doomed = place.with_name(f".{place.name}")
        place.rename(doomed)
        shutil.rmtree(doomed)
    for left in (root / VERSIONS).glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    return [place.name for place in gone]
