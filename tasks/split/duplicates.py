"""Kinds of duplicate: which samples are equal, which are near, and the clusters they make.

Nothing here grows with the number of pairs. A sample costs some 500 bytes of memory; MinHash signatures stay in a
file that is mapped, 1 KiB a sample; pairs come in blocks and go into a union-find.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.recipe import Dedup
from tasks.split.components import Components
from tasks.split.near import Pairs, Rows, different_places, digests, minhash_pairs, packed, tlsh_pairs

KINDS = ("features", "tlsh", "imports", "strings")
"""What duplicates are found by, apart from equal bytes: those are one sample with one id."""

PLACES = 128
"""Places of a MinHash signature."""

BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of duplicate among samples 0 to n - 1.

    Attributes
    ----------
    name
        One of `KINDS`.
    first
        int32[n]: the first sample with an equal value; -1 for a sample that has none.
    pairs
        Near pairs among these first ones, up to a distance; none for a kind that is equal or nothing.
    """

    name: str
    first: Rows
    pairs: Callable[[int], Iterator[Pairs]]

    def clusters(self, limit: int) -> Rows:
        """Smallest sample of each one's component, int32[n]; -1 where there is no value."""
        there = np.flatnonzero(self.first >= 0).astype(np.int32)
        components = Components(len(self.first))
        components.join(there, self.first[there])
        for pairs in self.pairs(limit):
            components.join(pairs.a, pairs.b)
        return np.where(self.first >= 0, components.roots(), np.int32(-1))


def limit_of(kind: str, dedup: Dedup) -> int:
    """Largest distance at which the recipe calls two samples duplicates: of TLSH, or in places of a signature."""
    if kind == "tlsh":
        return dedup.tlsh_distance
    return 0 if kind == "features" else different_places(dedup.jaccard, PLACES)


class _Values:
    """Values of one kind as they come: 16 bytes of BLAKE2 for each, by which equal ones are found."""

    def __init__(self, n: int) -> None:
        self.keys = np.zeros(n, dtype="S16")
        self.there = np.zeros(n, dtype=np.bool_)

    def add(self, samples: Rows, values: list[bytes]) -> None:
        self.keys[samples] = [hashlib.blake2b(value, digest_size=16).digest() for value in values]
        self.there[samples] = True

    def first(self) -> Rows:
        places = np.flatnonzero(self.there).astype(np.int32)
        found = np.full(len(self.keys), -1, dtype=np.int32)
        _, first, inverse = np.unique(self.keys[places], return_index=True, return_inverse=True)
        found[places] = places[first[inverse]]
        return found


def _stream(database: Any, sql: str) -> Iterator[tuple[Rows, list[Any]]]:
    reader = database.execute(sql).to_arrow_reader(BATCH)
    for batch in reader:
        yield batch.column(0).to_numpy().astype(np.int32), batch.column(1).to_pylist()


def _near_none(limit: int) -> Iterator[Pairs]:
    return iter(())


def features_kind(database: Any, n: int) -> Kind:
    """Equal feature vectors. Tables `vectors` and `ids` (sample_id, idx) must be there."""
    values = _Values(n)
    for samples, texts in _stream(database, "SELECT idx, vector_sha256 FROM vectors JOIN ids USING (sample_id)"):
        values.add(samples, [text.encode() for text in texts])
    return Kind("features", values.first(), _near_none)


def tlsh_kind(database: Any, n: int) -> Kind:
    """Near bytes. Tables `binaries` and `ids` must be there."""
    values, raw = _Values(n), np.zeros((n, 35), dtype=np.uint8)
    sql = "SELECT idx, tlsh FROM binaries JOIN ids ON sample_id = sha256 WHERE tlsh IS NOT NULL"
    for samples, texts in _stream(database, sql):
        raw[samples] = packed(texts)
        values.add(samples, [text.encode() for text in texts])
    first = values.first()
    distinct = np.flatnonzero(first == np.arange(n)).astype(np.int32)

    def pairs(limit: int) -> Iterator[Pairs]:
        for found in tlsh_pairs(digests(raw[distinct]), limit):
            yield Pairs(distinct[found.a], distinct[found.b], found.distance)

    return Kind("tlsh", first, pairs)


def minhash_kind(database: Any, n: int, name: str, folder: Path) -> Kind:
    """Near sets. Tables `vectors` and `ids` must be there; the signatures go to a file in `folder`."""
    values = _Values(n)
    signatures: NDArray[np.uint32] = np.memmap(folder / name, dtype="<u4", mode="w+", shape=(max(n, 1), PLACES))
    column = f"{name}_minhash"
    sql = f"SELECT idx, {column} FROM vectors JOIN ids USING (sample_id) WHERE {column} IS NOT NULL"
    for samples, texts in _stream(database, sql):
        signatures[samples] = np.frombuffer(b"".join(texts), dtype="<u4").reshape(-1, PLACES)
        values.add(samples, texts)
    first = values.first()
    distinct = np.flatnonzero(first == np.arange(n)).astype(np.int32)

    def pairs(limit: int) -> Iterator[Pairs]:
        for found in minhash_pairs(signatures, distinct, limit):
            yield Pairs(distinct[found.a], distinct[found.b], found.distance)

    return Kind(name, first, pairs)


def together(clusters: list[Rows], n: int) -> Rows:
    """Clusters of several kinds joined, int32[n]: the smallest sample of each one's component."""
    components = Components(n)
    for found in clusters:
        there = np.flatnonzero(found >= 0).astype(np.int32)
        components.join(there, found[there])
    return components.roots()


def sizes(clusters: Rows) -> dict[str, int]:
    """How many clusters have two samples and more, how many samples these have, and the largest one's size."""
    _, count = np.unique(clusters[clusters >= 0], return_counts=True)
    several = count[count > 1]
    return {"clusters": len(several), "samples": int(several.sum()), "largest": int(count.max(initial=0))}
