"""Mach-O: its tables are read here, and what is encoded for the loader (rebases, binds, exports) by LIEF.

Of a fat file one slice is read: x86-64, else ARM64, else the first. Places are those in the whole file, and the
overlay is what follows the last slice.
"""

import re
import struct
import uuid
from collections import Counter
from typing import Any

import lief

from tasks.extract.headers import Hardening, Headers, Relocations, Section, Segment
from tasks.extract.machotables import (
    AMD64,
    ARM64,
    Commands,
    MachoSection,
    MachoSegment,
    SymbolTable,
    chosen,
    commands,
    libraries,
    object_relocations,
    segments,
    slices,
    symbol_table,
)

_MACHINES = {
    7: "x86", AMD64: "amd64", 12: "arm", ARM64: "arm64", 0x0200000C: "arm64", 18: "powerpc", 0x01000012: "powerpc",
    24: "riscv",
}  # fmt: skip
_KINDS = {1: "relocatable", 2: "executable", 3: "shared", 4: "core", 6: "shared", 8: "shared", 9: "shared"}
_STACK_EXECUTION, _PIE = 0x20000, 0x200000
_ARM64E = 2
_DEBUG_ONLY, _INSTRUCTIONS = 0x02000000, 0x80000400
"""Section attributes."""
_ZERO_FILLED = {0x1, 0xC, 0x12}
_THREAD_LOCAL = {0x11, 0x12, 0x13, 0x14, 0x15}
_CONSTRUCTORS, _CONSTRUCTOR_OFFSETS = 0x9, 0x16
"""Section types."""
_READ_ONLY_LATER = 0x10
"""Segment flag: read-only once the loader has bound it."""
_CODE_SIGNATURE, _RPATH, _UUID, _BUILD_VERSION, _THREAD, _MAIN = 0x1D, 0x8000001C, 0x1B, 0x32, 0x5, 0x80000028
_VERSION_MIN = (0x24, 0x25, 0x2F, 0x30)
_ENCRYPTION = (0x21, 0x2C)
_IN_LINKEDIT = {_CODE_SIGNATURE, 0x1E, 0x26, 0x29, 0x2B, 0x2E, 0x36, 0x80000033, 0x80000034}
"""Load commands that say where something lies, by offset and size."""
_LINKERS = {3: "ld", 4: "lld"}
_INSTRUCTION_POINTER = {7: (10, "I"), AMD64: (16, "Q"), 12: (15, "I"), ARM64: (32, "Q"), 18: (0, "I")}
"""By machine: its place among the registers of a thread, and their width."""
_CANARY = {"___stack_chk_fail", "___stack_chk_guard"}
_FORTIFIED = re.compile(r"___\w+_chk")


def read_macho(data: bytes) -> Headers | None:
    """Headers of a Mach-O file, or of one slice of a fat one; None when there is no header."""
    parts = slices(data)
    if parts is None:
        return _read(data, data, 0, 1, None, None)
    if not parts:
        return None
    part = chosen(parts)
    owned = max(p.offset + p.size for p in parts)
    problem = None
    if len(parts) != int.from_bytes(data[4:8], "big"):
        problem = "truncated: the list of slices lies beyond the end of the file"
    elif owned > len(data):
        problem = f"truncated: one of {len(parts)} slices lies beyond the end of the file"
    return _read(data[part.offset : part.offset + part.size], data, part.offset, len(parts), owned, problem)


