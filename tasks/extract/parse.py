"""One executable's bytes to its row of `binaries` and its features. Never raises on hostile bytes."""

import importlib.metadata
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.extract.binding import DIMENSIONS, embedding
from tasks.extract.binmill import binmill_vectors
from tasks.extract.bytestats import ByteStatistics, Vector, byte_groups, byte_statistics, entropy
from tasks.extract.ember import ember_vectors
from tasks.extract.hashing import hashed
from tasks.extract.headers import Headers
from tasks.extract.layout import FEATURE_SETS, STRUCTURE
from tasks.extract.machotables import is_macho
from tasks.extract.pefacts import pe_facts
from tasks.extract.similarity import as_text, minhash, string_keys, tlsh, token_keys
from tasks.extract.strings import string_classes
from tasks.extract.tree import header_tree

PARSER_VERSION = importlib.metadata.version("lief")

_RUST = re.compile(rb"/rustc/[0-9a-f]{40}[/\\]")
_GO = (b"\xff Go buildinf:", b"Go build ID: ")
_REASON = 300
"""Characters of a reason."""
_GCC = re.compile(rb"GCC: \([^)\0]{1,60}\) [0-9][0-9A-Za-z.+~ ()-]{0,60}")


@dataclass(frozen=True, slots=True)
class Extracted:
    """A file's row of `binaries` (without its id, with MinHash signatures as text) and its vector by group.

    Where it was asked for, the group `structure` is the embedding of the header tree.
    """

    row: dict[str, Any]
    vectors: dict[str, Vector]


def load_kernels() -> None:
    """Import the parser and compile every kernel that `extract` may call, or load it from numba's cache."""
    _parsers()
    some = b"a text to count, longer than one window \0" * 64
    byte_statistics(np.frombuffer(some, dtype=np.uint8))
    entropy(np.frombuffer(some, dtype=np.uint8)[16:64])
    hashed([b"token"], [1.0], 8)
    string_classes(np.frombuffer(some, dtype=np.uint8))
    tlsh(np.frombuffer(some, dtype=np.uint8))
    minhash(string_keys(np.frombuffer(some, dtype=np.uint8)), 0)
    token_keys(["token"])


def extract(data: bytes, feature_set: str = "binmill@1", *, structure: bool = False) -> Extracted:
    """Parse a file; a failure is in `parse_status` and `parse_error`, never an exception (but MemoryError).

    With `structure` the vectors have a group of that name; of a file without headers it is zeros.
    """
    headers = _read(data)
    found = _extracted(data, headers, feature_set)
    if structure:
        found.vectors[STRUCTURE] = (
            embedding(header_tree(headers)) if isinstance(headers, Headers) else np.zeros(DIMENSIONS, np.float32)
        )
    return found


def _extracted(data: bytes, headers: Headers | str, feature_set: str) -> Extracted:
    view = np.frombuffer(data, dtype=np.uint8)
    statistics = byte_statistics(view)
    if feature_set == "ember2024-core@1":
        return _for_pe(headers, _parser(statistics, data), statistics, data)
    if isinstance(headers, Headers):
        return Extracted(
            _parser(statistics, data) | _columns(headers, data), binmill_vectors(headers, statistics, view)
        )
    return _without_headers(statistics, data, "error", headers, feature_set)


