"""PE headers against pefile and objdump, on the launchers for Windows that pip carries."""

import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pefile
import pytest

from tasks.extract.headers import Headers
from tasks.extract.parse import extract
from tasks.extract.pe import read_pe

MACHINES = {"t32.exe": "x86", "t64.exe": "amd64", "t64-arm.exe": "arm64"}


def read(data: bytes) -> Headers:
    headers = read_pe(data)
    assert headers is not None
    return headers


def check(path: Path) -> Headers:
    """Compare with pefile; each comparison is of a whole table."""
    data = path.read_bytes()
    ours = read(data)
    theirs: Any = pefile.PE(data=data)
    optional = theirs.OPTIONAL_HEADER
    assert ours.problem is None
    assert [(s.offset, s.size, s.virtual_size) for s in ours.sections] == [
        (s.PointerToRawData, s.SizeOfRawData, s.Misc_VirtualSize) for s in theirs.sections
    ]
    short = [s.Name.rstrip(b"\0").decode() for s in theirs.sections]
    assert all(s.name == name or name.startswith("/") for s, name in zip(ours.sections, short, strict=True))
    assert [(s.readable, s.writable, s.executable) for s in ours.sections] == [
        (s.IMAGE_SCN_MEM_READ, s.IMAGE_SCN_MEM_WRITE, s.IMAGE_SCN_MEM_EXECUTE) for s in theirs.sections
    ]
    now, late = (getattr(theirs, f"DIRECTORY_ENTRY_{name}", ()) for name in ("IMPORT", "DELAY_IMPORT"))
    assert list(ours.imports) == [
        f"{library.dll.decode().lower()}:{i.name.decode() if i.name else f'ordinal{i.ordinal}'}"
        for library in (*now, *late)
        for i in library.imports
    ]
    assert ours.libraries == tuple(dict.fromkeys(library.dll.decode().lower() for library in (*now, *late)))
    assert ours.delayed == sum(len(library.imports) for library in late)
    exported = theirs.DIRECTORY_ENTRY_EXPORT.symbols if hasattr(theirs, "DIRECTORY_ENTRY_EXPORT") else ()
    assert sorted(ours.exports) == sorted(s.name.decode() if s.name else f"ordinal{s.ordinal}" for s in exported)
    entry = optional.AddressOfEntryPoint
    assert ours.entry_offset == (theirs.get_offset_from_rva(entry) if entry else None)
    assert ours.linker_version == f"{optional.MajorLinkerVersion}.{optional.MinorLinkerVersion}"
    assert ours.minimum_os == f"{optional.MajorOperatingSystemVersion}.{optional.MinorOperatingSystemVersion}"
    assert ours.timestamp == theirs.FILE_HEADER.TimeDateStamp
    assert ours.bits == (64 if optional.Magic == 0x20B else 32)
    assert ours.loader_entries == sum(bool(d.VirtualAddress and d.Size) for d in optional.DATA_DIRECTORY)
    start = theirs.get_overlay_data_start_offset()
    certificates = optional.DATA_DIRECTORY[4]
    owned = max(len(data) if start is None else start, certificates.VirtualAddress + certificates.Size)
    coff = theirs.FILE_HEADER
    if coff.NumberOfSymbols:  # to pefile, they are overlay
        strings = coff.PointerToSymbolTable + 18 * coff.NumberOfSymbols
        owned = max(owned, strings + int.from_bytes(data[strings : strings + 4], "little"))
    assert ours.overlay == len(data) - owned
    assert ours.kind == ("shared" if theirs.is_dll() else "executable")
    assert (ours.import_hash or "") == theirs.get_imphash()
    assert (ours.rich_hash or "") == theirs.get_rich_header_hash()
    assert [int(note.removeprefix("debug:")) for note in ours.notes] == [
        d.struct.Type for d in getattr(theirs, "DIRECTORY_ENTRY_DEBUG", ())
    ]
    assert ours.resources == optional.DATA_DIRECTORY[2].Size
    relocations = [
        entry.type
        for block in getattr(theirs, "DIRECTORY_ENTRY_BASERELOC", ())
        for entry in block.entries
        if entry.type
    ]
    assert ours.relocations.relative == sum(kind in {3, 10} for kind in relocations)
    assert ours.relocations.count == len(relocations)
    check_hardening(ours, theirs)
    theirs.close()
    return ours


