"""Origins: the openable places that a recipe's sources stand for, all with one face."""

import hashlib
import importlib.metadata
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from schemas.errors import SourceError
from schemas.provenance import canonical_json, digest
from schemas.recipe import (
    DebianSource,
    DirectorySource,
    GitSource,
    HttpSource,
    InstalledSource,
    Members,
    PypiSource,
    Source,
    TableSource,
)
from tasks.archives import (
    is_regular,
)
from tasks.ingest import cache, debian, git, remote
from tasks.ingest.index import choose, download, project_files
from tasks.repository import is_commit

PART_FILES, PART_BYTES = 4096, 1 << 29
"""Most of a folder that one item opens."""

READERS = min(8, os.cpu_count() or 1)
"""Files that are read at once where a folder's are hashed."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One place to open: a wheel, a package, a commit, an installed distribution, a folder, a table.

    Attributes
    ----------
    sha256
        Of the archive or table, or over the listing of a folder's files: what is in it, not where it is.
    location
        Where it is on this machine; None for what is fetched.
    content, depth
        See the recipe's `Members`.
    files
        Files of an installed distribution, below `location`.
    url
        Where it is fetched from, where the recipe says so.
    licence
        The licence that the recipe states.
    fetching
        How it is fetched: `max_mib` and `options` of the recipe.
    part
        Of a large folder: the files that are meant.
    """

    kind: str
    name: str
    version: str | None
    filename: str | None
    sha256: str
    location: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    project: str = "name"
    """`name`: all files are one project; `first-folder` or `file`: see the recipe's directory source."""
    content: str = "any"
    depth: int = 3
    files: tuple[str, ...] = ()
    url: str | None = None
    licence: str | None = None
    fetching: dict[str, Any] = field(default_factory=dict[str, Any])
    part: "Part | None" = None

    @property
    def title(self) -> str:
        """What a person calls it."""
        began = "" if self.part is None else f", from {_unhex(self.part[0])} on"
        return f"{self.filename or self.name}{began}".encode("utf-8", "backslashreplace").decode()

    @property
    def source_id(self) -> str:
        """Identity by content: the same source has the same id everywhere."""
        return digest([self.kind, self.name, self.version, self.filename, self.sha256])

    @property
    def members(self) -> Members:
        """Which files are candidates."""
        return Members(include=self.include, exclude=self.exclude)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, for a work item."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Origin":
        """Back from a work item."""
        names = ("include", "exclude", "files", *(("part",) if value["part"] else ()))
        record: dict[str, Any] = value | {name: tuple(value[name]) for name in names}
        return Origin(**record)


def resolve(source: Source, base: Path, cache_dir: Path | None = None, dry: bool = False) -> list[Origin]:
    """The origins of a source. An index, archive or server is asked only about what the recipe leaves open.

    Nothing is downloaded but files of sources of kind http whose SHA-256 the recipe does not say.

    Parameters
    ----------
    base
        Folder that the recipe's relative paths start from.
    cache_dir
        Folder of what was fetched, and of what was answered before; the default one when None.
    dry
        Download nothing at all. Origins that are not known yet stand there under a name of their own.

    Raises
    ------
    SourceError
        A path does not exist, or the index does not know a release.
    """
    if isinstance(source, PypiSource):
        return _resolve_pypi(source)
    if isinstance(source, InstalledSource):
        return installed(source)
    place = cache.default_cache() if cache_dir is None else cache_dir
    if isinstance(source, DebianSource):
        return _resolve_debian(source, place, dry)
    if isinstance(source, HttpSource):
        return _resolve_http(source, place, dry)
    if isinstance(source, GitSource):
        return [_resolve_git(source, base, place, dry)]
    path = (base / source.path).absolute()
    if isinstance(source, DirectorySource):
        if not path.is_dir():
            raise SourceError(
                f"sources.path: {path} is not a folder", "check the path; it starts from the recipe's folder"
            )
        return _directory(path, source)
    if isinstance(source, TableSource):
        return [_table(path, source)]
    raise SourceError(f"{path}: vectors have no labels to make examples of", "index them: binmill index")


def _wanted(members: Members) -> dict[str, Any]:
    return members.model_dump()


def _unresolved(kind: str, name: str) -> str:
    """What stands for a SHA-256 that nobody knows before a download; only a dry run meets it."""
    return digest(["unresolved", kind, name])


