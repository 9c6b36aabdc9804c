"""One sampler on one table, by itself in a process: median seconds, and the most memory beyond what it was given.

`python -m tests.benchmarks.rebalance_case WHO CASE REPEATS` prints JSON; WHO is ours, compatible or peer.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imblearn.over_sampling as peers
import numpy as np
from imblearn import under_sampling as cutters
from sklearn.datasets import make_blobs
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

import tasks.rebalance as own
from tasks.rebalance.approximate import approximate
from tasks.rebalance.search import neighbors

SETTINGS: dict[str, tuple[int, int, int]] = {
    "SMOTE-10k": (10_000, 20_000, 50),
    "SMOTE-10k-ties": (10_000, 20_000, 50),
    "SMOTE-20k": (20_000, 24_000, 500),
    "SMOTE-100k": (100_000, 120_000, 50),
    "SMOTENC-10k": (10_000, 20_000, 50),
    "SMOTEN-10k": (10_000, 20_000, 20),
    "BorderlineSMOTE-10k": (10_000, 20_000, 50),
    "ADASYN-10k": (10_000, 20_000, 50),
    "NearMiss-10k": (10_000, 20_000, 50),
    "TomekLinks-10k": (10_000, 20_000, 50),
    "EditedNearestNeighbours-10k": (10_000, 20_000, 50),
    "exact-100k": (100_000, 0, 50),
    "ivf-100k": (100_000, 0, 50),
}
"""Rows of the smaller and of the larger class, and columns. `exact` and `ivf` are searches alone."""
K = 5


def data(case: str, rows: int, columns: int) -> tuple[Any, Any]:
    """So many rows, a third of them (or what the case says) of the smaller class."""
    random = np.random.default_rng(0)
    small = SETTINGS[case][0]
    if case.startswith(("exact", "ivf")):  # clusters, as inverted lists are for
        make: Any = make_blobs  # scikit-learn declares three results
        return make(rows, columns, centers=200, cluster_std=1.0, center_box=(-3, 3), random_state=0)
    x = random.standard_normal((rows, columns))
    if "ties" in case:
        x = (x > 0).astype(np.float64)
    if case.startswith("SMOTEN"):
        first = columns // 2 if case.startswith("SMOTENC") else 0
        for c in range(first, columns):
            x[:, c] = random.integers(0, 5 + c % 16, rows)
    if case.startswith(("NearMiss", "Tomek", "Edited", "Borderline", "ADASYN")):
        x[:small] += 0.5
    return x, np.r_[np.ones(small, int), np.zeros(rows - small, int)]


def work(who: str, case: str, columns: int) -> Callable[[Any, Any], Any]:
    """What is measured."""
    if case.startswith(("exact", "ivf")):
        if who == "peer":  # as imbalanced-learn asks
            return lambda x, y: NearestNeighbors(n_neighbors=K + 1).fit(x).kneighbors(x, return_distance=False)
        if case.startswith("ivf"):
            return lambda x, y: approximate(x, K, 0.99, 0)[1]
        return lambda x, y: neighbors(x, K)
    name = case.split("-", maxsplit=1)[0]
    options: dict[str, Any] = (
        {} if name in {"NearMiss", "TomekLinks", "EditedNearestNeighbours"} else {"random_state": 0}
    )
    if name == "SMOTENC":
        options["categorical_features"] = list(range(columns // 2, columns))
    if who == "compatible":
        options["compatible"] = True
    place: Any = own if who != "peer" else peers if hasattr(peers, name) else cutters
    return lambda x, y: getattr(place, name)(**options).fit_resample(x, y)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def main(who: str, case: str, repeats: int) -> None:
    """Measure, and print."""
    small, large, columns = SETTINGS[case]
    run = work(who, case, columns)
    with threadpool_limits(1):
        x, y = data(case, small + large, columns)
        some = np.r_[0:400, small : small + 800] if large else np.arange(1000)
        run(x[some], y[some])  # compiles, and fills caches
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        before = _peak()
        seconds: list[float] = []
        result: Any = None
        for _ in range(repeats):
            result = None  # no two results at once
            start = time.perf_counter()
            result = run(x, y)
            seconds.append(time.perf_counter() - start)
        peak = _peak() - before
    found = result if isinstance(result, float) else None
    sys.stdout.write(json.dumps({"seconds": statistics.median(seconds), "peak": peak, "recall": found}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
