"""ELF headers against readelf and pyelftools, on real files, compiled ones, and ones made by hand."""

import io
import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.extract.elf import read_elf
from tasks.extract.headers import Headers

BINDINGS, VISIBILITIES = {"GLOBAL", "WEAK", "UNIQUE"}, {"DEFAULT", "PROTECTED"}


@dataclass
class Readelf:
    """What `readelf` says."""

    header: dict[str, str] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    imports: dict[str, list[str]] = field(default_factory=dict)
    exports: dict[str, list[str]] = field(default_factory=dict)
    segments: list[str] = field(default_factory=list)
    build_id: str | None = None


def readelf(path: Path) -> Readelf:
    command = ["readelf", "-W", "-h", "-l", "-d", "-s", "-n", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    found, table = Readelf(), ""
    for line in text.stdout.decode(errors="replace").splitlines():
        if heading := re.match(r"Symbol table '(.*)' contains", line):
            table = heading[1]
            found.imports[table], found.exports[table] = [], []
        elif needed := re.search(r"\(NEEDED\)\s+Shared library: \[(.*)\]", line):
            found.libraries.append(needed[1])
        elif value := re.match(r"  ([A-Z][A-Za-z' /]+):\s+(.*)", line):
            found.header.setdefault(value[1], value[2].strip())
        elif segment := re.match(r"  ([A-Z][A-Z_]+)\s+0x.* ([R ][W ][E ]) 0x", line):
            found.segments.append(f"{segment[1]} {segment[2]}")
        elif identity := re.search(r"Build ID: ([0-9a-f]+)", line):
            found.build_id = identity[1]
        elif symbol := re.match(r"\s+\d+: [0-9a-f]+\s+\S+ (\w+)\s+(\w+)\s+(\w+)\s+(?:\[.*\] )?(\w+) (.*)", line):
            _, binding, visibility, section, name = symbol.groups()
            name = name.split("@")[0].strip()
            if section == "UND":
                found.imports[table] += [name] if name else []
            elif binding in BINDINGS and visibility in VISIBILITIES:
                found.exports[table].append(name)
    return found


def read(data: bytes) -> Headers:
    headers = read_elf(data)
    assert headers is not None
    return headers


def check(path: Path) -> None:
    data = path.read_bytes()
    ours, theirs = read(data), readelf(path)
    assert ours.problem is None
    assert ours.bits == (64 if theirs.header["Class"] == "ELF64" else 32)
    assert ours.endianness in theirs.header["Data"]
    assert ours.machine == {"Advanced Micro Devices X86-64": "amd64", "Intel 80386": "x86", "AArch64": "arm64"}.get(
        theirs.header["Machine"], "other"
    )
    assert len(ours.sections) == int(theirs.header["Number of section headers"])
    assert ours.segments == int(theirs.header["Number of program headers"])
    assert list(ours.libraries) == theirs.libraries
    table = ".symtab" if ours.kind == "relocatable" else ".dynsym"
    assert sorted(ours.imports) == sorted(theirs.imports.get(table, []))
    assert sorted(ours.exports) == sorted(theirs.exports.get(table, []))
    assert ours.build_id == theirs.build_id
    assert ours.has_symbol_table == (".symtab" in theirs.imports)
    stack = [s for s in theirs.segments if s.startswith("GNU_STACK")]
    assert ours.no_execute == (bool(stack) and not stack[0].endswith("E"))

    elf = ELFFile(io.BytesIO(data))
    assert [(s.name, s.offset, s.size) for s in ours.sections] == [
        (s.name, s["sh_offset"], 0 if s["sh_type"] in {"SHT_NULL", "SHT_NOBITS"} else s["sh_size"])
        for s in elf.iter_sections()
    ]
    entry = list(elf.address_offsets(elf["e_entry"])) if elf["e_entry"] else []
    assert ours.entry_offset == (entry[0] if entry else None)


def test_real_modules_as_readelf_and_pyelftools_see_them(native_modules: list[Path], programs: None) -> None:
    chosen = native_modules[:: max(1, len(native_modules) // 25)][:25]
    assert len(chosen) == 25
    for path in chosen:
        check(path)
        assert read(path.read_bytes()).kind == "shared"


def test_compiled_files_as_readelf_and_pyelftools_see_them(compiled_files: dict[str, Path]) -> None:
    for path in compiled_files.values():
        check(path)


def test_kinds_and_flags_of_compiled_files(compiled_files: dict[str, Path]) -> None:
    found = {name: read(path.read_bytes()) for name, path in compiled_files.items()}
    assert {name: h.kind for name, h in found.items() if h.kind != "executable"} == {
        "object.o": "relocatable", "shared.so": "shared", "executable-stack.so": "shared",
    }  # fmt: skip
    assert {name for name, h in found.items() if not h.has_symbol_table} == {"stripped"}
    assert {name for name, h in found.items() if h.has_debug_info} == {"debug", "compressed-debug"}
    assert not found["no-pie"].position_independent
    assert found["pie"].position_independent
    assert found["no-build-id"].build_id is None
    assert not found["executable-stack.so"].no_execute
    exported = {"exported_thread_local", "exported_variable", "exported_weak", "exported_function", "main"}
    assert set(found["shared.so"].exports) == set(found["object.o"].exports) == exported
    assert found["object.o"].imports[-1:] == ("puts",)
    assert found["pie"].comment is not None
    assert found["pie"].comment.startswith("GCC: ")


def test_without_section_headers(native_modules: list[Path]) -> None:
    data = native_modules[0].read_bytes()
    assert data[4] == 2
    cut = bytearray(data)
    cut[40:48], cut[60:64] = bytes(8), bytes(4)  # e_shoff; e_shnum, e_shstrndx
    whole, without = read(data), read(bytes(cut))
    assert without.problem is None
    assert without.sections == ()
    assert (without.libraries, without.imports, without.exports) == (whole.libraries, whole.imports, whole.exports)


def test_more_sections_than_a_header_can_count(tmp_path: Path, programs: None) -> None:
    count = 65_300
    lines = (f'.section .text.f{i},"ax",@progbits\n.byte 0x90\n' for i in range(count))
    (tmp_path / "many.s").write_text("".join(lines) + '.section .comment\n.string "by hand"\n')
    subprocess.run(["gcc", "-c", "many.s", "-o", "many.o"], cwd=tmp_path, check=True)
    data = (tmp_path / "many.o").read_bytes()
    ours, elf = read(data), ELFFile(io.BytesIO(data))
    assert struct.unpack_from("<H", data, 60) == (0,)
    assert ours.problem is None
    assert len(ours.sections) == elf.num_sections() > count
    assert ours.sections[0].size == 0
    for i in (0, 1, 5, 40_000, elf.num_sections() - 1):
        theirs = elf.get_section(i)
        assert (ours.sections[i].name, ours.sections[i].offset) == (theirs.name, theirs["sh_offset"])
    cut = read(data[: len(data) - 64])
    assert cut.problem is not None
    assert "section table" in cut.problem


def object_file(wide: bool, big: bool, names: list[str], machine: int) -> bytes:
    """A relocatable file with a section of one byte for each name, in any class and byte order."""
    order = ">" if big else "<"
    section = struct.Struct(order + ("IIQQQQIIQQ" if wide else "10I"))
    header = struct.Struct(order + ("16sHHIQQQIHHHHHH" if wide else "16sHHIIIIIHHHHHH"))
    strings = b"\0" + b"".join(n.encode() + b"\0" for n in [*names, ".shstrtab"])
    body = bytes(len(names)) + strings
    table = header.size + len(body)
    rows, at = [(0,) * 10], 1
    for i, name in enumerate(names):
        rows.append((at, 1, 6 if i % 2 else 3, 0, header.size + i, 1, 0, 0, 1, 0))
        at += len(name.encode()) + 1
    rows.append((at, 3, 0, 0, header.size + len(names), len(strings), 0, 0, 1, 0))
    identity = b"\x7fELF" + bytes([2 if wide else 1, 2 if big else 1, 1]) + bytes(9)
    count = len(rows)
    numbers = (1, machine, 1, 0, 0, table, 0, header.size, 0, 0, section.size, count, count - 1)
    return header.pack(identity, *numbers) + body + b"".join(section.pack(*row) for row in rows)


@given(
    wide=st.booleans(),
    big=st.booleans(),
    names=st.lists(st.from_regex(r"[.a-z_A-Z0-9]{1,12}", fullmatch=True), min_size=1, max_size=9),
    machine=st.sampled_from([(3, "x86"), (8, "mips"), (20, "powerpc"), (22, "s390"), (0x1234, "other")]),
)
@pytest.mark.filterwarnings("ignore:.*is not a valid:RuntimeWarning")
def test_both_classes_and_byte_orders(wide: bool, big: bool, names: list[str], machine: tuple[int, str]) -> None:
    assume(big is not {"x86": True, "s390": False}.get(machine[1]))  # their byte order is given
    data = object_file(wide, big, names, machine[0])
    ours = read(data)
    theirs = ELFFile(io.BytesIO(data))
    assert ours.problem is None
    assert (ours.bits, ours.endianness, ours.machine, ours.kind) == (
        64 if wide else 32, "big" if big else "little", machine[1], "relocatable",
    )  # fmt: skip
    assert (theirs.elfclass, theirs.little_endian) == (ours.bits, not big)
    assert [s.name for s in ours.sections] == [s.name for s in theirs.iter_sections()]
    assert [s.executable for s in ours.sections[1:-1]] == [i % 2 == 1 for i in range(len(names))]
    assert ours.overlay == 0
    assert read(data + b"overlay").overlay == 7


def test_symbols_that_cannot_be_read_are_said(native_modules: list[Path]) -> None:
    data = bytearray(native_modules[0].read_bytes())
    names = ELFFile(io.BytesIO(bytes(data))).get_section_by_name(".dynstr")
    assert names is not None
    data[names["sh_offset"] : names["sh_offset"] + names["sh_size"]] = bytes(names["sh_size"])
    problem = read(bytes(data)).problem
    assert problem == "damaged: symbols whose names cannot be read"
