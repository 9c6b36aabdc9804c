"""`ember2024-core@1` as one would write it plainly: pefile, scikit-learn's FeatureHasher, NumPy and `re`.

The benchmark's baseline and the tests' oracle: written from the definition of the set, sharing no code with
`tasks.extract`. pefile parses the whole file, as EMBER2024 lets it.
"""

import math
import re
from collections import Counter
from typing import Any

import numpy as np
import pefile
from numpy.typing import NDArray
from sklearn.feature_extraction import FeatureHasher

Vector = NDArray[Any]

STRING = re.compile(rb"[\x20-\x7f]{5,}")
MACHINES = (
    "UNKNOWN I386 R3000 R4000 R10000 WCEMIPSV2 ALPHA SH3 SH3DSP SH3E SH4 SH5 ARM THUMB ARMNT AM33 POWERPC POWERPCFP "
    "IA64 MIPS16 ALPHA64 AXP64 MIPSFPU MIPSFPU16 TRICORE CEF EBC RISCV32 RISCV64 RISCV128 LOONGARCH32 LOONGARCH64 "
    "AMD64 M32R ARM64 CEE"
).split()
SUBSYSTEMS = (
    "UNKNOWN NATIVE WINDOWS_GUI WINDOWS_CUI OS2_CUI POSIX_CUI NATIVE_WINDOWS WINDOWS_CE_GUI EFI_APPLICATION "
    "EFI_BOOT_SERVICE_DRIVER EFI_RUNTIME_DRIVER EFI_ROM XBOX WINDOWS_BOOT_APPLICATION"
).split()
DLL_FLAGS = (
    "HIGH_ENTROPY_VA DYNAMIC_BASE FORCE_INTEGRITY NX_COMPAT NO_ISOLATION NO_SEH NO_BIND APPCONTAINER WDM_DRIVER "
    "GUARD_CF TERMINAL_SERVER_AWARE"
).split()
DOS = (
    "e_magic e_cblp e_cp e_crlc e_cparhdr e_minalloc e_maxalloc e_ss e_sp e_csum e_ip e_cs e_lfarlc e_ovno e_oemid "
    "e_oeminfo e_lfanew"
).split()
OPTIONAL = (
    "MajorImageVersion MinorImageVersion MajorLinkerVersion MinorLinkerVersion MajorOperatingSystemVersion "
    "MinorOperatingSystemVersion MajorSubsystemVersion MinorSubsystemVersion SizeOfCode SizeOfHeaders SizeOfImage "
    "SizeOfInitializedData SizeOfUninitializedData SizeOfStackReserve SizeOfStackCommit SizeOfHeapReserve "
    "SizeOfHeapCommit AddressOfEntryPoint BaseOfCode ImageBase SectionAlignment CheckSum NumberOfRvaAndSizes"
).split()


def vector(data: bytes) -> dict[str, Vector]:
    """All groups of one file, float32."""
    try:
        pe: Any = pefile.PE(data=data)
    except (pefile.PEFormatError, AttributeError):
        pe = None
    groups = {
        "general": [len(data), entropy(data), pe is not None, *data[:4], *[0] * (4 - len(data[:4]))],
        "histogram": np.bincount(np.frombuffer(data, np.uint8), minlength=256) / max(len(data), 1),
        "byteentropy": byte_entropy(data),
        "strings": strings(data),
        "header": header(pe),
        "section": section(pe, data),
        "imports": imports(pe),
        "exports": exports(pe),
        "datadirectories": directories(pe),
        "richheader": rich(pe),
    }
    return {name: np.asarray(values).astype(np.float32) for name, values in groups.items()}


def entropy(data: bytes) -> float:
    """Shannon entropy in bits."""
    return sum(-count / len(data) * math.log2(count / len(data)) for count in Counter(data).values()) + 0.0


def hashed(values: list[Any], slots: int, kind: str, sign: bool = True) -> Vector:
    """One row through scikit-learn's hasher."""
    return FeatureHasher(slots, input_type=kind, alternate_sign=sign).transform([values]).toarray()[0]


def byte_entropy(data: bytes) -> Vector:
    """Joint counts of window entropy and high nibble, divided by their sum."""
    table = np.zeros((16, 16))
    high = np.frombuffer(data, np.uint8) >> 4
    for start in range(0, max(len(high) - 2047, 1), 1024):
        counts = np.bincount(high[start : start + 2048], minlength=16)
        p = counts[counts > 0].astype(np.float32) / np.float32(2048)
        row = int(np.sum(-p * np.log2(p)) * 2 * 2)
        table[min(row, 15)] += counts
    return table.reshape(-1) / max(table.sum(), 1)


def strings(data: bytes) -> Vector:
    """Number, mean length and characters of printable strings."""
    found = STRING.findall(data)
    if not found:
        return np.zeros(100)
    text = np.frombuffer(b"".join(found), np.uint8) - 0x20
    counts = np.bincount(text, minlength=96)
    p = counts[counts > 0] / len(text)
    return np.array([len(found), len(text) / len(found), len(text), *(counts / len(text)), -(p * np.log2(p)).sum()])


