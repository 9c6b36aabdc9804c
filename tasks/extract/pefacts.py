"""What EMBER2024 looks at in a PE file, as pefile 2024.8.26 reports it.

A regular file is read here, fast; at the first thing that pefile treats in a way of its own (odd alignments, tables
that overlap or lead out of a section, names it calls invalid, its limits), the whole file is left to pefile itself.
So the answer is always pefile's, and only its price differs.
"""

import re
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import ordlookup
import pefile

DOS_FIELDS = (
    "e_magic", "e_cblp", "e_cp", "e_crlc", "e_cparhdr", "e_minalloc", "e_maxalloc", "e_ss", "e_sp", "e_csum", "e_ip",
    "e_cs", "e_lfarlc", "e_ovno", "e_oemid", "e_oeminfo", "e_lfanew",
)  # fmt: skip
_DOS = struct.Struct("<14H8x2H20xI")
_COFF_FIELDS = (
    "Machine", "NumberOfSections", "TimeDateStamp", "PointerToSymbolTable", "NumberOfSymbols", "SizeOfOptionalHeader",
    "Characteristics",
)  # fmt: skip
_COFF = struct.Struct("<HHIIIHH")
_BEFORE_BASE = (
    "Magic", "MajorLinkerVersion", "MinorLinkerVersion", "SizeOfCode", "SizeOfInitializedData",
    "SizeOfUninitializedData", "AddressOfEntryPoint", "BaseOfCode",
)  # fmt: skip
_AFTER_BASE = (
    "ImageBase", "SectionAlignment", "FileAlignment", "MajorOperatingSystemVersion", "MinorOperatingSystemVersion",
    "MajorImageVersion", "MinorImageVersion", "MajorSubsystemVersion", "MinorSubsystemVersion", "Reserved1",
    "SizeOfImage", "SizeOfHeaders", "CheckSum", "Subsystem", "DllCharacteristics", "SizeOfStackReserve",
    "SizeOfStackCommit", "SizeOfHeapReserve", "SizeOfHeapCommit", "LoaderFlags", "NumberOfRvaAndSizes",
)  # fmt: skip
_OPTIONAL_FIELDS = (*_BEFORE_BASE, *_AFTER_BASE)
_OPTIONAL = {0x10B: struct.Struct("<HBB5I4xIII6HIIIIHH4III"), 0x20B: struct.Struct("<HBB5IQII6HIIIIHH4QII")}
_SECTION = struct.Struct("<8s4I12xI")

SECURITY, BASE_RELOCATIONS, LOAD_CONFIG = 4, 5, 10
_DIRECTORIES = 16

_LOAD_CONFIG_FIELDS = {
    0x10B: struct.Struct("<IIHHIIIIIIIIIIHHIIIIIIIIIHHIIIIIIIIIIIH"),
    0x20B: struct.Struct("<IIHHIIIQQQQQQIHHQQQQQQQQIHHIIQQQQQQQQIH"),
}
"""Up to and including DynamicValueRelocTableOffset and DynamicValueRelocTableSection."""
_DYNAMIC_RELOCATION = (struct.Struct("<II"), struct.Struct("<QI"))
_LOAD_CONFIG_KNOWN = 35
"""Fields of a load configuration that is too old to have dynamic relocations."""

_MOST_NAME, _MOST_IMPORTS, _MOST_EXPORTS, _MOST_REPEATED = 0x200, 0x2000, 0x2000, 120
_MOST_ADDRESS = 0x10000000
_IMPORT_NAME = re.compile(rb"[A-Za-z0-9._?@$()<>]+")
_EXPORT_NAME = re.compile(rb"[A-Za-z0-9!\"#$%&'()*+,\-./:<>?\[\\\]^_`{|}~@]*")
_LIBRARY_NAME = re.compile(rb"[A-Za-z0-9!#$%&'()\-@^_`{}~+,.;=\[\]\\/]+")
_RICH = 0x68636952


