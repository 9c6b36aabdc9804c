"""What is read from the headers of an executable, the same for every format."""

from dataclasses import dataclass

MACHINES = ("x86", "amd64", "arm", "arm64", "riscv", "powerpc", "s390", "mips", "loongarch", "other")
KINDS = ("executable", "shared", "relocatable", "core", "other")


@dataclass(frozen=True, slots=True)
class Section:
    """One section: its name, its place in the file, its size in memory, and what may be done with it."""

    name: str
    """Mach-O: `segment,section`."""
    offset: int
    size: int
    """Bytes in the file."""
    virtual_size: int
    readable: bool
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """What the loader maps: ELF's and Mach-O's segments, PE's sections."""

    readable: bool
    writable: bool
    executable: bool


@dataclass(frozen=True, slots=True)
class Symbols:
    """Entries of the symbol table (not the dynamic one): ELF's null entry and COFF's auxiliary ones left out."""

    count: int = 0
    functions: int = 0
    """Defined here; ELF and COFF: by type, Mach-O: in a section of instructions."""
    objects: int = 0
    """Defined here; ELF: by type, COFF and Mach-O: in any other section, and not naming it."""
    external: int = 0
    """Defined here and seen by other files."""
    undefined: int = 0


@dataclass(frozen=True, slots=True)
class Relocations:
    """Places that the linker or loader must adjust, by class, and by the format's own types.

    PE: its base relocations. Mach-O: the loader's rebases and binds, or the relocations of an object file.
    """

    relative: int = 0
    """To where the file itself was loaded."""
    symbolic: int = 0
    """To a symbol's address."""
    lazy: int = 0
    """To a function's address, at its first call."""
    thread_local: int = 0
    other: int = 0
    """Also all that a static linker does within code."""
    types: tuple[tuple[str, int], ...] = ()

    @property
    def count(self) -> int:
        """All of them."""
        return self.relative + self.symbolic + self.lazy + self.thread_local + self.other


@dataclass(frozen=True, slots=True)
class Hardening:
    """What the file asks of the system, or was built with, against its misuse."""

    no_execute: bool
    """The stack or data may not be executed."""
    position_independent: bool
    high_entropy: bool
    """Placed at random in 64 bits of addresses (PE: it says so; else: position-independent and 64-bit)."""
    relro: str | None
    """`none`, `partial` or `full`: what the loader wrote is made read-only. Null for PE and object files."""
    stack_canary: bool
    fortified: bool
    """Imports checked variants of the C library's functions (`__memcpy_chk`)."""
    control_flow: bool
    """Indirect branches have marked targets: Control Flow Guard, IBT, BTI."""
    return_address: bool
    """Return addresses are protected: shadow stack, pointer authentication."""
    safe_handlers: bool
    """PE: exception handlers are listed, or there are none."""
    signed: bool
    encrypted: bool
    run_path: bool
    """Names folders in which to look for libraries."""


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers, tables and hardening of one executable.

    `problem` is null when everything was read; else it says what is truncated or damaged.
    """

    format: str
    machine: str
    bits: int
    endianness: str
    kind: str
    entry_offset: int | None
    """Place of the entry point in the file; null when there is none."""
    loader_entries: int
    """Entries of the table that tells the loader what to do: ELF's dynamic section, PE's data directories
    in use, Mach-O's load commands."""
    overlay: int
    """Bytes after the last byte that headers, sections or segments own."""
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]
    libraries: tuple[str, ...]
    imports: tuple[str, ...]
    """`library:symbol` for PE (an ordinal without a known name as `library:ordinalN`), else as it is in the file."""
    exports: tuple[str, ...]
    symbols: Symbols
    relocations: Relocations
    notes: tuple[str, ...]
    """ELF's notes (`GNU:3`), PE's debug directory (`debug:2`), Mach-O's load commands (`command:0x1b`)."""
    hardening: Hardening
    has_symbol_table: bool
    has_debug_info: bool
    """DWARF's."""
    has_thread_local: bool
    constructors: int
    """Functions to call before the entry point (PE: thread-local callbacks)."""
    resources: int
    """Bytes of PE's resources."""
    build_id: str | None
    comment: str | None
    """Text of ELF's `.comment`: the compilers' own banners."""
    linker_version: str | None
    problem: str | None
    slices: int = 1
    """Executables in the file: a fat Mach-O file has several, of which one is read."""
    delayed: int = 0
    """How many of the imports are bound when first called from a library that is loaded then."""
    timestamp: int | None = None
    """Seconds since 1970, as the linker wrote it (in reproducible builds: a hash)."""
    minimum_os: str | None = None
    import_hash: str | None = None
    """PE: pefile's imphash."""
    rich_hash: str | None = None
    """PE: MD5 of the decoded Rich header."""
