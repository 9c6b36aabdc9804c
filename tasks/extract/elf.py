"""ELF: segments and the dynamic section are read by LIEF, sections and what they hold here, where LIEF has limits.

LIEF answers an enumeration's unknown value with a warning and a plain number: `int()` takes both.
"""

import re
from typing import Any

import lief

from tasks.extract.elftables import (
    LinkedSymbol,
    Notes,
    Row,
    Tables,
    linked_symbols,
    notes,
    relocations,
    section_table,
    symbols,
)
from tasks.extract.headers import Hardening, Headers, Relocations, Section, Segment

_MACHINES = {
    3: "x86", 62: "amd64", 40: "arm", 183: "arm64", 243: "riscv", 20: "powerpc", 21: "powerpc", 22: "s390",
    8: "mips", 10: "mips", 258: "loongarch",
}  # fmt: skip
_REL, _EXEC, _DYN, _CORE = 1, 2, 3, 4
_LOAD, _INTERP, _NOTE, _TLS, _GNU_STACK, _GNU_RELRO = 1, 3, 4, 7, 0x6474E551, 0x6474E552
_DEBUG = {".debug_info", ".zdebug_info"}
_SYMTAB, _RELA, _NOTES, _REL_TABLE, _DYNSYM, _RELR = 2, 4, 7, 9, 11, 19
"""Section types."""
_NOT_IN_FILE = {0, 8}
"""Section types NULL and NOBITS."""
_CONSTRUCTORS = {14, 16}
"""Section types INIT_ARRAY and PREINIT_ARRAY."""
_TLS_FLAG = 0x400
_DT = {
    2: "PLTRELSZ", 7: "RELA", 8: "RELASZ", 15: "RPATH", 17: "REL", 18: "RELSZ", 20: "PLTREL", 23: "JMPREL",
    24: "BIND_NOW", 27: "INIT_ARRAYSZ", 29: "RUNPATH", 30: "FLAGS", 33: "PREINIT_ARRAYSZ", 35: "RELRSZ", 36: "RELR",
    0x6FFFFFFB: "FLAGS_1",
}  # fmt: skip
_NEEDED = 1
_BIND_NOW, _NOW, _PIE = 0x8, 0x1, 0x08000000
"""Bits of FLAGS; of FLAGS_1."""
_CANARY = {"__stack_chk_fail", "__stack_chk_guard", "__stack_chk_fail_local", "__intel_security_cookie"}
_CANARY_NAMES = re.compile(rb"\0__stack_chk_(?:fail|guard)[\0@]")
_FORTIFIED = re.compile(r"__\w+_chk")
_SIGNED_MODULE = b"~Module signature appended~\n"
_LINKER = re.compile(r"\b(LLD \d[\w.]*|mold \d[\w.]*)")
_EXPORTING = {1, 2, 10}
"""Symbol bindings GLOBAL, WEAK and GNU_UNIQUE."""
_VISIBLE = {0, 3}
"""Symbol visibilities DEFAULT and PROTECTED."""


