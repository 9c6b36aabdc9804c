"""What was fetched: archives by their SHA-256, checked each time they are opened; and what names stood for."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import SourceError
from schemas.provenance import digest as digest_of


def default_cache() -> Path:
    """`$BINMILL_CACHE`, else `binmill` in the user's cache folder."""
    if chosen := os.environ.get("BINMILL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "binmill"


@dataclass(frozen=True, slots=True)
class Cached:
    """An archive in the cache, and where it was fetched from."""

    path: Path
    url: str | None


def archive_path(cache: Path, sha256: str) -> Path:
    """Where an archive stands."""
    return cache / "archives" / sha256[:2] / sha256


def find(cache: Path, sha256: str) -> Cached | None:
    """The archive, if it is there and its bytes are right; a damaged one is removed."""
    path = archive_path(cache, sha256)
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    if actual != sha256:
        path.unlink(missing_ok=True)
        return None
    try:
        url = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, KeyError, TypeError):
        url = None
    return Cached(path, url)


def store(cache: Path, sha256: str | None, url: str, filename: str, blocks: Iterable[bytes]) -> Cached:
    """Keep a download, if it is what it must be; with no SHA-256 to compare, whatever it is.

    Raises
    ------
    SourceError
        The bytes have another SHA-256, or the cache cannot be written.
    """
    path = archive_path(cache, sha256 or "unknown")
    temporary = cache / "archives" / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with temporary.open("wb") as file:
            for block in blocks:
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if sha256 is not None and digest.hexdigest() != sha256:
            raise SourceError(
                f"{filename}: SHA-256 is {digest.hexdigest()}, the recipe (or index) says {sha256}",
                "do not use this file; check the recipe's sha256, or ask the index's keeper why it changed",
            )
        path = archive_path(cache, digest.hexdigest())
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps({"url": url, "filename": filename}), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot keep the download: {error.strerror}",
            "free disk space, or choose another folder with --cache or BINMILL_CACHE",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Cached(path, url)


def recall(cache: Path, question: list[Any]) -> Any:
    """The answer to a question that was asked before; None when it was not.

    Parameters
    ----------
    question
        JSON values, as `["git", url, "main"]`.
    """
    try:
        record = json.loads(_answer_path(cache, question).read_text(encoding="utf-8"))
        return record["answer"] if record["question"] == question else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(cache: Path, question: list[Any], answer: Any) -> None:
    """Keep an answer, so that a later run takes the same; who wants a newer one removes the folder `resolved`."""
    path = _answer_path(cache, question)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({"question": question, "answer": answer}, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be written: {error.strerror}",
            "free disk space, or choose another folder with --cache or BINMILL_CACHE",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _answer_path(cache: Path, question: list[Any]) -> Path:
    return cache / "resolved" / f"{digest_of(question)}.json"