@dataclass(frozen=True, slots=True)
class PeSection:
    """A section: its name without padding, lower-cased; its numbers; the bytes that pefile takes for its data."""

    name: str
    raw_size: int
    virtual_size: int
    characteristics: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PeFacts:
    """A PE file's headers and tables.

    Attributes
    ----------
    values
        Fields of the DOS, COFF and optional headers, by their names in winnt.h.
    sections
        In the order of their addresses.
    entry_section
        Name of the section that the entry point is in.
    imports
        Library and names (`library:ordinalN` for a nameless one) of each import descriptor.
    exports
        Names, `ordinalN` for nameless ones.
    directories
        Size and address of each data directory that is present.
    rich
        Values of the Rich header, decoded; empty when there is none.
    overlay
        Where the overlay begins; the file's size when there is none.
    """

    values: dict[str, int]
    sections: tuple[PeSection, ...]
    entry_section: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]
    exports: tuple[str, ...]
    directories: tuple[tuple[int, int], ...]
    has_relocations: bool
    has_dynamic_relocations: bool
    rich: tuple[int, ...]
    overlay: int


class OddError(Exception):
    """The file has something that pefile treats in a way of its own."""


def pe_facts(data: bytes) -> PeFacts | None:
    """Headers and tables of a PE file; None when pefile does not take it for one."""
    if data[:2] != b"MZ":
        return None
    try:
        return regular(data)
    except (OddError, struct.error):
        return by_pefile(data)


def by_pefile(data: bytes) -> PeFacts | None:
    """Ask pefile, which is slow and takes every file."""
    names = ("IMPORT", "EXPORT", "BASERELOC", "LOAD_CONFIG")
    try:
        pe: Any = pefile.PE(data=data, fast_load=True)
        pe.parse_data_directories([pefile.DIRECTORY_ENTRY[f"IMAGE_DIRECTORY_ENTRY_{name}"] for name in names])
        rich = pe.parse_rich_header()
        return _from_pefile(pe, rich, len(data))
    except MemoryError:
        raise
    except Exception:  # pefile on hostile bytes: struct.error, IndexError, ... besides its own
        return None


def _from_pefile(pe: Any, rich: Any, size: int) -> PeFacts:
    values = {name: getattr(pe.DOS_HEADER, name) for name in DOS_FIELDS}
    values |= {name: getattr(pe.FILE_HEADER, name) for name in _COFF_FIELDS}
    values |= {name: getattr(pe.OPTIONAL_HEADER, name) for name in _OPTIONAL_FIELDS}
    sections: list[PeSection] = []
    entry = ""
    for section in pe.sections:
        start = section.get_PointerToRawData_adj()
        raw, stop = section.SizeOfRawData, section.PointerToRawData + section.SizeOfRawData
        name = _section_name(section.Name)
        found = PeSection(
            name, raw, section.Misc_VirtualSize, section.Characteristics, start, min(start + raw, stop)
        )  # fmt: skip
        sections.append(found)
        if section.contains_rva(values["AddressOfEntryPoint"]):
            entry = name
    imports: list[tuple[str, tuple[str, ...]]] = []
    for descriptor in getattr(pe, "DIRECTORY_ENTRY_IMPORT", ()):
        library = descriptor.dll.decode()
        imports.append((library, tuple(_import_names(library, descriptor.imports))))
    exports: list[str] = []
    for symbol in pe.DIRECTORY_ENTRY_EXPORT.symbols if hasattr(pe, "DIRECTORY_ENTRY_EXPORT") else ():
        if symbol.name:
            exports.append(symbol.name.decode())
        elif symbol.ordinal is not None:
            exports.append(f"ordinal{symbol.ordinal}")
    overlay = pe.get_overlay_data_start_offset()
    return PeFacts(
        values,
        tuple(sections),
        entry or _first_executable(sections),
        tuple(imports),
        tuple(exports),
        tuple((d.Size, d.VirtualAddress) for d in pe.OPTIONAL_HEADER.DATA_DIRECTORY),
        bool(pe.has_relocs()),
        bool(pe.has_dynamic_relocs()),
        tuple(rich["values"]) if rich else (),
        size if overlay is None else overlay,
    )


def _import_names(library: str, symbols: Sequence[Any]) -> list[str]:
    names: list[str] = []
    for symbol in symbols:
        if symbol.name:
            names.append(symbol.name.decode())
        elif symbol.ordinal is not None:
            names.append(f"{library}:ordinal{symbol.ordinal}")
    return names


def _section_name(name: bytes) -> str:
    return name.strip(b"\0").decode(errors="ignore").lower()


def _first_executable(sections: Sequence[PeSection]) -> str:
    return next((s.name for s in sections if s.characteristics & 0x20000000 and s.name), "")