def read_elf(data: bytes) -> Headers | None:
    """Headers of an ELF file; None when LIEF cannot read it at all."""
    # LIEF takes a header that is cut short for one full of zeros.
    if len(data) < {1: 52, 2: 64}.get(data[4] if len(data) > 4 else 0, len(data) + 1):
        return None
    config = lief.ELF.ParserConfig()
    config.parse_relocations = False
    config.parse_symbol_versions = False
    config.parse_notes = False
    config.parse_symtab_symbols = False
    config.parse_overlay = False
    # `binary` stays alive until the end: what is reached from it dies with it.
    binary: Any = lief.ELF.parse(data, config)
    if binary is None:
        return None
    header = binary.header
    wide, big, machine = data[4] == 2, data[5] == 2, int(header.machine_type)
    tables = Tables(data, wide, big, machine)
    rows, table_problem = section_table(tables)
    sections = tuple(_section(s) for s in rows)
    segments = list(binary.segments)
    dynamic = _dynamic(binary)
    file_type = int(header.file_type)
    # An object file has no dynamic symbols: what it wants and gives is in its symbol table.
    listed = linked_symbols(tables, rows, _SYMTAB if file_type == _REL else _DYNSYM)
    if listed is None:
        listed = [LinkedSymbol(_text(s.name), s.shndx, s.information, s.other) for s in binary.dynamic_symbols]
    imports = tuple(s.name for s in listed if s.name and s.section == 0)
    symbol_tables = [(s.offset, s.size) for s in rows if s.type == _SYMTAB]
    found = _notes(tables, rows, segments)
    interpreted = any(int(s.type) == _INTERP for s in segments) or bool(dynamic.get("FLAGS_1", 0) & _PIE)
    comment = _comment(tables, rows)
    linker = _LINKER.search(comment or "")
    return Headers(
        format="elf",
        machine=_MACHINES.get(machine, "other"),
        bits=64 if wide else 32,
        endianness="big" if big else "little",
        kind=_kind(file_type, interpreted),
        entry_offset=_offset(segments, int(header.entrypoint)),
        loader_entries=len(binary.dynamic_entries),
        overlay=max(0, len(data) - _end_of_owned(binary, rows, data)),
        segments=tuple(_segment(s) for s in segments if int(s.type) == _LOAD),
        sections=sections,
        libraries=tuple(_text(name) for name in binary.libraries if name),
        imports=imports,
        exports=tuple(s.name for s in listed if s.name and _exported(s)),
        symbols=symbols(tables, symbol_tables),
        relocations=_relocations(tables, rows, segments, dynamic),
        notes=found.names,
        hardening=_hardening(tables, rows, segments, dynamic, file_type, imports, found.features),
        has_symbol_table=bool(symbol_tables),
        has_debug_info=any(s.name in _DEBUG for s in sections),
        has_thread_local=any(int(s.type) == _TLS for s in segments) or any(s.flags & _TLS_FLAG for s in rows),
        constructors=_constructors(rows, dynamic, 8 if wide else 4),
        resources=0,
        build_id=found.build_id,
        comment=comment,
        linker_version=linker[1] if linker else None,
        problem=_problem(binary, data)
        or table_problem
        or _section_problem(rows, len(data))
        or _symbol_problem(listed)
        or (None if found.whole else "damaged: notes that cannot be read"),
    )


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _exported(symbol: LinkedSymbol) -> bool:
    # Its type is no matter: thread-local and untyped symbols can be linked to as well.
    return symbol.section != 0 and symbol.info >> 4 in _EXPORTING and symbol.other & 3 in _VISIBLE


def _kind(file_type: int, interpreted: bool) -> str:
    if file_type == _DYN:
        return "executable" if interpreted else "shared"
    return {_EXEC: "executable", _REL: "relocatable", _CORE: "core"}.get(file_type, "other")


def _section(section: Row) -> Section:
    flags = section.flags  # SHF_WRITE 1, SHF_ALLOC 2, SHF_EXECINSTR 4
    return Section(
        name=section.name,
        offset=section.offset,
        size=section.size if section.type not in _NOT_IN_FILE else 0,
        virtual_size=section.size if flags & 2 else 0,
        readable=bool(flags & 2),
        writable=bool(flags & 1),
        executable=bool(flags & 4),
    )


def _segment(segment: Any) -> Segment:
    flags = int(segment.flags)
    return Segment(bool(flags & 4), bool(flags & 2), bool(flags & 1))


def _offset(segments: list[Any], address: int) -> int | None:
    """Place in the file of an address, if a loaded segment has it."""
    if not address:
        return None
    for segment in segments:
        start = int(segment.virtual_address)
        if int(segment.type) == _LOAD and start <= address < start + int(segment.physical_size):
            return address - start + int(segment.file_offset)
    return None


def _dynamic(binary: Any) -> dict[str, int]:
    """The entries of the dynamic section that matter here, by name; the first of each."""
    found: dict[str, int] = {}
    for entry in binary.dynamic_entries:
        name = _DT.get(int(entry.tag))
        if name is not None:
            found.setdefault(name, int(entry.value))
    return found


def _relocations(tables: Tables, rows: list[Row], segments: list[Any], dynamic: dict[str, int]) -> Relocations:
    if rows:
        kinds = {_RELA: True, _REL_TABLE: False}
        return relocations(
            tables,
            [(s.offset, s.size, kinds[s.type]) for s in rows if int(s.type) in kinds],
            [(s.offset, s.size) for s in rows if int(s.type) == _RELR],
        )
    tables_of = [("RELA", "RELASZ", True), ("REL", "RELSZ", False), ("JMPREL", "PLTRELSZ", dynamic.get("PLTREL") == 7)]
    places = [(_offset(segments, dynamic.get(at, 0)), dynamic.get(size, 0), has) for at, size, has in tables_of]
    packed = _offset(segments, dynamic.get("RELR", 0))
    return relocations(
        tables,
        [(at, size, addends) for at, size, addends in places if at is not None],
        [(packed, dynamic.get("RELRSZ", 0))] if packed is not None else [],
    )


def _notes(tables: Tables, rows: list[Row], segments: list[Any]) -> Notes:
    places = [(s.offset, s.size, s.alignment) for s in rows if int(s.type) == _NOTES]
    if not places:
        places = [
            (int(s.file_offset), int(s.physical_size), int(s.alignment)) for s in segments if int(s.type) == _NOTE
        ]
    return notes(tables, places)


