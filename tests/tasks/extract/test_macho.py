"""Mach-O headers against macholib on real modules for macOS, and against LLVM's tools where they are installed."""

import shutil
import struct
import subprocess
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from macholib import mach_o
from macholib.MachO import MachO, MachOHeader
from macholib.SymbolTable import SymbolTable

from tasks.extract.headers import Headers
from tasks.extract.macho import read_macho
from tasks.extract.machotables import is_macho
from tasks.extract.parse import extract

MACHINES = {7: "x86", 0x01000007: "amd64", 12: "arm", 0x0100000C: "arm64"}
KINDS = {1: "relocatable", 2: "executable", 6: "shared", 8: "shared"}
DYLIBS = {
    mach_o.LC_LOAD_DYLIB, mach_o.LC_LOAD_WEAK_DYLIB, mach_o.LC_REEXPORT_DYLIB, mach_o.LC_LOAD_UPWARD_DYLIB,
    mach_o.LC_LAZY_LOAD_DYLIB,
}  # fmt: skip
ZERO_FILLED = {1, 12, 18}
CODE = 0x80000400


def read(data: bytes) -> Headers:
    headers = read_macho(data)
    assert headers is not None
    return headers


def thin(path: Path, folder: Path) -> list[Path]:
    """Each slice of a fat file as a file of its own, cut out by macholib's reading of its header."""
    found: list[Path] = []
    for number, header in enumerate(MachO(str(path)).headers):
        part = folder / f"{path.name}.{number}"
        part.write_bytes(path.read_bytes()[header.offset : header.offset + header.size])
        found.append(part)
    return found


def check(path: Path) -> Headers:
    """Compare a thin file with macholib."""
    data = path.read_bytes()
    ours = read(data)
    macho = MachO(str(path))
    (theirs,) = macho.headers
    header = theirs.header
    assert ours.problem is None
    assert ours.slices == 1
    assert ours.machine == MACHINES[header.cputype & 0xFFFFFFFF]
    assert (ours.bits, ours.endianness) == (64, "little")
    assert ours.kind == KINDS.get(header.filetype, "other")
    assert ours.loader_entries == header.ncmds
    numbers = [int(command.cmd) & 0xFFFFFFFF for command, _, _ in theirs.commands]
    assert ours.notes == tuple(f"command:{number:#x}" for number in numbers)
    check_sections(ours, theirs)
    assert list(ours.libraries) == [
        text.rstrip(b"\0").decode() for command, _, text in theirs.commands if command.cmd in DYLIBS
    ]
    by_number = {number: (fields, rest) for number, (_, fields, rest) in zip(numbers, theirs.commands, strict=True)}
    identity = by_number.get(mach_o.LC_UUID)
    assert ours.build_id == (str(uuid.UUID(bytes=identity[0].uuid)) if identity else None)
    main = by_number.get(mach_o.LC_MAIN)
    assert ours.entry_offset == (int(main[0].entryoff) if main else None)
    signature = by_number.get(mach_o.LC_CODE_SIGNATURE)
    assert ours.hardening.signed == bool(signature and signature[0].datasize)
    assert ours.hardening.position_independent == bool(header.flags & 0x200000 or ours.kind == "shared")
    assert ours.hardening.run_path == (mach_o.LC_RPATH in {n & 0x7FFFFFFF | n & 0x80000000 for n in numbers})
    assert ours.hardening.no_execute == (not header.flags & 0x20000)
    check_versions(ours, by_number)
    check_symbols(ours, macho, theirs)
    return ours


def check_versions(ours: Headers, by_number: dict[int, Any]) -> None:
    build = by_number.get(mach_o.LC_BUILD_VERSION)
    number = int(build[0].minos if build else by_number[mach_o.LC_VERSION_MIN_MACOSX][0].version)
    assert ours.minimum_os is not None
    assert [*map(int, ours.minimum_os.split(".")), 0][:3] == [number >> 16, number >> 8 & 255, number & 255]
    linkers = [version for tool, version in struct.iter_unpack("<2I", build[1]) if tool == 3] if build else []
    if linkers:
        (version,) = linkers
        assert ours.linker_version is not None
        assert ours.linker_version.startswith(f"ld {version >> 16}.{version >> 8 & 255}")
    else:
        assert ours.linker_version is None


