"""Publishing a dataset's folder to an object store, and going on from what is published there."""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.errors import DatasetError
from schemas.manifest import MANIFEST, Manifest
from schemas.statement import ATTESTED
from tasks.items import Receipt
from tasks.journal import Journal
from tasks.shards import STATE, Shard, is_right, sha256_file
from tasks.store.fetch import fetch
from tasks.store.layout import SHARDS, attested_name, file_name, inside, journal_name
from tasks.store.objects import ObjectStore

THREADS = 8
"""Transfers at once."""
GRACE = timedelta(days=1)
"""Age from which an object that no manifest lists counts as left behind, not as one of a run at work."""


@dataclass(frozen=True, slots=True)
class Published:
    """What stands at a URL: its manifest's bytes, and the tag that a commit must name. No manifest: None, None."""

    text: bytes | None
    tag: str | None

    @property
    def manifest(self) -> Manifest | None:
        """The manifest; None where there is none, or one of another binmill."""
        try:
            return None if self.text is None else Manifest.model_validate_json(self.text)
        except ValueError:
            return None


def published(store: ObjectStore) -> Published:
    """What stands at a URL now."""
    try:
        return Published(*store.read(MANIFEST))
    except FileNotFoundError:
        return Published(None, None)


def receive(store: ObjectStore, there: Published, root: Path, journal: Journal) -> int:
    """Fetch what was computed for a published dataset, so that a run in `root` goes on from it.

    Receipts that are here already stay; a shard is fetched only if it is not here and right. Nothing is fetched by
    halves: a receipt is taken when all its shards are.

    Returns
    -------
    int
        Receipts that were taken.
    """
    if there.text is None:
        return 0
    try:
        lines, _ = store.read(journal_name(hashlib.sha256(there.text).hexdigest()))
    except FileNotFoundError:
        return 0
    receipts = [Receipt.from_json(json.loads(line)) for line in lines.splitlines()]
    new = [receipt for receipt in receipts if journal.get(receipt.key) is None]
    shards = {shard.path: shard for receipt in new for shard in receipt.shards}
    for shard in shards.values():
        _checked(shard)

    def get(shard: Shard) -> str | None:
        try:
            if not is_right(root, shard):
                fetch(store, shard.path, root / shard.path, shard.sha256)
        except (DatasetError, FileNotFoundError):
            return shard.path  # a partial state that is gone is computed again
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        gone = set(pool.map(get, shards.values())) - {None}
    taken = [receipt for receipt in new if not gone & {shard.path for shard in receipt.shards}]
    for receipt in taken:
        journal.add(receipt)
    return len(taken)


def _checked(shard: Shard) -> None:
    if not inside(shard.path).startswith(SHARDS):
        raise DatasetError(f"{shard.path}: no place of a shard", "do not go on from this dataset")


def push(
    root: Path,
    store: ObjectStore,
    expected: str | None,
    *,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Publish a folder's dataset: shards first, then what lies beside, then the manifest by a conditional put.

    What is there already is not sent again, so a push that was cut short goes on. A reader finds the old dataset or
    the new one, whole, at any moment. What only the old one lists stays (see `sweep`).

    Parameters
    ----------
    expected
        Tag of the manifest that this dataset replaces; None if there was none.
    told
        Called after each object with how many of how many are there.

    Returns
    -------
    int
        Objects that were sent.

    Raises
    ------
    DatasetError
        The folder's dataset is damaged, or the store has no conditional puts.
    OvertakenError
        Another manifest has been published meanwhile; nothing of it is changed.
    """
    store.check_commits()
    text = (root / MANIFEST).read_bytes()
    manifest = Manifest.model_validate_json(text)
    journal = (root / STATE / "journal.jsonl").read_bytes() if (root / STATE / "journal.jsonl").exists() else b""
    shards = {shard.path: shard.sha256 for shard in manifest.shards()}
    for line in journal.splitlines():
        receipt = Receipt.from_json(json.loads(line))
        shards |= {shard.path: shard.sha256 for shard in receipt.shards if (root / shard.path).is_file()}
    objects = {name: (root / name, sha256) for name, sha256 in shards.items()}
    objects |= {file_name(sha256): (root / name, sha256) for name, sha256 in manifest.files.items()}
    stands = {
        name: about.size for below in (*SHARDS, ".binmill/files/") for name, about in store.listing(below).items()
    }

    def send(name: str) -> bool:
        path, sha256 = objects[name]
        if not path.is_file() or sha256_file(path) != sha256:
            raise DatasetError(f"{path}: missing or damaged", "run the recipe again, then push")
        if stands.get(name) == path.stat().st_size and store.sha256(name) == sha256:
            return False
        store.put(name, path, sha256)
        return True

    sent = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for done, new in enumerate(pool.map(send, objects), 1):
            sent += new
            told(done, len(objects))
    manifest_sha256 = hashlib.sha256(text).hexdigest()
    attested = {name: (root / name).read_bytes() for name in ATTESTED if (root / name).is_file()}
    for name, data in attested.items():
        store.write(attested_name(manifest_sha256, name), data)
    store.write(journal_name(manifest_sha256), journal)
    store.commit(MANIFEST, text, expected)
    # For people who look into the bucket; readers take those that the manifest lists or is named by.
    for name, data in ({name: (root / name).read_bytes() for name in manifest.files} | attested).items():
        store.write(name, data)
    return sent


def sweep(store: ObjectStore) -> list[str]:
    """Remove what no longer belongs to the published dataset and is older than a day. Returns the names.

    Whoever still reads the dataset that was there before loses it.

    Raises
    ------
    DatasetError
        There is no dataset at the URL.
    """
    there = published(store)
    manifest = there.manifest
    if there.text is None or manifest is None:
        raise DatasetError(f"{store.url}: no dataset here", "name the URL that a dataset was pushed to")
    manifest_sha256 = hashlib.sha256(there.text).hexdigest()
    journal = journal_name(manifest_sha256)
    keep = {journal, *(attested_name(manifest_sha256, name) for name in ATTESTED), *_paths(manifest)}
    try:
        lines, _ = store.read(journal)
        keep |= {s.path for line in lines.splitlines() for s in Receipt.from_json(json.loads(line)).shards}
    except FileNotFoundError:
        pass
    before = datetime.now(UTC) - GRACE
    left = [
        name
        for below in (*SHARDS, ".binmill/")
        for name, about in store.listing(below).items()
        if name not in keep and about.modified is not None and about.modified < before
    ]
    store.remove(sorted(set(left)))
    return sorted(set(left))


def _paths(manifest: Manifest) -> Iterable[str]:
    yield from (shard.path for shard in manifest.shards())
    yield from (file_name(sha256) for sha256 in manifest.files.values())
