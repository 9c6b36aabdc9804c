"""ELF, read by LIEF; the section table of a file with more than 65 279 sections is read here.

LIEF answers an enumeration's unknown value with a warning and a plain number: `int()` takes both.
"""

import struct
from dataclasses import dataclass
from typing import Any

import lief

from tasks.extract.headers import Headers, Section

_MACHINES = {
    3: "x86", 62: "amd64", 40: "arm", 183: "arm64", 243: "riscv", 20: "powerpc", 21: "powerpc", 22: "s390",
    8: "mips", 10: "mips", 258: "loongarch",
}  # fmt: skip
_REL, _EXEC, _DYN, _CORE = 1, 2, 3, 4
_LOAD, _INTERP, _GNU_STACK = 1, 3, 0x6474E551
_DEBUG = {".debug_info", ".zdebug_info"}
_SYMTAB, _DYNSYM = 2, 11
_NOT_IN_FILE = {0, 8}
"""Section types NULL and NOBITS."""
_RELOCATIONS = {4, 9}
"""Section types RELA and REL."""
_EXPORTING = {1, 2, 10}
"""Symbol bindings GLOBAL, WEAK and GNU_UNIQUE."""
_VISIBLE = {0, 3}
"""Symbol visibilities DEFAULT and PROTECTED."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of the section table, with the attributes that LIEF gives a section."""

    name: str
    type: int
    flags: int
    offset: int
    size: int


def read_elf(data: bytes) -> Headers | None:
    """Headers of an ELF file; None when LIEF cannot read it at all."""
    # LIEF takes a header that is cut short for one full of zeros.
    if len(data) < {1: 52, 2: 64}.get(data[4] if len(data) > 4 else 0, len(data) + 1):
        return None
    config = lief.ELF.ParserConfig()
    config.parse_relocations = False
    config.parse_symbol_versions = False
    # An object file has no dynamic symbols: what it wants and gives is in its symbol table.
    config.parse_symtab_symbols = data[16:18] in {b"\1\0", b"\0\1"}
    config.parse_overlay = False
    # `binary` stays alive until the end: what is reached from it dies with it.
    binary: Any = lief.ELF.parse(data, config)
    if binary is None:
        return None
    header = binary.header
    rows: list[Any] = list(binary.sections) or _extended_table(data)
    sections = tuple(_section(s) for s in rows)
    segments = list(binary.segments)
    dynamic = {entry.tag for entry in binary.dynamic_entries}
    names = {s.name for s in sections}
    file_type = int(header.file_type)
    symbols = list(binary.symtab_symbols if file_type == _REL else binary.dynamic_symbols)
    flags_1 = lief.ELF.DynamicEntry.TAG.FLAGS_1
    pie = lief.ELF.DynamicEntryFlags.FLAG.PIE
    interpreted = any(int(s.type) == _INTERP for s in segments) or (flags_1 in dynamic and binary.get(flags_1).has(pie))
    stack = [s for s in segments if int(s.type) == _GNU_STACK]
    owned = _end_of_owned(binary, rows, data)
    return Headers(
        format="elf",
        machine=_MACHINES.get(int(header.machine_type), "other"),
        bits=64 if data[4] == 2 else 32,
        endianness="big" if data[5] == 2 else "little",
        kind=_kind(file_type, interpreted),
        entry_offset=_entry(binary, header.entrypoint),
        segments=len(segments),
        overlay=max(0, len(data) - owned),
        sections=sections,
        libraries=tuple(_text(name) for name in binary.libraries if name),
        imports=tuple(_text(s.name) for s in symbols if s.name and s.shndx == 0),
        exports=tuple(_text(s.name) for s in symbols if s.name and _exported(s)),
        has_symbol_table=any(int(s.type) == _SYMTAB for s in rows),
        has_debug_info=bool(names & _DEBUG),
        has_relocations=any(int(s.type) in _RELOCATIONS and s.size for s in rows),
        position_independent=file_type == _DYN,
        no_execute=bool(stack) and not int(stack[0].flags) & 1,
        build_id=_build_id(binary),
        comment=_comment(binary),
        linker_version=None,
        problem=_problem(binary, sections, data) or _symbol_problem(binary, rows, symbols, data),
    )


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _exported(symbol: Any) -> bool:
    # Its type is no matter: thread-local and untyped symbols can be linked to as well.
    return symbol.shndx != 0 and symbol.information >> 4 in _EXPORTING and symbol.other & 3 in _VISIBLE


def _kind(file_type: int, interpreted: bool) -> str:
    if file_type == _DYN:
        return "executable" if interpreted else "shared"
    return {_EXEC: "executable", _REL: "relocatable", _CORE: "core"}.get(file_type, "other")


