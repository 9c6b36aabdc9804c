"""Datasets in object stores: staged in a folder and pushed by a run, pulled, opened where they lie."""

import contextlib
import hashlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST
from schemas.statement import ATTESTED
from tasks.ingest.cache import default_cache
from tasks.journal import Journal
from tasks.query.dataset import Dataset, check_manifest, open_dataset
from tasks.query.remote import open_remote
from tasks.shards import replace_atomically, sweep
from tasks.store.fetch import fetch, fetch_attested
from tasks.store.layout import file_name
from tasks.store.objects import ObjectStore, is_url
from tasks.store.push import Published, published, push, receive
from tasks.versions import version_at


def opened(place: str | Path, at: str | None = None) -> Dataset:
    """A dataset in a folder, or in an object store.

    Parameters
    ----------
    at
        An earlier version: how its digest begins, or `previous`.

    Raises
    ------
    DatasetError
        There is none, it is damaged, or the store cannot be reached.
    """
    if at is None:
        return open_remote(str(place), default_cache()) if is_url(place) else open_dataset(Path(place))
    if is_url(place):
        raise DatasetError(f"{place}: earlier versions are kept in folders only", "leave --at out")
    return open_dataset(version_at(Path(place), at))


@dataclass(frozen=True)
class Staging:
    """Where a run works, and where its dataset is published: the same folder, or an object store."""

    root: Path
    store: ObjectStore | None = None
    before: Published | None = None

    @property
    def is_new(self) -> bool:
        """Whether no dataset is there yet, so that there is work to do."""
        return not (self.root / MANIFEST).exists()

    def publish(self, changed: bool) -> None:
        """Push what the run committed in its folder, if it is not what is published already.

        Raises
        ------
        OvertakenError
            Another run has published since this one began.
        """
        if self.store is not None and self.before is not None and (changed or self.before.text is None):
            push(self.root, self.store, self.before.tag)


def folder_of(output: str, cache: Path) -> Path:
    """Folder that a run with this output works in."""
    if not is_url(output):
        return Path(output).absolute()
    return cache.absolute() / "staging" / hashlib.sha256(output.rstrip("/").encode()).hexdigest()[:32]


at_once = partial(Journal, write=True)
"""Takes a dataset's lock, or says who has it."""


@contextlib.contextmanager
def staging(
    output: str, cache: Path, journal_of: Callable[[Path], Journal] = at_once
) -> Generator[tuple[Staging, Journal]]:
    """A run's folder, locked, with what is published at `output` and the receipts of how it was made.

    Parameters
    ----------
    journal_of
        Takes the lock: at once, or when it is this run's turn.

    Raises
    ------
    DatasetError
        Another run on this machine is at work there, or the store cannot be reached or has no conditional puts.
    """
    root = folder_of(output, cache)
    store = ObjectStore(output) if is_url(output) else None
    with journal_of(root) as journal:
        if store is None:
            yield Staging(root), journal
            return
        store.check_commits()  # before hours of work, not after
        before = published(store)
        receive(store, before, root, journal)
        if before.text is not None:
            _receive_files(store, before.text, root)
        yield Staging(root, store, before), journal


def _receive_files(store: ObjectStore, text: bytes, root: Path) -> None:
    """Files beside the manifest, then the manifest and what names it."""
    manifest = check_manifest(text, f"{store.url}/{MANIFEST}", root)
    for name, sha256 in manifest.files.items():
        fetch(store, file_name(sha256), root / name, sha256)
    for name in ATTESTED:
        (root / name).unlink(missing_ok=True)
    replace_atomically(root / MANIFEST, text)
    manifest_sha256 = hashlib.sha256(text).hexdigest()
    for name in ATTESTED:
        fetch_attested(store, manifest_sha256, name, root / name)


def pull(url: str, folder: Path, told: Callable[[int, int], None] = lambda done, total: None) -> Dataset:
    """Copy a published dataset into a folder; what is there and right is not fetched again.

    Raises
    ------
    DatasetError
        The folder holds a dataset of another name, or something cannot be fetched.
    """
    dataset = open_remote(url, default_cache())
    text = (dataset.root / MANIFEST).read_bytes()
    if (folder / MANIFEST).exists() and (name := open_dataset(folder).manifest.name) != dataset.manifest.name:
        raise DatasetError(f"{folder}: holds the dataset '{name}'", "pull into a folder of its own")
    store = ObjectStore(url)
    with Journal(folder, write=True):
        shards = dataset.manifest.shards()
        for done, shard in enumerate(shards, 1):
            place = folder / shard.path
            if not (place.is_file() and place.stat().st_size == shard.size):
                fetch(store, shard.path, place, shard.sha256)
            told(done, len(shards))
        _receive_files(store, text, folder)
        sweep(folder, {shard.path for shard in shards})
    return open_dataset(folder)
