"""Tables of an ELF file that are counted, not listed: symbols, relocations, notes."""

import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.extract.headers import Relocations, Symbols

NOTES = 10_000
"""Notes read of one file."""
RELATIVE, SYMBOLIC, LAZY, THREAD_LOCAL = "relative", "symbolic", "lazy", "thread_local"


def _classes(relative: int, symbolic: set[int], lazy: int, thread_local: set[int]) -> dict[int, str]:
    found = dict.fromkeys(symbolic, SYMBOLIC) | dict.fromkeys(thread_local, THREAD_LOCAL)
    return found | {relative: RELATIVE, lazy: LAZY}


_RELOCATION_CLASSES = {
    3: _classes(8, {1, 6}, 7, {14, 35, 36, 37, 41}),  # i386
    62: _classes(8, {1, 6}, 7, {16, 17, 18, 36}) | {38: RELATIVE},  # x86-64
    40: _classes(23, {2, 21}, 22, {13, 17, 18, 19}),  # ARM
    183: _classes(1027, {257, 1025}, 1026, {1028, 1029, 1030, 1031}),  # AArch64
    2: _classes(22, {3, 20}, 21, {74, 75, 76, 77, 78, 79}),  # SPARC
    43: _classes(22, {3, 20, 32}, 21, {74, 75, 76, 77, 78, 79}),  # SPARC V9
    243: _classes(3, {1, 2}, 5, {6, 7, 8, 9, 10, 11, 12}),  # RISC-V
    20: _classes(22, {1, 20}, 21, {68, 73, 78}),  # PowerPC
    21: _classes(22, {38, 20}, 21, {68, 73, 78}),  # PowerPC64
    22: _classes(12, {4, 22, 10}, 11, {54, 55, 56}),  # S/390
    8: _classes(3, {2, 18, 51}, 127, {38, 39, 40, 41, 47, 48}),  # MIPS: REL32 is what its dynamic files have
    258: _classes(3, {1, 2}, 5, {6, 7, 8, 9, 10, 11, 13, 14}),  # LoongArch
}
"""Dynamic relocation types by machine, from the processors' ABI supplements."""
_RELOCATION_CLASSES[18] = _RELOCATION_CLASSES[2]  # SPARC V8+
_MIPS = 8


