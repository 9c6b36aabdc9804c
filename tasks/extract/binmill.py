"""The feature set `binmill@1`: headers and byte statistics to vectors."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.extract.bytestats import ByteStatistics, Vector, byte_groups, entropy
from tasks.extract.hashing import hashed
from tasks.extract.headers import KINDS, MACHINES, Headers
from tasks.extract.layout import (
    BINMILL,
    EXPORT_SLOTS,
    LIBRARY_SLOTS,
    NOTE_SLOTS,
    RELOCATION_SLOTS,
    SECTION_SLOTS,
    SIGNED_NOTES,
    SIGNED_SECTIONS,
    SYMBOL_SLOTS,
)
from tasks.extract.strings import string_classes

Bytes = NDArray[np.uint8]


def binmill_vectors(headers: Headers, statistics: ByteStatistics, data: NDArray[np.uint8]) -> dict[str, Vector]:
    """Vectors of `binmill@1`, by group.

    Parameters
    ----------
    headers
        What the parser read.
    statistics
        Byte-level groups of `data`.
    data
        uint8[n], the file.
    """
    vectors = byte_groups(statistics, BINMILL)
    vectors["general"] = statistics.general.copy()
    vectors["general"][2] = 1
    for group, vector in HEADER_GROUPS.items():
        vectors[group] = vector(headers, data)
    return vectors


def _joined(head: list[float], *rest: Vector) -> Vector:
    return np.concatenate([np.asarray(head, dtype=np.float32), *rest])


def _header(headers: Headers, data: Bytes) -> Vector:
    size = len(data)
    entry = headers.entry_offset
    return np.array(
        [
            headers.format == "pe", headers.format == "elf", headers.format == "macho",
            *(headers.machine == machine for machine in MACHINES),
            headers.bits == 64, headers.endianness == "little",
            *(headers.kind == kind for kind in KINDS),
            entry is not None, 0 if entry is None else entry / size, headers.loader_entries,
            headers.overlay > 0, headers.overlay / size, headers.has_debug_info,
            headers.has_thread_local, headers.constructors, headers.resources / size,
        ],
        dtype=np.float32,
    )  # fmt: skip


def _sections(headers: Headers, data: Bytes) -> Vector:
    # ELF's table begins with a null entry; it is no section.
    sections = [
        s for s in headers.sections if (s.name or s.size or s.virtual_size) and s.name.lower() not in SIGNED_SECTIONS
    ]
    entropies = [entropy(data[s.offset : s.offset + s.size]) for s in sections]
    shares = [s.size / len(data) for s in sections]
    ratios = [s.size / max(s.virtual_size, 1) if s.virtual_size else 0.0 for s in sections]
    names = [s.name.lower().encode() for s in sections]
    statistics = [f(v) if v else 0.0 for v in (entropies, shares, ratios) for f in (min, _mean, max)]
    return _joined(
        [
            len(sections),
            sum(s.size == 0 for s in sections),
            sum(not s.name for s in sections),
            sum(s.readable for s in sections),
            sum(s.writable for s in sections),
            sum(s.executable for s in sections),
            sum(s.writable and s.executable for s in sections),
            *statistics,
            len(headers.segments),
            sum(s.writable for s in headers.segments),
            sum(s.executable for s in headers.segments),
            sum(s.writable and s.executable for s in headers.segments),
        ],
        hashed(names, [s.size for s in sections], SECTION_SLOTS),
        hashed(names, entropies, SECTION_SLOTS),
    )


def _imports(headers: Headers, _: Bytes) -> Vector:
    """Libraries by file name, symbols by plain name: so the same function is the same slot in every format."""
    libraries = [library.lower().rpartition("/")[2].encode() for library in headers.libraries]
    ordinals = [symbol for symbol in headers.imports if headers.format == "pe" and ":ordinal" in symbol]
    symbols = [_plain(headers, symbol).encode() for symbol in headers.imports]
    return _joined(
        [len(libraries), len(symbols), len(ordinals), headers.delayed],
        hashed(libraries, None, LIBRARY_SLOTS, alternate_sign=False),
        hashed(symbols, None, SYMBOL_SLOTS, alternate_sign=False),
    )


def _plain(headers: Headers, symbol: str) -> str:
    """A symbol's name in C: without PE's library (but for an ordinal), without Mach-O's underscore."""
    if headers.format == "macho":
        return symbol.removeprefix("_")
    _, separator, name = symbol.partition(":")
    return name if headers.format == "pe" and separator and not name.startswith("ordinal") else symbol


def _exports(headers: Headers, _: Bytes) -> Vector:
    exports = [_plain(headers, symbol).encode() for symbol in headers.exports]
    return _joined([len(exports)], hashed(exports, None, EXPORT_SLOTS))


def _symbols(headers: Headers, _: Bytes) -> Vector:
    found = headers.symbols
    return _joined(
        [headers.has_symbol_table, found.count, found.functions, found.objects, found.external, found.undefined]
    )


def _notes(headers: Headers, _: Bytes) -> Vector:
    notes = [note.encode() for note in headers.notes if not note.startswith(SIGNED_NOTES)]
    return _joined([len(notes), headers.build_id is not None], hashed(notes, None, NOTE_SLOTS))


def _string_classes(_: Headers, data: Bytes) -> Vector:
    return string_classes(data)


def _relocations(headers: Headers, _: Bytes) -> Vector:
    found = headers.relocations
    count = max(found.count, 1)
    classes = (found.relative, found.symbolic, found.lazy, found.thread_local, found.other)
    types = [name.encode() for name, _ in found.types]
    return _joined(
        [found.count, *(number / count for number in classes)],
        hashed(types, [number / count for _, number in found.types], RELOCATION_SLOTS),
    )


def _hardening(headers: Headers, _: Bytes) -> Vector:
    found = headers.hardening
    return _joined(
        [
            found.no_execute, found.position_independent, found.high_entropy,
            found.relro == "partial", found.relro == "full", found.stack_canary, found.fortified,
            found.control_flow, found.return_address, found.safe_handlers, found.signed, found.encrypted,
            found.run_path,
        ]
    )  # fmt: skip


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


HEADER_GROUPS: dict[str, Callable[[Headers, Bytes], Vector]] = {
    "header": _header,
    "sections": _sections,
    "imports": _imports,
    "exports": _exports,
    "symbols": _symbols,
    "relocations": _relocations,
    "notes": _notes,
    "hardening": _hardening,
    "string_classes": _string_classes,
}
"""The groups that are not byte statistics: what makes their vector of a file's headers and bytes."""
