"""Screening: tables and scores of all columns against scikit-learn's mutual information, column by column."""

from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score
from threadpoolctl import threadpool_limits

from tasks.screen.scores import score
from tasks.screen.sketch import Edges, edge_values, quantile_edges, sketch
from tasks.screen.tables import contingency
from tests.benchmarks.bench_binarize import read_seconds
from tests.benchmarks.report import Measurement, median_time

COLUMNS, BINS = 200, 16


def _ours(x: NDArray[np.float32], labels: NDArray[np.int32], edges: Edges) -> NDArray[np.float64]:
    return score(contingency(x, labels, edges.offsets, edges.codes, 2)).mi


def _theirs(x: NDArray[np.float32], labels: NDArray[np.int32], thresholds: list[NDArray[np.float32]]) -> list[float]:
    return [float(mutual_info_score(labels, np.digitize(x[:, j], t))) for j, t in enumerate(thresholds)]


def run() -> list[Measurement]:
    """Measure pass 1, and pass 2 with the scores, at two sizes."""
    found: list[Measurement] = []
    with threadpool_limits(1):
        for rows in (10_000, 100_000):
            random = np.random.default_rng(0)
            labels = (random.random(rows) < 0.3).astype(np.int32)
            x = (random.standard_normal((rows, COLUMNS)) + 0.2 * labels[:, None]).astype(np.float32)
            edges = quantile_edges(sketch(x), BINS)
            values = [edge_values(edges.codes[a:b]) for a, b in pairwise(edges.offsets)]

            ours, theirs = partial(_ours, x, labels, edges), partial(_theirs, x, labels, values)
            assert np.allclose(ours(), theirs(), rtol=0, atol=1e-12), "MI differs from scikit-learn's"
            size, floor = f"{rows:,} x {COLUMNS}, {BINS} bins", read_seconds(x.nbytes)
            found.append(
                Measurement("sketch", size, median_time(partial(sketch, x)), floor=floor, note="floor: one read")
            )
            found.append(
                Measurement(
                    "tables and scores", size, median_time(ours),
                    "sklearn mutual_info_score on digitize, a loop", median_time(theirs, 3), floor, "floor: one read",
                )
            )  # fmt: skip
    return found
