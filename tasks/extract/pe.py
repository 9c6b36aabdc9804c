"""PE, read by LIEF."""

from typing import Any

import lief

from tasks.extract.headers import Headers, Section

_MACHINES = {
    "I386": "x86", "AMD64": "amd64", "ARM": "arm", "ARMNT": "arm", "THUMB": "arm", "ARM64": "arm64",
    "RISCV32": "riscv", "RISCV64": "riscv", "LOONGARCH64": "loongarch",
}  # fmt: skip
_EXECUTABLE, _READABLE, _WRITABLE = 0x20000000, 0x40000000, 0x80000000
_DLL, _RELOCS_STRIPPED = 0x2000, 0x0001
_DYNAMIC_BASE, _NX = 0x0040, 0x0100


def read_pe(data: bytes) -> Headers | None:
    """Headers of a PE file; None when LIEF cannot read it at all."""
    config = lief.PE.ParserConfig()
    config.parse_signature = False  # certificates are big, and a later group's business
    config.parse_rsrc = False
    config.parse_reloc = False
    # `binary` stays alive until the end: what is reached from it dies with it.
    binary: Any = lief.PE.parse(data, config)
    if binary is None:
        return None
    header, optional = binary.header, binary.optional_header
    characteristics = int(header.characteristics)
    dll = int(optional.dll_characteristics)
    sections = tuple(_section(s) for s in binary.sections)
    debug = any(s.name.startswith((".debug_info", ".zdebug_info")) for s in sections)
    directories = [d for d in binary.data_directories if d.rva and d.size]
    imports = list(binary.imports)
    owned = max([int(optional.sizeof_headers), *(s.offset + s.size for s in sections), _certificates_end(binary)])
    return Headers(
        format="pe",
        machine=_MACHINES.get(getattr(header.machine, "name", ""), "other"),
        bits=64 if int(optional.magic) == 0x20B else 32,
        endianness="little",
        kind="shared" if characteristics & _DLL else "executable",
        entry_offset=_entry(sections, binary, int(optional.addressof_entrypoint)),
        segments=len(directories),
        overlay=max(0, len(data) - owned),
        sections=sections,
        libraries=tuple(dict.fromkeys(_text(i.name).lower() for i in imports)),
        imports=tuple(f"{_text(i.name).lower()}:{_symbol(e)}" for i in imports for e in i.entries),
        exports=_exports(binary),
        has_symbol_table=int(header.numberof_symbols) > 0,
        has_debug_info=debug,
        has_relocations=not characteristics & _RELOCS_STRIPPED
        and any(d.type == lief.PE.DataDirectory.TYPES.BASE_RELOCATION_TABLE for d in directories),
        position_independent=bool(dll & _DYNAMIC_BASE),
        no_execute=bool(dll & _NX),
        build_id=_guid(binary),
        comment=None,
        linker_version=f"{int(optional.major_linker_version)}.{int(optional.minor_linker_version)}",
        problem=_problem(header, sections, len(data)) or _table_problem(binary),
    )


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _symbol(entry: Any) -> str:
    return f"ordinal{entry.ordinal}" if entry.is_ordinal else _text(entry.name)


def _exports(binary: Any) -> tuple[str, ...]:
    if not binary.has_exports:
        return ()
    table = binary.get_export()
    return tuple(_text(e.name) if e.name else f"ordinal{e.ordinal}" for e in table.entries)


def _section(section: Any) -> Section:
    flags = int(section.characteristics)
    # mingw's names longer than 8 bytes stand in the string table behind '/97'; LIEF resolves them.
    long_name = section.coff_string
    return Section(
        name=_text(long_name.string if long_name is not None else section.name).rstrip("\0"),
        offset=int(section.pointerto_raw_data),
        size=int(section.sizeof_raw_data),
        virtual_size=int(section.virtual_size),
        readable=bool(flags & _READABLE),
        writable=bool(flags & _WRITABLE),
        executable=bool(flags & _EXECUTABLE),
    )


def _entry(sections: tuple[Section, ...], binary: Any, rva: int) -> int | None:
    if not rva:
        return None
    for section, raw in zip(sections, binary.sections, strict=True):
        start = int(raw.virtual_address)
        if start <= rva < start + max(section.size, section.virtual_size):
            return section.offset + rva - start
    return None


def _certificates_end(binary: Any) -> int:
    """End of the attribute certificates, whose directory holds a file offset and not an address."""
    directory = binary.cert_dir
    return int(directory.rva) + int(directory.size) if directory is not None else 0


def _guid(binary: Any) -> str | None:
    pdb = binary.codeview_pdb
    return str(pdb.guid).lower() if pdb is not None else None


def _problem(header: Any, sections: tuple[Section, ...], size: int) -> str | None:
    if len(sections) != int(header.numberof_sections):
        return f"damaged: {int(header.numberof_sections)} sections are declared, {len(sections)} can be read"
    for section in sections:
        if section.size and section.offset + section.size > size:
            return f"truncated: section {section.name[:100]!r} lies beyond the end of the file"
    return None


def _table_problem(binary: Any) -> str | None:
    """What is wrong with tables that LIEF passed over without a word."""
    imports, exports = binary.import_dir, binary.export_dir
    # A table of 20 bytes is its terminating entry alone.
    if imports is not None and imports.rva and imports.size > 20 and not binary.has_imports:
        return "damaged: an import table is declared, but cannot be read"
    if exports is not None and exports.rva and exports.size and not binary.has_exports:
        return "damaged: an export table is declared, but cannot be read"
    return None
