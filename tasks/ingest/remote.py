"""Files by URL: http(s) through requests, file and object stores through fsspec; all of it from strangers."""

import ipaddress
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import fsspec
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from schemas.errors import SourceError
from schemas.recipe import HttpSource, RemoteFile
from tasks.containers import unsafe
from tasks.ingest import cache

BLOCK = 1 << 18
TIMEOUT_S = 30.0
ATTEMPTS = 3
PAUSE_S = 0.5
REDIRECTS = 5
PATIENCE_S = 120.0
SLOWEST = 1024
"""Bytes a second that a download must have come to after `PATIENCE_S`."""
MOST_LISTED = 100_000
"""Files below one prefix."""
GONE = {404, 410, 401, 403}

Options = Mapping[str, str | int | bool]


class BrokenOffError(SourceError):
    """A download that failed on the way; it may be tried again."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One file to fetch.

    Attributes
    ----------
    filename
        Last part of its URL; below a prefix, its path there.
    sha256
        None in a dry run, where nothing was fetched yet.
    """

    filename: str
    url: str
    sha256: str | None
    licence: str | None


def offers(source: HttpSource, cache_dir: Path, dry: bool) -> list[Offer]:
    """All files of a source. Those without a SHA-256 are fetched, once, for it is only known then.

    Raises
    ------
    SourceError
        A file or listing cannot be had.
    """
    found: list[Offer] = []
    for file in source.files:
        for url, filename in _listed(file, source.options, cache_dir, dry):
            sha256 = file.sha256 or cache.recall(cache_dir, ["http", url])
            if sha256 is None and not dry:
                kept = fetch(url, filename, None, source.max_mib << 20, source.options, cache_dir)
                sha256 = kept.path.name
                cache.remember(cache_dir, ["http", url], sha256)
            found.append(Offer(filename, url, sha256, file.licence))
    return found


def _listed(file: RemoteFile, options: Options, cache_dir: Path, dry: bool) -> list[tuple[str, str]]:
    """URL and file name of each file that an entry of the recipe stands for."""
    if not file.url.endswith("/"):
        name = unquote(urlsplit(file.url).path).rsplit("/", 1)[-1] or urlsplit(file.url).netloc
        return [(file.url, _checked(file.url, name))]
    if urlsplit(file.url).scheme in {"http", "https"}:
        raise SourceError(f"{file.url}: http has no listing", "name the files one by one, or an object store's prefix")
    names = cache.recall(cache_dir, ["http", file.url])
    if names is None:
        if dry:
            return [(file.url, file.url.rstrip("/").rsplit("/", 1)[-1])]
        names = _list(file.url, options)
        cache.remember(cache_dir, ["http", file.url], names)
    return [(file.url + name, _checked(file.url, name)) for name in names]


def _checked(url: str, name: str) -> str:
    """A file's name, which will be a path in tables."""
    if reason := unsafe(name):
        raise SourceError(f"{url}: '{name[:80]!r}' is no name for a file: {reason}", "leave this file out")
    return name


def _list(url: str, options: Options) -> list[str]:
    system, root = _system(url, options)
    names: list[str] = []
    try:
        base = root.rstrip("/") + "/"
        for path in system.find(root):
            name = str(path)
            if name.startswith(base) and name != base:
                names.append(name[len(base) :])
            if len(names) > MOST_LISTED:
                raise SourceError(f"{url}: more than {MOST_LISTED} files", "name a longer prefix")
    except SourceError:
        raise
    except Exception as error:  # each store has errors of its own
        raise _unreachable(url, error) from error
    if not names:
        raise SourceError(f"{url}: no file has this prefix", "check sources.files.url")
    return sorted(names)


def _system(url: str, options: Options) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    scheme = urlsplit(url).scheme
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise SourceError(
            f"{url}: {scheme}:// needs a package that is not installed ({error})",
            "pip install 'binmill[remote]' for S3; for another store, the package named above",
        ) from error
    except Exception as error:
        raise SourceError(
            f"{url}: {str(error)[:200] or type(error).__name__}", "check sources.files.url and sources.options"
        ) from error
    return system, str(path)


