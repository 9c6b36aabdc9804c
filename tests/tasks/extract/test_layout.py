"""The named feature set: names are unique, ordered, and what a vector's dimensions are."""

import re

from tasks.extract.layout import BINMILL as GROUPS
from tasks.extract.parse import extract

DIMENSIONS = {
    "general": 7, "histogram": 256, "byteentropy": 256, "strings": 100,
    "header": 29, "sections": 120, "imports": 644, "exports": 129, "symbols": 6, "relocations": 38, "notes": 34,
    "hardening": 13, "string_classes": 11,
}  # fmt: skip


def test_groups_and_dimensions_of_version_1() -> None:
    assert {group: len(names) for group, names in GROUPS.items()} == DIMENSIONS
    assert list(GROUPS) == list(DIMENSIONS)


def test_names_are_unique_and_begin_with_their_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert len(set(names)) == len(names)
    assert all(re.match(rf"{group}[.\[]", name) for group, names in GROUPS.items() for name in names)
    assert not any("\n" in name for name in names)


def test_no_dimension_is_named_after_a_compiler_or_a_time() -> None:
    names = " ".join(name for group in GROUPS.values() for name in group)
    assert not re.search("compiler|linker|comment|banner|time|rich", names)


def test_vectors_have_the_layouts_lengths_whatever_the_file() -> None:
    for data in (b"", b"x", b"\x7fELF", b"MZ" * 100, bytes(5000)):
        assert {group: len(vector) for group, vector in extract(data).vectors.items()} == DIMENSIONS
