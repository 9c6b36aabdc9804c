"""Tables of a Mach-O file as they stand in it: slices, load commands, segments, symbols, relocations."""

import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.extract.headers import Relocations, Symbols

Order = Literal["<", ">"]
_THIN: dict[bytes, tuple[Order, bool]] = {
    b"\xce\xfa\xed\xfe": ("<", False), b"\xcf\xfa\xed\xfe": ("<", True),
    b"\xfe\xed\xfa\xce": (">", False), b"\xfe\xed\xfa\xcf": (">", True),
}  # fmt: skip
_FAT = {b"\xca\xfe\xba\xbe": struct.Struct(">5I"), b"\xca\xfe\xba\xbf": struct.Struct(">2I2Q2I")}
_ORDER: dict[Order, Literal["little", "big"]] = {"<": "little", ">": "big"}
_MOST_SLICES = 44
"""A Java class begins like a fat file, of as many slices as its version says: 45 or more."""
AMD64, ARM64 = 0x01000007, 0x0100000C


def is_macho(data: bytes) -> bool:
    """Whether a file begins like a Mach-O file, thin or fat."""
    magic = data[:4]
    return magic in _THIN or (magic in _FAT and int.from_bytes(data[4:8], "big") <= _MOST_SLICES)


@dataclass(frozen=True, slots=True)
class Slice:
    """One executable of a fat file."""

    machine: int
    offset: int
    size: int


