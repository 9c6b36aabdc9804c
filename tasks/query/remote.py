"""Opening a dataset that lies in an object store: what a question needs is fetched when it is asked, and kept."""

import hashlib
from pathlib import Path

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST
from schemas.statement import ATTESTED
from tasks.query.dataset import Dataset, check_manifest
from tasks.shards import replace_atomically
from tasks.store.fetch import fetch, fetch_attested
from tasks.store.layout import file_name
from tasks.store.objects import ObjectStore


def open_remote(url: str, cache: Path) -> Dataset:
    """Read the manifest of a dataset in an object store.

    Shards are fetched when they are first needed, held against the manifest's SHA-256, into a folder of the cache
    that belongs to this manifest alone: what is asked of one opened dataset is always of one and the same, whatever
    is published meanwhile.

    Parameters
    ----------
    url
        Where the dataset was pushed to.
    cache
        Folder below which such datasets are kept.

    Raises
    ------
    DatasetError
        The store cannot be reached, or there is no dataset there.
    """
    store = ObjectStore(url)
    try:
        text, _ = store.read(MANIFEST)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{url}: no dataset here (no {MANIFEST})", "name the URL that 'binmill push' or 'binmill run' wrote to"
        ) from error
    manifest_sha256 = hashlib.sha256(text).hexdigest()
    root = cache / "datasets" / manifest_sha256
    manifest = check_manifest(text, f"{url}/{MANIFEST}", root)
    files = {name: file_name(sha256) for name, sha256 in manifest.files.items()}
    sums = {shard.path: shard.sha256 for shard in manifest.shards()} | manifest.files
    replace_atomically(root / MANIFEST, text)

    def get(path: str) -> None:
        if path in ATTESTED:  # a dataset can be signed later
            fetch_attested(store, manifest_sha256, path, root / path)
        elif path in sums and not (root / path).is_file():
            fetch(store, files.get(path, path), root / path, sums[path])

    return Dataset(root, manifest, url, get)
