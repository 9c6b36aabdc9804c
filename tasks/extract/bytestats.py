"""Byte-level feature groups, in one pass over the bytes (definitions: EMBER2024's, see `layout`)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

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
def _row(nibbles: NDArray[np.int64], terms: NDArray[np.float32]) -> int:
    """Row of the byte-entropy table; adds up the present terms in the order NumPy's pairwise sum does."""
    part = np.zeros(16, dtype=np.float32)
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
def _pass(
    data: NDArray[np.uint8],
    terms: NDArray[np.float32],
    histogram: NDArray[np.int64],
    table: NDArray[np.int64],
    characters: NDArray[np.int64],
) -> tuple[int, int]:
    n = len(data)
    # Four counters in turn: neighbouring equal bytes do not wait for each other's store.
    chunk = np.zeros((4, 256), dtype=np.int64)
    nibbles = np.zeros(16, dtype=np.int64)
    before = np.zeros(16, dtype=np.int64)
    window = np.zeros(16, dtype=np.int64)
    strings = 0
    length = 0
    run = 0  # start of the printable run that is open, if one is
    open_run = False
    for start in range(0, n, STEP):
        stop = min(start + STEP, n)
        i = start
        while i + 4 <= stop:
            chunk[0, data[i]] += 1
            chunk[1, data[i + 1]] += 1
            chunk[2, data[i + 2]] += 1
            chunk[3, data[i + 3]] += 1
            i += 4
        while i < stop:
            chunk[0, data[i]] += 1
            i += 1
        for high in range(16):
            total = 0
            for low in range(16):
                value = (high << 4) | low
                count = chunk[0, value] + chunk[1, value] + chunk[2, value] + chunk[3, value]
                histogram[value] += count
                total += count
            nibbles[high] = total
        chunk[:] = 0
        if stop - start == STEP and start >= STEP:
            for v in range(16):
                window[v] = before[v] + nibbles[v]
            row = _row(window, terms)
            for v in range(16):
                table[row, v] += window[v]
        elif n < WINDOW:  # a file shorter than one window is one block
            for v in range(16):
                before[v] += nibbles[v]
            if stop == n:
                row = _row(before, terms)
                for v in range(16):
                    table[row, v] += before[v]
        if n >= WINDOW:
            before[:] = nibbles
        for j in range(start, stop):
            if np.uint8(data[j] - np.uint8(0x20)) < np.uint8(0x60):
                if not open_run:
                    run = j
                    open_run = True
            elif open_run:
                open_run = False
                if j - run >= SHORTEST_STRING:
                    strings += 1
                    length += j - run
                    for c in range(run, j):
                        characters[data[c] - 0x20] += 1
    if open_run and n - run >= SHORTEST_STRING:
        strings += 1
        length += n - run
        for c in range(run, n):
            characters[data[c] - 0x20] += 1
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