def regular(data: bytes) -> PeFacts:
    """Read a regular file.

    Raises
    ------
    OddError
        The file is not regular.
    struct.error
        It ends too early.
    """
    values: dict[str, int] = dict(zip(map(str, DOS_FIELDS), _DOS.unpack_from(data), strict=True))
    at = values["e_lfanew"]
    if data[at : at + 4] != b"PE\0\0":
        raise OddError("signature")
    values |= dict(zip(_COFF_FIELDS, _COFF.unpack_from(data, at + 4), strict=True))
    optional = at + 24
    magic = int.from_bytes(data[optional : optional + 2], "little")
    layout = _OPTIONAL.get(magic)
    # pefile reads the optional header of a PE32+ file as PE32 first, from 256 bytes that must be there.
    if layout is None or optional + 256 > len(data):
        raise OddError("optional header")
    values |= dict(zip(_OPTIONAL_FIELDS, layout.unpack_from(data, optional), strict=True))
    count = values["NumberOfRvaAndSizes"]
    if count != _DIRECTORIES:
        raise OddError("directories")
    table = struct.unpack_from(f"<{2 * count}I", data, optional + layout.size)
    directories = tuple((size, address) for address, size in zip(table[::2], table[1::2], strict=True))
    image = _Image(data, values, optional + values["SizeOfOptionalHeader"])
    present = {number: entry for number, entry in enumerate(directories) if entry[1]}
    return PeFacts(
        values,
        tuple(image.sections),
        image.entry_section(),
        _imports(image, present.get(1)),
        _exports(image, present.get(0)),
        directories,
        _has_relocations(image, present.get(BASE_RELOCATIONS)),
        _has_dynamic_relocations(image, present.get(LOAD_CONFIG)),
        _rich(data, optional),
        _overlay(image, optional, directories),
    )


class _Image:
    """A file and its sections: addresses to places in the file, where that is beyond doubt."""

    def __init__(self, data: bytes, values: dict[str, int], table: int) -> None:
        self.data, self.values = data, values
        self.wide = values["Magic"] == 0x20B
        alignment = values["SectionAlignment"]
        if alignment < 0x1000:
            raise OddError("section alignment")
        rows: list[tuple[int, int, int, int, int, bytes]] = []
        for number in range(values["NumberOfSections"]):
            header = data[table + 40 * number : table + 40 * number + 40]
            if len(header) != 40 or not any(header):
                raise OddError("section table")
            name, virtual_size, address, raw_size, pointer, flags = _SECTION.unpack(header)
            if (
                pointer % 0x200
                or pointer + raw_size > len(data)
                or address % alignment
                or max(virtual_size, address) > _MOST_ADDRESS
            ):
                raise OddError("section")
            rows.append((address, virtual_size, raw_size, pointer, flags, name))
        if not 0 < len(rows) <= 0x800:
            raise OddError("sections")
        rows.sort(key=lambda row: row[0])
        if any(a[0] >= b[0] for a, b in pairwise(rows)):
            raise OddError("sections at one address")
        self.sections = [
            PeSection(_section_name(name), raw, virtual, flags, pointer, pointer + raw)
            for _, virtual, raw, pointer, flags, name in rows
        ]
        self.spans: list[tuple[int, int, int, int]] = []
        """Address, end of the address range, place in the file and its end, of each section."""
        following = [row[0] for row in rows[1:]] + [1 << 62]
        for (address, virtual, raw, pointer, *_), after in zip(rows, following, strict=True):
            self.spans.append((address, min(address + max(virtual, raw), after), pointer, pointer + raw))

    def entry_section(self) -> str:
        entry, name = self.values["AddressOfEntryPoint"], ""
        for section, (start, stop, *_) in zip(self.sections, self.spans, strict=True):
            if start <= entry < stop:
                name = section.name
        return name or _first_executable(self.sections)

    def place(self, address: int, size: int) -> tuple[int, int]:
        """Where `size` bytes at an address stand in the file, and the end of the section's data."""
        for start, stop, pointer, end in self.spans:
            if start <= address < stop:
                at = pointer + address - start
                if at + size > end:
                    raise OddError("beyond the section's data")
                return at, end
        raise OddError("in no section")

    def string(self, address: int) -> bytes:
        at, end = self.place(address, 1)
        return self.data[at : min(end, at + _MOST_NAME)].partition(b"\0")[0]  # a longer name is cut off