def header(pe: Any) -> list[float] | Vector:
    """Fields of the DOS, COFF and optional headers."""
    if pe is None:
        return np.zeros(74)
    coff, optional = pe.FILE_HEADER, pe.OPTIONAL_HEADER
    machine = str(pefile.MACHINE_TYPE.get(coff.Machine, "")).removeprefix("IMAGE_FILE_MACHINE_")
    subsystem = str(pefile.SUBSYSTEM_TYPE.get(optional.Subsystem, "")).removeprefix("IMAGE_SUBSYSTEM_")
    dos = pe.DOS_HEADER.dump_dict()
    return [
        coff.TimeDateStamp, coff.NumberOfSections, coff.NumberOfSymbols, coff.SizeOfOptionalHeader,
        coff.PointerToSymbolTable,
        MACHINES.index(machine) if machine in MACHINES else 0,
        SUBSYSTEMS.index(subsystem) if subsystem in SUBSYSTEMS else 0,
        *(getattr(optional, name) for name in OPTIONAL),
        *(coff.Characteristics >> bit & 1 for bit in range(16)),
        *(getattr(optional, f"IMAGE_DLLCHARACTERISTICS_{name}") for name in DLL_FLAGS),
        *(dos[name]["Value"] if isinstance(dos[name]["Value"], int) else 0 for name in DOS),
    ]  # fmt: skip


def section(pe: Any, data: bytes) -> list[float] | Vector:
    """Sections: general numbers and hashed names."""
    if pe is None:
        return np.zeros(224)
    names = [s.Name.strip(b"\0").decode(errors="ignore").lower() for s in pe.sections]
    inside = [
        n for n, s in zip(names, pe.sections, strict=True) if s.contains_rva(pe.OPTIONAL_HEADER.AddressOfEntryPoint)
    ]
    entry = inside[-1] if inside else ""
    for name, s in zip(names, pe.sections, strict=True):
        if not entry and s.IMAGE_SCN_MEM_EXECUTE:
            entry = name
    entropies = [s.get_entropy() for s in pe.sections]
    overlay = pe.get_overlay() or b""
    flags = [[f for f, _ in pefile.section_characteristics if getattr(s, f)] for s in pe.sections]
    shares = [s.SizeOfRawData / len(data) for s in pe.sections]
    ratios = [s.SizeOfRawData / max(s.Misc_VirtualSize, 1) for s in pe.sections] + [0]
    over = entropy(overlay) if overlay else 0.0
    return [
        len(names),
        sum(s.SizeOfRawData == 0 for s in pe.sections),
        names.count(""),
        sum(s.IMAGE_SCN_MEM_READ and s.IMAGE_SCN_MEM_EXECUTE for s in pe.sections),
        sum(s.IMAGE_SCN_MEM_WRITE for s in pe.sections),
        max([*entropies, over, 0]), min([*entropies, over, 0]),
        max([*shares, len(overlay) / len(data), 0]), min([*shares, len(overlay) / len(data), 0]),
        max(ratios), min(ratios),
        *hashed([(n, s.SizeOfRawData) for n, s in zip(names, pe.sections, strict=True)], 50, "pair"),
        *hashed([(n, s.Misc_VirtualSize) for n, s in zip(names, pe.sections, strict=True)], 50, "pair"),
        *hashed(list(zip(names, entropies, strict=True)), 50, "pair"),
        *hashed([f"{n}:{f[10:]}" for n, found in zip(names, flags, strict=True) for f in found], 50, "string"),
        *hashed([entry], 10, "string"),
        len(overlay), len(overlay) / len(data), over,
    ]  # fmt: skip


def imports(pe: Any) -> Vector:
    """Hashed libraries and functions."""
    found: dict[str, list[str]] = {}
    for library in getattr(pe, "DIRECTORY_ENTRY_IMPORT", []):
        name = library.dll.decode()
        found[name] = [
            f.name.decode()[:10000] if f.name else f"{name}:ordinal{f.ordinal}"
            for f in library.imports
            if f.name or f.ordinal is not None
        ]
    if not found:
        return np.zeros(1282)
    libraries = list({name.lower() for name in found})
    functions = [f"{name.lower()}:{function}" for name, listed in found.items() for function in listed]
    return np.concatenate(
        [
            [len(functions), len(libraries)],
            hashed(libraries, 256, "string", sign=False),
            hashed(functions, 1024, "string", sign=False),
        ]
    )


def exports(pe: Any) -> Vector:
    """Hashed names of exports."""
    symbols = pe.DIRECTORY_ENTRY_EXPORT.symbols if hasattr(pe, "DIRECTORY_ENTRY_EXPORT") else []
    names = [s.name.decode()[:10000] if s.name else f"ordinal{s.ordinal}" for s in symbols]
    return np.concatenate([[128], hashed(names, 128, "string")]) if names else np.zeros(129)


def directories(pe: Any) -> Vector:
    """Sizes and addresses of all data directories but the last."""
    numbers = np.zeros(34)
    if pe is not None:
        for i, directory in enumerate(pe.OPTIONAL_HEADER.DATA_DIRECTORY[:-1]):
            numbers[2 * i : 2 * i + 2] = directory.Size, directory.VirtualAddress
        numbers[32:] = pe.has_relocs(), pe.has_dynamic_relocs()
    return numbers


def rich(pe: Any) -> Vector:
    """Pairs of the Rich header."""
    values = pe.RICH_HEADER.values if pe is not None and pe.RICH_HEADER is not None else []
    if not values:
        return np.zeros(33)
    pairs = [(str(a), b) for a, b in zip(values[::2], values[1::2], strict=False)]
    return np.concatenate([[len(values) // 2], hashed(pairs, 32, "pair")])
