"""fastHDMI's estimators, run by the Python of fastHDMI's own environment: times and results as JSON.

`python fasthdmi_peer.py FOLDER REPEATS`: FOLDER holds `by_class.npy`, `by_quantity.npy` (float64[p, n] columns),
`labels.npy` (0 and 1), `quantity.npy` (float64[n] outcomes), `bandwidths_by_class.npy` (float64[p, 2]) and
`bandwidths.npy` (float64[p, 2], of the column and of the quantity).

fastHDMI 1.25.26 as it is: `MI_continuous_continuous` computes a bandwidth and never gives it to FFTKDE, and
`MI_continuous_012` takes the first point of each density for all of it (`evaluate(grid)[0]`); the right answers here
come from the library under it, KDEpy, called as fastHDMI meant to.
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

POINTS, CELLS = 1024, 128
Array = Any

FFTKDE: Any = importlib.import_module("KDEpy").FFTKDE
compiled: Any = importlib.import_module("fastHDMI.cython_fun")
shipped: Any = importlib.import_module("fastHDMI.mi_estimation")
information: Any = compiled.joint_to_mi_cython


def _timed(function: Callable[[], list[float]], repeats: int) -> dict[str, Any]:
    values = function()
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times), "values": [float(v) for v in values]}


def _by_class(x: Array, labels: Array, h: Array) -> float:
    """Densities of two classes by KDEpy, and the integral that fastHDMI's 1-D estimate is meant to be."""
    grid = np.linspace(x.min() - 4 * h.max(), x.max() + 4 * h.max(), POINTS)
    joint = np.stack([np.mean(labels == c) * FFTKDE(bw=float(h[c])).fit(x[labels == c]).evaluate(grid) for c in (0, 1)])
    return information(joint / joint.sum())


def _both(x: Array, y: Array, h: Array) -> float:
    """A joint density by KDEpy, whose bandwidth is one number: each axis in units of its own."""
    _, density = FFTKDE(bw=1.0).fit(np.stack([x / h[0], y / h[1]], axis=1)).evaluate((CELLS, CELLS))
    joint = np.maximum(density.reshape(CELLS, CELLS), 0.0)
    return information(joint / joint.sum())


def main() -> None:
    """Measure all of it, print one JSON object."""
    folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
    by_class, labels, h_by_class = (np.load(folder / f"{n}.npy") for n in ("by_class", "labels", "bandwidths_by_class"))
    by_quantity, quantity, h = (np.load(folder / f"{n}.npy") for n in ("by_quantity", "quantity", "bandwidths"))
    tasks: dict[str, Callable[[], list[float]]] = {
        "binned classes": lambda: [compiled.binning_MI_discrete_cython(labels, v) for v in by_class],
        "binned continuous": lambda: [compiled.binning_MI_cython(quantity, v) for v in by_quantity],
        "shipped classes": lambda: [
            shipped.MI_continuous_012(v, labels, 1.0, N=POINTS, kernel="gaussian") for v in by_class
        ],
        "shipped continuous": lambda: [
            shipped.MI_continuous_continuous(quantity, v, 1.0, a_N=CELLS, b_N=CELLS, kernel="gaussian")
            for v in by_quantity
        ],
        "honoured classes": lambda: [_by_class(v, labels, k) for v, k in zip(by_class, h_by_class, strict=True)],
        "honoured continuous": lambda: [_both(v, quantity, k) for v, k in zip(by_quantity, h, strict=True)],
    }
    found = {name: _timed(task, repeats) for name, task in tasks.items()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
