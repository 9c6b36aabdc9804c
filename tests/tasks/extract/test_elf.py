"""ELF headers against readelf and pyelftools, on real files, compiled ones, and ones made by hand."""

import io
import re
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.extract.elf import read_elf
from tasks.extract.headers import Headers
from tests.wheels import ELF_SOURCES, fetched

BINDINGS, VISIBILITIES = {"GLOBAL", "WEAK", "UNIQUE"}, {"DEFAULT", "PROTECTED"}
MACHINES = {
    "Advanced Micro Devices X86-64": "amd64", "Intel 80386": "x86", "AArch64": "arm64", "ARM": "arm", "RISC-V": "riscv",
    "PowerPC": "powerpc", "PowerPC64": "powerpc", "IBM S/390": "s390", "MIPS R3000": "mips", "LoongArch": "loongarch",
}  # fmt: skip
CLASSES = {
    "relative": r"R_(\w+_RELATIVE|\w+_RELATIVE64|MIPS_REL32.*)$",
    "lazy": r"_(JUMP_SLOT|JMP_SLOT)$",
    "thread_local": r"_(TLS_)?(DTPMOD|DTPOFF|DTPREL|TPOFF|TPREL|DESC|TLSDESC)(32|64)?$",
    "symbolic": (
        r"_(GLOB_DAT|SPARC_32|SPARC_64|X86_64_64|386_32|ARM_ABS32|AARCH64_ABS64|RISCV_64|RISCV_32|PPC64_ADDR64"
        r"|PPC_ADDR32|390_64|390_32|LARCH_64|LARCH_32|MIPS_32|MIPS_64)$"
    ),
}
"""Relocation classes by the names that readelf gives types."""


@dataclass
class Readelf:
    """What `readelf` says."""

    header: dict[str, str] = field(default_factory=dict)
    libraries: list[str] = field(default_factory=list)
    imports: dict[str, list[str]] = field(default_factory=dict)
    exports: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    segments: list[str] = field(default_factory=list)
    dynamic: int = 0
    tags: set[str] = field(default_factory=set)
    flags: str = ""
    relocations: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    build_id: str | None = None


