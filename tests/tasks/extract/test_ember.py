"""`ember2024-core@1` against the set written plainly with pefile and scikit-learn; our PE reader against pefile."""

import random
import struct
from pathlib import Path

import numpy as np
import pytest

from tasks.extract.layout import EMBER2024_CORE, FEATURE_SETS
from tasks.extract.parse import extract
from tasks.extract.pefacts import OddError, by_pefile, pe_facts, regular
from tests.benchmarks.ember_baseline import vector

DIMENSIONS = {
    "general": 7, "histogram": 256, "byteentropy": 256, "strings": 100, "header": 74, "section": 224,
    "imports": 1282, "exports": 129, "datadirectories": 34, "richheader": 33,
}  # fmt: skip


def test_dimensions_and_names() -> None:
    assert {group: len(names) for group, names in EMBER2024_CORE.items()} == DIMENSIONS
    names = [name for group in EMBER2024_CORE.values() for name in group]
    assert len(names) == len(set(names)) == 2395
    assert FEATURE_SETS["ember2024-core@1"] is EMBER2024_CORE


def check(data: bytes) -> None:
    found, expected = extract(data, "ember2024-core@1"), vector(data)
    assert list(found.vectors) == list(expected) == list(EMBER2024_CORE)
    for group, values in expected.items():
        # Exact but where logarithms are added up in another order.
        np.testing.assert_allclose(found.vectors[group], values, rtol=1e-6, atol=0, err_msg=group)


def test_equal_on_windows_files(windows_files: list[Path]) -> None:
    machines: set[int] = set()
    for path in windows_files:
        data = path.read_bytes()
        check(data)
        facts = pe_facts(data)
        assert facts is not None
        machines.add(facts.values["Machine"])
    assert machines >= {0x14C, 0x8664, 0xAA64}, "x86, x64 and ARM64"


def test_most_real_files_are_regular_and_both_readers_agree(windows_files: list[Path]) -> None:
    count = 0
    for path in windows_files:
        data = path.read_bytes()
        try:
            assert regular(data) == by_pefile(data)
            count += 1
        except OddError:
            continue
    assert count > 0.8 * len(windows_files)


def mutants(files: list[Path], count: int, seed: int) -> list[bytes]:
    """Files with a few bytes, words or their end changed, mostly where headers and tables are."""
    draw = random.Random(seed)
    found: list[bytes] = []
    for _ in range(count):
        data = bytearray(draw.choice(files).read_bytes())
        start = struct.unpack_from("<I", data, 60)[0]
        for _ in range(draw.randint(1, 3)):
            place = draw.choice([draw.randrange(2, 64), start + draw.randrange(700), draw.randrange(2, len(data))])
            place = min(place, len(data) - 4)
            kind = draw.randrange(5)
            if kind < 2:
                data[place] ^= 1 << draw.randrange(8)
            elif kind == 2:
                data[place] = draw.randrange(256)
            elif kind == 3:
                words = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(data) - 1, draw.randrange(len(data)))
                struct.pack_into("<I", data, place & ~3, draw.choice(words))
            elif draw.random() < 0.3:
                del data[max(64, draw.randrange(len(data))) :]
        found.append(bytes(data))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_changed_file_is_read_as_pefile_reads_it_or_left_to_it(windows_files: list[Path], seed: int) -> None:
    small = [path for path in windows_files if path.stat().st_size < 150_000]
    agreed = 0
    for data in mutants(small, 100, seed):
        try:
            facts = regular(data)
        except (OddError, struct.error):
            continue
        assert facts == by_pefile(data)
        agreed += 1
    assert agreed > 30


def test_damaged_files_have_the_vector_that_pefile_gives(windows_files: list[Path]) -> None:
    small = [path for path in windows_files if path.stat().st_size < 80_000]
    for data in mutants(small, 20, 99):
        check(data)


@pytest.mark.parametrize(
    "data", [b"M", b"MZ", b"MZ" * 40, b"\x7fELF" + bytes(3000), b"plain text, five or more", b"\0" * 2048]
)
def test_what_is_no_pe_file_has_zeros_in_the_groups_of_headers(data: bytes) -> None:
    check(data)
    vectors = extract(data, "ember2024-core@1").vectors
    assert not any(
        vectors[group].any() for group in DIMENSIONS if group not in {"general", "histogram", "byteentropy", "strings"}
    )


def test_an_empty_file_is_zeros() -> None:
    assert not any(values.any() for values in extract(b"", "ember2024-core@1").vectors.values())


def test_an_import_by_ordinal_keeps_the_case_of_its_library(windows_files: list[Path]) -> None:
    names = [
        (library, name)
        for path in windows_files
        for library, names in (pe_facts(path.read_bytes()) or pytest.fail(path.name)).imports
        for name in names
        if "ordinal" in name
    ]
    for library, name in names:
        assert name.startswith(f"{library}:ordinal")
