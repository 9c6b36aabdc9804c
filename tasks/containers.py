"""Containers entry by entry: zip, tar (plain or packed), ar and .deb.

A reader gives the entries of an open stream in their order and unpacks one only when it is opened. It may raise
anything that a parser of the standard library does: `tasks.archives` makes rows of that.
"""

import stat
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, Literal

from tasks.unpacking import (
    BLOCK,
    BZIP2,
    GZIP,
    XZ,
    ZSTD,
    Budget,
    Entry,
    Limits,
    Metered,
    Part,
    Readable,
    RefusedError,
    Rewindable,
    filled,
    unpacked,
)

LARGEST_HEADER = 1 << 20
"""Bytes of a tar's extended header, which the parser holds whole."""
LARGEST_NAME_TABLE = 64 << 20
"""Bytes of an ar's table of long names."""
DIRECTORY_ENTRY = 1 << 10
"""Bytes that an entry may take in a zip's directory, on average."""

AR, THIN = b"!<arch>\n", b"!<thin>\n"
LINK = "link: not followed"
"""Why a link is not opened; told only where its path is wanted."""

Kind = Literal["zip", "tar", "ar", "deb"]


def shown(path: str) -> str:
    """The path as text: bytes that are not UTF-8 are escaped (and no safe path has a backslash otherwise)."""
    return path.encode("utf-8", "backslashreplace").decode()


def unsafe(path: str) -> str | None:
    """Why a member's path may not be used; None when it may."""
    if not path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "unsafe path: empty, or with control characters"
    if "\\" in path or path.startswith("/") or path[1:2] == ":":
        return "unsafe path: absolute, or with a drive letter or backslash"
    if ".." in path.split("/"):
        return "unsafe path: leads out of the archive"
    return None


def kind_of(file: Rewindable) -> Kind | None:
    """What kind of container a stream is, by its content; None for what is none. The stream is left rewound."""
    try:
        head = filled(file, 512)
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return "zip"
        if head.startswith((AR, THIN)):
            return "deb" if head[8:21] == b"debian-binary" else "ar"
        if head.startswith((GZIP, BZIP2, XZ, ZSTD)):
            file.rewind()
            head = filled(unpacked(file), 512)
        return "tar" if len(head) == 512 and head[257:262] == b"ustar" else None
    except Exception:  # it is damaged, or something else that begins alike: no archive
        return None
    finally:
        file.rewind()


class _Directory:
    """A file whose single reads are bounded while zipfile reads a directory: it holds that whole, as objects."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self.file, self.limits, self.opening = file, limits, True
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, count: int = -1, /) -> bytes:
        if self.opening and count > self.limits.max_members * DIRECTORY_ENTRY:
            raise RefusedError("decompression bomb: its directory is larger than the limit")
        data = self.file.read(count)
        if self.opening and data.count(b"PK\x01\x02") > self.limits.max_members:
            raise RefusedError(f"decompression bomb: more than {self.limits.max_members} members")
        return data


def zip_entries(file: IO[bytes], size: int, budget: Budget) -> Iterator[Entry]:
    """Entries of a zip (a wheel is one); `file` must be able to seek."""
    directory: Any = _Directory(file, budget.limits)
    with zipfile.ZipFile(directory) as archive:
        directory.opening = False
        infos = archive.infolist()
        overlapping = _overlapping(infos, size)
        for info in infos:
            budget.member()
            path = info.orig_filename
            is_folder = path.endswith("/")
            hostile = unsafe(path.rstrip("/") if is_folder else path)
            if hostile is None and info.header_offset in overlapping:
                hostile = "decompression bomb: members overlap"
            reason = hostile
            if reason is None and stat.S_ISLNK(info.external_attr >> 16):
                reason = LINK
            if reason is None and info.flag_bits & 1:
                reason = "encrypted member"
            if hostile or not is_folder:
                yield Entry(shown(path), info.file_size, lambda i=info: archive.open(i), info.compress_size,
                            reason=reason, hostile=hostile is not None)  # fmt: skip


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


_EXTENDED = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
             tarfile.GNUTYPE_LONGLINK}  # fmt: skip


class _Header(tarfile.TarInfo):
    """A header that may not make the parser hold much, or go back."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0:
            raise RefusedError("unreadable archive: a header with a negative size")
        if header.type in _EXTENDED and header.size > LARGEST_HEADER:
            raise RefusedError("decompression bomb: an extended header larger than the limit")
        return header