def sections_of(theirs: MachOHeader) -> list[Any]:
    segments = (mach_o.LC_SEGMENT, mach_o.LC_SEGMENT_64)
    commands: Any = theirs.commands
    return [section for load, _, sections in commands if load.cmd in segments for section in sections]


def check_sections(ours: Headers, theirs: MachOHeader) -> None:
    commands: Any = theirs.commands
    segments = [command for load, command, _ in commands if load.cmd in {mach_o.LC_SEGMENT, mach_o.LC_SEGMENT_64}]
    assert [(s.readable, s.writable, s.executable) for s in ours.segments] == [
        (bool(c.initprot & 1), bool(c.initprot & 2), bool(c.initprot & 4)) for c in segments
    ]
    listed = sections_of(theirs)
    assert [(s.name, s.offset, s.size) for s in ours.sections] == [
        (
            f"{s.segname.rstrip(bytes(1)).decode()},{s.sectname.rstrip(bytes(1)).decode()}",
            s.offset,
            0 if s.flags & 255 in ZERO_FILLED else s.size,
        )
        for s in listed
    ]
    assert ours.has_debug_info == any(s.sectname.startswith(b"__debug_info") for s in listed)
    assert ours.constructors == sum(s.size // {9: 8, 22: 4}[s.flags & 255] for s in listed if s.flags & 255 in {9, 22})
    assert ours.has_thread_local == any(0x11 <= s.flags & 255 <= 0x15 for s in listed)


def check_symbols(ours: Headers, macho: MachO, theirs: MachOHeader) -> None:
    # macholib gives an empty name as text.
    rows = [
        (n.n_type, n.n_sect, n.n_value, name.decode() if name else "") for n, name in SymbolTable(macho, theirs).nlists
    ]
    linked = [row for row in rows if not row[0] & 0xE0]
    undefined = [name for kind, _, value, name in linked if kind & 0x0F == 1 and not value]
    external = [name for kind, _, value, name in linked if kind & 1 and not kind & 0x10 and (kind & 0x0E or value)]
    assert list(ours.imports) == undefined
    assert list(ours.exports)[: len(external)] == external
    code = [bool(s.flags & CODE) for s in sections_of(theirs)]
    assert ours.symbols.count == len(rows)
    assert ours.symbols.external == len(external)
    assert ours.symbols.undefined == len(undefined)
    assert ours.symbols.functions == sum(kind & 0x0E == 0x0E and code[section - 1] for kind, section, _, _ in linked)
    assert ours.symbols.functions + ours.symbols.objects == len(linked) - len(undefined)
    assert ours.has_symbol_table == any(kind != 0x3C and (kind & 0xE0 or not kind & 1) for kind, *_ in rows)


@pytest.mark.network
def test_modules_as_macholib_sees_them(macos_files: list[Path], tmp_path: Path) -> None:
    assert len(macos_files) > 20
    machines, counts = set[str](), Counter[int]()
    for path in macos_files:
        whole = read(path.read_bytes())
        assert whole.problem is None
        parts = [check(part) for part in thin(path, tmp_path)]
        machines |= {part.machine for part in parts}
        counts[whole.slices] += 1
        assert whole.slices == len(parts)
        chosen = next((part for part in parts if part.machine == "amd64"), parts[0])
        headers = MachO(str(path)).headers
        offset = next((h.offset for h in headers if MACHINES[h.header.cputype] == chosen.machine), 0)
        assert [(s.name, s.offset - offset, s.size) for s in whole.sections] == [
            (s.name, s.offset, s.size) for s in chosen.sections
        ]
        assert (whole.imports, whole.exports, whole.build_id) == (chosen.imports, chosen.exports, chosen.build_id)
        assert whole.overlay == 0
    assert machines == {"amd64", "arm64"}
    assert counts[1]
    assert counts[2]


def objdump(path: Path, option: str) -> list[str]:
    command = ["llvm-objdump", "--macho", option, str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.network
@pytest.mark.skipif(shutil.which("llvm-objdump") is None, reason="llvm-objdump is not installed")
def test_what_is_encoded_for_the_loader_as_llvm_sees_it(macos_files: list[Path], tmp_path: Path) -> None:
    seen = Counter[str]()
    for path in macos_files:
        for part in thin(path, tmp_path):
            ours = read(part.read_bytes())
            if "command:0x80000034" in ours.notes:
                continue
            number = {
                option: sum(line.startswith("__") and " 0x" in line for line in objdump(part, option))
                for option in ("--rebase", "--bind", "--weak-bind", "--lazy-bind")
            }
            assert ours.relocations.relative == number["--rebase"]
            assert ours.relocations.symbolic == number["--bind"] + number["--weak-bind"]
            assert ours.relocations.lazy == number["--lazy-bind"]
            exported = [line.split()[1] for line in objdump(part, "--exports-trie") if line.startswith("0x")]
            assert set(ours.exports) >= set(exported)
            seen.update(number)
    assert min(seen["--rebase"], seen["--bind"], seen["--lazy-bind"]) > 100


def follow(data: bytes, pointers: int) -> tuple[int, int]:
    """Rebases and binds of chained fixups, counted by following the chains (dyld's `fixup-chains.h`)."""
    (starts,) = struct.unpack_from("<I", data, pointers + 4)
    segments = struct.unpack_from("<I", data, pointers + starts)[0]
    rebases = binds = 0
    for offset in struct.unpack_from(f"<{segments}I", data, pointers + starts + 4):
        if not offset:
            continue
        at = pointers + starts + offset
        _, page, kind, segment, _, pages = struct.unpack_from("<IHHQIH", data, at)
        assert kind in {2, 6}
        for number, start in enumerate(struct.unpack_from(f"<{pages}H", data, at + 22)):
            place, step = segment + number * page + start, int(start != 0xFFFF)
            while step:
                (pointer,) = struct.unpack_from("<Q", data, place)
                binds += pointer >> 63
                rebases += 1 - (pointer >> 63)
                step = pointer >> 51 & 0xFFF
                place += 4 * step
    return rebases, binds


@pytest.mark.network
def test_chained_fixups_are_counted(macos_files: list[Path]) -> None:
    seen = 0
    for path in macos_files:
        data = path.read_bytes()
        if (ours := read(data)).slices > 1 or "command:0x80000034" not in ours.notes:
            continue
        command = next(c for load, c, _ in MachO(str(path)).headers[0].commands if load.cmd == 0x80000034)
        assert (ours.relocations.relative, ours.relocations.symbolic) == follow(data, command.dataoff)
        assert ours.hardening.relro == "full"
        seen += 1
    assert seen


@pytest.mark.network
def test_damage_is_said(macos_files: list[Path]) -> None:
    smallest = sorted(macos_files, key=lambda path: path.stat().st_size)
    fat = next(path for path in smallest if read(path.read_bytes()).slices > 1)
    for path in (smallest[0], fat):
        data = path.read_bytes()
        for sixteenth in range(16):
            cut = data[: len(data) * sixteenth // 16]
            row = extract(cut).row
            assert row["parse_status"] in {"partial", "error"}, (path, sixteenth)
            assert sixteenth == 0 or row["parse_error"].startswith(("truncated", "damaged")), row["parse_error"]
        assert read(data + b"more").overlay == 4
    data = bytearray(smallest[0].read_bytes())
    count = int.from_bytes(data[16:20], "little")
    data[16:20] = struct.pack("<I", count + 1)
    assert read(bytes(data)).problem == f"damaged: {count + 1} load commands are declared, {count} can be read"
    data[16:20], data[20:24] = struct.pack("<I", count), b"\xff\xff\xff\x7f"
    assert read(bytes(data)).problem == "truncated: the load commands lie beyond the end of the file"


def test_a_java_class_is_no_fat_file() -> None:
    assert not is_macho(bytes.fromhex("cafebabe00000034"))
    assert is_macho(bytes.fromhex("cafebabe00000002"))
    row = extract(bytes.fromhex("cafebabe00000034") + bytes(100)).row
    assert row["parse_error"].startswith("not a PE, ELF or Mach-O file")


@pytest.mark.parametrize("magic", ["cefaedfe", "cffaedfe", "feedface", "feedfacf", "cafebabe", "cafebabf"])
def test_a_header_alone_is_an_error_or_partial(magic: str) -> None:
    for length in (0, 4, 20, 40, 400):
        row = extract(bytes.fromhex(magic) + bytes(length)).row
        assert row["parse_status"] in {"partial", "error"}
        assert row["parse_error"].startswith("damaged")
