"""The feature set `binmill@1`: headers and byte statistics to vectors."""

import numpy as np
from numpy.typing import NDArray

from tasks.extract.bytestats import ByteStatistics, Vector, byte_groups, entropy
from tasks.extract.hashing import hashed
from tasks.extract.headers import KINDS, MACHINES, Headers
from tasks.extract.layout import BINMILL, EXPORT_SLOTS, LIBRARY_SLOTS, SECTION_SLOTS, SYMBOL_SLOTS

_SIGNED = ".comment"
"""The section in which compilers sign their name: labels are held against it, so no feature may see it."""


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
    vectors["header"] = _header(headers, len(data))
    vectors["sections"] = _sections(headers, data)
    libraries = [library.encode() for library in headers.libraries]
    symbols = [symbol.encode() for symbol in headers.imports]
    exports = [symbol.encode() for symbol in headers.exports]
    vectors["imports"] = _joined(
        [len(libraries), len(symbols)],
        hashed(libraries, None, LIBRARY_SLOTS, alternate_sign=False),
        hashed(symbols, None, SYMBOL_SLOTS, alternate_sign=False),
    )
    vectors["exports"] = _joined([len(exports)], hashed(exports, None, EXPORT_SLOTS))
    return vectors


def _joined(head: list[float], *rest: Vector) -> Vector:
    return np.concatenate([np.asarray(head, dtype=np.float32), *rest])


def _header(headers: Headers, size: int) -> Vector:
    entry = headers.entry_offset
    return np.array(
        [
            headers.format == "pe", headers.format == "elf",
            *(headers.machine == machine for machine in MACHINES),
            headers.bits == 64, headers.endianness == "little",
            *(headers.kind == kind for kind in KINDS),
            entry is not None, 0 if entry is None else entry / size, headers.segments,
            headers.overlay > 0, headers.overlay / size,
            headers.has_symbol_table, headers.has_debug_info, headers.has_relocations,
            headers.position_independent, headers.no_execute,
        ],
        dtype=np.float32,
    )  # fmt: skip


def _sections(headers: Headers, data: NDArray[np.uint8]) -> Vector:
    # ELF's table begins with a null entry; it is no section.
    sections = [s for s in headers.sections if (s.name or s.size or s.virtual_size) and s.name != _SIGNED]
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
        ],
        hashed(names, [s.size for s in sections], SECTION_SLOTS),
        hashed(names, entropies, SECTION_SLOTS),
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
