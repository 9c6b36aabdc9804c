"""Queries one by one against an index on disk: all of it, and the cells that hold most neighbours. One thread."""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from flows.index import index_recipe
from flows.stages import run_stages
from tasks.build import Build, InProcess
from tasks.codes.rescore import exact_top_k, recall
from tasks.journal import Journal
from tasks.query.codes import CodeIndex
from tasks.query.dataset import open_dataset
from tests.benchmarks.codes_data import made_vectors
from tests.benchmarks.report import Measurement, median_time

ROWS, DIMENSIONS, CELLS, NEIGHBOURS = 500_000, 128, 512, 10
METHOD = {"methods": ["residual"], "planes": 2, "cells": CELLS, "rescoring": True}

Floats = NDArray[np.float32]


def run() -> list[Measurement]:
    """Made vectors: the index made, and searched from its files."""
    every = made_vectors(ROWS + 100, DIMENSIONS)
    queries, base = every[:100], every[100:]
    exact, _ = exact_top_k(queries, base, NEIGHBOURS)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            return list(_measured(Path(folder), queries, base, exact))
    finally:
        faiss.omp_set_num_threads(before)


def _measured(folder: Path, queries: Floats, base: Floats, exact: NDArray[np.int64]) -> list[Measurement]:
    size = f"{ROWS:,} x {DIMENSIONS}"
    seconds, root = _made(folder, base)
    raw = sum(path.stat().st_size for path in root.rglob("*.parquet"))
    found = [Measurement("index made", size, seconds, note=f"{CELLS} cells, {raw / 2**20:.0f} MiB")]
    peer = _faiss(base)
    index = CodeIndex(open_dataset(root))
    number = {name: n for n, name in enumerate(_ids(index))}
    for wanted in (None, 0.99, 0.95, 0.9):
        search = partial(_one_by_one, index, queries, wanted)
        reached = recall(np.vectorize(number.__getitem__)(search()), exact)
        line = next((p for p in index.probes if wanted and p["recall"] >= wanted), None)
        probes, theirs = _reaching(peer, queries, exact, reached)
        share = "all rows" if line is None else f"{line['read']:.1%} of rows"
        note = f"recall {reached:.3f} (faiss {theirs:.3f}, {probes} probes), {share}"
        found.append(
            Measurement(
                "one query, rescored", size, median_time(search, 3) / len(queries),
                f"faiss IVF{CELLS},SQ8 in memory",
                median_time(partial(_each, peer, queries), 3) / len(queries), None, note,
            )
        )  # fmt: skip
    opened = median_time(lambda: _one_by_one(CodeIndex(open_dataset(root)), queries[:1], 0.95), 3)
    found.append(Measurement("opened, and the first query", size, opened, note="files in the page cache"))
    return found


def _made(folder: Path, base: Floats) -> tuple[float, Path]:
    root = folder / "index"
    root.mkdir()
    np.save(folder / "x.npy", base)
    recipe = index_recipe([folder / "x.npy"], root, dict(METHOD))
    start = time.perf_counter()
    with Journal(root, write=True) as journal:
        run_stages(Build(recipe, root, root, root / ".cache", InProcess(), journal), {})
    return time.perf_counter() - start, root


def _ids(index: CodeIndex) -> list[str]:
    """Ids in the order of the file."""
    about = index.about(["sample_id", "row"])
    return about.sort_by("row").column("sample_id").to_pylist()


def _one_by_one(index: CodeIndex, queries: Floats, wanted: float | None) -> NDArray[np.object_]:
    return np.concatenate([index.search(q[None], NEIGHBOURS, recall=wanted).ids for q in queries])


def _faiss(base: Floats) -> Any:
    peer: Any = faiss.index_factory(DIMENSIONS, f"IVF{CELLS},SQ8")
    peer.train(base[:65_536])
    peer.add(base)
    return peer


def _each(peer: Any, queries: Floats) -> NDArray[np.int64]:
    return np.concatenate([peer.search(q[None], NEIGHBOURS)[1] for q in queries])


def _reaching(peer: Any, queries: Floats, exact: NDArray[np.int64], wanted: float) -> tuple[int, float]:
    """The fewest probes with which the peer reaches a recall, and its own."""
    for probes in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, CELLS):
        peer.nprobe = probes
        reached = recall(_each(peer, queries), exact)
        if reached >= wanted:
            break
    return probes, reached
