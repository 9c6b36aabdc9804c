"""The feature sets: every group, every dimension by name. A change here is a new version of the set."""

from tasks.extract.headers import KINDS, MACHINES

SECTION_SLOTS, LIBRARY_SLOTS, SYMBOL_SLOTS, EXPORT_SLOTS = 50, 128, 512, 128

SECTION_STATISTICS = tuple(
    f"{what}.{how}" for what in ("entropy", "size_share", "size_ratio") for how in ("min", "mean", "max")
)


def _slots(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}[{i}]" for i in range(count))


def _named(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for name in names)


Groups = dict[str, tuple[str, ...]]

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
        "format.pe", "format.elf",
        *(f"machine.{machine}" for machine in MACHINES),
        "bits64", "little_endian",
        *(f"kind.{kind}" for kind in KINDS),
        "entry.present", "entry.position", "segments", "overlay.present", "overlay.share",
        "symbol_table", "debug_info", "relocations", "position_independent", "no_execute",
    ),
    "sections": (
        *_named(
            "sections",
            "count", "empty", "unnamed", "readable", "writable", "executable", "writable_executable",
            *SECTION_STATISTICS,
        ),
        *_slots("sections.size_hash", SECTION_SLOTS),
        *_slots("sections.entropy_hash", SECTION_SLOTS),
    ),
    "imports": (
        *_named("imports", "libraries", "symbols"),
        *_slots("imports.library_hash", LIBRARY_SLOTS),
        *_slots("imports.symbol_hash", SYMBOL_SLOTS),
    ),
    "exports": ("exports.count", *_slots("exports.hash", EXPORT_SLOTS)),
}  # fmt: skip
"""`binmill@1`. Byte-level groups are those of EMBER2024; the others are laid out alike for every format. Nothing here
holds what labels are made of: no compiler banner, no linker version, no timestamp."""

FEATURE_SETS: dict[str, Groups] = {"binmill@1": BINMILL}
"""Sets by name: groups in order, and the names of their dimensions."""


def dimensions(feature_set: str) -> int:
    """Dimensions of a set, all groups together."""
    return sum(len(names) for names in FEATURE_SETS[feature_set].values())
