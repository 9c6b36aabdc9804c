"""The feature set `ember2024-core@1`: 2 395 dimensions of EMBER2024 (Joyce et al., 2025), known slips and all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pefile
from numpy.typing import NDArray

from tasks.extract.bytestats import ByteStatistics, Vector, byte_groups, entropy
from tasks.extract.hashing import hashed
from tasks.extract.layout import (
    CHARACTERISTICS,
    COFF_NUMBERS,
    DLL_CHARACTERISTICS,
    DOS_NUMBERS,
    EMBER2024_CORE,
    MACHINES_LISTED,
    OPTIONAL_NUMBERS,
    SUBSYSTEMS_LISTED,
)
from tasks.extract.pefacts import PeFacts

_PROPERTIES = tuple((name.removeprefix("IMAGE_SCN_"), int(value)) for name, value in pefile.section_characteristics)
_CLIP = 10_000


def _places(listed: tuple[str, ...], prefix: str, values: Mapping[Any, Any]) -> dict[int, int]:
    """Place in EMBER's list of each value of an enumeration."""
    found: dict[int, int] = {}
    for place, name in enumerate(listed):
        value = values.get(prefix + name)
        if isinstance(value, int):
            found[value] = place
    return found


_MACHINES = _places(MACHINES_LISTED, "IMAGE_FILE_MACHINE_", pefile.MACHINE_TYPE)
_SUBSYSTEMS = _places(SUBSYSTEMS_LISTED, "IMAGE_SUBSYSTEM_", pefile.SUBSYSTEM_TYPE)


def ember_vectors(facts: PeFacts | None, statistics: ByteStatistics, data: NDArray[np.uint8]) -> dict[str, Vector]:
    """Vectors of `ember2024-core@1`, by group.

    Parameters
    ----------
    facts
        What pefile reports; None when the file is no PE: the groups of headers are then zeros.
    statistics
        Byte-level groups of `data`.
    data
        uint8[n], the file.
    """
    vectors = byte_groups(statistics, EMBER2024_CORE)
    if facts is None:
        return vectors
    vectors["general"] = statistics.general.copy()
    vectors["general"][2] = 1
    for group, vector in HEADER_GROUPS.items():
        vectors[group] = vector(facts, data)
    return vectors


def _joined(*parts: Sequence[float] | Vector) -> Vector:
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]).astype(np.float32)


def _header(facts: PeFacts, _: NDArray[np.uint8]) -> Vector:
    values = facts.values
    flags, dll_flags = values["Characteristics"], values["DllCharacteristics"]
    return _joined(
        [values[name] for name in COFF_NUMBERS],
        [_MACHINES.get(values["Machine"], 0), _SUBSYSTEMS.get(values["Subsystem"], 0)],
        [values[name] for name in OPTIONAL_NUMBERS],
        [flags >> bit & 1 for bit in range(len(CHARACTERISTICS))],
        [dll_flags >> bit & 1 for bit in range(5, 5 + len(DLL_CHARACTERISTICS))],
        [values[name] for name in DOS_NUMBERS],
    )


def _section(facts: PeFacts, data: NDArray[np.uint8]) -> Vector:
    sections, size = facts.sections, len(data)
    overlay = data[facts.overlay :]
    names = [section.name.encode() for section in sections]
    properties = [[name for name, flag in _PROPERTIES if s.characteristics & flag] for s in sections]
    entropies = [entropy(data[section.start : section.stop]) for section in sections]
    overlay_entropy = entropy(overlay)
    shares = [section.raw_size / size for section in sections]
    all_entropies = [*entropies, overlay_entropy, 0.0]
    all_shares = [*shares, len(overlay) / size, 0.0]
    ratios = [*(section.raw_size / max(section.virtual_size, 1) for section in sections), 0.0]
    general = [
        len(sections),
        sum(section.raw_size == 0 for section in sections),
        sum(not section.name for section in sections),
        sum("MEM_READ" in found and "MEM_EXECUTE" in found for found in properties),
        sum("MEM_WRITE" in found for found in properties),
        *(f(values) for values in (all_entropies, all_shares, ratios) for f in (max, min)),
    ]
    flagged = [f"{s.name}:{name}".encode() for s, found in zip(sections, properties, strict=True) for name in found]
    return _joined(
        general,
        hashed(names, [section.raw_size for section in sections], 50),
        hashed(names, [section.virtual_size for section in sections], 50),
        hashed(names, entropies, 50),
        hashed(flagged, None, 50),
        hashed([facts.entry_section.encode()], None, 10),
        [len(overlay), len(overlay) / size, overlay_entropy],
    )


def _imports(facts: PeFacts, _: NDArray[np.uint8]) -> Vector:
    found = dict(facts.imports)  # a library that is listed twice keeps its last list
    if not found:
        return np.zeros(len(EMBER2024_CORE["imports"]), dtype=np.float32)
    libraries = sorted({library.lower().encode() for library in found})
    symbols = [f"{library.lower()}:{name[:_CLIP]}".encode() for library, names in found.items() for name in names]
    return _joined(
        [len(symbols), len(libraries)],
        hashed(libraries, None, 256, alternate_sign=False),
        hashed(symbols, None, 1024, alternate_sign=False),
    )


def _exports(facts: PeFacts, _: NDArray[np.uint8]) -> Vector:
    if not facts.exports:
        return np.zeros(len(EMBER2024_CORE["exports"]), dtype=np.float32)
    # EMBER2024 writes the length of the hashed vector where the number of exports is meant.
    return _joined([128], hashed([name[:_CLIP].encode() for name in facts.exports], None, 128))


def _directories(facts: PeFacts, _: NDArray[np.uint8]) -> Vector:
    vector = np.zeros(len(EMBER2024_CORE["datadirectories"]), dtype=np.float32)
    listed = facts.directories[:-1]  # EMBER2024 leaves the last one out
    vector[: 2 * len(listed)] = np.array(listed, dtype=np.float64).reshape(-1)
    vector[-2:] = facts.has_relocations, facts.has_dynamic_relocations
    return vector


def _rich(facts: PeFacts, _: NDArray[np.uint8]) -> Vector:
    pairs = list(zip(facts.rich[::2], facts.rich[1::2], strict=False))
    if not facts.rich:
        return np.zeros(len(EMBER2024_CORE["richheader"]), dtype=np.float32)
    return _joined(
        [len(facts.rich) // 2],
        hashed([str(identifier).encode() for identifier, _ in pairs], [count for _, count in pairs], 32),
    )


HEADER_GROUPS: dict[str, Callable[[PeFacts, NDArray[np.uint8]], Vector]] = {
    "header": _header,
    "section": _section,
    "imports": _imports,
    "exports": _exports,
    "datadirectories": _directories,
    "richheader": _rich,
}
"""The groups that are not of bytes alone: what makes their vector of a file's facts and bytes."""
