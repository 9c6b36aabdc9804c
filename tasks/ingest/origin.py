"""Origins: the openable places that a recipe's sources stand for, all with one face."""

import hashlib
import importlib.metadata
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from schemas.errors import SourceError
from schemas.provenance import digest
from schemas.recipe import DirectorySource, InstalledSource, Members, PypiSource, Source, TableSource
from tasks.archives import NESTED, Limits, Member, is_archive, members, read_file
from tasks.ingest import cache
from tasks.ingest.index import choose, download, project_files
from tasks.ingest.wheel import WheelMetadata, parse_metadata, read_wheel_metadata


@dataclass(frozen=True, slots=True)
class Origin:
    """One place to open: a wheel, an installed distribution, a folder, a table.

    Attributes
    ----------
    sha256
        Of the archive or table, or over the listing of a folder's files: what is in it, not where it is.
    location
        Where it is on this machine; None for what is in the download cache.
    files
        Files of an installed distribution, below `location`.
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
    files: tuple[str, ...] = ()

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
        record: dict[str, Any] = value | {name: tuple(value[name]) for name in ("include", "exclude", "files")}
        return Origin(**record)


def resolve(source: Source, base: Path) -> list[Origin]:
    """The origins of a source. Nothing is downloaded; an index is asked only about what the recipe leaves open.

    Parameters
    ----------
    base
        Folder that the recipe's relative paths start from.

    Raises
    ------
    SourceError
        A path does not exist, or the index does not know a release.
    """
    if isinstance(source, PypiSource):
        return _resolve_pypi(source)
    if isinstance(source, InstalledSource):
        return installed(source)
    path = (base / source.path).absolute()
    if isinstance(source, DirectorySource):
        if not path.is_dir():
            raise SourceError(
                f"sources.path: {path} is not a folder", "check the path; it starts from the recipe's folder"
            )
        return [
            Origin("directory", path.name, None, None, _listing_digest(path), str(path),
                   source.members.include, source.members.exclude, source.project)
        ]  # fmt: skip
    return [_table(path, source)]


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
                   source.members.include, source.members.exclude)
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
            if source.members.takes(path) and ".." not in path.split("/") and _is_file(root / path)
        )
        if files:
            project = canonicalize_name(name)
            listing = digest([(path, _sha256(root / path)) for path in files])
            origins.setdefault(
                project,
                Origin("installed", project, distribution.version, None, listing, str(root),
                       source.members.include, source.members.exclude, files=tuple(files)),
            )  # fmt: skip
    if not origins:
        raise SourceError(
            "sources: the installed environment has no native modules",
            "install packages with native modules, or use another kind of source",
        )
    return [origins[name] for name in sorted(origins)]


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk(root: Path) -> Iterator[str]:
    """Paths of everything below a folder that is not a folder, sorted, links not followed."""
    for folder, folders, files in os.walk(root, followlinks=False):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(name for name in folders if name not in linked)
        for name in sorted([*files, *linked]):
            yield (Path(folder) / name).relative_to(root).as_posix()


def _listing_digest(root: Path) -> str:
    """Digest over the names and contents of a folder's files (of links, only that they are links)."""
    listing: list[tuple[str, str]] = []
    for path in walk(root):
        place = root / path
        try:
            content = _sha256(place) if _is_file(place) else "not a regular file"
        except OSError as error:
            content = f"unreadable: {error.strerror}"
        listing.append((path.encode("utf-8", "surrogateescape").hex(), content))
    return digest(listing)


def is_cached(origin: Origin, cache_dir: Path) -> bool:
    """Whether an origin can be opened without a download."""
    return origin.location is not None or cache.archive_path(cache_dir, origin.sha256).is_file()


def obtain(origin: Origin, cache_dir: Path) -> tuple[Path, str | None]:
    """Make an origin openable: fetch and check a wheel that is not in the cache.

    Returns
    -------
    path
        Archive, folder or table.
    url
        Where it came from.

    Raises
    ------
    SourceError
        It cannot be fetched, or is not what the recipe pins.
    """
    if origin.location is not None:
        return Path(origin.location), Path(origin.location).as_uri()
    found = cache.find(cache_dir, origin.sha256)
    if found is None:
        assert origin.filename is not None
        offered = [w for w in project_files(origin.name) if w.filename == origin.filename]
        if not offered:
            raise SourceError(
                f"{origin.filename}: no configured index has this file",
                "check sources.packages.files; a release may have been yanked or removed",
            )
        exact = [w for w in offered if w.sha256 == origin.sha256] or offered
        url = exact[0].url.partition("#")[0]
        found = cache.store(cache_dir, origin.sha256, url, origin.filename, download(url))
    return found.path, found.url


def describe(origin: Origin, path: Path, url: str | None) -> dict[str, Any]:
    """The origin's row of `sources`."""
    about = WheelMetadata(None, None, None, None, None)
    if origin.kind == "pypi":
        about = read_wheel_metadata(path)
    elif origin.kind == "installed":
        distribution = importlib.metadata.distribution(origin.name)
        about = parse_metadata(distribution.read_text("METADATA") or "", distribution.read_text("WHEEL") or "")
    return {
        "source_id": origin.source_id,
        "kind": origin.kind,
        "name": origin.name,
        "version": origin.version,
        "filename": origin.filename,
        "url": url if origin.kind == "pypi" else None,
        "archive_sha256": origin.sha256 if origin.kind in {"pypi", "table"} else None,
        "licence": about.licence,
        "licence_source": about.licence_source,
        "generator": about.generator,
        "status": "ok",
        "reason": None,
    }


def scan(origin: Origin, path: Path, limits: Limits) -> Iterator[tuple[Member, str]]:
    """Candidate files of an origin with the project each belongs to, and every refused one with its reason."""
    takes = origin.members.takes
    if origin.kind == "installed":
        for name in origin.files:
            yield read_file(path, name, limits.max_member_bytes), origin.name
    elif origin.kind == "pypi":
        for member in members(path, limits, takes):
            yield member, origin.name
    else:
        for name in walk(path):
            project = _project(origin, name)
            if _is_file(path / name) and is_archive(path / name):
                for member in _archive_in_folder(path, name, limits, origin.members):
                    yield member, project
            elif takes(name):
                yield read_file(path, name, limits.max_member_bytes), project


def _archive_in_folder(root: Path, name: str, limits: Limits, wanted: Members) -> Iterator[Member]:
    found = 0
    for member in members(root / name, limits, lambda inner: wanted.takes(f"{name}{NESTED}{inner}")):
        found += 1
        path = f"{name}{NESTED}{member.path}" if member.path else name
        yield Member(path, member.data, member.reason)
    if not found:
        yield Member(name, None, "archive holds no candidate file")


def _project(origin: Origin, path: str) -> str:
    if origin.project == "first-folder" and "/" in path:
        return f"{origin.name}/{path.split('/', 1)[0]}"
    return f"{origin.name}/{path}"