def readelf(path: Path) -> Readelf:
    command = ["readelf", "-W", "-h", "-l", "-d", "-s", "-n", "-r", str(path)]
    if read(path.read_bytes()).sections == ():
        command.insert(1, "-D")
    text = subprocess.run(command, check=True, capture_output=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"})
    found, table = Readelf(), ""
    for shown in text.stdout.decode(errors="replace").splitlines():
        line = shown.replace("<OS specific>: 10", "UNIQUE")  # as readelf says where the header names Linux
        if heading := re.match(r"Symbol table (?:'(.*)'|for image) contains", line):
            table = heading[1] or "of the image"
            found.imports[table], found.exports[table], found.kinds[table] = [], [], Counter()
        elif section := re.match(r"Dynamic section at offset .* contains (\d+) entr", line):
            found.dynamic = int(section[1])
        elif tag := re.match(r" 0x[0-9a-f]+ \((\w+)\)\s*(.*)", line):
            found.tags.add(tag[1])
            if tag[1] == "NEEDED":
                found.libraries.append(tag[2].partition("[")[2].removesuffix("]"))
            if tag[1] in {"FLAGS", "FLAGS_1"}:
                found.flags += f" {tag[2]} "
        elif value := re.match(r"  ([A-Z][A-Za-z' /]+):\s+(.*)", line):
            found.header.setdefault(value[1], value[2].strip())
        elif segment := re.match(r"  ([A-Z][A-Z_]+)\s+0x.* ([R ][W ][E ]) (?:0x)?[0-9a-f]+$", line):
            found.segments.append(f"{segment[1]} {segment[2]}")
        elif note := re.match(r"  (\S.*?)\s+0x[0-9a-f]{8}\t(.*)", line):
            found.notes.append(note[1])
            if identity := re.search(r"Build ID: ([0-9a-f]+)", note[2]):
                found.build_id = identity[1]
            if features := re.search(r"(?:x86|AArch64) feature: ([A-Z, ]+)", note[2]):
                found.features |= set(features[1].split(", "))
        elif packed := re.match(r"\s+(\d+) offsets$", line):
            found.relocations["relative"] += int(packed[1])
        elif relocation := re.match(r"[0-9a-f]{8,16}\s+[0-9a-f]{8,16} (R_\w+|unrecognized: \w+)", line):
            kind = next((name for name, pattern in CLASSES.items() if re.search(pattern, relocation[1])), "other")
            found.relocations[kind] += 1
        elif symbol := re.match(
            r"\s+(\d+): [0-9a-f]+\s+\S+ (\S+)\s+(\w+)\s+(\w+)\s+(?:\[[^]]*\]\s+)?(\w+) ?(.*)", line
        ):
            number, kind, binding, visibility, section, name = symbol.groups()
            name = name.split("@")[0].strip()
            found.names.add(name)
            if number != "0":
                found.kinds[table][f"{kind} UND" if section == "UND" else kind] += 1
                found.kinds[table]["external"] += section != "UND" and binding != "LOCAL"
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
    assert ours.machine == MACHINES.get(theirs.header["Machine"], "other")
    assert len(ours.sections) == int(re.findall(r"\d+", theirs.header["Number of section headers"])[-1])
    loaded = [s.removeprefix("LOAD ") for s in theirs.segments if s.startswith("LOAD ")]
    assert [
        ("R" if s.readable else " ") + ("W" if s.writable else " ") + ("E" if s.executable else " ")
        for s in ours.segments
    ] == loaded
    assert list(ours.libraries) == theirs.libraries
    assert ours.loader_entries == theirs.dynamic
    check_symbols(ours, theirs)
    check_relocations(ours, theirs)
    check_hardening(ours, theirs)
    assert ours.build_id == theirs.build_id
    owners = ["GA" if n.startswith("GA") else "" if n == "(NONE)" else n for n in theirs.notes]
    assert [note.rpartition(":")[0] for note in ours.notes] == owners

    elf = ELFFile(io.BytesIO(data))
    assert [(s.name, s.offset, s.size) for s in ours.sections] == [
        (s.name, s["sh_offset"], 0 if s["sh_type"] in {"SHT_NULL", "SHT_NOBITS"} else s["sh_size"])
        for s in elf.iter_sections()
    ]
    assert ours.has_debug_info == elf.has_dwarf_info(strict=True)
    entry = list(elf.address_offsets(elf["e_entry"])) if elf["e_entry"] else []
    assert ours.entry_offset == (entry[0] if entry else None)
    arrays = [s["sh_size"] for s in elf.iter_sections() if s["sh_type"] in {"SHT_INIT_ARRAY", "SHT_PREINIT_ARRAY"}]
    assert ours.constructors == sum(arrays) * 8 // ours.bits or not ours.sections
    assert ours.has_thread_local == any(s["sh_flags"] & 0x400 for s in elf.iter_sections())


def check_symbols(ours: Headers, theirs: Readelf) -> None:
    table = ".symtab" if ours.kind == "relocatable" else ".dynsym" if ours.sections else "of the image"
    assert sorted(ours.imports) == sorted(theirs.imports.get(table, []))
    assert sorted(ours.exports) == sorted(theirs.exports.get(table, []))
    assert ours.has_symbol_table == (".symtab" in theirs.imports)
    kinds = theirs.kinds.get(".symtab", Counter[str]())
    counts = ours.symbols
    assert counts.functions == kinds["FUNC"] + kinds["IFUNC"]
    assert counts.objects == kinds["OBJECT"] + kinds["COMMON"] + kinds["TLS"]
    assert counts.external == kinds["external"]
    assert counts.undefined == sum(number for kind, number in kinds.items() if kind.endswith(" UND"))
    assert counts.count == sum(number for kind, number in kinds.items() if kind != "external")


def check_relocations(ours: Headers, theirs: Readelf) -> None:
    found = ours.relocations
    assert (found.relative, found.symbolic, found.lazy, found.thread_local, found.other) == tuple(
        theirs.relocations[kind] for kind in ("relative", "symbolic", "lazy", "thread_local", "other")
    )
    assert sum(number for _, number in found.types) == found.count


def check_hardening(ours: Headers, theirs: Readelf) -> None:
    found = ours.hardening
    stack = [s for s in theirs.segments if s.startswith("GNU_STACK")]
    if ours.kind != "relocatable":
        assert found.no_execute == (bool(stack) and not stack[0].endswith("E"))
        now = "BIND_NOW" in theirs.tags or re.search(r"\b(BIND_)?NOW\b", theirs.flags)
        relro = any(s.startswith("GNU_RELRO") for s in theirs.segments)
        assert found.relro == (("full" if now else "partial") if relro else "none")
    assert found.run_path == bool(theirs.tags & {"RPATH", "RUNPATH"})
    assert found.control_flow == bool(theirs.features & {"IBT", "BTI"})
    assert found.return_address == bool(theirs.features & {"SHSTK", "PAC"})
    assert found.stack_canary == bool(theirs.names & {"__stack_chk_fail", "__stack_chk_guard"})
    undefined = {name for names in theirs.imports.values() for name in names}
    assert found.fortified == any(re.fullmatch("__[a-z]+_chk", name) for name in undefined)
    assert found.position_independent == theirs.header["Type"].startswith("DYN")


def test_real_modules_as_readelf_and_pyelftools_see_them(native_modules: list[Path], programs: None) -> None:
    chosen = native_modules[:: max(1, len(native_modules) // 25)][:25]
    assert len(chosen) == 25
    for path in chosen:
        check(path)
        assert read(path.read_bytes()).kind == "shared"


def test_compiled_files_as_readelf_and_pyelftools_see_them(compiled_files: dict[str, Path]) -> None:
    for path in compiled_files.values():
        check(path)


DAMAGED = {
    "corrupt_sh.elf": "truncated: the section table lies beyond the end of the file",
    "dwarf_phantombytes.elf": "damaged: notes that cannot be read",
    "lib_with_two_dynstr_sections_reversed.so.elf": (
        "damaged: 2 libraries are needed, not all of their names can be read"
    ),
    "section_header_bogus_size.elf": "damaged: 1 segments are declared, 0 can be read",
    "section_link_to_self.elf": "damaged: a row of the section table has 0 bytes",
    "x64_bad_sections.elf": "damaged: the names of sections cannot be read",
}


@pytest.mark.network
@pytest.mark.filterwarnings("ignore:.*is not a valid:RuntimeWarning")
def test_files_of_pyelftools(tmp_path: Path, programs: None) -> None:
    """18 machines, both byte orders, files of many compilers, and some that are damaged on purpose."""
    files = [p for p in fetched(ELF_SOURCES, tmp_path, ("",)) if p.read_bytes()[:4] == b"\x7fELF"]
    if not files:
        pytest.skip("no package index in reach: no source distribution of pyelftools")
    damaged = {name: path for path in files for name in DAMAGED if path.name.endswith(f"-{name}")}
    alike = [path for path in files if path not in damaged.values()]
    assert (len(alike), len(damaged)) == (122, 6)
    for path in alike:
        check(path)
    assert {name: read(path.read_bytes()).problem for name, path in damaged.items()} == DAMAGED


def test_kinds_and_flags_of_compiled_files(compiled_files: dict[str, Path]) -> None:
    found = {name: read(path.read_bytes()) for name, path in compiled_files.items()}
    assert {name: h.kind for name, h in found.items() if h.kind != "executable"} == {
        "object.o": "relocatable", "shared.so": "shared", "executable-stack.so": "shared",
    }  # fmt: skip
    assert {name for name, h in found.items() if not h.has_symbol_table} == {"stripped"}
    assert {name for name, h in found.items() if h.has_debug_info} == {"debug", "compressed-debug"}
    assert not found["no-pie"].hardening.position_independent
    assert found["pie"].hardening.position_independent
    assert found["no-build-id"].build_id is None
    assert {name for name, h in found.items() if not h.hardening.no_execute} == {"executable-stack.so"}
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
    elf = ELFFile(io.BytesIO(bytes(data)))
    names, symbols = elf.get_section_by_name(".dynstr"), elf.get_section_by_name(".dynsym")
    assert names is not None
    assert isinstance(symbols, SymbolTableSection)
    data[names["sh_offset"] + symbols.get_symbol(1)["st_name"]] = 0
    problem = read(bytes(data)).problem
    assert problem == "damaged: symbols whose names cannot be read"