def _read(data: bytes) -> Headers | str:
    """Headers, or why there are none; whatever the parser throws, the file stays a row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # LIEF's, of each value that has no name
            return _headers(data)
    except MemoryError:
        raise
    except Exception as error:
        return f"the parser failed: {type(error).__name__}: {error}"[:_REASON]


def _for_pe(headers: Headers | str, row: dict[str, Any], statistics: ByteStatistics, data: bytes) -> Extracted:
    """EMBER's vector: what LIEF cannot read may still be a PE file to pefile, with LIEF's reason noted."""
    facts = pe_facts(data)
    if isinstance(headers, Headers):
        row |= _columns(headers, data)
    else:
        row |= {"parse_status": "error" if facts is None else "partial", "parse_error": headers}
    return Extracted(row, ember_vectors(facts, statistics, np.frombuffer(data, dtype=np.uint8)))


def unparsed(data: bytes, status: str, reason: str, feature_set: str = "binmill@1") -> Extracted:
    """What is said of a file whose parse ended badly: its byte-level groups and the reason."""
    return _without_headers(byte_statistics(np.frombuffer(data, dtype=np.uint8)), data, status, reason, feature_set)


def _without_headers(statistics: ByteStatistics, data: bytes, status: str, reason: str, feature_set: str) -> Extracted:
    row = _parser(statistics, data) | {"parse_status": status, "parse_error": reason}
    return Extracted(row, byte_groups(statistics, FEATURE_SETS[feature_set]))


def _parser(statistics: ByteStatistics, data: bytes) -> dict[str, Any]:
    view = np.frombuffer(data, dtype=np.uint8)
    return {
        "size": len(data),
        "entropy": statistics.entropy,
        "tlsh": tlsh(view),
        "strings_minhash": as_text(minhash(string_keys(view))),
        "parser": "lief",
        "parser_version": PARSER_VERSION,
    }


def _parsers() -> tuple[Callable[[bytes], Headers | None], ...]:
    """Who reads ELF, PE and Mach-O. LIEF takes a second to import, and only who parses needs it."""
    import lief

    from tasks.extract.elf import read_elf
    from tasks.extract.macho import read_macho
    from tasks.extract.pe import read_pe

    lief.logging.disable()
    return read_elf, read_pe, read_macho


def _headers(data: bytes) -> Headers | str:
    if not data:
        return "empty file"
    read_elf, read_pe, read_macho = _parsers()
    if data.startswith(b"\x7fELF"):
        found = read_elf(data)
        return found if found is not None else "damaged: begins like an ELF file, but its header cannot be read"
    if data.startswith(b"MZ"):
        found = read_pe(data)
        return found if found is not None else "damaged: begins like a PE file, but its header cannot be read"
    if is_macho(data):
        found = read_macho(data)
        return found if found is not None else "damaged: begins like a Mach-O file, but its header cannot be read"
    return f"not a PE, ELF or Mach-O file: begins with {data[:16]!r}"


def _columns(headers: Headers, data: bytes) -> dict[str, Any]:
    hardening = headers.hardening
    return {
        "format": headers.format,
        "machine": headers.machine,
        "bits": headers.bits,
        "endianness": headers.endianness,
        "kind": headers.kind,
        "stripped": not headers.has_symbol_table,
        "has_debug_info": headers.has_debug_info,
        "build_id": headers.build_id,
        "compiler_banner": headers.comment or _banner(data),
        "compiler_evidence": _evidence(headers, data),
        "linker_version": headers.linker_version,
        "build_time": headers.timestamp,
        "minimum_os": headers.minimum_os,
        "slices": headers.slices,
        "import_hash": headers.import_hash,
        "rich_hash": headers.rich_hash,
        "no_execute": hardening.no_execute,
        "position_independent": hardening.position_independent,
        "relro": hardening.relro,
        "stack_canary": hardening.stack_canary,
        "control_flow": hardening.control_flow,
        "signed": hardening.signed,
        "sections": len(headers.sections),
        "imported_symbols": len(headers.imports),
        "exported_symbols": len(headers.exports),
        "imports_minhash": as_text(minhash(token_keys(headers.imports))),
        "parse_status": "ok" if headers.problem is None else "partial",
        "parse_error": headers.problem[:_REASON] if headers.problem is not None else None,
    }


def _banner(data: bytes) -> str | None:
    found = _GCC.search(data)
    return found.group().decode("ascii", "replace").strip() if found else None


def _evidence(headers: Headers, data: bytes) -> str | None:
    """The language whose compiler left its traces in the bytes. Held against labels, never made one."""
    if _RUST.search(data) or "rustc version" in (headers.comment or ""):
        return "rust"
    return "go" if any(mark in data for mark in _GO) else None
