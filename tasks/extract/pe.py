"""PE, read by LIEF."""

import hashlib
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import lief
import numpy as np
import ordlookup

from tasks.extract.headers import Hardening, Headers, Relocations, Section, Segment, Symbols

_MACHINES = {
    "I386": "x86", "AMD64": "amd64", "ARM": "arm", "ARMNT": "arm", "THUMB": "arm", "ARM64": "arm64",
    "RISCV32": "riscv", "RISCV64": "riscv", "LOONGARCH64": "loongarch",
}  # fmt: skip
_EXECUTABLE, _READABLE, _WRITABLE = 0x20000000, 0x40000000, 0x80000000
_DLL, _RELOCS_STRIPPED = 0x2000, 0x0001
_HIGH_ENTROPY, _DYNAMIC_BASE, _NX, _NO_SEH, _GUARD_CF = 0x0020, 0x0040, 0x0100, 0x0400, 0x4000
"""DLL characteristics."""
_DIRECTORY = lief.PE.DataDirectory.TYPES
_RELATIVE = {3, 10}
"""Base relocations of 32 and 64 bits: HIGHLOW and DIR64."""
_BLOCKS = 1 << 20
"""Blocks of base relocations read: 4 GiB of pages."""
_SYMBOL = struct.Struct("<8sIhHBB")
_SHADOW_STACK = 1
_CANARY = b"__stack_chk_fail\0"


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
    # A file may declare fewer than 16, or more.
    directories = {d.type: d for d in binary.data_directories if d.rva and d.size}
    imports, late = list(binary.imports), list(binary.delay_imports)
    symbols, strings = _symbols(data, int(header.pointerto_symbol_table), int(header.numberof_symbols))
    relocations, whole = _relocations(data, binary, sections, directories.get(_DIRECTORY.BASE_RELOCATION_TABLE))
    ends = [int(optional.sizeof_headers), *(s.offset + s.size for s in sections), _certificates_end(binary)]
    if strings:
        ends.append(int(header.pointerto_symbol_table) + int(header.numberof_symbols) * _SYMBOL.size + len(strings))
    delayed = [symbol for library in late for symbol in _symbols_of(library)]
    resources = directories.get(_DIRECTORY.RESOURCE_TABLE)
    return Headers(
        format="pe",
        machine=_MACHINES.get(getattr(header.machine, "name", ""), "other"),
        bits=64 if int(optional.magic) == 0x20B else 32,
        endianness="little",
        kind="shared" if characteristics & _DLL else "executable",
        entry_offset=_place(sections, binary, int(optional.addressof_entrypoint)),
        loader_entries=len(directories),
        overlay=max(0, len(data) - max(ends)),
        segments=tuple(Segment(s.readable, s.writable, s.executable) for s in sections),
        sections=sections,
        libraries=tuple(dict.fromkeys(_text(i.name).lower() for i in (*imports, *late))),
        imports=(*(symbol for library in imports for symbol in _symbols_of(library)), *delayed),
        exports=_exports(binary),
        symbols=symbols,
        relocations=relocations,
        notes=tuple(f"debug:{int(entry.type)}" for entry in binary.debug),
        hardening=_hardening(binary, dll, _CANARY in strings),
        has_symbol_table=int(header.numberof_symbols) > 0,
        has_debug_info=any(s.name in {".debug_info", ".zdebug_info"} for s in sections),
        has_thread_local=_DIRECTORY.TLS_TABLE in directories,
        constructors=len(binary.tls.callbacks) if binary.tls is not None else 0,
        resources=min(int(resources.size), len(data)) if resources is not None else 0,
        build_id=_guid(binary),
        comment=None,
        linker_version=f"{int(optional.major_linker_version)}.{int(optional.minor_linker_version)}",
        problem=_problem(header, sections, len(data))
        or _table_problem(binary)
        or (None if whole else "damaged: base relocations that cannot be read"),
        delayed=len(delayed),
        timestamp=int(header.time_date_stamps),
        minimum_os=f"{int(optional.major_operating_system_version)}.{int(optional.minor_operating_system_version)}",
        import_hash=lief.PE.get_imphash(binary, lief.PE.IMPHASH_MODE.PEFILE) or None,
        rich_hash=_rich_hash(data, int(binary.dos_header.addressof_new_exeheader)),
    )


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


def _symbols_of(library: Any) -> list[str]:
    """Symbols of one import; an ordinal has a name where Windows has always given it the same."""
    name = _text(library.name).lower()
    found: list[str] = []
    for entry in library.entries:
        known = ordlookup.ordLookup(name.encode(), entry.ordinal) if entry.is_ordinal else None
        symbol = known.decode() if known else f"ordinal{entry.ordinal}" if entry.is_ordinal else _text(entry.name)
        found.append(f"{name}:{symbol}")
    return found


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


