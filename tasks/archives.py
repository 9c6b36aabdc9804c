"""Archives and folders read in place, member by member; hostile ones cost a row with a reason.

Nothing is written to disk, no link is followed, no path leaves the archive, and every member is unpacked against
limits that do not trust what the archive says of itself.
"""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

BLOCK = 1 << 20
RATIO_FROM = 4 << 20
NESTED = "!"
"""`a.zip!b.so` is member b.so of the archive a.zip."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a member or an archive may grow to.

    Attributes
    ----------
    max_member_bytes
        Bytes of one member, unpacked.
    max_ratio
        Unpacked bytes for each packed byte; judged beyond `RATIO_FROM`, since real libraries may hold a
        megabyte of zeros.
    max_members
        Members of one archive.
    max_total_bytes
        Bytes unpacked from one archive.
    """

    max_member_bytes: int = 256 * 2**20
    max_ratio: int = 200
    max_members: int = 100_000
    max_total_bytes: int = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Member:
    """One member: its bytes, or the reason why they are not given."""

    path: str
    data: bytes | None
    reason: str | None = None


class _RefusedError(Exception):
    """A member that is not given; the text says why."""


_CORRUPT = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
            NotImplementedError, RuntimeError, OverflowError, UnicodeError)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether the file is a zip (wheels are) or a tar, packed or not, by its content."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
            if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                return True
            if len(head) == 512 and head[257:262] == b"ustar":
                return True
            if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")):
                file.seek(0)
                inner = _unpacked(file, head).read(512)
                return len(inner) == 512 and inner[257:262] == b"ustar"
    except _CORRUPT:
        return False
    return False


def members(path: Path, limits: Limits, takes: Callable[[str], bool]) -> Iterator[Member]:
    """Members that `takes` wants, in the archive's order; and every unsafe one, wanted or not, with a reason.

    An archive that cannot be read (on) ends with a member whose path is empty. Nothing is raised on account of
    what is in the file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(6)
            file.seek(0)
            reader = _zip_members if head.startswith(b"PK") else _tar_members
            yield from reader(file, path.stat().st_size, limits, takes)
    except _RefusedError as refused:
        yield Member("", None, str(refused))
    except MemoryError:
        yield Member("", None, "unreadable archive: out of memory")
    except _CORRUPT as error:
        yield Member("", None, f"unreadable archive: {_short(error)}")


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:120]


def unsafe(path: str) -> str | None:
    """Why a member's path may not be used; None when it may."""
    if not path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "unsafe path: empty, or with control characters"
    if "\\" in path or path.startswith("/") or path[1:2] == ":":
        return "unsafe path: absolute, or with a drive letter or backslash"
    if ".." in path.split("/"):
        return "unsafe path: leads out of the archive"
    return None


class _Budget:
    """Counts what was unpacked from one archive."""

    def __init__(self, limits: Limits, packed: int) -> None:
        self.limits, self.packed, self.total, self.count = limits, packed, 0, 0

    def member(self) -> None:
        self.count += 1
        if self.count > self.limits.max_members:
            raise _RefusedError(f"decompression bomb: more than {self.limits.max_members} members")

    def read(self, stream: IO[bytes], declared: int, packed: int | None) -> bytes:
        """Read one member to its end, or refuse it as soon as it grows beyond a limit."""
        if declared > self.limits.max_member_bytes:
            raise _RefusedError("decompression bomb: larger than the limit for one file")
        parts: list[bytes] = []
        size = 0
        while block := stream.read(BLOCK):
            size += len(block)
            self.total += len(block)
            if size > declared or size > self.limits.max_member_bytes:
                raise _RefusedError("decompression bomb: larger than it says, or than the limit for one file")
            if packed is not None and size > RATIO_FROM and size > self.limits.max_ratio * max(packed, 1):
                raise _RefusedError("decompression bomb: unpacks to too many times its size")
            if self.total > self.limits.max_total_bytes:
                raise _RefusedError("decompression bomb: the archive unpacks to more than the limit")
            parts.append(block)
        if size != declared:
            raise _RefusedError("corrupt member: shorter than it says")
        return b"".join(parts)


