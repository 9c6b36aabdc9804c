"""What near-duplicates are known by: TLSH of the bytes, MinHash of the imports and of the strings.

TLSH is Oliver, Cheng and Chen's locality-sensitive digest (2013) in its `T1` form: 128 buckets, one byte of
checksum. MinHash is Broder's (1997): the share of equal places in two signatures estimates the Jaccard index of
the two sets.
"""

import base64
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled

Words = NDArray[np.uint64]

PERMUTATIONS = 128
"""Places of a MinHash signature. The estimate's standard error is at most sqrt(1/4 / 128) = 0.044, at J = .9 0.027."""

SHORTEST_STRING = 6
"""Printable bytes of a string that counts; in code, shorter ones are mostly instructions that look like text."""

STRINGS = 1 << 16
"""Distinct strings that are held at once. A file with more is known by a sample of them, see `string_keys`."""

SIGNATURES = ("imports_minhash", "strings_minhash")
"""Names of the signatures in a file's row; they are not columns of `binaries`."""

FEWEST_TOKENS = 16
"""A smaller set says nothing: the same ten imports of a C runtime do not make two programs one."""

_DIGEST = re.compile(r"T1[0-9A-F]{70}")
_SHORTEST_FILE = 50
_LONGEST_FILE = 2**32 - 1

# Pearson's permutation (1990).
_PEARSON = np.frombuffer(
    bytes.fromhex(
        "0157310cb0b266a679c10654f9e62ca30ec5d5b5a155da5040ef18e2ec8e26c8"
        "6eb168678dfdff324d6551122d601fde196bbe4656edf02248f214d6f4e395eb"
        "61ea39163cfa52afd0057fc76f3e87f8aea9d33a429a6ac3f5ab11bbb6b300f3"
        "8438944b80859e64827e5b0d99f6d8db7744df4e5358c9637a0b5c208872340a"
        "8a1e30b79c233d1a8f4afb5e81a23f98aa0773a7f1ce0396373b97dc5a351783"
        "7dad0fee4f5f59106989e1e0d9a0257b7649029d2e74099186e4cfd4cad745e5"
        "1bbc437ca8fc2a041d6c15f713cd27cbe928ba93c6c09b21a4bf62cca5b4754c"
        "8c24d2ac29369f08b9e871c4e72f927833411c90fedd5dbdc28b702b476db8d1"
    ),
    dtype=np.uint8,
)


def _two_steps(salt: int) -> NDArray[np.uint32]:
    """uint32[65536]: two steps of Pearson's hash, by its first byte (high half of the index) and its second."""
    first = _PEARSON[np.arange(256, dtype=np.uint8) ^ _PEARSON[salt]]
    return _PEARSON[first[:, None] ^ np.arange(256, dtype=np.uint8)[None, :]].astype(np.uint32).reshape(-1)


# The window has five bytes. A triplet is its last byte and two before it, hashed with the triplet's own salt; those
# that begin with the same two bytes share a table, a byte of its number each. Salt 0 is the checksum's.
_LAST_AND_1 = (_two_steps(0) | _two_steps(2) << 8 | _two_steps(3) << 16 | _two_steps(11) << 24).astype(np.uint32)
_LAST_AND_2 = (_two_steps(5) | _two_steps(7) << 8).astype(np.uint16)
_LAST_AND_3 = _two_steps(13).astype(np.uint8)


@compiled
def _window(
    data: NDArray[np.uint8],
    last: np.uint64,
    last_and_1: NDArray[np.uint32],
    last_and_2: NDArray[np.uint16],
    last_and_3: NDArray[np.uint8],
    counts: NDArray[np.uint32],
) -> np.uint8:
    """Count the six triplets of the window that ends at `last`, into [6, 256]; returns what the checksum takes."""
    one = np.uint32(1)
    b3, b2 = data[last - np.uint64(1)], data[last - np.uint64(2)]
    b1, b0 = data[last - np.uint64(3)], data[last - np.uint64(4)]
    high = np.uint64(data[last]) << np.uint64(8)
    x = last_and_1[high | np.uint64(b3)]
    y = last_and_2[high | np.uint64(b2)]
    counts[0, np.uint8(x >> np.uint32(8)) ^ b2] += one
    counts[1, np.uint8(x >> np.uint32(16)) ^ b1] += one
    counts[2, np.uint8(x >> np.uint32(24)) ^ b0] += one
    counts[3, np.uint8(y) ^ b1] += one
    counts[4, np.uint8(y >> np.uint16(8)) ^ b0] += one
    counts[5, last_and_3[high | np.uint64(b1)] ^ b0] += one
    return np.uint8(x)


