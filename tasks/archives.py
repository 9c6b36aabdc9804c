"""Archives and folders read in place, member by member; hostile ones cost a row with a reason.

Nothing is written to disk, no link is followed, no path leaves the archive, and every member is unpacked against
limits that do not trust what the archive says of itself. An archive is told by its content, never by its name.
"""

import contextlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from schemas.errors import SourceError
from tasks.containers import LINK, Kind, entries, kind_of, shown, unsafe
from tasks.repository import Blob, contents, is_commit, tree
from tasks.unpacking import Budget, Entry, Limits, RefusedError, Rewindable

NESTED = "!"
"""`a.zip!b.tar.gz!c.so` is member c.so of the archive b.tar.gz, which is a member of the archive a.zip."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its bytes, or the reason why they are not given."""

    path: str
    data: bytes | None
    reason: str | None = None


Chooses = Callable[[str], bool]


def everything(path: str) -> bool:
    """Choose each path."""
    return True


def nothing(path: str) -> bool:
    """Choose no path."""
    return False


def archive_kind(path: Path) -> Kind | None:
    """What kind of archive the file is, by its content: a zip (wheels are), a tar, packed or not, an ar or a .deb."""
    try:
        with path.open("rb") as file:
            return kind_of(Rewindable(file))
    except OSError:
        return None


def is_archive(path: Path) -> bool:
    """Whether the file is an archive, by its content."""
    return archive_kind(path) is not None


def members(path: Path, limits: Limits, takes: Chooses, opens: Chooses = everything) -> Iterator[Member]:
    """Members that `takes` wants, in the archive's order; and every hostile one, wanted or not, with a reason.

    An archive that cannot be read (on) ends with a member whose path is its own (the outermost one's is empty).
    Nothing is raised on account of what is in the file.

    Parameters
    ----------
    path
        The outermost archive.
    takes
        Chooses members by their path; an archive that is opened is not given itself.
    opens
        Chooses members that are opened if they are archives themselves.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            visit = _Visit(Budget(limits, size), takes, opens)
            kind = kind_of(Rewindable(file))
            file.seek(0)
            if kind is None:
                yield Member("", None, "unreadable archive: neither zip, tar, ar nor .deb")
                return
            yield from visit.walk(kind, file if kind == "zip" else Rewindable(file), size, "", 1)
    except OSError as error:
        yield Member("", None, f"unreadable archive: {_short(error)}")


def _short(error: BaseException) -> str:
    told = shown(str(error) or type(error).__name__)[:120]
    return "".join(c if c.isprintable() else "?" for c in told)


@dataclass(slots=True)
class _Visit:
    """One way through an archive and the archives in it."""

    budget: Budget
    takes: Chooses
    opens: Chooses
    seen: set[str] = field(default_factory=set[str])
    held: int = 0
    """Bytes of zips that are held in memory, since they cannot be read from their beginning to their end."""

    def walk(self, kind: Kind, file: Any, size: int, path: str, depth: int) -> Iterator[Member]:
        """Members of one archive, which lies at `path`."""
        prefix = f"{path}{NESTED}" if path else ""
        try:
            for entry in entries(kind, file, size, self.budget):
                yield from self.visit(entry, prefix + entry.path, depth)
        except RefusedError as refused:
            yield Member(path, None, str(refused))
        except MemoryError:
            yield Member(path, None, "unreadable archive: out of memory")
        except Exception as error:  # parsers raise all kinds on hostile files, IndexError and KeyError too
            yield Member(path, None, f"unreadable archive: {_short(error)}")

    def visit(self, entry: Entry, path: str, depth: int) -> Iterator[Member]:
        """A member, the members of the archive that it is, or nothing."""
        wanted, opens = self.takes(path), self.opens(path)
        reason, hostile = entry.reason, entry.hostile
        if reason is None and path in self.seen:
            reason, hostile = "duplicate member: an earlier one has the same name", True
        self.seen.add(path)
        if reason is not None:
            if wanted or hostile:
                yield Member(path, None, reason)
        elif wanted or opens:
            try:
                yield from self.open(entry, path, depth, wanted, opens)
            except RefusedError as refused:
                yield Member(path, None, str(refused))
            except MemoryError:
                yield Member(path, None, "unreadable member: out of memory")
            except Exception as error:
                yield Member(path, None, f"corrupt member: {_short(error)}")

    def open(self, entry: Entry, path: str, depth: int, wanted: bool, opens: bool) -> Iterator[Member]:
        """The same; what is wrong with the member is raised."""
        stream: Any = entry.open()
        with contextlib.closing(stream) if hasattr(stream, "close") else contextlib.nullcontext():
            content = Rewindable(stream)
            kind = kind_of(content) if opens else None
            if kind is None:
                if wanted:
                    yield Member(path, self.budget.read(entry, content.settled()))
                elif not entry.counted:
                    self.budget.spend(content.kept)
            elif depth >= self.budget.limits.max_depth:
                yield Member(path, None, f"nested archive: deeper than {depth}")
            elif kind == "zip":
                if self.held + entry.size > self.budget.limits.max_member_bytes:
                    raise RefusedError("decompression bomb: a nested zip larger than the limit for one file")
                data = self.budget.read(entry, content.settled())
                self.held += len(data)
                yield from self.walk(kind, io.BytesIO(data), len(data), path, depth + 1)
                self.held -= len(data)
            else:
                yield from self.walk(kind, content, entry.size, path, depth + 1)


def read_file(root: Path, relative: str, limit: int) -> Member:
    """One regular file below a folder; links are not followed, neither at its end nor on the way.

    Parameters
    ----------
    root
        The folder.
    relative
        Path below it, with `/`.
    limit
        Bytes it may have.
    """
    reason = unsafe(relative)
    if reason is not None:
        return Member(relative, None, reason)
    folder = -1
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        *parents, name = relative.split("/")
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Member(relative, None, "not a regular file: not opened")
            if status.st_size > limit:
                return Member(relative, None, "too large: beyond the limit for one file")
            return Member(relative, file.read(limit + 1)[:limit])
    except OSError as error:
        if error.errno in {40, 62}:  # ELOOP on Linux, on macOS
            return Member(relative, None, LINK)
        return Member(relative, None, f"unreadable: {error.strerror}")
    finally:
        if folder >= 0:
            os.close(folder)


def commit_members(place: Path, limits: Limits, takes: Chooses, opens: Chooses = everything) -> Iterator[Member]:
    """Files of a commit, as `members` gives them of an archive; each archive among them has its own budget.

    Parameters
    ----------
    place
        `REPOSITORY/COMMIT`.
    """
    try:
        files = [b for b in tree(place) if takes(shown(b.path)) or (opens(shown(b.path)) and b.mode.startswith("100"))]
        plain = [b for b in files if b.mode.startswith("100") and b.size <= limits.max_member_bytes]
        for blob in files:
            if reason := unsafe(blob.path) or _not_read(blob, limits):
                yield Member(shown(blob.path), None, reason)
        for blob, data in zip(plain, contents(place, plain), strict=True):
            if unsafe(blob.path) is None:
                entry = Entry(shown(blob.path), len(data), lambda d=data: io.BytesIO(d), counted=True)
                yield from _Visit(Budget(limits, len(data)), takes, opens).visit(entry, entry.path, 0)
    except SourceError as error:
        yield Member("", None, f"unreadable repository: {error.problem}")


def _not_read(blob: Blob, limits: Limits) -> str | None:
    if blob.mode == "120000":
        return LINK
    if blob.mode == "160000":
        return "submodule: not followed"
    return "too large: beyond the limit for one file" if blob.size > limits.max_member_bytes else None


def _real_name(path: str) -> str:
    """A file's name from its path in a table, where bytes that are not UTF-8 are escaped."""
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda match: chr(int(match[1], 16)), path)


