"""The feature sets: every group, every dimension by name. A change here is a new version of the set."""

from tasks.extract.headers import KINDS, MACHINES

SECTION_SLOTS, LIBRARY_SLOTS, SYMBOL_SLOTS, EXPORT_SLOTS, RELOCATION_SLOTS, NOTE_SLOTS = 50, 128, 512, 128, 32, 32
SIGNED_SECTIONS = {".comment", ".rustc", ".go.buildinfo", "__data,__go_buildinfo", ".note.go.buildid"}
"""Sections (lower-cased) in which compilers sign their name: labels are held against it, so no feature sees them."""
SIGNED_NOTES = ("Go:",)
"""Beginnings of such notes."""
STRING_CLASSES = (
    "url", "ipv4", "ipv6", "email", "registry_key", "windows_path", "posix_path", "source_path", "guid", "base64",
    "wide",
)  # fmt: skip

SECTION_STATISTICS = tuple(
    f"{what}.{how}" for what in ("entropy", "size_share", "size_ratio") for how in ("min", "mean", "max")
)


def _slots(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}[{i}]" for i in range(count))


def _named(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for name in names)


Groups = dict[str, tuple[str, ...]]

STRUCTURE = "structure"
"""The group beside a set's own that holds the embedding of the header tree."""

BINMILL: Groups = {
    "general": _named("general", "size", "entropy", "parsed", "byte[0]", "byte[1]", "byte[2]", "byte[3]"),
    "histogram": tuple(f"histogram[0x{i:02x}]" for i in range(256)),
    "byteentropy": tuple(f"byteentropy[{row},0x{column:x}0]" for row in range(16) for column in range(16)),
    "strings": (
        *_named("strings", "count", "mean_length", "characters"),
        *(f"strings.character[0x{i:02x}]" for i in range(0x20, 0x80)),
        "strings.entropy",
    ),
    "header": _named(
        "header",
        "format.pe", "format.elf", "format.macho",
        *(f"machine.{machine}" for machine in MACHINES),
        "bits64", "little_endian",
        *(f"kind.{kind}" for kind in KINDS),
        "entry.present", "entry.position", "loader_entries", "overlay.present", "overlay.share", "debug_info",
        "thread_local", "constructors", "resources.share",
    ),
    "sections": (
        *_named(
            "sections",
            "count", "empty", "unnamed", "readable", "writable", "executable", "writable_executable",
            *SECTION_STATISTICS,
            "segments", "segments.writable", "segments.executable", "segments.writable_executable",
        ),
        *_slots("sections.size_hash", SECTION_SLOTS),
        *_slots("sections.entropy_hash", SECTION_SLOTS),
    ),
    "imports": (
        *_named("imports", "libraries", "symbols", "by_ordinal", "delayed"),
        *_slots("imports.library_hash", LIBRARY_SLOTS),
        *_slots("imports.symbol_hash", SYMBOL_SLOTS),
    ),
    "exports": ("exports.count", *_slots("exports.hash", EXPORT_SLOTS)),
    "symbols": _named("symbols", "table", "count", "functions", "objects", "external", "undefined"),
    "relocations": (
        *_named("relocations", "count", "relative", "symbolic", "lazy", "thread_local", "other"),
        *_slots("relocations.type_hash", RELOCATION_SLOTS),
    ),
    "notes": (*_named("notes", "count", "build_id"), *_slots("notes.hash", NOTE_SLOTS)),
    "hardening": _named(
        "hardening",
        "no_execute", "position_independent", "high_entropy", "relro_partial", "relro_full", "stack_canary",
        "fortified", "control_flow", "return_address", "safe_handlers", "signed", "encrypted", "run_path",
    ),
    "string_classes": _named("string_classes", *STRING_CLASSES),
}  # fmt: skip
"""`binmill@1`. Byte-level groups are those of EMBER2024; the others are laid out alike for every format, and what they
mean is said in `headers` and `strings`. Nothing here holds what labels are made of: no compiler banner, no linker
version, no timestamp. Classes of relocations are shares of `relocations.count`, and so are the types' slots."""