@dataclass(frozen=True, slots=True)
class Tables:
    """How to read the tables of one file."""

    data: bytes
    wide: bool
    big: bool
    machine: int
    order: Literal["<", ">"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", ">" if self.big else "<")

    def words(self, place: tuple[int, int], dtype: str) -> NDArray[Any]:
        """Numbers or records in (offset, size), as many as are whole and in the file."""
        kind = np.dtype(dtype).newbyteorder(self.order)
        offset, size = place
        count = max(0, min(size, len(self.data) - offset)) // kind.itemsize
        return np.frombuffer(self.data, kind, count, offset if count else 0)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the section table."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    alignment: int


def section_table(tables: Tables) -> tuple[list[Row], str | None]:
    """Read the section table, as far as it is in the file; and what is wrong with it.

    Where the header says 0 sections, the first section's size is their number; where it says that section 65 535
    holds the names, the first one's link is its number.
    """
    data, wide = tables.data, tables.wide
    (table,) = struct.unpack_from(tables.order + ("Q" if wide else "I"), data, 40 if wide else 32)
    size, declared, names = struct.unpack_from(tables.order + "3H", data, 58 if wide else 46)
    # name, type, flags, address, offset, size, link, info, alignment
    layout = struct.Struct(tables.order + ("IIQQQQIIQ" if wide else "9I"))
    if not table:
        return [], None
    if table + layout.size > len(data):
        return [], "truncated: the section table lies beyond the end of the file"
    if size < layout.size:
        return [], f"damaged: a row of the section table has {size} bytes"
    first = layout.unpack_from(data, table)
    count = declared or first[5]
    names = first[6] if names == 0xFFFF else names
    problem = None
    if table + count * size > len(data):
        problem = "truncated: the section table lies beyond the end of the file"
        count = (len(data) - table) // size
    rows = [layout.unpack_from(data, table + i * size) for i in range(count)]
    text = b""
    if names < len(rows):
        text = data[rows[names][4] : rows[names][4] + rows[names][5]]
    elif problem is None:
        problem = "damaged: the names of sections cannot be read"
    if rows and not declared:
        rows[0] = (0,) * 9  # its size and link were the table's
    return [
        Row(_string(text, name), kind, flags, offset, length, link, alignment)
        for name, kind, flags, _, offset, length, link, _, alignment in rows
    ], problem


def _string(text: bytes, at: int) -> str:
    end = text.find(b"\0", at)
    return text[at : end if end >= 0 else len(text)].decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class LinkedSymbol:
    """A symbol as the linker sees it."""

    name: str
    section: int
    info: int
    other: int


def linked_symbols(tables: Tables, rows: list[Row], kind: int) -> list[LinkedSymbol] | None:
    """The symbols of the tables of one section type, with their names; None where there is no such section."""
    places = [row for row in rows if row.type == kind]
    if not places:
        return None
    found: list[LinkedSymbol] = []
    for place in places:
        table = tables.words((place.offset, place.size), _SYMBOL[tables.wide])[1:]
        fields = ("f0", "f3", "f1", "f2") if tables.wide else ("f0", "f5", "f3", "f4")
        names = rows[place.link] if place.link < len(rows) else None
        text = tables.data[names.offset : names.offset + names.size] if names is not None else b""
        columns = [table[name].tolist() for name in fields]
        found += [LinkedSymbol(_string(text, at), *rest) for at, *rest in zip(*columns, strict=True)]
    return found


_SYMBOL = {False: "u4,u4,u4,u1,u1,u2", True: "u4,u1,u1,u2,u8,u8"}
"""name, value, size, info, other, section; or name, info, other, section, value, size."""


def symbols(tables: Tables, places: list[tuple[int, int]]) -> Symbols:
    """Count the entries of symbol tables in (offset, size), the first of each left out: it is null."""
    total = Counter[str]()
    for place in places:
        rows = tables.words(place, _SYMBOL[tables.wide])[1:]
        info, section = (rows["f1"], rows["f3"]) if tables.wide else (rows["f3"], rows["f5"])
        kind, binding, defined = info & 15, info >> 4, section != 0
        total["count"] += len(rows)
        total["functions"] += int((((kind == 2) | (kind == 10)) & defined).sum())  # FUNC, GNU_IFUNC
        total["objects"] += int((((kind == 1) | (kind == 5) | (kind == 6)) & defined).sum())  # OBJECT, COMMON, TLS
        total["external"] += int(((binding != 0) & defined).sum())
        total["undefined"] += int((~defined).sum())
    return Symbols(**total)


def relocations(tables: Tables, places: list[tuple[int, int, bool]], relative: list[tuple[int, int]]) -> Relocations:
    """Count relocations.

    Parameters
    ----------
    places
        Offset and size of each table, and whether its entries have addends (RELA).
    relative
        Offset and size of each table of packed relative relocations (RELR).
    """
    kinds = Counter[int]()
    word = "u8" if tables.wide else "u4"
    for offset, size, addends in places:
        rows = tables.words((offset, size), f"{word},{word},{word}" if addends else f"{word},{word}")
        values, counts = np.unique(_types(tables, rows["f1"]), return_counts=True)
        kinds.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    packed = 0
    for place in relative:
        rows = tables.words(place, word)
        bitmaps = rows[(rows & 1) == 1]
        # An even word is one place; an odd one has a bit for each of the next ones, and one that says it is odd.
        packed += len(rows) - len(bitmaps) + int(np.bitwise_count(bitmaps).sum()) - len(bitmaps)
    classes = _RELOCATION_CLASSES.get(tables.machine, {})
    total = Counter[str]()
    for kind, count in kinds.items():
        total[classes.get(kind, "other")] += count
    total[RELATIVE] += packed
    types = {f"elf{tables.machine}:{kind}": count for kind, count in sorted(kinds.items())}
    if packed:
        types[f"elf{tables.machine}:packed"] = packed
    return Relocations(**total, types=tuple(types.items()))


def _types(tables: Tables, info: NDArray[Any]) -> NDArray[Any]:
    if not tables.wide:
        return info & 0xFF
    if tables.machine == _MIPS:  # a word, and four bytes of which the last is the (first) type
        return info & 0xFF if tables.big else info >> 56
    return info & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes of a file: `owner:type` each, the build id, and the features of GNU's property note."""

    names: tuple[str, ...]
    build_id: str | None
    features: int
    """Bit 0: IBT or BTI; bit 1: shadow stack or PAC."""
    whole: bool


_GNU_BUILD_ID, _GNU_PROPERTY = 3, 5
_FEATURES = {3: 0xC0000002, 62: 0xC0000002, 183: 0xC0000000, 243: 0xC0000000}
"""Property types of the features that every part of the program has, by machine."""


def notes(tables: Tables, places: list[tuple[int, int, int]]) -> Notes:
    """Read the notes in (offset, size, alignment)."""
    names: list[str] = []
    build_id: str | None = None
    features, whole = 0, True
    header = struct.Struct(tables.order + "3I")
    for offset, size, alignment in places:
        at, end = offset, min(offset + size, len(tables.data))
        step = 8 if alignment == 8 else 4
        while at + 12 <= end and len(names) < NOTES:
            name_size, size_of, kind = header.unpack_from(tables.data, at)
            start = offset + _up(at + 12 + name_size - offset, step)
            if at + 12 + name_size > end or start + size_of > end:
                whole = False
                break
            owner = tables.data[at + 12 : at + 12 + min(name_size, 64)].rstrip(b"\0").decode("utf-8", "replace")
            text = tables.data[start : start + size_of]
            # Of a build attribute, the rest of the owner's name is what it says: also the compiler's version.
            names.append(f"{'GA' if owner.startswith('GA') else owner}:{kind}")
            if owner == "GNU" and kind == _GNU_BUILD_ID and build_id is None:
                build_id = text[:64].hex()
            elif owner == "GNU" and kind == _GNU_PROPERTY:
                features |= _features(tables, text)
            at = offset + _up(start + size_of - offset, step)
        whole = whole and at + 12 > end
    return Notes(tuple(names), build_id or None, features, whole)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _features(tables: Tables, text: bytes) -> int:
    at, step = 0, 8 if tables.wide else 4
    while at + 12 <= len(text):
        kind, size, value = struct.unpack_from(tables.order + "3I", text, at)
        if kind == _FEATURES.get(tables.machine) and size == 4:
            return int(value)
        at += 8 + _up(size, step)
    return 0
