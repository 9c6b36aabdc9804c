"""ELF, read by LIEF."""

from typing import Any

import lief

from tasks.extract.headers import Headers, Section

_MACHINES = {
    "I386": "x86", "X86_64": "amd64", "ARM": "arm", "AARCH64": "arm64", "RISCV": "riscv", "PPC": "powerpc",
    "PPC64": "powerpc", "S390": "s390", "MIPS": "mips", "LOONGARCH": "loongarch",
}  # fmt: skip
_DEBUG = {".debug_info", ".zdebug_info"}
_NOT_IN_FILE = {0, 8}
"""Section types NULL and NOBITS."""
_RELOCATIONS = {4, 9}
"""Section types RELA and REL."""


def read_elf(data: bytes) -> Headers | None:
    """Headers of an ELF file; None when LIEF cannot read it at all."""
    # LIEF takes a header that is cut short for one full of zeros.
    if len(data) < {1: 52, 2: 64}.get(data[4] if len(data) > 4 else 0, len(data) + 1):
        return None
    config = lief.ELF.ParserConfig()
    config.parse_relocations = False
    config.parse_symbol_versions = False
    config.parse_symtab_symbols = False
    config.parse_overlay = False
    # `binary` stays alive until the end: what is reached from it dies with it.
    binary: Any = lief.ELF.parse(data, config)
    if binary is None:
        return None
    header = binary.header
    sections = tuple(_section(s) for s in binary.sections)
    segments = list(binary.segments)
    dynamic = {entry.tag for entry in binary.dynamic_entries}
    names = {s.name for s in sections}
    symbols = list(binary.dynamic_symbols)
    flags_1 = lief.ELF.DynamicEntry.TAG.FLAGS_1
    pie = lief.ELF.DynamicEntryFlags.FLAG.PIE
    interpreted = any(s.type == lief.ELF.Segment.TYPE.INTERP for s in segments) or (
        flags_1 in dynamic and binary.get(flags_1).has(pie)
    )
    stack = [s for s in segments if s.type == lief.ELF.Segment.TYPE.GNU_STACK]
    owned = _end_of_owned(binary, data)
    return Headers(
        format="elf",
        machine=_MACHINES.get(header.machine_type.name, "other"),
        bits=64 if header.identity_class == lief.ELF.Header.CLASS.ELF64 else 32,
        endianness="little" if header.identity_data == lief.ELF.Header.ELF_DATA.LSB else "big",
        kind=_kind(header.file_type.name, interpreted),
        entry_offset=_entry(binary, header.entrypoint),
        segments=len(segments),
        overlay=max(0, len(data) - owned),
        sections=sections,
        libraries=tuple(str(name) for name in binary.libraries),
        imports=tuple(_text(s.name) for s in symbols if s.imported and s.name),
        exports=tuple(_text(s.name) for s in symbols if s.exported and s.name),
        has_symbol_table=".symtab" in names,
        has_debug_info=bool(names & _DEBUG),
        has_relocations=any(int(s.type) in _RELOCATIONS and s.size for s in binary.sections),
        position_independent=header.file_type.name == "DYN",
        no_execute=bool(stack) and not int(stack[0].flags) & 1,
        build_id=_build_id(binary),
        comment=_comment(binary),
        linker_version=None,
        problem=_problem(binary, sections, segments, data),
    )


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _kind(file_type: str, interpreted: bool) -> str:
    if file_type == "DYN":
        return "executable" if interpreted else "shared"
    return {"EXEC": "executable", "REL": "relocatable", "CORE": "core"}.get(file_type, "other")


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
        if segment.type == lief.ELF.Segment.TYPE.LOAD and inside:
            return int(address - segment.virtual_address + segment.file_offset)
    return None


def _end_of_owned(binary: Any, data: bytes) -> int:
    header = binary.header
    count = max(int(header.numberof_sections), len(binary.sections))
    ends = [
        int(header.header_size),
        int(header.program_header_offset) + int(header.numberof_segments) * int(header.program_header_size),
        int(header.section_header_offset) + count * int(header.section_header_size),
    ]
    ends += [int(s.file_offset) + int(s.physical_size) for s in binary.segments]
    ends += [int(s.offset) + int(s.size) for s in binary.sections if int(s.type) not in _NOT_IN_FILE]
    return min(len(data), max(ends))


def _build_id(binary: Any) -> str | None:
    for note in binary.notes:
        if note.type == lief.ELF.Note.TYPE.GNU_BUILD_ID:
            return bytes(note.description).hex()
    return None


def _comment(binary: Any) -> str | None:
    section = binary.get_section(".comment")
    if section is None:
        return None
    parts = bytes(section.content).split(b"\0")
    text = "; ".join(dict.fromkeys(p.decode("utf-8", "replace").strip() for p in parts if p.strip()))
    return text[:1000] or None


def _problem(binary: Any, sections: tuple[Section, ...], segments: list[Any], data: bytes) -> str | None:
    header, size = binary.header, len(data)
    if not sections and not segments:
        return "damaged: neither sections nor segments"
    declared = int(header.numberof_sections)
    table = int(header.section_header_offset)
    if table and table + max(declared, 1) * int(header.section_header_size) > size:
        return "truncated: the section table lies beyond the end of the file"
    if declared and len(sections) != declared:
        return f"damaged: {declared} sections are declared, {len(sections)} can be read"
    if len(segments) != int(header.numberof_segments) and int(header.numberof_segments) != 0xFFFF:
        return f"damaged: {int(header.numberof_segments)} segments are declared, {len(segments)} can be read"
    for section in sections:
        if section.size and section.offset + section.size > size:
            return f"truncated: section '{section.name}' lies beyond the end of the file"
    for number, segment in enumerate(segments):
        if int(segment.physical_size) and int(segment.file_offset) + int(segment.physical_size) > size:
            return f"truncated: segment {number} lies beyond the end of the file"
    return None