def check_hardening(ours: Headers, theirs: Any) -> None:
    found, optional = ours.hardening, theirs.OPTIONAL_HEADER
    assert found.no_execute == optional.IMAGE_DLLCHARACTERISTICS_NX_COMPAT
    assert found.position_independent == optional.IMAGE_DLLCHARACTERISTICS_DYNAMIC_BASE
    assert found.high_entropy == optional.IMAGE_DLLCHARACTERISTICS_HIGH_ENTROPY_VA
    assert found.control_flow == optional.IMAGE_DLLCHARACTERISTICS_GUARD_CF
    assert found.signed == bool(optional.DATA_DIRECTORY[4].Size)
    configuration = getattr(theirs, "DIRECTORY_ENTRY_LOAD_CONFIG", None)
    handlers = getattr(configuration.struct, "SEHandlerTable", 0) if configuration else 0
    assert found.safe_handlers == bool(optional.IMAGE_DLLCHARACTERISTICS_NO_SEH or handlers)
    cookie = bool(configuration and configuration.struct.SecurityCookie)
    assert found.stack_canary or not cookie  # mingw has a canary without a cookie
    late = [d for d in getattr(theirs, "DIRECTORY_ENTRY_DEBUG", ()) if d.struct.Type == 20]
    shadow = [theirs.__data__[d.struct.PointerToRawData] & 1 for d in late]
    assert found.return_address == any(shadow)


def test_launchers_as_pefile_sees_them(windows_programs: list[Path]) -> None:
    found = {path.name: check(path) for path in windows_programs}
    assert all(ours.kind == "executable" for ours in found.values())
    assert {name: ours.machine for name, ours in found.items() if name in MACHINES} == MACHINES


@pytest.mark.network
def test_modules_as_pefile_sees_them(windows_files: list[Path], windows_programs: list[Path]) -> None:
    if len(windows_files) == len(windows_programs):
        pytest.skip("no package index in reach: no wheels for Windows")
    images = [p for p in windows_files if p.read_bytes()[:2] == b"MZ" and p.stat().st_size < 400_000]
    assert len(images) > 80
    found = [check(path) for path in images]
    for name in ("signed", "control_flow", "return_address", "safe_handlers", "stack_canary"):
        assert {getattr(ours.hardening, name) for ours in found} == {False, True}, name
    assert any(ours.rich_hash for ours in found)
    assert any(ours.delayed for ours in found)


def test_launchers_as_objdump_sees_them(windows_programs: list[Path], programs: None) -> None:
    seen = 0
    for path in windows_programs:
        ours = read(path.read_bytes())
        if ours.machine == "arm64":  # not every objdump knows it
            continue
        seen += 1
        command = ["objdump", "-p", "-h", "-w", str(path)]
        text = subprocess.run(
            command, check=True, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
        )
        assert [n.lower() for n in re.findall(r"DLL Name: (\S+)", text.stdout)] == list(ours.libraries)
        assert re.findall(r"^ +\d+ (\S+) +[0-9a-f]{8} ", text.stdout, re.MULTILINE) == [s.name for s in ours.sections]
        assert ours.imports
    assert seen >= 2


def launcher(windows_programs: list[Path]) -> bytearray:
    return bytearray(next(p for p in windows_programs if p.name == "t64.exe").read_bytes())


def test_long_section_names_stand_in_the_string_table(windows_programs: list[Path]) -> None:
    data = launcher(windows_programs)
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    (optional,) = struct.unpack_from("<H", data, pe + 20)
    struct.pack_into("<II", data, pe + 12, len(data), 0)  # symbol table: empty, then the string table
    second = pe + 24 + optional + 40
    data[second : second + 8] = b"/4".ljust(8, b"\0")
    name = b".debug_information\0"
    data += struct.pack("<I", 4 + len(name)) + name
    headers = read(bytes(data))
    assert headers.sections[1].name == ".debug_information"


def test_imports_by_ordinal(windows_programs: list[Path]) -> None:
    data = launcher(windows_programs)
    pe: Any = pefile.PE(data=bytes(data))
    first = pe.DIRECTORY_ENTRY_IMPORT[0]
    assert first.struct.OriginalFirstThunk
    struct.pack_into("<Q", data, pe.get_offset_from_rva(first.struct.OriginalFirstThunk), 2**63 | 77)
    pe.close()
    assert read(bytes(data)).imports[0] == f"{first.dll.decode().lower()}:ordinal77"


def test_an_overlay_is_measured(windows_programs: list[Path]) -> None:
    data = launcher(windows_programs)
    assert read(bytes(data) + b"x" * 1000).overlay == read(bytes(data)).overlay + 1000


def test_a_declared_table_that_cannot_be_read_is_said(windows_programs: list[Path]) -> None:
    data = launcher(windows_programs)
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    imports = pe + 24 + 112 + 8  # PE32+: 112 bytes before the directories; the second one
    struct.pack_into("<II", data, imports, 0x7FFF0000, 100)
    problem = read(bytes(data)).problem
    assert problem == "damaged: an import table is declared, but cannot be read"


@pytest.mark.parametrize("offset", range(0, 24, 3))
def test_damaged_coff_headers_are_rows(windows_programs: list[Path], offset: int) -> None:
    data = launcher(windows_programs)
    (pe,) = struct.unpack_from("<I", data, 0x3C)
    for value in (0x00, 0x7F, 0xFF):
        changed = data.copy()
        changed[pe + offset] = value
        row = extract(bytes(changed)).row
        assert row["parse_status"] in {"ok", "partial", "error"}
        assert "the parser failed" not in (row["parse_error"] or "")