def _unreachable(url: str, error: BaseException) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceError(f"{url}: there is no such file", "check sources.files.url")
    if isinstance(error, PermissionError):
        return SourceError(
            f"{url}: access is denied", "give credentials through the environment, or 'options: {anon: true}'"
        )
    return BrokenOffError(f"{url}: {type(error).__name__}: {str(error)[:200]}", "check the network, and run again")


def fetch(url: str, filename: str, sha256: str | None, most: int, options: Options, cache_dir: Path) -> cache.Cached:
    """Fetch one file into the cache; what breaks off is tried again.

    Parameters
    ----------
    sha256
        What it must be; None: anything.
    most
        Bytes it may have.

    Raises
    ------
    SourceError
        It cannot be had, is larger, or is not what it must be.
    """
    for attempt in range(ATTEMPTS):
        blocks = _http(url) if urlsplit(url).scheme in {"http", "https"} else _fsspec(url, options)
        try:
            return cache.store(cache_dir, sha256, url, filename, _at_most(blocks, url, most))
        except BrokenOffError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError


def _at_most(blocks: Iterator[bytes], url: str, most: int) -> Iterator[bytes]:
    given, began = 0, time.monotonic()
    for block in blocks:
        given += len(block)
        if given > most:
            raise SourceError(f"{url}: larger than {most >> 20} MiB", "raise sources.max_mib, or leave this file out")
        passed = time.monotonic() - began
        if passed > PATIENCE_S and given < SLOWEST * passed:
            raise SourceError(f"{url}: slower than {SLOWEST} bytes a second", "use a nearer copy")
        yield block


def _fsspec(url: str, options: Options) -> Iterator[bytes]:
    system, path = _system(url, options)
    try:
        with system.open(path, "rb") as file:
            while block := file.read(BLOCK):
                yield block
    except Exception as error:
        raise _unreachable(url, error) from error


def _session() -> requests.Session:
    session = requests.Session()
    retry = Retry(total=3, backoff_factor=PAUSE_S, status_forcelist=(429, 500, 502, 503, 504), redirect=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    # The bytes as they are stored, for a SHA-256 is of these.
    session.headers.update({"User-Agent": "binmill", "Accept-Encoding": "identity"})
    return session


def _http(url: str) -> Iterator[bytes]:
    place = url
    try:
        with _session() as session:
            for _ in range(REDIRECTS + 1):
                with session.get(place, stream=True, timeout=TIMEOUT_S, allow_redirects=False) as response:
                    if response.is_redirect:
                        place = redirected(url, place, urljoin(place, response.headers["Location"]))
                        continue
                    yield from _body(url, response)
                    return
    except (requests.RequestException, HTTPError, OSError) as error:
        raise BrokenOffError(
            f"{url}: the download failed: {type(error).__name__}",
            "check the network, and run again: what was fetched is kept",
        ) from error
    raise SourceError(f"{url}: more than {REDIRECTS} redirects", "name the URL that the file is at")


def _body(url: str, response: requests.Response) -> Iterator[bytes]:
    if response.status_code != 200:
        said = f"{response.status_code} {response.reason}"
        error = SourceError if response.status_code in GONE else BrokenOffError
        raise error(f"{url}: the server answers {said}", "check sources.files.url")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceError(f"{url}: the server changes the file on its way", "use another server")
    given = 0
    while block := response.raw.read1(BLOCK):  # what there is, for a server may drip
        given += len(block)
        yield block
    declared = response.headers.get("Content-Length", "")
    if declared.isdigit() and given != int(declared):
        raise BrokenOffError(f"{url}: {given} of {declared} bytes came", "run again")


def redirected(url: str, place: str, target: str) -> str:
    """Where a redirect leads, if it may lead there."""
    before, after = urlsplit(place), urlsplit(target)
    if after.scheme not in {"http", "https"} or (before.scheme == "https" and after.scheme != "https"):
        raise SourceError(f"{url}: redirected away from https to {after.scheme}", "name the URL that the file is at")
    if after.hostname != before.hostname and _is_private(after.hostname or ""):
        raise SourceError(f"{url}: redirected into a private network", "name the URL that the file is at")
    return target


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