def tar_entries(file: Rewindable, size: int, budget: Budget) -> Iterator[Entry]:
    """Entries of a tar, plain or packed with gzip, bzip2, xz or zstd; a leading `./` is taken off their paths."""
    stream: Any = Metered(unpacked(file), budget)
    file.settled()
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK, tarinfo=_Header) as archive:
        for info in archive:
            budget.member()
            path = info.name.removeprefix("./")
            hostile = unsafe(path)
            is_link = info.issym() or info.islnk()
            if hostile is None and not (is_link or info.isreg() or info.isdir()):
                hostile = "device: not opened"
            reason = hostile or (LINK if is_link else None)
            if hostile or not info.isdir():
                # A sparse member's holes are not in the stream, so that nobody has counted them yet.
                yield Entry(shown(path), info.size, lambda i=info: _content(archive, i), None,
                            not info.issparse(), reason, hostile is not None)  # fmt: skip


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Readable:
    content = archive.extractfile(info)
    if content is None:
        raise RefusedError("corrupt member: not a regular file")
    return content


def ar_entries(file: Rewindable, size: int, budget: Budget) -> Iterator[Entry]:
    """Entries of an ar (a static library), with GNU's and BSD's long names.

    Libraries hold members of the same name; the second `a.o` is given as `a.o#2`.
    """
    if filled(file.settled(), len(AR)) == THIN:
        raise RefusedError("thin archive: its members are other files")
    table = b""
    times: dict[str, int] = {}
    while header := filled(file, 60).lstrip(b"\n"):
        if len(header) != 60 or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise RefusedError("unreadable archive: bad member header")
        budget.member()
        length = int(header[48:58])
        content = Part(file, length)
        name = header[:16].rstrip(b" ")
        if name == b"//":
            if length > LARGEST_NAME_TABLE:
                raise RefusedError("decompression bomb: a name table larger than the limit")
            table = filled(content, length)
        elif name not in {b"/", b"/SYM64/", b"/<HYBRIDMAP>/", b"/<ECSYMBOLS>/"}:
            path = _ar_name(name, table, content)
            if not path.startswith("__.SYMDEF"):
                times[path] = times.get(path, 0) + 1
                path = path if times[path] == 1 else f"{path}#{times[path]}"
                hostile = unsafe(path)
                yield Entry(shown(path), content.left, lambda c=content: c, reason=hostile, hostile=hostile is not None)
        while content.left:
            if not content.read(BLOCK):
                raise RefusedError("unreadable archive: ends early")
        if length % 2:
            filled(file, 1)


def _ar_name(name: bytes, table: bytes, content: Part) -> str:
    """A member's name; one that lies before the content is taken off it."""
    if name.startswith(b"#1/") and name[3:].isdigit():
        count = int(name[3:])
        if count > min(content.left, 1 << 16):
            raise RefusedError("unreadable archive: a name longer than its member")
        name = filled(content, count).rstrip(b"\0")
    elif name.startswith(b"/") and name[1:].isdigit():
        start = int(name[1:])
        ends = [end for mark in (b"\n", b"\0") if (end := table.find(mark, start, start + (1 << 16))) >= 0]
        if not ends:
            raise RefusedError("unreadable archive: a name outside its table")
        name = table[start : min(ends)].removesuffix(b"/")
    else:
        name = name.removesuffix(b"/")
    return name.decode("utf-8", "surrogateescape")


def deb_entries(file: Rewindable, size: int, budget: Budget) -> Iterator[Entry]:
    """Entries of a Debian package: the files it installs."""
    for entry in ar_entries(file, size, budget):
        if entry.reason is None and entry.path.startswith("data.tar"):
            yield from tar_entries(Rewindable(entry.open()), entry.size, budget)
            return
    raise RefusedError("unreadable archive: a package without data.tar")


def entries(kind: Kind, file: Rewindable | IO[bytes], size: int, budget: Budget) -> Iterator[Entry]:
    """Entries of a container of a kind that `kind_of` told; a zip must be able to seek."""
    readers: dict[Kind, Any] = {"zip": zip_entries, "tar": tar_entries, "ar": ar_entries, "deb": deb_entries}
    return readers[kind](file, size, budget)
