"""Duplicates: TLSH against py-tlsh, MinHash against datasketch (where these are installed), clusters of 100 000."""

import importlib
import importlib.util
import sysconfig
import tracemalloc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.extract.similarity import minhash, string_keys, tlsh, token_keys
from tasks.split.components import Components
from tasks.split.near import Pairs, different_places, digests, minhash_pairs, tlsh_pairs
from tests.benchmarks.report import Measurement, median_time

MEGABYTES = 32
SETS, TOKENS = 200, 500
MANY, FEW = 100_000, 10_000
FAMILY = 5
"""Synthetic samples have so many relatives each, on average."""
JACCARD = 0.9


def _library(name: str) -> Any:
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None


def _clusters(n: int, pairs: Callable[[], Iterable[Pairs]]) -> NDArray[np.int32]:
    components = Components(n)
    for block in pairs():
        components.join(block.a, block.b)
    return components.roots()


def _peak(function: Callable[[], object]) -> float:
    """Most memory that NumPy and Python held beyond what was there, in MiB."""
    tracemalloc.start()
    function()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def _raw_digests(n: int) -> NDArray[np.uint8]:
    """Families of digests: headers of a log-normal corpus, bodies some bits apart."""
    rng = np.random.default_rng(0)
    families = n // FAMILY
    family = rng.integers(0, families, n)
    raw = rng.integers(0, 256, (families, 35), dtype=np.uint8)[family]
    length = np.clip(rng.normal(100, 12, families), 0, 255).astype(np.uint8)[family]
    raw[:, 1] = length >> 4 | length << 4
    for _ in range(6):
        bits = np.left_shift(1, rng.integers(0, 8, n)).astype(np.uint8)
        raw[np.arange(n), rng.integers(3, 35, n)] ^= bits
    return raw


def _signatures(n: int) -> NDArray[np.uint32]:
    """Families of signatures: between one and three of ten places drawn anew."""
    rng = np.random.default_rng(1)
    found = rng.integers(0, 2**32, (n // FAMILY, 128), dtype=np.uint32)[rng.integers(0, n // FAMILY, n)]
    anew = rng.random(found.shape) < rng.choice([0.02, 0.08, 0.2], (n, 1))
    found[anew] = rng.integers(0, 2**32, int(anew.sum()), dtype=np.uint32)
    return found


def _datasketch_set(library: Any, tokens: list[bytes]) -> Any:
    found = library.MinHash(num_perm=128)
    found.update_batch(tokens)
    return found


def _datasketch_pairs(library: Any, signatures: NDArray[np.uint32]) -> set[tuple[int, int]]:
    """Pairs as one would find them with datasketch: its index for candidates, its estimate to check them."""
    index = library.MinHashLSH(threshold=JACCARD, num_perm=128)
    sets = [library.MinHash(num_perm=128, hashvalues=row.astype(np.uint64), scheme="legacy") for row in signatures]
    for i, found in enumerate(sets):
        index.insert(i, found, check_duplication=False)
    return {
        (i, j)
        for i, found in enumerate(sets)
        for j in index.query(found)
        if i < j and found.jaccard(sets[j]) >= JACCARD
    }


def _of_bytes() -> list[Measurement]:
    modules = sorted(p for p in Path(sysconfig.get_paths()["platlib"]).rglob("*.so") if p.stat().st_size < 3_000_000)
    code = b"".join(path.read_bytes() for path in modules)
    code = (code * ((MEGABYTES << 20) // len(code) + 1))[: MEGABYTES << 20]
    view, words = np.frombuffer(code, dtype=np.uint8), np.frombuffer(code, dtype=np.uint64)
    library = _library("tlsh")
    assert library is None or tlsh(view) == library.hash(code), "TLSH differs from py-tlsh's"
    size, floor = f"{len(code) / 1e6:.0f} MB", median_time(words.sum)
    found: list[Measurement] = []
    for name, function, peer in (
        ("TLSH, native modules", partial(tlsh, view), None if library is None else partial(library.hash, code)),
        ("strings to signature, native modules", lambda: minhash(string_keys(view)), None),
    ):
        seconds = median_time(function, 3)
        found.append(
            Measurement(
                name, size, seconds, "py-tlsh" if peer else None, median_time(peer, 3) if peer else None, floor,
                f"{len(code) / 1e6 / seconds:.0f} MB/s; floor: one read",
            )
        )  # fmt: skip
    return found


def _of_sets() -> Measurement:
    texts = [[f"library.dll:symbol_{s}_{i}" for i in range(TOKENS)] for s in range(SETS)]
    encoded = [[text.encode() for text in tokens] for tokens in texts]
    library = _library("datasketch")
    peer = None if library is None else median_time(lambda: [_datasketch_set(library, t) for t in encoded], 3)
    return Measurement(
        "MinHash, 128 places", f"{SETS} sets of {TOKENS}",
        median_time(lambda: [minhash(token_keys(tokens)) for tokens in texts], 3),
        None if library is None else "datasketch", peer,
    )  # fmt: skip


def _near_pairs() -> Measurement:
    signatures, rows = _signatures(FEW), np.arange(FEW, dtype=np.int32)
    ours = partial(minhash_pairs, signatures, rows, different_places(JACCARD, 128))
    library = _library("datasketch")
    peer, note = None, ""
    if library is not None:
        found = {(min(a, b), max(a, b)) for block in ours() for a, b in zip(block.a, block.b, strict=True)}
        theirs = _datasketch_pairs(library, signatures)
        assert theirs <= found, "datasketch finds a pair that we miss"
        peer = median_time(partial(_datasketch_pairs, library, signatures), 1)
        note = f"{len(found):,} pairs, all of them; datasketch finds {len(theirs) / len(found):.1%}"
    return Measurement(
        f"MinHash pairs, {JACCARD}", f"{FEW:,} signatures", median_time(lambda: list(ours()), 3),
        None if library is None else "datasketch LSH", peer, note=note,
    )  # fmt: skip


def run() -> list[Measurement]:
    """Measure on this environment's native modules and on synthetic families."""
    found = [*_of_bytes(), _of_sets(), _near_pairs()]
    raw, signatures, rows = _raw_digests(MANY), _signatures(MANY), np.arange(MANY, dtype=np.int32)
    limit = different_places(JACCARD, 128)
    for name, pairs in (
        ("clusters by TLSH, 30", lambda: tlsh_pairs(digests(raw), 30)),
        (f"clusters by MinHash, {JACCARD}", lambda: minhash_pairs(signatures, rows, limit)),
    ):
        cluster = partial(_clusters, MANY, pairs)
        number = len(np.unique(cluster()))
        note = f"{number:,} clusters, every near pair found; {_peak(cluster):.0f} MiB beside the input"
        found.append(Measurement(name, f"{MANY:,}", median_time(cluster, 3), note=note))
    return found
