"""Unpacking streams against limits that trust nothing they say of themselves."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

BLOCK = 1 << 20
RATIO_FROM = 4 << 20
LZMA_MEMORY = 256 << 20
LONGEST_BEGINNING = 2 << 20
"""Packed bytes from which a tar's first header must come out (bzip2 needs a block of 900 kB)."""

GZIP, BZIP2, XZ, ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"


class RefusedError(Exception):
    """An entry or archive that is not given; the text says why."""


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
        Members of one archive and of all archives in it.
    max_total_bytes
        Bytes unpacked from one archive and from all archives in it.
    max_depth
        Archives that may lie in one another, the outermost counted.
    """

    max_member_bytes: int = 256 * 2**20
    max_ratio: int = 200
    max_members: int = 100_000
    max_total_bytes: int = 8 * 2**30
    max_depth: int = 3


class Readable(Protocol):
    """What can be read from its beginning to its end."""

    def read(self, count: int = -1, /) -> bytes:
        """At most `count` bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One member before it is opened.

    Attributes
    ----------
    path
        Its name in the container; bytes that are not text are escaped.
    size
        Bytes that it says it has.
    open
        Gives its content; only until the next entry is asked for.
    packed
        Bytes it takes in the container; None where the container is packed as a whole.
    counted
        Whether its bytes were counted as the container was unpacked.
    reason
        Why it may not be opened.
    hostile
        Whether the reason is told also when nobody wants the member.
    """

    path: str
    size: int
    open: Callable[[], Readable]
    packed: int | None = None
    counted: bool = False
    reason: str | None = None
    hostile: bool = False


class Budget:
    """Counts what was unpacked from one archive, and from those in it.

    Parameters
    ----------
    packed
        Bytes of the outermost archive.
    """

    def __init__(self, limits: Limits, packed: int) -> None:
        self.limits, self.total, self.count = limits, 0, 0
        self.by_ratio = max(RATIO_FROM, limits.max_ratio * packed)

    def member(self) -> None:
        """Count a member."""
        self.count += 1
        if self.count > self.limits.max_members:
            raise RefusedError(f"decompression bomb: more than {self.limits.max_members} members")

    def spend(self, count: int) -> None:
        """Count unpacked bytes."""
        self.total += count
        if self.total > self.limits.max_total_bytes:
            raise RefusedError("decompression bomb: the archive unpacks to more than the limit")
        if self.total > self.by_ratio:
            raise RefusedError("decompression bomb: unpacks to too many times its size")

    def read(self, entry: Entry, content: Readable) -> bytes:
        """Read one member to its end, or refuse it as soon as it grows beyond a limit."""
        if entry.size > self.limits.max_member_bytes:
            raise RefusedError("decompression bomb: larger than the limit for one file")
        parts: list[bytes] = []
        size = 0
        while block := content.read(BLOCK):
            size += len(block)
            if size > entry.size:
                raise RefusedError("decompression bomb: larger than it says")
            if entry.packed is not None and size > max(RATIO_FROM, self.limits.max_ratio * entry.packed):
                raise RefusedError("decompression bomb: unpacks to too many times its size")
            if not entry.counted:
                self.spend(len(block))
            parts.append(block)
        if size != entry.size:
            raise RefusedError("corrupt member: shorter than it says")
        return b"".join(parts)


class Rewindable:
    """A stream that can be read again from its beginning until it is `settled`, though it cannot seek."""

    closed = False

    def __init__(self, stream: Readable) -> None:
        self._stream, self._kept, self._at, self._keeps = stream, bytearray(), 0, True

    @property
    def kept(self) -> int:
        """Bytes read from the stream while it was kept."""
        return len(self._kept)

    def read(self, count: int = -1, /) -> bytes:
        """At most `count` bytes, maybe fewer; none at the end."""
        if self._at < len(self._kept):
            part = bytes(self._kept[self._at : self._at + count if count >= 0 else None])
            self._at += len(part)
            return part
        part = self._stream.read(count)
        if self._keeps:
            self._kept += part
            self._at = len(self._kept)
            if self._at > LONGEST_BEGINNING:
                raise RefusedError("unreadable archive: it does not begin")
        return part

    def rewind(self) -> None:
        """Go back to the beginning."""
        assert self._keeps
        self._at = 0

    def settled(self) -> "Rewindable":
        """Itself at its beginning, from now on keeping nothing."""
        self._at, self._keeps = 0, False
        return self

    def close(self) -> None:
        """Leave the stream to its owner."""


class Part:
    """The next bytes of a stream, so many."""

    def __init__(self, stream: Readable, size: int) -> None:
        self.stream, self.left = stream, size

    def read(self, count: int = -1, /) -> bytes:
        """At most `count` bytes; none at the end of the part."""
        part = self.stream.read(min(self.left, BLOCK if count < 0 else count))
        self.left -= len(part)
        return part


class Metered:
    """A stream that counts what it gives, and refuses to give too much."""

    def __init__(self, stream: Readable, budget: Budget) -> None:
        self.stream, self.budget = stream, budget

    def read(self, count: int = -1, /) -> bytes:
        """At most `count` bytes; none at the end."""
        data = self.stream.read(BLOCK if count < 0 else min(count, BLOCK))
        self.budget.spend(len(data))
        return data


class _Xz:
    """LZMAFile with a limit to its memory."""

    def __init__(self, stream: Readable) -> None:
        self.stream, self.decoder = stream, lzma.LZMADecompressor(memlimit=LZMA_MEMORY)

    def read(self, count: int = -1, /) -> bytes:
        while True:
            if self.decoder.eof:
                rest = (self.decoder.unused_data or self.stream.read(1 << 16)).lstrip(b"\0")
                if not rest:
                    return b""
                self.decoder = lzma.LZMADecompressor(memlimit=LZMA_MEMORY)
            elif self.decoder.needs_input:
                rest = self.stream.read(1 << 16)
                if not rest:
                    raise EOFError("the xz stream ends early")
            else:
                rest = b""
            if data := self.decoder.decompress(rest, BLOCK if count < 0 else count):
                return data


def filled(stream: Readable, count: int) -> bytes:
    """So many bytes, fewer only at the end."""
    data = b""
    while len(data) < count and (part := stream.read(count - len(data))):
        data += part
    return data


def unpacked(file: Rewindable) -> Readable:
    """The stream, unpacked when it is packed; it is rewound, and not read before its unpacked bytes are."""
    head = filled(file, 6)
    file.rewind()
    packed: Any = file
    if head.startswith(GZIP):
        return gzip.GzipFile(fileobj=packed)
    if head.startswith(BZIP2):
        return bz2.BZ2File(packed)
    if head.startswith(XZ):
        return _Xz(file)
    if head.startswith(ZSTD):
        return pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
    return file