def _extended_table(data: bytes) -> list[_Row]:
    """The section table of a file whose header says 0 sections: the first section's size is their number.

    LIEF does not read such tables. An empty list where there is none, or it is damaged.
    """
    order = ">" if data[5] == 2 else "<"
    wide = data[4] == 2
    (table,) = struct.unpack_from(order + ("Q" if wide else "I"), data, 40 if wide else 32)
    size, declared, names = struct.unpack_from(order + "3H", data, 58 if wide else 46)
    # name, type, flags, address, offset, size, link
    layout = struct.Struct(order + ("IIQQQQI" if wide else "7I"))
    if not table or declared or size < layout.size or table + size > len(data):
        return []
    first = layout.unpack_from(data, table)
    count = first[5]
    names = first[6] if names == 0xFFFF else names
    if names >= count or table + count * size > len(data):
        return []
    rows = [layout.unpack_from(data, table + i * size) for i in range(count)]
    start, end = rows[names][4], rows[names][4] + rows[names][5]
    text = data[start:end]
    rows[0] = (0,) * 7  # its size and link were the table's
    return [
        _Row(_text(text[name : max(text.find(b"\0", name), name)]), kind, flags, offset, length)
        for name, kind, flags, _, offset, length, _ in rows
    ]


def _section(section: Any) -> Section:
    flags = int(section.flags)  # SHF_WRITE 1, SHF_ALLOC 2, SHF_EXECINSTR 4
    in_file = int(section.type) not in _NOT_IN_FILE
    return Section(
        name=_text(section.name),
        offset=int(section.offset),
        size=int(section.size) if in_file else 0,
        virtual_size=int(section.size) if flags & 2 else 0,
        readable=bool(flags & 2),
        writable=bool(flags & 1),
        executable=bool(flags & 4),
    )


def _entry(binary: Any, address: int) -> int | None:
    if not address:
        return None
    for segment in binary.segments:
        inside = segment.virtual_address <= address < segment.virtual_address + segment.physical_size
        if int(segment.type) == _LOAD and inside:
            return int(address - segment.virtual_address + segment.file_offset)
    return None


def _end_of_owned(binary: Any, rows: list[Any], data: bytes) -> int:
    header = binary.header
    count = max(int(header.numberof_sections), len(rows))
    ends = [
        int(header.header_size),
        int(header.program_header_offset) + int(header.numberof_segments) * int(header.program_header_size),
        int(header.section_header_offset) + count * int(header.section_header_size),
    ]
    ends += [int(s.file_offset) + int(s.physical_size) for s in binary.segments]
    ends += [int(s.offset) + int(s.size) for s in rows if int(s.type) not in _NOT_IN_FILE]
    return min(len(data), max(ends))


def _build_id(binary: Any) -> str | None:
    for note in binary.notes:
        if note.type == lief.ELF.Note.TYPE.GNU_BUILD_ID:
            return bytes(note.description)[:64].hex()
    return None


def _comment(binary: Any) -> str | None:
    section = binary.get_section(".comment")
    if section is None:
        return None
    parts = bytes(section.content).split(b"\0")
    text = "; ".join(dict.fromkeys(p.decode("utf-8", "replace").strip() for p in parts if p.strip()))
    return text[:1000] or None


def _problem(binary: Any, sections: tuple[Section, ...], data: bytes) -> str | None:
    header, size = binary.header, len(data)
    segments = list(binary.segments)
    declared = int(header.numberof_sections)
    table = int(header.section_header_offset)
    if table and table + max(declared, 1) * int(header.section_header_size) > size:
        return "truncated: the section table lies beyond the end of the file"
    if declared and len(sections) != declared:
        return f"damaged: {declared} sections are declared, {len(sections)} can be read"
    if table and not sections:
        return "truncated or damaged: there is a section table, but no section can be read"
    if not sections and not segments:
        return "damaged: neither sections nor segments"
    if int(header.numberof_segments) == 0xFFFF:
        return "incomplete: more than 65 534 segments, the rest is not read"
    if len(segments) != int(header.numberof_segments):
        return f"damaged: {int(header.numberof_segments)} segments are declared, {len(segments)} can be read"
    for section in sections:
        if section.size and section.offset + section.size > size:
            return f"truncated: section {section.name[:100]!r} lies beyond the end of the file"
    for number, segment in enumerate(segments):
        if int(segment.physical_size) and int(segment.file_offset) + int(segment.physical_size) > size:
            return f"truncated: segment {number} lies beyond the end of the file"
    return None


def _symbol_problem(binary: Any, rows: list[Any], symbols: list[Any], data: bytes) -> str | None:
    """What is wrong with symbols that LIEF passed over without a word."""
    width = 24 if data[4] == 2 else 16
    declared = max((int(row.size) // width for row in rows if int(row.type) == _DYNSYM), default=0)
    read = len(binary.dynamic_symbols)
    if declared > read:
        return f"damaged: {declared} dynamic symbols are declared, {read} can be read"
    if any(not symbol.name and symbol.information >> 4 in _EXPORTING for symbol in symbols):
        return "damaged: symbols whose names cannot be read"
    return None