def _read(data: bytes, whole: bytes, base: int, count: int, owned: int | None, problem: str | None) -> Headers | None:
    """Read one executable, that begins at `base` in the file; `owned` is where the last slice ends."""
    found = commands(data)
    if found is None:
        return None
    parts = segments(found)
    rows = [section for part in parts for section in part.sections]
    kind = _KINDS.get(found.file_type, "other")
    table = symbol_table(found, [bool(row.flags & _INSTRUCTIONS) for row in rows])
    # `fat` stays alive until the end: what is reached from it dies with it.
    fat: Any = lief.MachO.parse(data, lief.MachO.ParserConfig.deep)
    binary: Any = fat.at(0) if fat is not None and fat.size else None
    if kind == "relocatable":
        relocations = object_relocations(found, [row.relocations for row in rows])
    else:
        relocations = _relocations(binary)
    identity = found.fields(_UUID, "16B")
    linker, minimum_os = _versions(found)
    end = _end_of_owned(found, table, parts) if owned is None else owned
    return Headers(
        format="macho",
        machine=_MACHINES.get(found.machine, "other"),
        bits=64 if found.wide else 32,
        endianness="little" if found.order == "<" else "big",
        kind=kind,
        entry_offset=_entry(found, parts, base),
        loader_entries=len(found.rows),
        overlay=max(0, len(whole) - end),
        segments=tuple(_segment(part) for part in parts),
        sections=tuple(_section(row, part, base, kind) for part in parts for row in part.sections),
        libraries=libraries(found),
        imports=table.imports,
        exports=_exports(binary, table, kind),
        symbols=table.counts,
        relocations=relocations,
        notes=tuple(f"command:{number:#x}" for number, _, _ in found.rows),
        hardening=_hardening(found, parts, kind, table.imports, relocations),
        has_symbol_table=table.local,
        has_debug_info=any(row.name in {"__debug_info", "__zdebug_info"} for row in rows),
        has_thread_local=any(row.flags & 0xFF in _THREAD_LOCAL for row in rows),
        constructors=_constructors(rows, 8 if found.wide else 4),
        resources=0,
        build_id=str(uuid.UUID(bytes=bytes(identity))) if identity is not None else None,
        comment=None,
        linker_version=linker,
        problem=problem or _problem(found, parts) or table.problem or _loader_problem(binary),
        slices=count,
        minimum_os=minimum_os,
    )


def _segment(part: MachoSegment) -> Segment:
    return Segment(bool(part.protection & 1), bool(part.protection & 2), bool(part.protection & 4))


def _section(row: MachoSection, part: MachoSegment, base: int, kind: str) -> Section:
    loaded = not row.flags & _DEBUG_ONLY
    in_file = row.flags & 0xFF not in _ZERO_FILLED
    readable, writable, executable = bool(part.protection & 1), bool(part.protection & 2), bool(part.protection & 4)
    if kind == "relocatable":  # its one segment has all rights; the linker will sort its sections by name
        writable, executable = row.segment.startswith("__DATA"), bool(row.flags & _INSTRUCTIONS)
    return Section(
        name=f"{row.segment},{row.name}",
        offset=base + row.offset,
        size=row.size if in_file else 0,
        virtual_size=row.size if loaded else 0,
        readable=readable and loaded,
        writable=writable and loaded,
        executable=executable and loaded,
    )


def _relocations(binary: Any) -> Relocations:
    """Count what the loader must rebase and bind."""
    if binary is None:
        return Relocations()
    types = Counter[str]()
    rebases = len(binary.relocations)
    lazy = symbolic = 0
    for binding in binary.bindings:
        kind = int(binding.binding_class) if isinstance(binding, lief.MachO.DyldBindingInfo) else 0
        types[f"macho:bind{kind}"] += 1
        if kind == int(lief.MachO.DyldBindingInfo.CLASS.LAZY):
            lazy += 1
        else:
            symbolic += 1
    if rebases:
        types["macho:rebase"] = rebases
    return Relocations(relative=rebases, symbolic=symbolic, lazy=lazy, types=tuple(sorted(types.items())))


def _exports(binary: Any, table: SymbolTable, kind: str) -> tuple[str, ...]:
    """The symbol table's, then what only the loader's table of exports names."""
    if binary is None or kind == "relocatable":
        return table.exports
    source = binary.dyld_exports_trie or binary.dyld_info
    listed = list(source.exports) if source is not None else []
    names = [_name(entry.symbol.name) for entry in listed if entry.symbol is not None]
    return tuple(dict.fromkeys((*table.exports, *names)))


