"""The one-pass kernel against definitions written down with NumPy and `re`."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.extract.bytestats import ByteStatistics, byte_statistics, entropy

GROUPS = ("general", "histogram", "byteentropy", "strings")


def bits(counts: NDArray[np.int64]) -> float:
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(p * np.log2(p)).sum())


def plain(data: bytes) -> dict[str, NDArray[np.float32]]:
    """The same groups, straight from the definitions."""
    view = np.frombuffer(data, dtype=np.uint8)
    counts = np.bincount(view, minlength=256)
    general = np.zeros(7, dtype=np.float32)
    general[0], general[1] = len(data), bits(counts)
    general[3 : 3 + min(4, len(data))] = view[:4]

    table = np.zeros((16, 16), dtype=np.int64)
    if len(data) < 2048:
        blocks = [view] if len(data) else []
    else:
        blocks = [view[i : i + 2048] for i in range(0, len(data) - 2047, 1024)]
    for block in blocks:
        nibbles = np.bincount(block >> 4, minlength=16)
        p = nibbles[nibbles > 0].astype(np.float32) / np.float32(2048)
        h = np.sum(-p * np.log2(p)) * np.float32(2)
        table[min(15, int(h * 2))] += nibbles

    strings = np.zeros(100, dtype=np.float32)
    found = re.findall(rb"[\x20-\x7f]{5,}", data)
    if found:
        characters = np.bincount(np.frombuffer(b"".join(found), dtype=np.uint8) - 0x20, minlength=96)
        total = int(characters.sum())
        strings[:3] = len(found), total / len(found), total
        strings[3:99] = characters / total
        strings[99] = bits(characters)
    return {
        "general": general,
        "histogram": (counts / max(len(data), 1)).astype(np.float32),
        "byteentropy": (table.reshape(-1) / max(table.sum(), 1)).astype(np.float32),
        "strings": strings,
    }


def check(data: bytes) -> ByteStatistics:
    statistics, expected = byte_statistics(np.frombuffer(data, dtype=np.uint8)), plain(data)
    for group in GROUPS:
        np.testing.assert_array_equal(getattr(statistics, group), expected[group], err_msg=group)
        assert getattr(statistics, group).dtype == np.float32
    return statistics


@given(st.binary(max_size=6000) | st.text(max_size=3000).map(str.encode))
def test_equals_the_definitions(data: bytes) -> None:
    check(data)


@given(
    size=st.integers(0, 12_000),
    kinds=st.sets(st.integers(0, 255), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_definitions_for_any_alphabet(size: int, kinds: set[int], seed: int) -> None:
    check(np.random.default_rng(seed).choice(np.array(sorted(kinds), dtype=np.uint8), size).tobytes())


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 3072, 3073, 5120])
@pytest.mark.parametrize("value", [0, 0x1F, 0x20, 0x7F, 0x80, 0xFF])
def test_borders_of_blocks_and_of_printable_bytes(size: int, value: int) -> None:
    check(bytes([value]) * size)


@pytest.mark.parametrize("at", [1020, 1021, 1024, 2044, 2048])
def test_a_string_across_the_border_of_blocks_is_one(at: int) -> None:
    data = bytearray(4096)
    data[at : at + 7] = b"strings"
    assert check(bytes(data)).strings[:3].tolist() == [1, 7, 7]


LENGTHS = st.integers(0, 9) | st.integers(55, 75) | st.integers(120, 136) | st.integers(1015, 1100)


@given(runs=st.lists(st.tuples(LENGTHS, st.integers(0x20, 0x7F), LENGTHS), max_size=20), offset=st.integers(0, 7))
def test_runs_that_end_anywhere_in_a_word_or_block(runs: list[tuple[int, int, int]], offset: int) -> None:
    data = bytes(offset) + b"".join(bytes([value]) * length + b"\x1f" * gap for length, value, gap in runs)
    check(data)
    np.testing.assert_array_equal(  # nor does it matter where in memory the bytes begin
        byte_statistics(np.frombuffer(bytes(offset) + data, np.uint8)[offset:]).strings, plain(data)["strings"]
    )


def test_an_empty_file_gives_zeros() -> None:
    statistics = byte_statistics(np.zeros(0, dtype=np.uint8))
    assert all(not getattr(statistics, group).any() for group in GROUPS)
    assert statistics.entropy == 0


def test_real_files(native_modules: list[Path], windows_programs: list[Path]) -> None:
    for path in [*native_modules[::20], *windows_programs]:
        check(path.read_bytes())


def test_a_writable_array_gives_the_same() -> None:
    data = np.arange(5000, dtype=np.uint64).astype(np.uint8)
    np.testing.assert_array_equal(byte_statistics(data).strings, plain(data.tobytes())["strings"])


@given(st.binary(max_size=500))
def test_entropy(data: bytes) -> None:
    view = np.frombuffer(data, dtype=np.uint8)
    assert entropy(view) == pytest.approx(bits(np.bincount(view, minlength=256)), abs=1e-12)