def _resolve_debian(source: DebianSource, cache_dir: Path, dry: bool) -> list[Origin]:
    return [
        Origin("debian", package.name, offer.version, offer.filename,
               offer.sha256 or _unresolved("debian", offer.filename), None, **_wanted(source.members))
        for package in source.packages
        for offer in debian.offers(package, source.architectures, cache_dir, dry)
    ]  # fmt: skip


def _resolve_http(source: HttpSource, cache_dir: Path, dry: bool) -> list[Origin]:
    fetching = {"max_mib": source.max_mib, "options": dict(source.options)}
    return [
        Origin("http", offer.filename, None, offer.filename, offer.sha256 or _unresolved("http", offer.url), None,
               url=offer.url, licence=offer.licence, fetching=fetching, **_wanted(source.members))
        for offer in remote.offers(source, cache_dir, dry)
    ]  # fmt: skip


def _resolve_git(source: GitSource, base: Path, cache_dir: Path, dry: bool) -> Origin:
    url = git.address(source, base)
    commit = git.commit_of(source, url, cache_dir, dry)
    is_path = git.is_path(source.url)
    name = url.rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".git") or "repository"
    return Origin(
        "git", name, commit, None, digest(["git", commit]) if commit else _unresolved("git", f"{url} {source.ref}"),
        url if is_path else None, project="name" if source.project == "repository" else source.project,
        url=None if is_path else url, fetching={"max_mib": source.max_mib}, **_wanted(source.members),
    )  # fmt: skip


def _table(path: Path, source: TableSource) -> Origin:
    if not path.is_file():
        raise SourceError(f"sources.path: {path} is not a file", "check the path; it starts from the recipe's folder")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Origin("table", path.stem, None, path.name, sha256, str(path), (), ())


def _resolve_pypi(source: PypiSource) -> list[Origin]:
    origins: list[Origin] = []
    for package in source.packages:
        files: dict[str, str] = dict(package.files)
        if not files:
            offered = project_files(package.name)
            for platform in source.platforms:
                wheel = choose(offered, package.version, platform, source.python)
                if wheel.sha256 is None:
                    raise SourceError(
                        f"{wheel.filename}: the index gives no SHA-256", "pin it under sources.packages.files"
                    )
                files[wheel.filename] = wheel.sha256
        origins += [
            Origin("pypi", canonicalize_name(package.name), package.version, filename, sha256, None,
                   **_wanted(source.members))
            for filename, sha256 in sorted(files.items())
        ]  # fmt: skip
    return origins