@compiled
def _count_triplets(
    data: NDArray[np.uint8],
    last_and_1: NDArray[np.uint32],
    last_and_2: NDArray[np.uint16],
    last_and_3: NDArray[np.uint8],
    pearson: NDArray[np.uint8],
    counts: NDArray[np.uint32],
) -> int:
    """Count the triplets by the index of Pearson's last step, into [2, 6, 256]; returns the checksum.

    That step is a permutation: it is applied to the 256 counts and not to every byte. Two sets of counters take
    turns, so that a run of equal bytes does not wait for one counter's last store.
    """
    checksum = np.uint8(0)
    even, odd = counts[0], counts[1]
    n = len(data)
    for pair in range(2, n // 2):
        i = np.uint64(2 * pair)
        checksum = pearson[_window(data, i, last_and_1, last_and_2, last_and_3, even) ^ checksum]
        checksum = pearson[_window(data, i + np.uint64(1), last_and_1, last_and_2, last_and_3, odd) ^ checksum]
    if n % 2:
        checksum = pearson[_window(data, np.uint64(n - 1), last_and_1, last_and_2, last_and_3, even) ^ checksum]
    return int(checksum)


def _length_code(length: int) -> int:
    """A byte that grows with the logarithm of the length, in single precision as the definition has it."""
    logarithm = float(np.float32(math.log(float(np.float32(length)))))
    if length <= 656:
        return math.floor(logarithm / 0.4054651)
    if length <= 3199:
        return math.floor(logarithm / 0.26236426 - 8.72777)
    return math.floor(logarithm / 0.095310180 - 62.5472)


def tlsh(data: NDArray[np.uint8]) -> str | None:
    """TLSH digest of uint8[n].

    Returns
    -------
    str or None
        `T1` and 70 hexadecimal digits; None for fewer than 50 bytes, for 4 GiB and more, and where the bytes
        vary too little (half of the buckets or more are empty).
    """
    if not _SHORTEST_FILE <= len(data) <= _LONGEST_FILE:
        return None
    counts = np.zeros((2, 6, 256), dtype=np.uint32)
    checksum = _count_triplets(data, _LAST_AND_1, _LAST_AND_2, _LAST_AND_3, _PEARSON, counts)
    buckets = np.zeros(256, dtype=np.int64)
    buckets[_PEARSON] = counts.sum(axis=(0, 1), dtype=np.int64)
    buckets = buckets[:128]
    q1, q2, q3 = (int(q) for q in np.sort(buckets)[[31, 63, 95]])
    if q3 == 0 or np.count_nonzero(buckets) <= 64:
        return None
    pairs = (buckets > q1).astype(np.uint8) + (buckets > q2) + (buckets > q3)
    body = (pairs.reshape(32, 4) << np.array([0, 2, 4, 6])).sum(axis=1).astype(np.uint8)[::-1]
    ratios = (q1 * 100 // q3 % 16) | (q2 * 100 // q3 % 16) << 4
    # The three bytes of the header are written low digit first.
    header = "".join(f"{byte:02X}"[::-1] for byte in (checksum, _length_code(len(data)), ratios))
    return f"T1{header}{body.tobytes().hex().upper()}"


@compiled
def _mix(x: np.uint64) -> np.uint64:
    """Steele, Lea and Flood's finalizer (SplitMix64): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _key(data: NDArray[np.uint8], start: int, stop: int) -> np.uint64:
    """FNV-1a of data[start:stop], mixed; never 0, which stands for an empty slot."""
    h = np.uint64(0xCBF29CE484222325)
    for i in range(start, stop):
        h = (h ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
    return max(_mix(h), np.uint64(1))


@compiled
def _insert(slots: Words, key: np.uint64) -> bool:
    """Put a key into an open-addressing set that has room; whether it is new."""
    mask = np.uint64(len(slots) - 1)
    place = key & mask
    while slots[place]:
        if slots[place] == key:
            return False
        place = (place + np.uint64(1)) & mask
    slots[place] = key
    return True


@compiled
def _printable(byte: np.uint8) -> bool:
    return (np.uint8(byte - np.uint8(0x20)) < np.uint8(0x5F)) | (byte == np.uint8(9))


@compiled
def _sample_strings(data: NDArray[np.uint8], shortest: int, most: int, slots: Words) -> Words:
    limit = ~np.uint64(0)
    count = 0
    n = len(data)
    # Behind a byte that ends strings, the next string holds the byte `shortest` places on: only such are looked at.
    at = shortest - 1
    while at < n:
        if not _printable(data[at]):
            at += shortest
            continue
        start, stop = at, at + 1
        while start > 0 and _printable(data[start - 1]):
            start -= 1
        while stop < n and _printable(data[stop]):
            stop += 1
        at = stop + shortest
        if stop - start < shortest:
            continue
        key = _key(data, start, stop)
        if key <= limit and _insert(slots, key):
            count += 1
            while count > most:
                limit >>= np.uint64(1)
                kept = slots[(slots != np.uint64(0)) & (slots <= limit)]
                slots[:] = np.uint64(0)
                for k in kept:
                    _insert(slots, k)
                count = len(kept)
    return slots[slots != np.uint64(0)]


def string_keys(data: NDArray[np.uint8], most: int = STRINGS) -> Words:
    """64-bit keys of the distinct strings of uint8[n]: runs of 6 and more printable ASCII bytes or tabs.

    Above `most` of them, the keys up to the largest 2⁻ᵏ of the range that leaves no more (Wegman's adaptive
    sampling): memory stays the same whatever the file, and two files keep the same of what they share.

    Returns
    -------
    uint64[m]
        In no order that means anything.
    """
    held = min(most, len(data) // SHORTEST_STRING)
    slots = np.zeros(2 << held.bit_length(), dtype=np.uint64)  # a power of two, of which half is in use at most
    return _sample_strings(data, SHORTEST_STRING, most, slots)


@compiled
def _token_keys(data: NDArray[np.uint8], offsets: NDArray[np.int64], keys: Words) -> None:
    for i in range(len(keys)):
        keys[i] = _key(data, offsets[i], offsets[i + 1])


def token_keys(tokens: Iterable[str]) -> Words:
    """64-bit keys of distinct tokens (text in UTF-8; what is not text is kept as it is), uint64[m]."""
    encoded = [token.encode("utf-8", "surrogateescape") for token in set(tokens)]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(token) for token in encoded], out=offsets[1:])
    keys = np.zeros(len(encoded), dtype=np.uint64)
    _token_keys(np.frombuffer(b"".join(encoded) or b"\0", dtype=np.uint8), offsets, keys)
    return keys


@cache
def _coefficients() -> tuple[Words, Words]:
    """Odd multipliers and addends of the hash functions, from SplitMix64's sequence that starts at 0."""
    state = np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers = np.array([_mix(x) for x in state], dtype=np.uint64)
    return numbers[::2] | np.uint64(1), numbers[1::2].copy()


@compiled
def _minima(keys: Words, multipliers: Words, addends: Words, signature: NDArray[np.uint32]) -> None:
    for key in keys:
        for p in range(len(signature)):
            h = np.uint32((multipliers[p] * key + addends[p]) >> np.uint64(32))
            signature[p] = min(signature[p], h)


def minhash(keys: Words, fewest: int = FEWEST_TOKENS) -> NDArray[np.uint32] | None:
    """MinHash signature of a set of 64-bit keys, uint32[128]; None for a set of fewer than `fewest` keys.

    Hash function p is the high half of a_p·x + b_p modulo 2⁶⁴.
    """
    if len(keys) < fewest:
        return None
    signature = np.full(PERMUTATIONS, 0xFFFFFFFF, dtype=np.uint32)
    _minima(keys, *_coefficients(), signature)
    return signature


def as_text(signature: NDArray[np.uint32] | None) -> str | None:
    """A signature in base64, little-endian, as it leaves the process that parses."""
    return None if signature is None else base64.b64encode(signature.astype("<u4").tobytes()).decode("ascii")


def is_signature(value: Any) -> bool:
    """Whether `as_text` may have made it; for what comes from a process that met hostile bytes."""
    if type(value) is not str:
        return value is None
    try:
        return len(base64.b64decode(value, validate=True)) == 4 * PERMUTATIONS
    except ValueError:
        return False


def is_tlsh(value: Any) -> bool:
    """Whether `tlsh` may have made it."""
    return value is None or (type(value) is str and _DIGEST.fullmatch(value) is not None)
