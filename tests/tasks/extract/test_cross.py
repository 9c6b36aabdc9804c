"""Executables for other systems, built on the spot where a cross compiler is installed.

`pip install ziglang` brings one for all three formats; `gcc-mingw-w64` writes COFF symbols and long section names.
"""

import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.extract.macho import read_macho
from tests.tasks.extract import test_elf, test_macho, test_pe

SOURCE = """
#include <stdio.h>
#include <string.h>
#ifdef _WIN32
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif
static _Thread_local int counter = 3;
API int exported_variable = 4;
API int exported_function(int x) { return x + counter++; }
__attribute__((constructor)) static void begin(void) { exported_variable++; }
int main(int argc, char **argv) {
  char buffer[64];
  strncpy(buffer, argv[argc - 1], 63);
  printf("%s %d\\n", buffer, exported_variable);
  return exported_function(argc);
}
"""

ELF_TARGETS = {
    "arm-linux-musleabihf": "arm", "aarch64-linux-musl": "arm64", "riscv64-linux-musl": "riscv",
    "powerpc64le-linux-musl": "powerpc", "powerpc-linux-musleabihf": "powerpc", "s390x-linux-musl": "s390",
    "mips-linux-musleabihf": "mips", "mips64-linux-muslabi64": "mips", "loongarch64-linux-musl": "loongarch",
    "x86-linux-musl": "x86", "x86_64-linux-gnu": "amd64",
}  # fmt: skip
BIG_ENDIAN = {"powerpc-linux-musleabihf", "s390x-linux-musl", "mips-linux-musleabihf", "mips64-linux-muslabi64"}
PE_TARGETS = {"x86-windows-gnu": "x86", "x86_64-windows-gnu": "amd64", "aarch64-windows-gnu": "arm64"}
MACHO_TARGETS = {"x86_64-macos": "amd64", "aarch64-macos": "arm64"}

zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
MINGW = shutil.which("x86_64-w64-mingw32-gcc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("cross")
    (found / "source.c").write_text(SOURCE)
    return found


def built(folder: Path, target: str, *options: str, suffix: str = "") -> Path:
    path = folder / (target + "".join(options).replace("/", "-") + suffix)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", target, *options, "source.c", "-o", path.name]
    caches = {
        name: os.environ.get(name, str(folder / "cache")) for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    }
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=os.environ | caches)
    return path


@zig
@pytest.mark.parametrize("target", ELF_TARGETS)
def test_elf_for_many_machines(target: str, folder: Path, programs: None) -> None:
    path = built(folder, target)
    test_elf.check(path)
    ours = test_elf.read(path.read_bytes())
    assert (ours.machine, ours.endianness) == (ELF_TARGETS[target], "big" if target in BIG_ENDIAN else "little")


@zig
@pytest.mark.parametrize("target", PE_TARGETS)
def test_pe_for_many_machines(target: str, folder: Path) -> None:
    ours = test_pe.check(built(folder, target, "-gdwarf-4", suffix=".exe"))
    assert ours.machine == PE_TARGETS[target]
    assert ours.has_thread_local
    assert "exported_function" in ours.exports


@zig
def test_macho_thin_and_fat(folder: Path) -> None:
    kinds: dict[str, tuple[str, ...]] = {"executable": (), "shared": ("-shared",), "relocatable": ("-c", "-g")}
    for kind, options in kinds.items():
        parts: dict[str, Path] = {}
        for target, machine in MACHO_TARGETS.items():
            parts[machine] = built(folder, target, *options)
            ours = test_macho.check(parts[machine])
            assert (ours.machine, ours.kind) == (machine, kind)
            assert ours.has_debug_info == (kind == "relocatable")
            assert {"_exported_function", "_exported_variable"} <= set(ours.exports)
        whole = read_macho(fat([parts["arm64"].read_bytes(), parts["amd64"].read_bytes()]))
        alone = read_macho(parts["amd64"].read_bytes())
        assert whole is not None
        assert alone is not None
        assert (whole.slices, whole.machine, whole.problem, whole.overlay) == (2, "amd64", None, 0)
        assert (whole.imports, whole.symbols, whole.build_id) == (alone.imports, alone.symbols, alone.build_id)


def fat(parts: list[bytes]) -> bytes:
    """A fat file, as `lipo` makes it: big-endian, slices on pages of 16 KiB."""
    header, body = struct.pack(">2I", 0xCAFEBABE, len(parts)), b""
    start = 1 << 14
    for part in parts:
        offset = start + len(body)
        header += struct.pack(">5I", *struct.unpack_from("<2I", part, 4), offset, len(part), 14)
        body += part + (bytes(-len(part) % start) if part is not parts[-1] else b"")
    return header.ljust(start, b"\0") + body


@pytest.mark.skipif(MINGW is None, reason="gcc-mingw-w64 is not installed")
@pytest.mark.parametrize("options", [["-g"], ["-s"], ["-shared"], ["-fstack-protector-all"]])
def test_mingw(options: list[str], folder: Path, programs: None) -> None:
    path = folder / f"mingw{options[0]}.exe"
    subprocess.run([str(MINGW), *options, "source.c", "-o", path.name], cwd=folder, check=True, capture_output=True)
    ours = test_pe.check(path)
    assert ours.overlay == 0
    assert ours.has_debug_info == (options != ["-s"])
    assert ours.hardening.stack_canary == (options == ["-fstack-protector-all"])
    command = ["objdump", "-h", "-w", "-t", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True, errors="replace")
    head, _, symbols = text.stdout.partition("SYMBOL TABLE")
    # objdump shows a symbol's section, type (function: 0x20), storage class (external: 2) and auxiliary entries.
    rows = re.findall(r"\(sec +(-?\d+)\)\(fl 0x..\)\(ty +([0-9a-f]+)\)\(scl +(\d+)\)", symbols)
    assert [name for _, name in re.findall(r"^ +(\d+) (\S+) +[0-9a-f]{8} ", head, re.MULTILINE)] == [
        s.name for s in ours.sections
    ]
    assert ours.symbols.count == len(rows)
    assert ours.symbols.functions == sum(int(section) > 0 and kind == "20" for section, kind, _ in rows)
    assert ours.symbols.external == sum(int(section) > 0 and storage in {"2", "105"} for section, _, storage in rows)
    assert ours.has_symbol_table == bool(rows)
