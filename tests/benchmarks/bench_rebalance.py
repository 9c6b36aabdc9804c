"""SMOTE's neighbours, draws and rows against imbalanced-learn's SMOTE, continuous and discrete columns."""

from functools import partial

import numpy as np
from imblearn.over_sampling import SMOTE
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tasks.rebalance.search import neighbors
from tasks.rebalance.smote import draws, interpolate
from tests.benchmarks.report import Measurement, median_time

MINORITY, MAJORITY, COLUMNS, K = 10_000, 20_000, 50, 5


def _ours(minority: NDArray[np.float32], added: int) -> NDArray[np.float32]:
    near = neighbors(minority.astype(np.float64), K)
    parent, slot, gap = draws(0, "minority", 0, added, len(minority), K)
    return interpolate(minority[parent], minority[near[parent, slot]], gap)


def run() -> list[Measurement]:
    """Measure both, on one thread, making the classes equal."""
    random = np.random.default_rng(0)
    labels = np.array([0] * MAJORITY + [1] * MINORITY)
    rows = MAJORITY + MINORITY
    cases = {
        "continuous": random.standard_normal((rows, COLUMNS)).astype(np.float32),
        "0/1 columns, many ties": random.integers(0, 2, (rows, COLUMNS)).astype(np.float32),
    }
    found: list[Measurement] = []
    with threadpool_limits(1):
        for name, x in cases.items():
            minority, added = x[MAJORITY:], MAJORITY - MINORITY
            peer = SMOTE(random_state=0, k_neighbors=K)
            assert len(_ours(minority, added)) == peer.fit_resample(x, labels)[0].shape[0] - rows
            found.append(
                Measurement(
                    f"SMOTE, {name}",
                    f"{MINORITY:,} x {COLUMNS} + {added:,} rows",
                    median_time(partial(_ours, minority, added), 3),
                    "imbalanced-learn SMOTE",
                    median_time(partial(peer.fit_resample, x, labels), 3),
                    note="ours: neighbours in float64, ties by row number",
                )
            )
    return found