def slices(data: bytes) -> list[Slice] | None:
    """The slices of a fat file, as many as are listed within it; None for a thin one."""
    row = _FAT.get(data[:4])
    if row is None:
        return None
    count = min(int.from_bytes(data[4:8], "big"), max(0, len(data) - 8) // row.size)
    rows = (row.unpack_from(data, 8 + row.size * i) for i in range(count))
    return [Slice(fields[0], fields[2], fields[3]) for fields in rows]


def chosen(found: list[Slice]) -> Slice:
    """The slice that is read: x86-64, else ARM64, else the first."""
    order = {AMD64: 0, ARM64: 1}
    return min(found, key=lambda part: order.get(part.machine, 2))


@dataclass(frozen=True, slots=True)
class Commands:
    """A Mach-O header, and its load commands: number, place and size of each."""

    data: bytes
    order: Order
    wide: bool
    machine: int
    subtype: int
    file_type: int
    declared: int
    end: int
    flags: int
    rows: tuple[tuple[int, int, int], ...]

    def fields(self, command: int, layout: str) -> tuple[int, ...] | None:
        """Numbers after the first 8 bytes of the first such command."""
        for number, at, size in self.rows:
            if number == command and size >= 8 + struct.calcsize("<" + layout):
                return struct.unpack_from(self.order + layout, self.data, at + 8)
        return None

    def records(self, offset: int, count: int, dtype: str) -> NDArray[Any]:
        """Records at a place in the file, as many as are whole and in it."""
        kind = np.dtype(dtype).newbyteorder(self.order)
        count = min(count, max(0, len(self.data) - offset) // kind.itemsize)
        return np.frombuffer(self.data, kind, count, offset if count else 0)


def commands(data: bytes) -> Commands | None:
    """Header and load commands of a thin file; None where there is no whole header."""
    if data[:4] not in _THIN:
        return None
    order, wide = _THIN[data[:4]]
    header = 32 if wide else 28
    if len(data) < header:
        return None
    machine, subtype, file_type, count, size, flags = struct.unpack_from(order + "6I", data, 4)
    rows: list[tuple[int, int, int]] = []
    at, end = header, header + size
    while len(rows) < count and at + 8 <= min(end, len(data)):
        number, length = struct.unpack_from(order + "2I", data, at)
        if length < 8 or at + length > min(end, len(data)):
            break
        rows.append((number, at, length))
        at += length
    return Commands(data, order, wide, machine, subtype, file_type, count, end, flags, tuple(rows))


@dataclass(frozen=True, slots=True)
class MachoSection:
    """A section; `flags` hold its type in the lowest byte."""

    name: str
    segment: str
    address: int
    size: int
    offset: int
    relocations: tuple[int, int]
    """Place and number."""
    flags: int


@dataclass(frozen=True, slots=True)
class MachoSegment:
    """A segment and those of its sections that are within its command."""

    address: int
    virtual_size: int
    offset: int
    size: int
    protection: int
    flags: int
    declared: int
    sections: tuple[MachoSection, ...]


_SEGMENT = {False: (0x1, "16s4I4I", "16s16s2I7I"), True: (0x19, "16s4Q4I", "16s16s2Q8I")}


def segments(found: Commands) -> list[MachoSegment]:
    """Segments and their sections, in the order of the load commands."""
    command, head, row = _SEGMENT[found.wide]
    layout, section = struct.Struct(found.order + head), struct.Struct(found.order + row)
    segments: list[MachoSegment] = []
    for number, at, size in found.rows:
        if number != command or size < 8 + layout.size:
            continue
        _, address, virtual_size, offset, length, _, protection, declared, flags = layout.unpack_from(
            found.data, at + 8
        )
        first = at + 8 + layout.size
        count = min(declared, (at + size - first) // section.size)
        sections: list[MachoSection] = []
        for i in range(count):
            name, owner, start, extent, place, _, relocations, relocated, kind, *_ = section.unpack_from(
                found.data, first + i * section.size
            )
            sections.append(
                MachoSection(_text(name), _text(owner), start, extent, place, (relocations, relocated), kind)
            )
        segments.append(
            MachoSegment(address, virtual_size, offset, length, protection, flags, declared, tuple(sections))
        )
    return segments


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "replace")


_DYLIBS = {0xC, 0x20, 0x80000018, 0x8000001F, 0x80000023}
"""Load commands that ask for a library: LOAD, LAZY_LOAD, LOAD_WEAK, REEXPORT, LOAD_UPWARD."""


def libraries(found: Commands) -> tuple[str, ...]:
    """Paths of the libraries that are asked for."""
    names: list[str] = []
    for number, at, size in found.rows:
        if number in _DYLIBS and size >= 12:
            start = min(int.from_bytes(found.data[at + 8 : at + 12], _ORDER[found.order]), size)
            names.append(_text(found.data[at + start : at + size]))
    return tuple(names)


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """The symbol table's counts, and its names as the linker sees them."""

    counts: Symbols
    imports: tuple[str, ...]
    exports: tuple[str, ...]
    local: bool
    """It has symbols that the loader does not need: the file is not stripped."""
    end: int
    """Where it and its names end."""
    problem: str | None


_SYMTAB = 0x02
_STAB, _PRIVATE, _KIND, _EXTERNAL = 0xE0, 0x10, 0x0E, 0x01
_UNDEFINED, _IN_SECTION = 0x0, 0xE
_STRIPPED = 0x3C
"""The debugging symbol by which a stripper says that it was here."""


def symbol_table(found: Commands, code: list[bool]) -> SymbolTable:
    """Read the symbol table.

    Parameters
    ----------
    code
        Whether each section holds instructions.
    """
    place = found.fields(_SYMTAB, "4I")
    if place is None:
        return SymbolTable(Symbols(), (), (), local=False, end=0, problem=None)
    offset, count, names_at, names_size = place
    rows = found.records(offset, count, "u4,u1,u1,u2,u8" if found.wide else "u4,u1,u1,u2,u4")
    names = found.data[names_at : names_at + names_size]
    name, flags, section, value = rows["f0"], rows["f1"], rows["f2"], rows["f4"]
    debugging = (flags & _STAB) != 0
    external = ~debugging & ((flags & _EXTERNAL) != 0)
    kind = flags & _KIND
    undefined = ~debugging & (kind == _UNDEFINED) & ((value == 0) | ~external)
    defined = ~debugging & ~undefined
    in_code = np.zeros(256, dtype=bool)
    in_code[1 : 1 + min(255, len(code))] = code[:255]
    functions = defined & (kind == _IN_SECTION) & in_code[section]
    public = external & defined & ((flags & _PRIVATE) == 0)
    wanted = external & undefined
    problem = None
    if len(rows) < count or names_at + names_size > len(found.data):
        problem = f"truncated: {count} symbols are declared, {len(rows)} can be read"
    elif len(rows) and int(name[~debugging].max(initial=0)) >= max(names_size, 1):
        problem = "damaged: symbols whose names cannot be read"
    counts = Symbols(
        count=len(rows),
        functions=int(functions.sum()),
        objects=int((defined & ~functions).sum()),
        external=int(public.sum()),
        undefined=int(undefined.sum()),
    )
    loader_does_not_need = ~external & (flags != _STRIPPED)
    return SymbolTable(
        counts,
        _names(names, name[wanted]),
        _names(names, name[public]),
        local=bool(loader_does_not_need.any()),
        end=max(offset + len(rows) * rows.itemsize, names_at + len(names)),
        problem=problem,
    )


def _names(names: bytes, places: NDArray[Any]) -> tuple[str, ...]:
    found: list[str] = []
    for at in places.tolist():
        end = names.find(b"\0", at)
        found.append(names[at : end if end >= 0 else len(names)].decode("utf-8", "replace"))
    return tuple(name for name in found if name)


_RELOCATION_CLASSES = {
    7: {0: "symbolic"}, 12: {0: "symbolic"},
    AMD64: {0: "symbolic", 9: "thread_local"}, ARM64: {0: "symbolic", 8: "thread_local", 9: "thread_local"},
}  # fmt: skip
"""Relocations of object files by machine: `UNSIGNED` or `VANILLA`, and `TLV`."""


def object_relocations(found: Commands, places: list[tuple[int, int]]) -> Relocations:
    """Count the relocations of an object file's sections, at (offset, number) each."""
    kinds = Counter[int]()
    for offset, count in places:
        rows = found.records(offset, count, "u4,u4")
        kind = rows["f1"] >> 28 if found.order == "<" else rows["f1"] & 15
        if not found.wide:  # a scattered relocation holds its type beside the address
            kind = np.where(rows["f0"] >> 31, rows["f0"] >> 24 & 15, kind)
        values, counts = np.unique(kind, return_counts=True)
        kinds.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    classes = _RELOCATION_CLASSES.get(found.machine, {})
    total = Counter[str]()
    for kind, count in kinds.items():
        total[classes.get(kind, "other")] += count
    types = tuple((f"macho{found.machine:x}:{kind}", count) for kind, count in sorted(kinds.items()))
    return Relocations(**total, types=types)
