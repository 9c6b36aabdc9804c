"""Search by bit codes against faiss and usearch, in one run; one thread each, except where a line says two."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.binarize.fitting import Options, fit
from tasks.codes.binarizer import Binarizer, Encoded
from tasks.codes.hamming import hamming_top_k
from tasks.codes.rescore import exact_top_k, quantise, recall, rescored
from tasks.codes.search import Asked, ask, nearest_codes
from tests.benchmarks.codes_data import made_vectors, text_vectors
from tests.benchmarks.report import Measurement, median_time, read_seconds

NEIGHBOURS, BATCH = 10, 64
RESCORED = 4
PEERS = Path(os.environ.get("BINMILL_QUANTISED", "build/quantised"))
"""Environment of usearch and sentence-transformers; `make bench` makes it."""
ROWS, DIMENSIONS = 1_000_000, 384

Floats = NDArray[np.float32]


def run() -> list[Measurement]:
    """Hamming at a million codes, estimates with rescoring, and recall on real vectors."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1):
            return [*hamming(1_000_000, (256, 512, 1024)), *estimated(), *recalls(11_000), *recalls(60_000)]
    finally:
        faiss.omp_set_num_threads(before)


def hamming(rows: int, widths: tuple[int, ...]) -> list[Measurement]:
    """Single queries and batches against faiss' flat index, batches against usearch's exact search."""
    random = np.random.default_rng(0)
    found: list[Measurement] = []
    for bits in widths:
        codes = random.integers(0, 256, (rows, bits // 8), dtype=np.uint8)
        queries = random.integers(0, 256, (BATCH, bits // 8), dtype=np.uint8)
        index = faiss.IndexBinaryFlat(bits)
        index.add(codes)
        floor = read_seconds(codes.nbytes)
        for name, asked, repeats in (("one query", queries[:1], 15), (f"{BATCH} queries", queries, 5)):
            mine = partial(hamming_top_k, asked, codes, NEIGHBOURS)
            assert np.array_equal(mine()[1], index.search(asked, NEIGHBOURS)[0]), "distances differ from faiss"
            ours = median_time(mine, repeats)
            single = len(asked) == 1
            note = (
                f"{floor / ours:.0%} of the bandwidth measured"
                if single
                else f"{ours / BATCH / rows * 1e9:.3f} ns/pair"
            )
            found.append(
                Measurement(
                    f"Hamming, {name}", f"{rows:,} x {bits} bits", ours,
                    "faiss IndexBinaryFlat", median_time(partial(index.search, asked, NEIGHBOURS), repeats),
                    floor if single else None, note,
                )
            )  # fmt: skip
        two = median_time(partial(hamming_top_k, queries, codes, NEIGHBOURS, threads=2))
        found.append(Measurement(f"Hamming, {BATCH} queries, two threads", f"{rows:,} x {bits} bits", two))
        if bits == widths[0] and (peer := _usearch(codes, queries[:4])) is not None:
            few = median_time(partial(hamming_top_k, queries[:4], codes, NEIGHBOURS))
            found.append(Measurement("Hamming, 4 queries", f"{rows:,} x {bits} bits", few, "usearch, exact", peer))
    return found


def _usearch(codes: NDArray[np.uint8], queries: NDArray[np.uint8]) -> float | None:
    found = _peer(NEIGHBOURS, codes=codes, asked=queries)
    return None if found is None else found[0]["usearch"]


def _peer(neighbours: int, **arrays: NDArray[Any]) -> tuple[dict[str, float], dict[str, NDArray[np.int64]]] | None:
    """What the peers' own Python measures on these arrays; None where it is not installed."""
    if not (PEERS / "bin" / "python").exists():
        sys.stderr.write("usearch and sentence-transformers are not measured: run make build/quantised/done\n")
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, array in arrays.items():
            np.save(Path(folder) / f"{name}.npy", array)
        script = Path(__file__).with_name("quantised_peer.py")
        command = [PEERS / "bin" / "python", script, folder, "3", str(neighbours), str(RESCORED)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stderr.write(f"the peers cannot run: {done.stderr[-500:]}\n")
            return None
        ids = {
            name: np.load(place) for name in ("by code", "rescored") if (place := Path(folder) / f"{name}.npy").exists()
        }
        return json.loads(done.stdout.splitlines()[-1]), ids


def _ours(
    binarizer: Binarizer, queries: Floats, rows: Encoded, small: tuple[NDArray[np.int8], Floats], wanted: int
) -> NDArray[np.int64]:
    asked: Asked = ask(binarizer, queries)
    return rescored(queries, nearest_codes(binarizer, asked, rows, wanted)[0], *small, NEIGHBOURS)[0]


def estimated() -> list[Measurement]:
    """A float query against 1-bit codes, then int8 vectors; faiss with as many refined as it takes for our recall."""
    every = made_vectors(ROWS + 256, DIMENSIONS)
    queries, base = every[:256], every[256:]
    true, _ = exact_top_k(queries, base, NEIGHBOURS)
    binarizer = fit("rabitq", base[:65_536], options=Options("random"))
    rows, small = binarizer.encode(base), quantise(base)
    wanted = RESCORED * NEIGHBOURS
    mine = partial(_ours, binarizer, queries, rows, small, wanted)
    reached = recall(mine(), true)

    turn = faiss.RandomRotationMatrix(DIMENSIONS, DIMENSIONS)
    turn.init(1)
    coarse = faiss.IndexPreTransform(turn, faiss.IndexRaBitQFastScan(DIMENSIONS, faiss.METRIC_L2))
    index = faiss.IndexRefine(coarse, faiss.IndexScalarQuantizer(DIMENSIONS, faiss.ScalarQuantizer.QT_8bit))
    index.train(base[:65_536])
    index.add(base)
    factor, theirs = 1, 0.0
    while factor <= 64:
        index.k_factor = factor
        theirs = recall(index.search(queries, NEIGHBOURS)[1], true)
        if theirs >= reached - 0.002:
            break
        factor += 1 if factor < 8 else 4
    found: list[Measurement] = []
    for name, asked, repeats in (("256 queries", queries, 3), ("one query", queries[:1], 9)):
        ours = median_time(partial(_ours, binarizer, asked, rows, small, wanted), repeats)
        peer = median_time(partial(index.search, asked, NEIGHBOURS), repeats)
        found.append(
            Measurement(
                f"RaBitQ and int8, {name}", f"{ROWS:,} x {DIMENSIONS}", ours,
                "faiss RaBitQFastScan and SQ8", peer,
                note=f"R@10 {reached:.3f} of {wanted}, {len(asked) / ours:,.0f} queries/s; "
                f"theirs {theirs:.3f} of {factor * NEIGHBOURS}, {len(asked) / peer:,.0f}",
            )
        )  # fmt: skip
    return found


def _sentence_transformers(queries: Floats, base: Floats, true: NDArray[np.int64]) -> list[Measurement]:
    """Its quantised search beside ours at equal bytes: 46 bytes of RaBitQ's bits and two scalars where it has 48."""
    peer = _peer(NEIGHBOURS, base=base, queries=queries)
    if peer is None:
        return []
    seconds, ids = peer
    narrow = fit("rabitq", base, bits=DIMENSIONS - 16, options=Options("itq"))
    rows = narrow.encode(base)
    mine = partial(nearest_codes, narrow, ask(narrow, queries), rows, NEIGHBOURS)
    note = f"R@10 {recall(mine()[0], true):.3f} of {narrow.stored} bytes"
    return [
        Measurement(
            f"rabitq, {narrow.stored} bytes, {len(queries):,} queries", f"{len(base):,} docstrings x {DIMENSIONS}",
            median_time(mine, 3), f"sentence-transformers ubinary, {name}", seconds[name],
            note=f"{note}; theirs {recall(ids[name], true):.3f} of {DIMENSIONS // 8}",
        )
        for name in ("by code", "rescored")
    ]  # fmt: skip


def recalls(texts: int) -> list[Measurement]:
    """Recall on vectors of real texts: sign bits as sentence-transformers rescores them, and ours; time of a search.

    The more docstrings, the more of them are all but equal, and the harder it is to tell which is nearer.
    """
    every = text_vectors(texts, DIMENSIONS)
    queries, base = every[:1000], every[1000:]
    true, _ = exact_top_k(queries, base, NEIGHBOURS)
    small = quantise(base)
    found: list[Measurement] = []
    cases = (
        ("sign", None),
        ("rabitq", Options("random")),
        ("rabitq", Options("itq")),
        ("residual", Options("random", planes=2)),
    )
    for method, options in cases:
        binarizer = fit(method, base, options=options)
        rows = binarizer.encode(base)
        by_code, _ = nearest_codes(binarizer, ask(binarizer, queries), rows, RESCORED * NEIGHBOURS)
        closer, _ = rescored(queries, by_code, *small, NEIGHBOURS)
        note = f"R@10 {recall(by_code[:, :NEIGHBOURS], true):.3f}, with int8 {recall(closer, true):.3f}"
        if method == "sign":  # sentence-transformers ranks candidates by the float query against ±1
            signs = np.where(np.unpackbits(rows.codes, axis=1, bitorder="little", count=DIMENSIONS), 1, -1)
            score = np.einsum("qd,qmd->qm", queries, signs[by_code].astype(np.float32))
            best = np.take_along_axis(by_code, np.argsort(-score, axis=1, kind="stable")[:, :NEIGHBOURS], axis=1)
            note += f", with the float query {recall(best, true):.3f}"
            found += _sentence_transformers(queries, base, true)
        seconds = median_time(partial(_ours, binarizer, queries, rows, small, RESCORED * NEIGHBOURS), 3)
        found.append(
            Measurement(
                f"{method} ({binarizer.rotation}), {binarizer.stored} bytes",
                f"{len(base):,} docstrings x {DIMENSIONS}",
                seconds,
                note=note,
            )
        )
    return found