def _constructors(rows: list[Row], dynamic: dict[str, int], word: int) -> int:
    listed = sum(s.size for s in rows if int(s.type) in _CONSTRUCTORS)
    return (listed or dynamic.get("INIT_ARRAYSZ", 0) + dynamic.get("PREINIT_ARRAYSZ", 0)) // word


def _hardening(
    tables: Tables,
    rows: list[Row],
    segments: list[Any],
    dynamic: dict[str, int],
    file_type: int,
    imports: tuple[str, ...],
    features: int,
) -> Hardening:
    stack = [s for s in segments if int(s.type) == _GNU_STACK]
    object_stack = [s for s in rows if file_type == _REL and s.name == ".note.GNU-stack"]
    now = "BIND_NOW" in dynamic or dynamic.get("FLAGS", 0) & _BIND_NOW or dynamic.get("FLAGS_1", 0) & _NOW
    relro = any(int(s.type) == _GNU_RELRO for s in segments)
    return Hardening(
        no_execute=(bool(stack) and not int(stack[0].flags) & 1)
        or (bool(object_stack) and not int(object_stack[0].flags) & 4),
        position_independent=file_type == _DYN,
        high_entropy=file_type == _DYN and tables.wide,
        relro=None if file_type == _REL else ("full" if now else "partial") if relro else "none",
        stack_canary=bool(_CANARY & set(imports)) or _has_canary(tables, rows),
        fortified=any(_FORTIFIED.fullmatch(name) and name not in _CANARY for name in imports),
        control_flow=bool(features & 1),
        return_address=bool(features & 2),
        safe_handlers=False,
        signed=tables.data.endswith(_SIGNED_MODULE),
        encrypted=False,
        run_path="RPATH" in dynamic or "RUNPATH" in dynamic,
    )


def _has_canary(tables: Tables, rows: list[Row]) -> bool:
    """Whether the symbol table of a statically linked file has the name of the function that a canary needs."""
    for row in rows:
        if row.type == _SYMTAB and row.link < len(rows):
            names = rows[row.link]
            if _CANARY_NAMES.search(tables.data[names.offset : names.offset + names.size]):
                return True
    return False


def _end_of_owned(binary: Any, rows: list[Row], data: bytes) -> int:
    header = binary.header
    count = max(int(header.numberof_sections), len(rows))
    ends = [
        int(header.header_size),
        int(header.program_header_offset) + int(header.numberof_segments) * int(header.program_header_size),
        int(header.section_header_offset) + count * int(header.section_header_size),
    ]
    ends += [int(s.file_offset) + int(s.physical_size) for s in binary.segments]
    ends += [s.offset + s.size for s in rows if int(s.type) not in _NOT_IN_FILE]
    return min(len(data), max(ends))


def _comment(tables: Tables, rows: list[Row]) -> str | None:
    section = next((row for row in rows if row.name == ".comment"), None)
    if section is None:
        return None
    parts = tables.data[section.offset : section.offset + section.size].split(b"\0")
    text = "; ".join(dict.fromkeys(p.decode("utf-8", "replace").strip() for p in parts if p.strip()))
    return text[:1000] or None


def _problem(binary: Any, data: bytes) -> str | None:
    header, size = binary.header, len(data)
    segments = list(binary.segments)
    needed = sum(int(entry.tag) == _NEEDED for entry in binary.dynamic_entries)
    if needed != sum(bool(name) for name in binary.libraries):
        return f"damaged: {needed} libraries are needed, not all of their names can be read"
    if not int(header.section_header_offset) and not segments:
        return "damaged: neither sections nor segments"
    if int(header.numberof_segments) == 0xFFFF:
        return "incomplete: more than 65 534 segments, the rest is not read"
    if len(segments) != int(header.numberof_segments):
        return f"damaged: {int(header.numberof_segments)} segments are declared, {len(segments)} can be read"
    for number, segment in enumerate(segments):
        if int(segment.physical_size) and int(segment.file_offset) + int(segment.physical_size) > size:
            return f"truncated: segment {number} lies beyond the end of the file"
    return None


def _section_problem(rows: list[Row], size: int) -> str | None:
    for row in rows:
        if row.size and row.type not in _NOT_IN_FILE and row.offset + row.size > size:
            return f"truncated: section {row.name[:100]!r} lies beyond the end of the file"
    return None


def _symbol_problem(symbols: list[LinkedSymbol]) -> str | None:
    if any(not symbol.name and symbol.info >> 4 in _EXPORTING for symbol in symbols):
        return "damaged: symbols whose names cannot be read"
    return None
