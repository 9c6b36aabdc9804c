"""A JSON-like tree as one vector in which similar structure is near: bundling, and binding by orthogonal maps.

A key of an object is an orthogonal map, drawn by the key's text: a permutation of the components with signs. What
stands under the key is sent through it, and an object is the sum of what its keys give: so `{"text": {"size": 7}}` is
P_text P_size a(7), and two trees are near as far as the same leaves stand under the same paths. The maps can be undone:
`unbind(v, "text")` is what stood under `text`, and noise that is nearly orthogonal to it. See Plate, Holographic
reduced representations (1995), and Gayler, Multiplicative binding, representation operators and analogy (1998).

Texts are atoms: signs drawn by the text, nearly orthogonal to each other's. Numbers are quantised waves of their
logarithm, so that near magnitudes are near (random binary features of a shift-invariant kernel: Raginsky and Lazebnik,
Locality-sensitive binary codes from shift-invariant kernels, 2009). A list is a bag: its order does not show.

All of it is whole numbers, drawn by SHAKE: the same bits on every machine.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]

DIMENSIONS = 1024
"""Components of a vector."""
UNIT = 1 << 10
"""Root mean square of a component of each subtree: all that stand in one object count the same."""
MOST = 1 << 16
"""Members of a list or object that are looked at, in the order of their text: sums stay within 64 bits."""
DEPTH = 32
"""Levels that are looked at."""
CHUNK = 1024
"""Texts whose atoms are in memory together."""
ONE = 1 << 16
"""1 where numbers are fractions of whole numbers."""
FINE = 256
"""Steps of a number's logarithm in one doubling."""


def embedding(tree: Any) -> NDArray[np.float32]:
    """A tree of objects, lists, texts, numbers, truth values and nulls as a vector.

    Returns
    -------
    float32[1024]
        Of norm near 32 (1 a component); zeros for an empty object, an empty list or null.
    """
    return (_vector(tree, 0) / UNIT).astype(np.float32)


def unbind(vector: NDArray[np.float32], key: str) -> NDArray[np.float32]:
    """What stood under a key, with noise of what stood under others: float32[1024]. Undoes the key's map."""
    places, signs = _map(key)
    found = np.empty_like(vector)
    found[places] = vector * signs
    return found


def _vector(tree: Any, depth: int) -> Whole:
    if tree is None or depth > DEPTH:
        return np.zeros(DIMENSIONS, np.int64)
    if isinstance(tree, Mapping):
        return _object(tree, depth)
    if isinstance(tree, list | tuple):
        return _bag(tree, depth)
    if isinstance(tree, int | float) and not isinstance(tree, bool):
        return _number(tree) * UNIT
    return _atoms([f"{type(tree).__name__}:{tree}"])[0] * UNIT


def _object(tree: Mapping[Any, Any], depth: int) -> Whole:
    total = np.zeros(DIMENSIONS, np.int64)
    for key in sorted(map(str, tree))[:MOST]:
        places, signs = _map(key)
        total += _vector(tree[key], depth + 1)[places] * signs
    return _scaled(total)


def _bag(members: Iterable[Any], depth: int) -> Whole:
    some = list(members)
    words = sorted(f"str:{member}" for member in some if isinstance(member, str))[:MOST]
    total = np.zeros(DIMENSIONS, np.int64)
    for start in range(0, len(words), CHUNK):
        total += _bits(words[start : start + CHUNK]).sum(axis=0, dtype=np.int64)
    total = (2 * total - len(words)) * UNIT
    for member in [member for member in some if not isinstance(member, str)][:MOST]:
        total += _vector(member, depth + 1)
    return _scaled(total)


def _scaled(total: Whole) -> Whole:
    """A sum brought to the norm of one vector, rounded to whole numbers."""
    norm = math.isqrt(int((total * total).sum()))
    if norm == 0:
        return total
    return (2 * total * (UNIT * math.isqrt(DIMENSIONS)) + norm) // (2 * norm)


def _drawn(use: str, text: str, count: int) -> bytes:
    return hashlib.shake_128(f"binmill\0{use}\0{text}".encode("utf-8", "surrogatepass")).digest(count)


def _bits(words: list[str]) -> NDArray[np.uint8]:
    drawn = np.frombuffer(b"".join(_drawn("atom", word, DIMENSIONS // 8) for word in words), np.uint8)
    return np.unpackbits(drawn.reshape(len(words), -1), axis=1)


def _atoms(words: list[str]) -> Whole:
    """Signs drawn by each text: int64[n, 1024]."""
    return _bits(words).astype(np.int64) * 2 - 1


@lru_cache(maxsize=4096)
def _map(key: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A key's permutation, as places to take from, and its signs."""
    drawn = np.frombuffer(_drawn("map", key, 8 * DIMENSIONS), "<u8")
    return np.argsort(drawn, kind="stable"), _atoms([f"signs:{key}"])[0]


@lru_cache(maxsize=1)
def _waves() -> tuple[Whole, Whole]:
    """Frequency and phase of each component, in 1/65536 of a wave for a step and of a wave."""
    drawn = np.frombuffer(_drawn("waves", "", 4 * DIMENSIONS), "<u2").astype(np.int64).reshape(2, -1)
    # Numbers 1, 2, 4 and 8 doublings apart have about .84, .69, .46 and .5 of their signs in common.
    return drawn[0] % 41, drawn[1]


def _number(value: float) -> Whole:
    """Signs of a number: waves of its logarithm, of components that its sign decides."""
    if not math.isfinite(value):
        return _atoms([f"number:{value}"])[0]
    steps = _logarithm(round((1 + Fraction(abs(value))) * ONE))
    frequency, phase = _waves()
    signs = np.where((steps * frequency + phase) & 0xFFFF < 0x8000, 1, -1)
    return signs * _atoms(["number:-" if value < 0 else "number:+"])[0]


def _logarithm(value: int) -> int:
    """log2(value / ONE) in steps of 1/256, linear between powers of two: whole numbers in, whole numbers out."""
    power = value.bit_length() - 1
    return (power - 16) * FINE + ((value * FINE) >> power) - FINE
