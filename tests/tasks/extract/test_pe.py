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


def test_launchers_as_pefile_sees_them(windows_programs: list[Path]) -> None:
    for path in windows_programs:
        data = path.read_bytes()
        ours = read(data)
        theirs: Any = pefile.PE(data=data)
        optional = theirs.OPTIONAL_HEADER
        assert ours.problem is None
        assert [(s.name, s.offset, s.size, s.virtual_size) for s in ours.sections] == [
            (s.Name.rstrip(b"\0").decode(), s.PointerToRawData, s.SizeOfRawData, s.Misc_VirtualSize)
            for s in theirs.sections
        ]
        assert [(s.readable, s.writable, s.executable) for s in ours.sections] == [
            (s.IMAGE_SCN_MEM_READ, s.IMAGE_SCN_MEM_WRITE, s.IMAGE_SCN_MEM_EXECUTE) for s in theirs.sections
        ]
        assert list(ours.imports) == [
            f"{library.dll.decode().lower()}:{i.name.decode() if i.name else f'ordinal{i.ordinal}'}"
            for library in theirs.DIRECTORY_ENTRY_IMPORT
            for i in library.imports
        ]
        assert ours.entry_offset == theirs.get_offset_from_rva(optional.AddressOfEntryPoint)
        assert ours.linker_version == f"{optional.MajorLinkerVersion}.{optional.MinorLinkerVersion}"
        assert ours.bits == (64 if optional.Magic == 0x20B else 32)
        assert ours.segments == sum(bool(d.VirtualAddress and d.Size) for d in optional.DATA_DIRECTORY)
        start = theirs.get_overlay_data_start_offset()
        assert ours.overlay == (0 if start is None else len(data) - start)
        assert ours.kind == "executable"
        assert ours.has_relocations == hasattr(theirs, "DIRECTORY_ENTRY_BASERELOC")
        theirs.close()
    assert {p.name: read(p.read_bytes()).machine for p in windows_programs if p.name in MACHINES} == MACHINES


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