def _name(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _entry(found: Commands, parts: list[MachoSegment], base: int) -> int | None:
    main = found.fields(_MAIN, "Q")
    if main is not None:
        return base + main[0]
    place, width = _INSTRUCTION_POINTER.get(found.machine, (0, ""))
    thread = found.fields(_THREAD, f"II{place * struct.calcsize('<' + width)}x{width}") if width else None
    if thread is None:
        return None
    for part in parts:
        if part.address <= thread[2] < part.address + part.size:
            return base + thread[2] - part.address + part.offset
    return None


def _versions(found: Commands) -> tuple[str | None, str | None]:
    """The linker's version, and that of the oldest system that the file runs on."""
    build = found.fields(_BUILD_VERSION, "4I")
    if build is None:
        old = next((v for v in (found.fields(command, "I") for command in _VERSION_MIN) if v is not None), None)
        return None, _version(old[0]) if old is not None else None
    _, oldest, _, count = build
    at, size = next((at, size) for number, at, size in found.rows if number == _BUILD_VERSION)
    tools = struct.Struct(found.order + "2I")
    linker = None
    for place in range(at + 24, min(at + size, at + 24 + 8 * count) - 7, 8):
        tool, version = tools.unpack_from(found.data, place)
        if tool in _LINKERS:
            linker = f"{_LINKERS[tool]} {_version(version)}"
    return linker, _version(oldest)


def _version(number: int) -> str:
    parts = (number >> 16, number >> 8 & 0xFF, number & 0xFF)
    return ".".join(map(str, parts if parts[2] else parts[:2]))


def _constructors(rows: list[MachoSection], word: int) -> int:
    sizes = {_CONSTRUCTORS: word, _CONSTRUCTOR_OFFSETS: 4}
    return sum(row.size // sizes[row.flags & 0xFF] for row in rows if row.flags & 0xFF in sizes)


def _hardening(
    found: Commands, parts: list[MachoSegment], kind: str, imports: tuple[str, ...], relocations: Relocations
) -> Hardening:
    numbers = {number for number, _, _ in found.rows}
    signature = found.fields(_CODE_SIGNATURE, "2I")
    encryption = [found.fields(command, "3I") for command in _ENCRYPTION]
    independent = bool(found.flags & _PIE) or kind == "shared"
    late = any(part.flags & _READ_ONLY_LATER for part in parts)
    # On ARM64e, pointers to code are signed: both where calls go and where they return to.
    signed_pointers = found.machine == ARM64 and found.subtype & 0xFF == _ARM64E
    return Hardening(
        no_execute=not found.flags & _STACK_EXECUTION,
        position_independent=independent,
        high_entropy=independent and found.wide,
        relro=None if kind == "relocatable" else ("partial" if relocations.lazy else "full") if late else "none",
        stack_canary=bool(_CANARY & set(imports)),
        fortified=any(_FORTIFIED.fullmatch(name) for name in imports),
        control_flow=signed_pointers,
        return_address=signed_pointers,
        safe_handlers=False,
        signed=signature is not None and signature[1] > 0,
        encrypted=any(fields is not None and fields[2] != 0 for fields in encryption),
        run_path=_RPATH in numbers,
    )


def _data_ends(found: Commands) -> list[int]:
    """Where what the load commands point at ends, besides segments and symbols."""
    ends: list[int] = []
    for number, at, size in found.rows:
        if number in _IN_LINKEDIT and size >= 16:
            ends.append(sum(struct.unpack_from(found.order + "2I", found.data, at + 8)))
    return ends


def _end_of_owned(found: Commands, table: SymbolTable, parts: list[MachoSegment]) -> int:
    rows = [row for part in parts for row in part.sections]
    ends = [found.end, table.end, *_data_ends(found)]
    ends += [part.offset + part.size for part in parts]
    ends += [row.offset + row.size for row in rows if row.flags & 0xFF not in _ZERO_FILLED]
    ends += [row.relocations[0] + 8 * row.relocations[1] for row in rows]
    return min(len(found.data), max(ends))


def _problem(found: Commands, parts: list[MachoSegment]) -> str | None:
    size = len(found.data)
    if found.end > size:
        return "truncated: the load commands lie beyond the end of the file"
    if len(found.rows) != found.declared:
        return f"damaged: {found.declared} load commands are declared, {len(found.rows)} can be read"
    if not found.rows:
        return "damaged: no load commands"
    for number, part in enumerate(parts):
        if part.size and part.offset + part.size > size:
            return f"truncated: segment {number} lies beyond the end of the file"
        if len(part.sections) != part.declared:
            return f"damaged: {part.declared} sections are declared, {len(part.sections)} can be read"
    for row in (row for part in parts for row in part.sections):
        in_file = row.flags & 0xFF not in _ZERO_FILLED
        if (in_file and row.offset + row.size > size) or row.relocations[0] + 8 * row.relocations[1] > size:
            return f"truncated: section {row.name[:100]!r} lies beyond the end of the file"
    if any(end > size for end in _data_ends(found)):
        return "truncated: data that a load command points at lies beyond the end of the file"
    return None


def _loader_problem(binary: Any) -> str | None:
    return "damaged: what is encoded for the loader cannot be read" if binary is None else None
