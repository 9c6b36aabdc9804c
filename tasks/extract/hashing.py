"""Feature hashing with signed 32-bit MurmurHash3 (seed 0), equal to scikit-learn's `FeatureHasher`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.jit import compiled


@compiled
def _murmur3(data: NDArray[np.uint8], start: int, stop: int) -> np.int32:
    """MurmurHash3_x86_32 of data[start:stop], seed 0 (Appleby, public domain), in 64-bit arithmetic."""
    mask = np.uint64(0xFFFFFFFF)
    c1, c2 = np.uint64(0xCC9E2D51), np.uint64(0x1B873593)
    h = np.uint64(0)
    length = stop - start
    blocks = length // 4
    for b in range(blocks):
        at = start + 4 * b
        k = (
            np.uint64(data[at])
            | np.uint64(data[at + 1]) << np.uint64(8)
            | np.uint64(data[at + 2]) << np.uint64(16)
            | np.uint64(data[at + 3]) << np.uint64(24)
        )
        k = (k * c1) & mask
        k = ((k << np.uint64(15)) | (k >> np.uint64(17))) & mask
        k = (k * c2) & mask
        h ^= k
        h = ((h << np.uint64(13)) | (h >> np.uint64(19))) & mask
        h = (h * np.uint64(5) + np.uint64(0xE6546B64)) & mask
    k = np.uint64(0)
    tail = start + 4 * blocks
    for i in range(stop - tail):
        k |= np.uint64(data[tail + i]) << np.uint64(8 * i)
    if stop > tail:
        k = (k * c1) & mask
        k = ((k << np.uint64(15)) | (k >> np.uint64(17))) & mask
        k = (k * c2) & mask
        h ^= k
    h ^= np.uint64(length)
    h ^= h >> np.uint64(16)
    h = (h * np.uint64(0x85EBCA6B)) & mask
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(0xC2B2AE35)) & mask
    h ^= h >> np.uint64(16)
    return np.int32(np.uint32(h))


@compiled
def _hash_all(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    values: NDArray[np.float64],
    alternate_sign: bool,
    result: NDArray[np.float64],
) -> None:
    n = len(result)
    for i in range(len(values)):
        h = np.int64(_murmur3(data, offsets[i], offsets[i + 1]))
        # |INT32_MIN| has no int32: scikit-learn's own way round it.
        place = (2147483647 - (n - 1)) % n if h == -2147483648 else abs(h) % n
        result[place] += -values[i] if alternate_sign and h < 0 else values[i]


def hashed(
    tokens: Sequence[bytes],
    values: Sequence[float] | None,
    n: int,
    *,
    alternate_sign: bool = True,
) -> NDArray[np.float32]:
    """Hash tokens (with a value each, or 1) into n slots.

    Parameters
    ----------
    tokens
        Byte strings (UTF-8 where they were text).
    values
        One number a token.
    n
        Slots.
    alternate_sign
        Subtract the value where the hash is negative.

    Returns
    -------
    float32[n]
        Sums, added up in float64. Equal to `FeatureHasher(n, input_type="pair")` (or `"string"`).
    """
    result = np.zeros(n, dtype=np.float64)
    if tokens:
        offsets = np.zeros(len(tokens) + 1, dtype=np.int64)
        np.cumsum([len(token) for token in tokens], out=offsets[1:])
        data = np.frombuffer(b"".join(tokens) or b"\0", dtype=np.uint8)
        weights = np.ones(len(tokens)) if values is None else np.asarray(values, dtype=np.float64)
        _hash_all(data, offsets, weights, alternate_sign, result)
    return result.astype(np.float32)
