"""The objects below one URL of an object store, through fsspec; all that binmill asks of such a store."""

import contextlib
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from schemas.errors import DatasetError

READABLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https")
"""Where datasets can be read from."""
COMMITTABLE = ("s3", "s3a")
"""Where they can be published to: stores whose conditional put is known to us."""
BLOCK = 1 << 20


def is_url(place: str | Path) -> bool:
    """Whether a place is meant as an object store's URL, not as a folder."""
    return "://" in str(place)


class OvertakenError(DatasetError):
    """Another run has published since this one began."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object, as a listing names it."""

    size: int
    modified: datetime | None


class ObjectStore:
    """The objects below one URL, by their names relative to it.

    Keys, endpoint and region come from where the store's own tools take them: the environment (`AWS_PROFILE`,
    `AWS_ENDPOINT_URL`, ...), its files, or fsspec's configuration. A URL with a password in it is refused.

    Raises
    ------
    DatasetError
        The URL is of no known kind, or the package that speaks its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in READABLE:
            raise DatasetError(f"{url}: no store of datasets", f"use a folder, or one of {', '.join(READABLE)}://...")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise DatasetError(f"{parts.scheme}://{parts.hostname}/...: a URL with keys or options in it",
                               "put keys into the environment, as the store's own tools read them")  # fmt: skip
        self.url = url.rstrip("/")
        self.scheme = parts.scheme
        options: dict[str, Any] = {"skip_instance_cache": True}
        if self.scheme not in {"http", "https"}:
            options["use_listings_cache"] = False  # what others write meanwhile counts
        try:
            self._system, root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise DatasetError(
                f"{url}: the package that speaks {self.scheme} is not installed: {error}",
                "pip install 'binmill[remote]' for s3; for others the package that fsspec names",
            ) from error
        self._root = str(root).rstrip("/")

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _named(self, name: str) -> Generator[None]:
        """Failures of the store, said as ours."""
        try:
            yield
        except (DatasetError, FileNotFoundError):
            raise
        except Exception as error:
            raise DatasetError(
                f"{self.url}/{name}: the store answers {type(error).__name__}: {error}",
                "check the URL, the keys and the network, then run again: what was transferred is kept",
            ) from error

    def read(self, name: str) -> tuple[bytes, str]:
        """A small object, and the tag of just these bytes.

        Raises
        ------
        FileNotFoundError
            There is none.
        DatasetError
            The store cannot be reached, or refuses.
        """
        with self._named(name):
            if self.scheme in COMMITTABLE:
                bucket, key, _ = self._system.split_path(self._place(name))
                answer = self._system.call_s3("get_object", Bucket=bucket, Key=key)
                body: Any = sync(self._system.loop, answer["Body"].read)
                return body, str(answer["ETag"])
            return self._system.cat_file(self._place(name)), ""

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a large object."""
        with self._named(name), self._system.open(self._place(name), "rb", block_size=8 * BLOCK) as file:
            while block := file.read(BLOCK):
                yield block

    def listing(self, below: str) -> dict[str, Stored]:
        """Every object below a name, which ends with a slash."""
        with self._named(below):
            try:
                found = self._system.find(self._place(below), detail=True)
            except FileNotFoundError:
                return {}
        cut = len(self._root) + 1
        return {str(path)[cut:]: Stored(about["size"], about.get("LastModified")) for path, about in found.items()}

    def sha256(self, name: str) -> str | None:
        """The SHA-256 that an object was put with, where it says so."""
        with self._named(name):
            found: dict[str, str] = self._system.metadata(self._place(name), refresh=True)
        return found.get("sha256")

    def put(self, name: str, path: Path, sha256: str) -> None:
        """Upload a file, whatever is there; the object keeps its SHA-256."""
        with self._named(name):
            self._system.put_file(str(path), self._place(name), Metadata={"sha256": sha256})

    def write(self, name: str, data: bytes) -> None:
        """Write a small object, whatever is there."""
        with self._named(name):
            self._system.pipe_file(self._place(name), data)

    def commit(self, name: str, data: bytes, expected: str | None) -> None:
        """Replace an object only if nobody else has since it was read.

        Parameters
        ----------
        expected
            Tag of the object as it was read; None: there was none.

        Raises
        ------
        OvertakenError
            The object is another by now.
        """
        try:
            self._conditionally(name, data, expected)
        except FileExistsError as error:
            raise OvertakenError(
                f"{self.url}: another run has published while this one was at work",
                "run again: it goes on from what is published now, and keeps what was computed",
            ) from error

    def _conditionally(self, name: str, data: bytes, expected: str | None) -> None:
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        with self._named(name):
            try:
                self._system.pipe_file(self._place(name), data, **condition)
            except OSError as error:
                code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code", "")
                lost = isinstance(error, FileExistsError) or code in {
                    "PreconditionFailed", "412", "ConditionalRequestConflict", "409", "NoSuchKey", "404",
                }  # fmt: skip
                if not lost:
                    raise
                overtaken = error
            else:
                return
        raise FileExistsError(name) from overtaken

    def check_commits(self) -> None:
        """Make sure that the store honours conditional puts, by an object of no meaning.

        Raises
        ------
        DatasetError
            It does not, or binmill does not know how to ask it: two runs could overwrite one another.
        """
        remedy = "publish to a store with conditional puts (s3), or to a folder, and copy that"
        if self.scheme not in COMMITTABLE:
            raise DatasetError(f"{self.url}: no conditional put is known for {self.scheme}", remedy)
        name = f".binmill/probe-{secrets.token_hex(8)}"
        try:
            self.write(name, b"binmill asks whether conditional puts hold here")
        except FileNotFoundError as error:
            raise DatasetError(f"{self.url}: there is no such bucket", "make it with the store's own tools") from error
        try:
            for expected in (None, '"00000000000000000000000000000000"'):
                try:
                    self._conditionally(name, b"they do not", expected)
                except FileExistsError:
                    continue
                raise DatasetError(f"{self.url}: the store ignores the conditions of a put", remedy)
        finally:
            self.remove([name])

    def remove(self, names: list[str]) -> None:
        """Remove objects."""
        if names:
            with self._named(names[0]):
                self._system.rm([self._place(name) for name in names])
