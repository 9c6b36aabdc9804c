"""What is read from the headers of an executable, the same for every format."""

from dataclasses import dataclass

MACHINES = ("x86", "amd64", "arm", "arm64", "riscv", "powerpc", "s390", "mips", "loongarch", "other")
KINDS = ("executable", "shared", "relocatable", "core", "other")


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name, its place in the file, its size in memory, and what may be done with it."""

    name: str
    offset: int
    size: int
    """Bytes in the file."""
    virtual_size: int
    readable: bool
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers, sections, imports and exports of one executable.

    `problem` is null when everything was read; else it says what is truncated or damaged.
    """

    format: str
    machine: str
    bits: int
    endianness: str
    kind: str
    entry_offset: int | None
    """Place of the entry point in the file; null when there is none."""
    segments: int
    """ELF segments, or PE data directories in use."""
    overlay: int
    """Bytes after the last byte that headers, sections or segments own."""
    sections: tuple[Section, ...]
    libraries: tuple[str, ...]
    imports: tuple[str, ...]
    """`library:symbol` for PE (ordinals as `library:ordinalN`), symbols for ELF."""
    exports: tuple[str, ...]
    has_symbol_table: bool
    has_debug_info: bool
    has_relocations: bool
    position_independent: bool
    no_execute: bool
    """The stack or data may not be executed (PE: NX compatible; ELF: GNU_STACK without X)."""
    build_id: str | None
    comment: str | None
    """Text of ELF's `.comment`: the compilers' own banners."""
    linker_version: str | None
    problem: str | None