COFF_NUMBERS = (
    "TimeDateStamp", "NumberOfSections", "NumberOfSymbols", "SizeOfOptionalHeader", "PointerToSymbolTable",
)  # fmt: skip
OPTIONAL_NUMBERS = (
    "MajorImageVersion", "MinorImageVersion", "MajorLinkerVersion", "MinorLinkerVersion",
    "MajorOperatingSystemVersion", "MinorOperatingSystemVersion", "MajorSubsystemVersion", "MinorSubsystemVersion",
    "SizeOfCode", "SizeOfHeaders", "SizeOfImage", "SizeOfInitializedData", "SizeOfUninitializedData",
    "SizeOfStackReserve", "SizeOfStackCommit", "SizeOfHeapReserve", "SizeOfHeapCommit", "AddressOfEntryPoint",
    "BaseOfCode", "ImageBase", "SectionAlignment", "CheckSum", "NumberOfRvaAndSizes",
)  # fmt: skip
DOS_NUMBERS = (
    "e_magic", "e_cblp", "e_cp", "e_crlc", "e_cparhdr", "e_minalloc", "e_maxalloc", "e_ss", "e_sp", "e_csum", "e_ip",
    "e_cs", "e_lfarlc", "e_ovno", "e_oemid", "e_oeminfo", "e_lfanew",
)  # fmt: skip
MACHINES_LISTED = tuple(
    "UNKNOWN I386 R3000 R4000 R10000 WCEMIPSV2 ALPHA SH3 SH3DSP SH3E SH4 SH5 ARM THUMB ARMNT AM33 POWERPC POWERPCFP "
    "IA64 MIPS16 ALPHA64 AXP64 MIPSFPU MIPSFPU16 TRICORE CEF EBC RISCV32 RISCV64 RISCV128 LOONGARCH32 LOONGARCH64 "
    "AMD64 M32R ARM64 CEE".split()
)
SUBSYSTEMS_LISTED = tuple(
    "UNKNOWN NATIVE WINDOWS_GUI WINDOWS_CUI OS2_CUI POSIX_CUI NATIVE_WINDOWS WINDOWS_CE_GUI EFI_APPLICATION "
    "EFI_BOOT_SERVICE_DRIVER EFI_RUNTIME_DRIVER EFI_ROM XBOX WINDOWS_BOOT_APPLICATION".split()
)
CHARACTERISTICS = tuple(
    "RELOCS_STRIPPED EXECUTABLE_IMAGE LINE_NUMS_STRIPPED LOCAL_SYMS_STRIPPED AGGRESIVE_WS_TRIM LARGE_ADDRESS_AWARE "
    "16BIT_MACHINE BYTES_REVERSED_LO 32BIT_MACHINE DEBUG_STRIPPED REMOVABLE_RUN_FROM_SWAP NET_RUN_FROM_SWAP SYSTEM "
    "DLL UP_SYSTEM_ONLY BYTES_REVERSED_HI".split()
)
"""COFF characteristics from bit 0 up."""
DLL_CHARACTERISTICS = tuple(
    "HIGH_ENTROPY_VA DYNAMIC_BASE FORCE_INTEGRITY NX_COMPAT NO_ISOLATION NO_SEH NO_BIND APPCONTAINER WDM_DRIVER "
    "GUARD_CF TERMINAL_SERVER_AWARE".split()
)
"""DLL characteristics from bit 5 up."""
DIRECTORIES = tuple(
    "EXPORT IMPORT RESOURCE EXCEPTION SECURITY BASERELOC DEBUG COPYRIGHT GLOBALPTR TLS LOAD_CONFIG BOUND_IMPORT IAT "
    "DELAY_IMPORT COM_DESCRIPTOR RESERVED".split()
)

EMBER2024_CORE: Groups = {
    **{group: BINMILL[group] for group in ("general", "histogram", "byteentropy", "strings")},
    "header": _named(
        "header",
        *(f"coff.{name}" for name in COFF_NUMBERS), "coff.Machine", "optional.Subsystem",
        *(f"optional.{name}" for name in OPTIONAL_NUMBERS),
        *(f"coff.characteristic.{name}" for name in CHARACTERISTICS),
        *(f"optional.dll_characteristic.{name}" for name in DLL_CHARACTERISTICS),
        *(f"dos.{name}" for name in DOS_NUMBERS),
    ),
    "section": (
        *_named(
            "section",
            "count", "empty", "unnamed", "readable_executable", "writable",
            *(f"{what}.{how}" for what in ("entropy", "size_share", "size_ratio") for how in ("max", "min")),
        ),
        *_slots("section.size_hash", 50),
        *_slots("section.virtual_size_hash", 50),
        *_slots("section.entropy_hash", 50),
        *_slots("section.characteristic_hash", 50),
        *_slots("section.entry_hash", 10),
        *_named("section", "overlay.size", "overlay.share", "overlay.entropy"),
    ),
    "imports": (
        *_named("imports", "symbols", "libraries"),
        *_slots("imports.library_hash", 256),
        *_slots("imports.symbol_hash", 1024),
    ),
    "exports": ("exports.present", *_slots("exports.hash", 128)),
    "datadirectories": (
        *(f"datadirectories.{name}.{what}" for name in DIRECTORIES for what in ("size", "address")),
        "datadirectories.relocations", "datadirectories.dynamic_relocations",
    ),
    "richheader": ("richheader.pairs", *_slots("richheader.hash", 32)),
}  # fmt: skip
"""`ember2024-core@1`: EMBER2024's vector (version 3) without its regex counters, warnings and signatures."""

FEATURE_SETS: dict[str, Groups] = {"binmill@1": BINMILL, "ember2024-core@1": EMBER2024_CORE}
"""Sets by name: groups in order, and the names of their dimensions."""


def dimensions(feature_set: str) -> int:
    """Dimensions of a set, all groups together."""
    return sum(len(names) for names in FEATURE_SETS[feature_set].values())