def _place(sections: Sequence[Section], binary: Any, rva: int) -> int | None:
    """Place in the file of an address, if a section has it."""
    if not rva:
        return None
    for section, raw in zip(sections, binary.sections, strict=True):
        start = int(raw.virtual_address)
        if start <= rva < start + max(section.size, section.virtual_size):
            return section.offset + rva - start
    return None


def _symbols(data: bytes, at: int, declared: int) -> tuple[Symbols, bytes]:
    """Count COFF's symbols; also its string table. Empty where the table is not in the file."""
    end = at + declared * _SYMBOL.size
    if not at or not declared or end > len(data):
        return Symbols(), b""
    total = Counter[str]()
    skip = 0
    for name, value, section, kind, storage, auxiliary in _SYMBOL.iter_unpack(data[at:end]):
        if skip:
            skip -= 1
            continue
        skip = auxiliary
        external, defined = storage in {2, 105}, section > 0  # EXTERNAL, WEAK_EXTERNAL
        total["count"] += 1
        total["undefined"] += external and section == 0 and not value
        total["external"] += external and defined
        if defined and kind >> 4 == 2:
            total["functions"] += 1
        # A static symbol with an auxiliary entry names its section.
        elif defined and storage in {2, 3, 105} and not auxiliary and not name.startswith(b"."):
            total["objects"] += 1
    size = int.from_bytes(data[end : end + 4], "little")
    return Symbols(**total), data[end : end + size]


_RICH_AT = 0x80
"""Where linkers put the Rich header: after their DOS program."""


def _rich_hash(data: bytes, end: int) -> str | None:
    """MD5 of the Rich header, decoded: `DanS`, padding, and pairs of a tool's version and its count."""
    stop = data.find(b"Rich", _RICH_AT, end)
    if stop < 0 or stop % 4 or stop + 8 > len(data):
        return None
    words = np.frombuffer(data, "<u4", (stop - _RICH_AT) // 4, _RICH_AT) ^ np.uint32(
        int.from_bytes(data[stop + 4 : stop + 8], "little")
    )
    clear = words.tobytes()
    if not clear.startswith(b"DanS" + bytes(12)):
        return None
    return hashlib.md5(clear, usedforsecurity=False).hexdigest()


def _relocations(data: bytes, binary: Any, sections: Sequence[Section], directory: Any) -> tuple[Relocations, bool]:
    """Count base relocations (not the ones that only fill a block up); also whether all blocks could be read."""
    if directory is None:
        return Relocations(), True
    at = _place(sections, binary, int(directory.rva))
    if at is None:
        return Relocations(), False
    end = at + int(directory.size)
    counts = np.zeros(16, dtype=np.int64)
    for _ in range(_BLOCKS):
        if at + 8 > min(end, len(data)):
            break
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if size < 8:  # zeros after the last block
            break
        entries = np.frombuffer(data, "<u2", max(0, min(size, len(data) - at) - 8) // 2, at + 8)
        counts += np.bincount(entries >> 12, minlength=16)
        at += size
    counts[0] = 0
    found = {kind: int(count) for kind, count in enumerate(counts) if count}
    relative = sum(count for kind, count in found.items() if kind in _RELATIVE)
    return Relocations(
        relative=relative,
        other=sum(found.values()) - relative,
        types=tuple((f"pe:{kind}", count) for kind, count in found.items()),
    ), at <= end <= len(data)


def _hardening(binary: Any, dll: int, has_canary: bool) -> Hardening:
    configuration = binary.load_configuration
    more = [entry for entry in binary.debug if isinstance(entry, lief.PE.ExDllCharacteristics)]
    cookie = handlers = 0
    if configuration is not None:
        cookie, handlers = configuration.security_cookie or 0, configuration.se_handler_table or 0
    return Hardening(
        no_execute=bool(dll & _NX),
        position_independent=bool(dll & _DYNAMIC_BASE),
        high_entropy=bool(dll & _HIGH_ENTROPY),
        relro=None,
        stack_canary=bool(cookie) or has_canary,
        fortified=False,
        control_flow=bool(dll & _GUARD_CF),
        return_address=any(int(entry.ex_characteristics) & _SHADOW_STACK for entry in more),
        safe_handlers=bool(dll & _NO_SEH or handlers),
        signed=_certificates_end(binary) > 0,
        encrypted=False,
        run_path=False,
    )


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