def _imports(image: _Image, entry: tuple[int, int] | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if entry is None:
        return ()
    found: list[tuple[str, tuple[str, ...]]] = []
    address, total = entry[1], 0
    while True:
        at, _ = image.place(address, 20)
        lookup, _, _, name, bound = struct.unpack_from("<5I", image.data, at)
        if not any(image.data[at : at + 20]):
            return tuple(found)
        address += 20
        # With no lookup table, pefile counts and bounds the entries otherwise.
        if not lookup or not bound:
            raise OddError("one thunk table")
        most = max(address - lookup, address - bound) if address > min(lookup, bound) else len(image.data) - at
        thunks = _thunks(image, lookup, most)
        if _thunks(image, bound, most) != thunks:
            raise OddError("a bound import")
        total += 2 * len(thunks) + 2
        if not thunks or total > _MOST_IMPORTS:
            raise OddError("number of imports")
        library = image.string(name)
        if not _LIBRARY_NAME.fullmatch(library):
            raise OddError("library name")
        found.append((library.decode(), tuple(_thunk_names(image, library, thunks))))


def _thunks(image: _Image, address: int, most: int) -> tuple[int, ...]:
    """Entries of a thunk table up to its zero, if none is one that pefile stumbles over."""
    width, code = (8, "Q") if image.wide else (4, "I")
    at, end = image.place(address, width)
    # A chunk for the usual table; the rest of the section's data when it is longer.
    for limit in (512 * width, end - at):
        count = min(limit, end - at) // width
        table = struct.unpack_from(f"<{count}{code}", image.data, at)
        if 0 in table:
            thunks = table[: table.index(0)]
            break
    else:
        raise OddError("no end of a thunk table")
    if (len(thunks) + 1) * width > most:
        raise OddError("length of a thunk table")
    flag = 1 << (8 * width - 1)
    named = [thunk for thunk in thunks if not thunk & flag]
    last = address + width * len(thunks)
    if named and (
        len(set(named)) != len(named)
        or max(named) - min(named) > _MOST_ADDRESS // 2
        or max(named) >= 1 << 31
        or any(address <= thunk <= last for thunk in named)
    ):
        raise OddError("thunks")
    if any(thunk & flag and thunk & 0x7FFFFFFF > 0xFFFF for thunk in thunks):
        raise OddError("ordinals")
    return thunks


def _thunk_names(image: _Image, library: bytes, thunks: tuple[int, ...]) -> list[str]:
    flag = 1 << (63 if image.wide else 31)
    data, valid = image.data, _IMPORT_NAME.fullmatch
    names: list[str] = []
    start = stop = at = end = 0
    for thunk in thunks:
        if thunk & flag:
            ordinal = thunk & 0xFFFF
            known = ordlookup.ordLookup(library.lower(), ordinal)
            if not ordinal:
                raise OddError("ordinal 0")
            names.append(known.decode() if known else f"{library.decode()}:ordinal{ordinal}")
            continue
        if not start <= thunk < stop - 2:
            start, stop, at, end = _span(image, thunk)
        place = at + thunk - start
        zero = data.find(b"\0", place + 2, min(end, place + 2 + _MOST_NAME))
        name = data[place + 2 : zero]
        if zero < 0 or not valid(name):
            raise OddError("import name")
        names.append(name.decode())
    return names


def _span(image: _Image, address: int) -> tuple[int, int, int, int]:
    image.place(address, 3)
    return next(span for span in image.spans if span[0] <= address < span[1])


def _exports(image: _Image, entry: tuple[int, int] | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    at, _ = image.place(entry[1], max(40, entry[0]))
    base, functions, names, function_table, name_table, ordinal_table = struct.unpack_from("<6I", image.data, at + 16)
    if not functions or names > _MOST_EXPORTS:
        raise OddError("number of exports")
    addresses = struct.unpack_from(f"<{functions}I", image.data, image.place(function_table, 4 * functions)[0])
    found: list[str] = []
    exported: set[int] = set()
    if names:
        name_places = struct.unpack_from(f"<{names}I", image.data, image.place(name_table, 4 * names)[0])
        ordinals = struct.unpack_from(f"<{names}H", image.data, image.place(ordinal_table, 2 * names)[0])
        if max(ordinals) >= functions:
            raise OddError("export ordinals")
        seen: set[tuple[bytes, int]] = set()
        for place, ordinal in zip(name_places, ordinals, strict=True):
            if not addresses[ordinal]:
                continue
            name = image.string(place)
            if not _EXPORT_NAME.fullmatch(name):
                raise OddError("export name")
            exported.add(ordinal)
            seen.add((name, addresses[ordinal]))
            found.append(name.decode() or f"ordinal{base + ordinal}")
        if len(seen) != len(found):
            raise OddError("exports named twice")
    nameless = [number for number, address in enumerate(addresses) if address and number not in exported]
    if len(nameless) > _MOST_REPEATED:
        repeated = Counter(addresses[number] for number in nameless)
        if len(repeated) > _MOST_EXPORTS or max(repeated.values()) > _MOST_REPEATED:
            raise OddError("many nameless exports")
    return (*found, *(f"ordinal{base + number}" for number in nameless))


def _has_relocations(image: _Image, entry: tuple[int, int] | None) -> bool:
    """Whether the first block of base relocations can be read."""
    if entry is None or not entry[0]:
        return False
    at, _ = image.place(entry[1], 8)
    page, size = struct.unpack_from("<II", image.data, at)
    if size < 8 or max(page, size) > image.values["SizeOfImage"]:
        raise OddError("base relocations")
    return True


def _has_dynamic_relocations(image: _Image, entry: tuple[int, int] | None) -> bool:
    """Whether the load configuration has dynamic relocations that pefile knows."""
    if entry is None:
        return False
    layout = _LOAD_CONFIG_FIELDS[image.values["Magic"]]
    at, _ = image.place(entry[1], 4)
    size = int.from_bytes(image.data[at : at + 4], "little")
    sizes = [struct.calcsize("<" + code) for code in layout.format[1:]]
    if size in {sum(sizes[:known]) for known in range(1, _LOAD_CONFIG_KNOWN + 1)}:
        return False
    if size < layout.size:
        raise OddError("load configuration")
    image.place(entry[1], layout.size)
    *_, offset, section = layout.unpack_from(image.data, at)
    return bool(offset and section) and _walk_dynamic_relocations(image, offset, section)


def _walk_dynamic_relocations(image: _Image, offset: int, section: int) -> bool:
    if section > len(image.spans):
        return False
    address = image.spans[section - 1][0] + offset
    version, size = struct.unpack_from("<II", image.data, image.place(address, 8)[0])
    if version != 1:
        return False
    at, _ = image.place(address + 8, max(size, 1))
    end, known, layout = at + size, False, _DYNAMIC_RELOCATION[image.wide]
    while at < end:
        symbol, length = layout.unpack_from(image.data, at)
        at += layout.size + length
        # 7 overrides functions, in a table of its own with more ways to go wrong.
        if symbol == 7 or at > end:
            raise OddError("dynamic relocations")
        known |= symbol >= 3
    return known


def _rich(data: bytes, optional: int) -> tuple[int, ...]:
    """The values between DanS and Rich; pairs of an identifier and a count."""
    end = data.find(b"Rich", 0x80, optional)
    if end < 0:
        return ()
    if end % 4 or end < 0x90 or end + 8 > len(data):
        raise OddError("Rich header")
    words = struct.unpack_from(f"<{(end - 0x80) // 4 + 2}I", data, 0x80)
    if words.index(_RICH) != len(words) - 2:
        raise OddError("Rich header")
    key, values = words[-1], words[4:-2]
    if len(values) % 2:
        raise OddError("Rich header")
    return tuple(word ^ key for word in values)


def _overlay(image: _Image, optional: int, directories: Sequence[tuple[int, int]]) -> int:
    """Where the bytes begin that no header, section or directory owns (certificates are such bytes)."""
    size = len(image.data)
    end = 0
    for candidate in (
        optional + image.values["SizeOfOptionalHeader"],
        *(section.stop for section in image.sections),
        *(_directory_end(image, *directories[number]) for number in range(len(directories)) if number != SECURITY),
    ):
        if end < candidate <= size:
            end = candidate
    return end


def _directory_end(image: _Image, size: int, address: int) -> int:
    for start, stop, pointer, _ in image.spans:
        if start <= address < stop:
            return pointer + address - start + size
    return address + size if address < len(image.data) else 0