def read(location: Path, paths: Sequence[str], limits: Limits) -> Iterator[Member]:
    """Read chosen files again: of a folder, of an archive, or of a commit.

    Parameters
    ----------
    location
        A folder, an archive, a file by itself, or `REPOSITORY/COMMIT` (see `tasks.repository`).
    paths
        Files wanted; `a.zip!b.so` is a member of an archive. Each archive is opened once, and only as far as needed.
    """
    deep = replace(limits, max_depth=1 + max((path.count(NESTED) for path in paths), default=0) + 1)
    if is_commit(location):
        yield from commit_members(location, deep, set(paths).__contains__, _leads_to(paths))
    elif is_archive(location):
        yield from _chosen(location, paths, deep)
    elif not location.is_dir():  # one file by itself, whatever it is called
        for path in paths:
            yield replace(read_file(location.parent, location.name, limits.max_member_bytes), path=path)
    else:
        inside: dict[str, list[str]] = {}
        for path in paths:
            archive = _archive_of(location, path)
            if archive is None:
                yield replace(read_file(location, _real_name(path), limits.max_member_bytes), path=path)
            else:
                inside.setdefault(archive, []).append(path[len(archive) + 1 :])
        for archive, within in inside.items():
            for member in _chosen(location / _real_name(archive), within, deep):
                yield replace(member, path=f"{archive}{NESTED}{member.path}")


def _chosen(path: Path, wanted: Sequence[str], limits: Limits) -> Iterator[Member]:
    """Those members of an archive, which is left as soon as all are found."""
    left = set(wanted)
    for member in members(path, limits, left.__contains__, _leads_to(wanted)):
        if member.path in left:
            left.discard(member.path)
            yield member
            if not left:
                return


def _leads_to(paths: Sequence[str]) -> Chooses:
    """Chooses the archives that hold one of the paths."""
    archives = {path[: mark.start()] for path in paths for mark in re.finditer(re.escape(NESTED), path)}
    return archives.__contains__


def _archive_of(root: Path, path: str) -> str | None:
    """The file below a folder that holds a path as its member; None where the path is a file, mark or not."""
    names = [path[: mark.start()] for mark in re.finditer(re.escape(NESTED), path)]
    if not names or is_regular(root / _real_name(path)):
        return None
    return next((name for name in names if unsafe(name) is None and is_regular(root / _real_name(name))), None)


def is_regular(path: Path) -> bool:
    """Whether there is a regular file (not a link to one)."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False
