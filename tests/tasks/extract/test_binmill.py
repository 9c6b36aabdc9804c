"""`binmill@1` from headers: the same thing has the same value in every format."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.extract.binmill import binmill_vectors
from tasks.extract.bytestats import Vector, byte_statistics
from tasks.extract.elf import read_elf
from tasks.extract.headers import Headers, Relocations, Section, Segment
from tasks.extract.layout import BINMILL


def vectors(headers: Headers) -> dict[str, Vector]:
    data = np.arange(5000, dtype=np.uint8)
    return binmill_vectors(headers, byte_statistics(data), data)


def value(found: dict[str, Vector], name: str) -> float:
    group = name.split(".", maxsplit=1)[0]
    return float(found[group][BINMILL[group].index(name)])


def example(compiled_files: dict[str, Path]) -> Headers:
    headers = read_elf(compiled_files["exporting"].read_bytes())
    assert headers is not None
    return headers


def test_a_symbol_has_one_slot_in_every_format(compiled_files: dict[str, Path]) -> None:
    base = example(compiled_files)
    elf = replace(base, imports=("puts", "malloc"), exports=("begin",), libraries=("libx.so",))
    pe = replace(
        elf, format="pe", imports=("msvcrt.dll:puts", "msvcrt.dll:malloc"), libraries=("LIBX.so",), delayed=1
    )  # fmt: skip
    macho = replace(
        elf, format="macho", imports=("_puts", "_malloc"), exports=("_begin",), libraries=("/usr/lib/libX.so",)
    )
    found = [vectors(headers) for headers in (elf, pe, macho)]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0]["imports"][4:], other["imports"][4:])
        np.testing.assert_array_equal(found[0]["exports"], other["exports"])
    assert [value(f, "imports.delayed") for f in found] == [0, 1, 0]
    assert [[value(f, f"header.format.{name}") for name in ("elf", "pe", "macho")] for f in found] == [
        [1, 0, 0], [0, 1, 0], [0, 0, 1],
    ]  # fmt: skip


def test_ordinals_are_counted_and_keep_their_library(compiled_files: dict[str, Path]) -> None:
    base = replace(example(compiled_files), format="pe")
    a = vectors(replace(base, imports=("a.dll:ordinal7",)))
    b = vectors(replace(base, imports=("b.dll:ordinal7",)))
    assert value(a, "imports.by_ordinal") == 1
    assert (a["imports"] != b["imports"]).any()


def test_relocations_are_shares(compiled_files: dict[str, Path]) -> None:
    found = vectors(
        replace(example(compiled_files), relocations=Relocations(relative=3, lazy=1, types=(("a", 3), ("b", 1))))
    )
    assert value(found, "relocations.count") == 4
    assert value(found, "relocations.relative") == 0.75
    assert value(found, "relocations.lazy") == 0.25
    assert np.abs(found["relocations"][6:]).sum() == 1
    assert vectors(replace(example(compiled_files), relocations=Relocations()))["relocations"].any() is np.False_


def test_relro_has_three_states(compiled_files: dict[str, Path]) -> None:
    base = example(compiled_files)
    states: list[list[float]] = []
    for relro in (None, "none", "partial", "full"):
        found = vectors(replace(base, hardening=replace(base.hardening, relro=relro)))
        states.append([value(found, "hardening.relro_partial"), value(found, "hardening.relro_full")])
    assert states == [[0, 0], [0, 0], [1, 0], [0, 1]]


def test_each_flag_of_hardening_has_its_dimension(compiled_files: dict[str, Path]) -> None:
    base = example(compiled_files)
    for name in BINMILL["hardening"]:
        field = name.removeprefix("hardening.")
        if field.startswith("relro"):
            continue
        for state in (False, True):
            found = vectors(replace(base, hardening=replace(base.hardening, **{field: state})))
            assert value(found, name) == state, name


def test_writable_code_is_seen_in_sections_and_segments(compiled_files: dict[str, Path]) -> None:
    headers = replace(
        example(compiled_files),
        segments=(Segment(readable=True, writable=True, executable=True), Segment(True, False, False)),
        sections=(Section("x", 0, 10, 10, readable=True, writable=True, executable=True),),
    )
    found = vectors(headers)
    assert value(found, "sections.writable_executable") == 1
    assert value(found, "sections.segments") == 2
    assert value(found, "sections.segments.writable_executable") == 1


def test_sections_and_notes_in_which_compilers_sign_are_not_seen(compiled_files: dict[str, Path]) -> None:
    base = example(compiled_files)
    signed = replace(
        base,
        sections=(
            *base.sections,
            *(Section(name, 0, 100, 100, readable=True, writable=False, executable=False)
              for name in (".comment", ".rustc", ".go.buildinfo", "__DATA,__go_buildinfo", ".note.go.buildid")),
        ),
        notes=(*base.notes, "Go:4"),
    )  # fmt: skip
    a, b = vectors(base), vectors(signed)
    for group in BINMILL:
        np.testing.assert_array_equal(a[group], b[group], err_msg=group)