def installed(source: InstalledSource) -> list[Origin]:
    """One origin for each installed distribution that has candidate files."""
    origins: dict[str, Origin] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        root = Path(str(distribution.locate_file(""))).resolve()
        if not name:
            continue
        files = sorted(
            path
            for path in {str(f).replace(os.sep, "/") for f in distribution.files or ()}
            if source.members.takes(path) and ".." not in path.split("/") and is_regular(root / path)
        )
        if files:
            project = canonicalize_name(name)
            listing = digest([(path, _sha256(root / path)) for path in files])
            origins.setdefault(
                project,
                Origin("installed", project, distribution.version, None, listing, str(root), files=tuple(files),
                       **_wanted(source.members)),
            )  # fmt: skip
    if not origins:
        raise SourceError(
            "sources: the installed environment has no native modules",
            "install packages with native modules, or use another kind of source",
        )
    return [origins[name] for name in sorted(origins)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


Part = tuple[str, str]
"""The first and the last of paths that follow each other as `walk` has them; in hexadecimal: a name may be no text."""


def walk(root: Path, part: Part | None = None) -> Iterator[str]:
    """Paths of everything below a folder that is not a folder, in order, links not followed.

    Parameters
    ----------
    part
        Only these; folders without one of them are not looked into.
    """
    first, last = (_place(_unhex(path)) for path in part) if part is not None else ((), ((2, ""),))
    for folder, folders, files in os.walk(root, followlinks=False):
        here = "" if folder == str(root) else Path(folder).relative_to(root).as_posix() + "/"
        inside = (*((1, name) for name in here.split("/")[:-1]),)
        linked = {name for name in folders if (Path(folder) / name).is_symlink()}
        below = sorted((*inside, (1, name)) for name in folders if name not in linked)
        folders[:] = [place[-1][1] for place in below if first[: len(place)] <= place <= last[: len(place)]]
        for place in sorted((*inside, (0, name)) for name in (*files, *linked)):
            if first <= place <= last:
                yield here + place[-1][1]


def _place(path: str) -> tuple[tuple[int, str], ...]:
    """Where a path comes in order: in each folder files do before folders."""
    *folders, name = path.split("/")
    return (*((1, folder) for folder in folders), (0, name))


def _hex(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").hex()


def _unhex(text: str) -> str:
    return bytes.fromhex(text).decode("utf-8", "surrogateescape")


def _directory(root: Path, source: DirectorySource) -> list[Origin]:
    """One origin, in parts, by the names and contents of a folder's files (of links, only that they are links)."""
    sha256, parts, files, size = hashlib.sha256(b"["), list[Part](), 0, 0
    for path, content, length in _contents(root):
        if files == PART_FILES or (files and size + length > PART_BYTES):
            files = size = 0
        sha256.update(b"," if parts else b"")
        name = _hex(path)
        sha256.update(canonical_json([name, content]).encode())
        if files:
            parts[-1] = (parts[-1][0], name)
        else:
            parts.append((name, name))
        files, size = files + 1, size + length
    sha256.update(b"]")
    return [
        Origin("directory", root.name, None, None, sha256.hexdigest(), str(root), project=source.project, part=part,
               **_wanted(source.members))
        for part in (parts if len(parts) > 1 else (None,))
    ]  # fmt: skip


def _contents(root: Path) -> Iterator[tuple[str, str, int]]:
    """Path of each file below a folder, its SHA-256 or what it is else, and its size; several are read at once."""

    def content(place: Path) -> tuple[str, int]:
        try:
            return (_sha256(place), place.stat().st_size) if is_regular(place) else ("not a regular file", 0)
        except OSError as error:
            return f"unreadable: {error.strerror}", 0

    with ThreadPoolExecutor(READERS) as pool:
        reading: deque[tuple[str, Future[tuple[str, int]]]] = deque()
        for path in walk(root):
            reading.append((path, pool.submit(content, root / path)))
            if len(reading) > 4 * READERS:
                first, found = reading.popleft()
                yield first, *found.result()
        for first, found in reading:
            yield first, *found.result()


def is_cached(origin: Origin, cache_dir: Path) -> bool:
    """Whether an origin can be opened without a download."""
    if origin.kind == "git":
        return origin.version is not None and is_commit(git.place(cache_dir, origin.version))
    return origin.location is not None or cache.archive_path(cache_dir, origin.sha256).is_file()


def obtain(origin: Origin, cache_dir: Path) -> tuple[Path, str | None]:
    """Make an origin openable: fetch and check what is not in the cache.

    Returns
    -------
    path
        Archive, file, folder, table, or `REPOSITORY/COMMIT`.
    url
        Where it came from.

    Raises
    ------
    SourceError
        It cannot be fetched, or is not what the recipe pins.
    """
    if origin.kind == "git":
        assert origin.version is not None
        url = origin.url or str(origin.location)
        return git.fetch(url, origin.version, cache_dir, origin.fetching["max_mib"] << 20), origin.url
    if origin.location is not None:
        return Path(origin.location), Path(origin.location).as_uri()
    found = cache.find(cache_dir, origin.sha256)
    if found is None:
        found = _download(origin, cache_dir)
    return found.path, origin.url or found.url


def _download(origin: Origin, cache_dir: Path) -> cache.Cached:
    assert origin.filename is not None
    if origin.kind == "debian":
        return debian.fetch(cache_dir, origin.filename, origin.sha256)
    if origin.url is not None:
        how = origin.fetching
        return remote.fetch(origin.url, origin.filename, origin.sha256, how["max_mib"] << 20, how["options"], cache_dir)
    offered = [w for w in project_files(origin.name) if w.filename == origin.filename]
    if not offered:
        raise SourceError(
            f"{origin.filename}: no configured index has this file",
            "check sources.packages.files; a release may have been yanked or removed",
        )
    exact = [w for w in offered if w.sha256 == origin.sha256] or offered
    url = exact[0].url.partition("#")[0]
    return cache.store(cache_dir, origin.sha256, url, origin.filename, download(url))
