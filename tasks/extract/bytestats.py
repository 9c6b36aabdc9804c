"""Byte-level feature groups, in one pass over the bytes (definitions: EMBER2024's, see `layout`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.extract.layout import Groups
from tasks.jit import compiled

Vector = NDArray[np.float32]

WINDOW = 2048
STEP = 1024
SHORTEST_STRING = 5


def _terms() -> NDArray[np.float32]:
    """−p·log2 p for every count c of a window, p = c / 2048, in float32 as NumPy computes it."""
    p = np.arange(WINDOW + 1, dtype=np.float32) / np.float32(WINDOW)
    terms = np.zeros(WINDOW + 1, dtype=np.float32)
    terms[1:] = -p[1:] * np.log2(p[1:])
    return terms


TERMS = _terms()


@dataclass(frozen=True, slots=True)
class ByteStatistics:
    """The byte-level groups of one file.

    Attributes
    ----------
    general
        float32[7]: size; entropy in bits; 0 (whether it parsed is filled in later); the first four bytes.
    histogram
        float32[256]: byte counts divided by the size.
    byteentropy
        float32[256]: the 16 x 16 table of window entropy against high nibble, divided by its sum.
    strings
        float32[100]: number, mean length and total length of printable strings, frequencies of their 96
        characters, entropy of those in bits.
    entropy
        Entropy of the file's bytes, in bits.
    """

    general: NDArray[np.float32]
    histogram: NDArray[np.float32]
    byteentropy: NDArray[np.float32]
    strings: NDArray[np.float32]
    entropy: float


@compiled
def _row(nibbles: NDArray[np.int64], terms: NDArray[np.float32], part: NDArray[np.float32]) -> int:
    """Row of the byte-entropy table; adds up the present terms in the order NumPy's pairwise sum does."""
    n = 0
    for v in range(16):
        if nibbles[v]:
            part[n] = terms[nibbles[v]]
            n += 1
    total = np.float32(0)
    if n < 8:
        for i in range(n):
            total += part[i]
    else:
        if n == 16:
            for i in range(8):
                part[i] += part[8 + i]
        total = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]))
        if n < 16:
            for i in range(8, n):
                total += part[i]
    row = int(total * np.float32(2) * np.float32(2))
    return min(15, row)


@compiled
def _count_block(data: NDArray[np.uint8], lanes: NDArray[np.uint16], counts: NDArray[np.int64]) -> None:
    """Count the bytes of one block, at most 65 535, into int64[256].

    Four counters take turns, so that a run of equal bytes does not wait for one counter's last store.
    """
    lanes[:] = 0
    whole = len(data) // 4
    for word in range(whole):
        i = np.uint64(4 * word)
        for lane in range(4):
            lanes[np.uint64(lane), data[i + np.uint64(lane)]] += np.uint16(1)
    for i in range(4 * whole, len(data)):
        lanes[0, data[i]] += np.uint16(1)
    for value in range(256):
        total = np.uint16(0)
        for lane in range(4):
            total += lanes[lane, value]
        counts[value] = total


@compiled
def _count_strings(
    data: NDArray[np.uint8], start: int, stop: int, run: int, characters: NDArray[np.int64]
) -> tuple[int, int, int]:
    """Count the strings that end in data[start:stop]; `run` printable bytes stand before it.

    Returns how many ended, their length together, and the printable bytes that are open at the end.
    The state is a number and not a branch on each byte: in random bytes a branch guesses wrong every second time.
    """
    strings = 0
    length = 0
    for j in range(start, stop):
        printable = np.uint8(data[j] - np.uint8(0x20)) < np.uint8(0x60)
        if (run >= SHORTEST_STRING) & (not printable):
            strings += 1
            length += run
            for c in range(j - run, j):
                characters[np.uint8(data[c] - np.uint8(0x20))] += 1
        run = run + 1 if printable else 0
    return strings, length, run


@compiled
def _pass(
    data: NDArray[np.uint8],
    terms: NDArray[np.float32],
    histogram: NDArray[np.int64],
    table: NDArray[np.int64],
    characters: NDArray[np.int64],
) -> tuple[int, int]:
    n = len(data)
    lanes = np.zeros((4, 256), dtype=np.uint16)
    counts = np.zeros(256, dtype=np.int64)
    nibbles = np.zeros(16, dtype=np.int64)
    window = np.zeros(16, dtype=np.int64)
    part = np.zeros(16, dtype=np.float32)
    strings = 0
    length = 0
    run = 0
    for start in range(0, n, STEP):
        stop = min(start + STEP, n)
        _count_block(data[start:stop], lanes, counts)
        for value in range(256):
            histogram[value] += counts[value]
        for v in range(16):
            window[v] = nibbles[v]  # of the block before
            nibbles[v] = 0
            for low in range(16):
                nibbles[v] += counts[16 * v + low]
            window[v] += nibbles[v]
        # A window is this whole block and the one before; a file shorter than one window is one block.
        if (stop - start == STEP and start >= STEP) or (n < WINDOW and stop == n):
            row = _row(window, terms, part)
            for v in range(16):
                table[row, v] += window[v]
        ended, total, run = _count_strings(data, start, stop, run, characters)
        strings += ended
        length += total
    if run >= SHORTEST_STRING:
        strings += 1
        length += run
        for c in range(n - run, n):
            characters[np.uint8(data[c] - np.uint8(0x20))] += 1
    return strings, length


@compiled
def _count_bytes(data: NDArray[np.uint8], counts: NDArray[np.int64]) -> None:
    for i in range(len(data)):
        counts[data[i]] += 1


def entropy_of(counts: NDArray[np.int64]) -> float:
    """Shannon entropy, in bits, of a table of counts; 0 when it is empty."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(-(p * np.log2(p)).sum()) + 0.0


def entropy(data: NDArray[np.uint8]) -> float:
    """Shannon entropy of uint8[n], in bits."""
    counts = np.zeros(256, dtype=np.int64)
    _count_bytes(data, counts)
    return entropy_of(counts)


def byte_statistics(data: NDArray[np.uint8]) -> ByteStatistics:
    """Compute the byte-level groups of uint8[n]; an empty file gives zeros."""
    histogram = np.zeros(256, dtype=np.int64)
    table = np.zeros((16, 16), dtype=np.int64)
    characters = np.zeros(96, dtype=np.int64)
    strings, length = _pass(data, TERMS, histogram, table, characters)
    n = len(data)
    bits = entropy_of(histogram)
    general = np.zeros(7, dtype=np.float32)
    general[0], general[1] = n, bits
    general[3 : 3 + min(4, n)] = data[:4]
    text = np.zeros(100, dtype=np.float32)
    if strings:
        text[:3] = strings, length / strings, length
        text[3:99] = characters / length
        text[99] = entropy_of(characters)
    return ByteStatistics(
        general,
        (histogram / max(n, 1)).astype(np.float32),
        (table.reshape(-1) / max(int(table.sum()), 1)).astype(np.float32),
        text,
        bits,
    )


def byte_groups(statistics: ByteStatistics, groups: Groups) -> dict[str, Vector]:
    """The vectors of a file of which nothing but its bytes is known: groups of headers are zeros."""
    vectors = {group: np.zeros(len(names), dtype=np.float32) for group, names in groups.items()}
    for group in ("general", "histogram", "byteentropy", "strings"):
        vectors[group] = getattr(statistics, group)
    return vectors