def _zip_members(file: IO[bytes], size: int, limits: Limits, takes: Callable[[str], bool]) -> Iterator[Member]:
    budget = _Budget(limits, size)
    seen: set[str] = set()
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        overlapping = _overlapping(infos, size)
        for info in infos:
            budget.member()
            path = info.orig_filename
            reason = unsafe(path.rstrip("/") if info.is_dir() else path)
            mode = info.external_attr >> 16
            if reason is None and stat.S_ISLNK(mode):
                reason = "link: not followed"
            if reason is None and path in seen:
                reason = "duplicate member: an earlier one has the same name"
            if reason is None and info.header_offset in overlapping:
                reason = "decompression bomb: members overlap"
            seen.add(path)
            if reason is not None:
                yield Member(path, None, reason)
            elif not info.is_dir() and takes(path):
                if info.flag_bits & 1:
                    yield Member(path, None, "encrypted member")
                else:
                    yield _give(path, lambda i=info: budget.read(archive.open(i), i.file_size, i.compress_size))


def _give(path: str, read: Callable[[], bytes]) -> Member:
    try:
        return Member(path, read())
    except _RefusedError as refused:
        return Member(path, None, str(refused))
    except MemoryError:
        return Member(path, None, "unreadable member: out of memory")
    except _CORRUPT as error:
        return Member(path, None, f"corrupt member: {_short(error)}")


def _overlapping(infos: Sequence[zipfile.ZipInfo], size: int) -> set[int]:
    """Offsets of members whose bytes another member uses too."""
    spans = sorted((i.header_offset, i.header_offset + 30 + i.compress_size) for i in infos)
    found: set[int] = set()
    end = -1
    for start, stop in spans:
        if start < end or stop > size:
            found.add(start)
        end = max(end, stop)
    return found


def _unpacked(file: IO[bytes], head: bytes) -> Any:

    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMAFile(file)
    return file


class _Metered:
    """A stream that refuses to give more than a packed archive may unpack to."""

    def __init__(self, stream: Any, packed: int, limits: Limits) -> None:
        self.stream, self.given = stream, 0
        self.most = min(limits.max_total_bytes, max(RATIO_FROM, limits.max_ratio * packed))

    def read(self, count: int = -1) -> bytes:
        data = self.stream.read(min(count, BLOCK) if count > 0 else BLOCK)
        self.given += len(data)
        if self.given > self.most:
            raise _RefusedError("decompression bomb: unpacks to too many times its size")
        return data


def _tar_members(file: IO[bytes], size: int, limits: Limits, takes: Callable[[str], bool]) -> Iterator[Member]:
    head = file.read(6)
    file.seek(0)
    budget = _Budget(limits, size)
    stream: Any = _Metered(_unpacked(file, head), size, limits)
    seen: set[str] = set()
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for info in archive:
            budget.member()
            path = info.name
            reason = unsafe(path)
            if reason is None and (info.issym() or info.islnk()):
                reason = "link: not followed"
            if reason is None and not (info.isreg() or info.isdir()):
                reason = "device: not opened"
            if reason is None and path in seen and info.isreg():
                reason = "duplicate member: an earlier one has the same name"
            seen.add(path)
            if reason is not None:
                yield Member(path, None, reason)
            elif info.isreg() and takes(path):
                content = archive.extractfile(info)
                assert content is not None
                yield _give(path, lambda c=content, i=info: budget.read(c, i.size, None))


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
            return Member(relative, None, "link: not followed")
        return Member(relative, None, f"unreadable: {error.strerror}")
    finally:
        if folder >= 0:
            os.close(folder)


def read(location: Path, paths: Sequence[str], limits: Limits) -> Iterator[Member]:
    """Read chosen files of a folder, or chosen members of an archive, again.

    Parameters
    ----------
    location
        A folder (then a path `a.zip!b.so` means a member of an archive in it), or an archive.
    paths
        Files wanted. Each archive is opened once.
    """
    if not location.is_dir():
        wanted = set(paths)
        for member in members(location, limits, wanted.__contains__):
            if member.path in wanted:
                yield member
        return
    nested: dict[str, dict[str, str]] = {}
    for path in paths:
        archive, mark, inner = path.partition(NESTED)
        if mark and is_archive(location / archive):
            nested.setdefault(archive, {})[inner] = path
        else:
            yield read_file(location, path, limits.max_member_bytes)
    for archive, inside in nested.items():
        for member in members(location / archive, limits, inside.__contains__):
            if member.path in inside:
                yield Member(inside[member.path], member.data, member.reason)
