"""Fetching what a manifest lists, held against its SHA-256, whole or not at all; and what names the manifest."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from schemas.errors import DatasetError
from tasks.shards import replace_atomically
from tasks.store.layout import attested_name
from tasks.store.objects import ObjectStore


def fetch_attested(store: ObjectStore, manifest_sha256: str, name: str, target: Path) -> None:
    """Fetch the statement of a manifest or its signature, if it is there; whether it is right, `verify` says."""
    with contextlib.suppress(FileNotFoundError):
        replace_atomically(target, store.read(attested_name(manifest_sha256, name))[0])


def fetch(store: ObjectStore, name: str, target: Path, sha256: str) -> None:
    """Fetch one object into a file.

    Raises
    ------
    DatasetError
        It is not there, cannot be fetched, or has other bytes than the manifest says; or the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    digest = hashlib.sha256()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for block in store.blocks(name):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise DatasetError(
                f"{store.url}/{name}: SHA-256 is {digest.hexdigest()}, the manifest says {sha256}",
                "push the dataset again from where it was made; do not use this one",
            )
        temporary.replace(target)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{store.url}/{name}: listed in the manifest, but not there",
            "push the dataset again from where it was made",
        ) from error
    except OSError as error:
        raise DatasetError(
            f"{target}: cannot write: {error.strerror or error}",
            "free disk space, or set BINMILL_CACHE to another disk",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
