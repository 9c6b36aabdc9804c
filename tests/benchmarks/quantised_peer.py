"""usearch's and sentence-transformers' search of bits, run by the Python of their own environment: times and ids.

`python quantised_peer.py FOLDER REPEATS NEIGHBOURS MULTIPLIER`: FOLDER holds `codes.npy` and `asked.npy` (packed bits),
or `base.npy` and `queries.npy` (float32). Prints JSON, and writes what was found beside them.
"""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def _median(function: Callable[[], Any], repeats: int) -> float:
    function()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Measure what the folder asks for."""
    folder, repeats, neighbours, multiplier = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    importlib.import_module("faiss").omp_set_num_threads(1)
    importlib.import_module("torch").set_num_threads(1)
    found: dict[str, float] = {}
    if (folder / "codes.npy").exists():
        usearch: Any = importlib.import_module("usearch.index")
        codes, asked = np.load(folder / "codes.npy"), np.load(folder / "asked.npy")
        kind = usearch.MetricKind.Hamming
        found["usearch"] = _median(
            lambda: usearch.search(codes, asked, neighbours, kind, exact=True, threads=1), repeats
        )
    if (folder / "base.npy").exists():
        quantised: Any = importlib.import_module("sentence_transformers.util.quantization")
        base, queries = np.load(folder / "base.npy"), np.load(folder / "queries.npy")
        bits = quantised.quantize_embeddings(base, precision="ubinary")
        index = quantised.semantic_search_faiss(
            queries[:1], corpus_embeddings=bits, corpus_precision="ubinary", output_index=True
        )[2]
        for name, rescore in (("by code", False), ("rescored", True)):

            def search(rescore: bool = rescore) -> Any:
                return quantised.semantic_search_faiss(
                    queries, corpus_index=index, corpus_precision="ubinary", top_k=neighbours,
                    rescore=rescore, rescore_multiplier=multiplier,
                )[0]  # fmt: skip

            found[name] = _median(search, repeats)
            ids = [[hit["corpus_id"] for hit in hits] for hits in search()]
            np.save(folder / f"{name}.npy", np.array(ids))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
