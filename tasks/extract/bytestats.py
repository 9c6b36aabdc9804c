"""Byte-level feature groups, in one pass over the bytes (definitions: EMBER2024's, see `layout`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.extract.layout import Groups
from tasks.jit import compiled, leading_zeros, trailing_zeros

Vector = NDArray[np.float32]

WINDOW = 2048
STEP = 1024
SHORTEST_STRING = 5
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


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
def _count(data: NDArray[np.uint8], start: int, stop: int, lanes: NDArray[np.uint32]) -> None:
    """Count the bytes data[start:stop] into four counters each, that take turns.

    So a run of equal bytes does not wait for one counter's last store.
    """
    whole = (stop - start) // 4
    for word in range(whole):
        i = np.uint64(start + 4 * word)
        for lane in range(4):
            lanes[np.uint64(lane), data[i + np.uint64(lane)]] += np.uint32(1)
    for i in range(start + 4 * whole, stop):
        lanes[0, data[i]] += np.uint32(1)


@compiled
def _count_block(
    data: NDArray[np.uint8],
    start: int,
    stop: int,
    lanes: NDArray[np.uint16],
    counts: NDArray[np.uint16],
    histogram: NDArray[np.int64],
    nibbles: NDArray[np.int64],
) -> None:
    """Add the bytes of one block of at most 4 095 to the histogram, and count its high nibbles."""
    lanes[:] = 0
    whole = (stop - start) // 4
    for word in range(whole):
        i = np.uint64(start + 4 * word)
        for lane in range(4):
            lanes[np.uint64(lane), data[i + np.uint64(lane)]] += np.uint16(1)
    for i in range(start + 4 * whole, stop):
        lanes[0, data[i]] += np.uint16(1)
    for value in range(256):
        counts[value] = lanes[0, value] + lanes[1, value] + lanes[2, value] + lanes[3, value]
    for value in range(256):
        histogram[value] += counts[value]
    # Four counts of 16 bits in a word: three additions and a multiplication add up sixteen of them.
    words = counts.view(np.uint64)
    for v in range(16):
        k = 4 * v
        four = words[k] + words[k + 1] + words[k + 2] + words[k + 3]
        nibbles[v] = np.int64((four * np.uint64(0x0001000100010001)) >> np.uint64(48))


@compiled
def _printable(words: NDArray[np.uint64], at: int) -> np.uint64:
    """Bit i: whether byte i of words[at:at + 8] is in 0x20-0x7f (bit 7 clear, bit 5 or 6 set)."""
    mask = np.uint64(0)
    for j in range(8):
        word = words[np.uint64(at + j)]
        found = ~word & ((word << np.uint64(1)) | (word << np.uint64(2))) & np.uint64(0x8080808080808080)
        # The multiplication gathers the lowest bits of eight bytes in the highest byte.
        gathered = ((found >> np.uint64(7)) * np.uint64(0x0102040810204080)) >> np.uint64(56)
        mask |= gathered << np.uint64(8 * j)
    return mask


@compiled
def _count_strings(
    data: NDArray[np.uint8], start: int, stop: int, run: int, characters: NDArray[np.uint32]
) -> tuple[int, int, int]:
    """Count the strings that end in data[start:stop]; `run` printable bytes stand before it.

    Returns how many ended, their length together, and the printable bytes that are open at the end.
    64 bytes are one word of bits: what costs time is a string, not a byte.
    """
    strings = 0
    length = 0
    words = data[start : start + (stop - start) // 64 * 64].view(np.uint64)
    for block in range(len(words) // 8):
        base = start + 64 * block
        mask = _printable(words, 8 * block)
        if mask == ALL:
            run += 64
            continue
        ended = trailing_zeros(~mask)  # bytes that still belong to the open run
        if run + ended >= SHORTEST_STRING:
            strings += 1
            length += run + ended
            _count(data, base - run, base + ended, characters)
        run = leading_zeros(~mask)
        mask &= ~((np.uint64(1) << np.uint64(ended)) - np.uint64(1)) & (ALL >> np.uint64(run))
        starts = mask & (mask >> np.uint64(1))
        starts &= starts >> np.uint64(2)
        starts &= mask >> np.uint64(4)  # five set bits follow
        while starts:
            first = trailing_zeros(starts)
            count = trailing_zeros(~(mask >> np.uint64(first)))
            strings += 1
            length += count
            for c in range(base + first, base + first + count):
                characters[c & 3, data[c]] += np.uint32(1)
            if first + count >= 64:
                break
            starts &= ~((np.uint64(1) << np.uint64(first + count)) - np.uint64(1))
    for j in range(start + 8 * len(words), stop):
        if np.uint8(data[j] - np.uint8(0x20)) < np.uint8(0x60):
            run += 1
            continue
        if run >= SHORTEST_STRING:
            strings += 1
            length += run
            _count(data, j - run, j, characters)
        run = 0
    return strings, length, run


@compiled
def _pass(
    data: NDArray[np.uint8],
    terms: NDArray[np.float32],
    histogram: NDArray[np.int64],
    table: NDArray[np.int64],
    characters: NDArray[np.uint32],
) -> tuple[int, int]:
    n = len(data)
    lanes = np.zeros((4, 256), dtype=np.uint16)
    counts = np.zeros(256, dtype=np.uint16)
    nibbles = np.zeros(16, dtype=np.int64)
    window = np.zeros(16, dtype=np.int64)
    part = np.zeros(16, dtype=np.float32)
    strings = 0
    length = 0
    run = 0
    for start in range(0, n, STEP):
        stop = min(start + STEP, n)
        for v in range(16):
            window[v] = nibbles[v]  # of the block before
        _count_block(data, start, stop, lanes, counts, histogram, nibbles)
        # A window is this whole block and the one before; a file shorter than one window is one block.
        if (stop - start == STEP and start >= STEP) or (n < WINDOW and stop == n):
            for v in range(16):
                window[v] += nibbles[v]
            row = _row(window, terms, part)
            for v in range(16):
                table[row, v] += window[v]
        ended, total, run = _count_strings(data, start, stop, run, characters)
        strings += ended
        length += total
    if run >= SHORTEST_STRING:
        strings += 1
        length += run
        _count(data, n - run, n, characters)
    return strings, length


def entropy_of(counts: NDArray[np.int64]) -> float:
    """Shannon entropy, in bits, of a table of counts; 0 when it is empty."""
    total = int(counts.sum())
    if total == 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(-(p * np.log2(p)).sum()) + 0.0


def entropy(data: NDArray[np.uint8]) -> float:
    """Shannon entropy of uint8[n], in bits."""
    lanes = np.zeros((4, 256), dtype=np.uint32)
    _count(data, 0, len(data), lanes)
    return entropy_of(lanes.sum(axis=0, dtype=np.int64))


def byte_statistics(data: NDArray[np.uint8]) -> ByteStatistics:
    """Compute the byte-level groups of uint8[n]; an empty file gives zeros."""
    histogram = np.zeros(256, dtype=np.int64)
    table = np.zeros((16, 16), dtype=np.int64)
    lanes = np.zeros((4, 256), dtype=np.uint32)
    strings, length = _pass(data, TERMS, histogram, table, lanes)
    characters = lanes.sum(axis=0, dtype=np.int64)[0x20:0x80]
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
