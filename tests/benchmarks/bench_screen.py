"""Screening: every estimator, from raw values to information, against its peer on equal columns.

fastHDMI runs in an environment of its own (`make build/fasthdmi/done`; `make bench` makes it); where there is none,
the others are measured without it. scikit-learn's are `mutual_info_classif`, `mutual_info_regression` and (a loop)
`mutual_info_score`; SciPy's is `pearsonr`. What is compared is checked to agree, where the peer is right.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.metrics import mutual_info_score
from threadpoolctl import threadpool_limits

from tasks.screen.kde import Grid, Kde, class_counts, grid, joint_counts, kde_classes, kde_joint
from tasks.screen.knn import ksg, ross
from tasks.screen.measure import CELLS, JOINT_CELLS
from tasks.screen.outcome import QUARTILES
from tasks.screen.passes import SHORT_ROWS
from tasks.screen.pearson import correlate, joint_sums
from tasks.screen.scores import score
from tasks.screen.sketch import DEPTHS, Counter, Sketch, heavy, quantile_edges, quantiles, refine, refined, sketch
from tasks.screen.tables import contingency
from tests.benchmarks.report import Measurement, median_time, read_seconds

SIZES = ((1_000, 64), (10_000, 32), (100_000, 8))
"""Rows, and columns."""
BITS = 16
"""For each of those columns, so many 0/1 columns."""
BINS, NEIGHBOURS, CLASSES = 16, 3, 2
RHO, SHIFT = 0.6, 1.0
"""Correlation with the quantity, and what the class adds, in standard deviations."""
TOLERANCE = {"honoured classes": 1e-5, "honoured continuous": 2e-3}
"""How far our densities' information may be from KDEpy's, in nats: the grids' ends differ."""
FASTHDMI = Path(os.environ.get("BINMILL_FASTHDMI", "build/fasthdmi"))
"""fastHDMI's environment; the file `done` in it says that it is whole."""
PEER = Path(__file__).with_name("fasthdmi_peer.py")

Floats = NDArray[np.float64]
plain: Any = importlib.import_module("sklearn.feature_selection._mutual_info")


def _normals_apart(distance: float) -> float:
    """Information of an even choice of two normals of unit variance, by quadrature."""
    t = np.linspace(-12, 12 + distance, 20_001)
    parts = np.exp(-0.5 * np.stack([t, t - distance]) ** 2) / np.sqrt(2 * np.pi)
    mixture = parts.mean(axis=0)
    return float(np.trapezoid(np.where(parts > 0, parts * np.log(parts / mixture), 0.0).mean(axis=0), t))


TRUE = {"classes": _normals_apart(SHIFT), "continuous": -0.5 * float(np.log1p(-RHO * RHO))}
"""Information of the columns, in nats."""


class Columns:
    """The inputs of one size: columns that follow a class or a quantity, as float32[p, n], and 0/1 columns."""

    def __init__(self, rows: int, columns: int) -> None:
        random = np.random.default_rng(0)
        self.rows = rows
        self.labels = (random.random(rows) < 0.5).astype(np.int32)
        self.y = random.standard_normal(rows).astype(np.float32)
        noise = random.standard_normal((columns, rows))
        self.by_class = (noise + SHIFT * self.labels).astype(np.float32)
        self.by_quantity = (RHO * self.y + np.sqrt(1 - RHO**2) * noise).astype(np.float32)
        share = random.random((columns * BITS, 1)) * 0.3
        self.bits = (random.random((columns * BITS, rows)) < share * (1 + self.labels)).astype(np.float32)

    def size(self, columns: int) -> str:
        """For the report."""
        return f"{self.rows:,} x {columns}"


def _pass_1(x: NDArray[np.float32]) -> Sketch:
    """As the engine does it: short tables at once, longer ones by counting."""
    if x.shape[1] <= SHORT_ROWS:
        return sketch(x, BINS)
    counter = Counter(len(x))
    counter.add(x)
    found = counter.sketch()
    for depth in DEPTHS[:-1]:
        cells = heavy(found, BINS, depth)
        found = refined(found, cells, refine(x, cells))
    return found


def _binned(x: NDArray[np.float32], labels: NDArray[np.int32], levels: int) -> Floats:
    return score(contingency(x, labels, quantile_edges(_pass_1(x), BINS), levels)).mi


def _binned_plain(x: NDArray[np.float32], levels: NDArray[np.int32]) -> list[float]:
    """scikit-learn's score of the same bins."""
    edges = quantile_edges(_pass_1(x), BINS)
    parts = [edges.values[a:b] for a, b in pairwise(edges.offsets)]
    return [float(mutual_info_score(levels, np.digitize(v, e))) for v, e in zip(x, parts, strict=True)]


def _levels(y: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.digitize(y, quantile_edges(_pass_1(y[None]), BINS).values).astype(np.int32)


def _binned_continuous(x: NDArray[np.float32], y: NDArray[np.float32]) -> Floats:
    return _binned(x, _levels(y), BINS)


def _grid(found: Sketch, cells: int) -> Grid:
    q25, median, q75 = quantiles(found, QUARTILES)
    return grid(found.minimum(), q25, median, q75, found.maximum(), cells)


def _kde_classes(x: NDArray[np.float32], labels: NDArray[np.int32]) -> Kde:
    points = _grid(_pass_1(x), CELLS)
    return kde_classes(class_counts(x, labels, points, CLASSES), points, "silverman", "gaussian")


def _kde_continuous(x: NDArray[np.float32], y: NDArray[np.float32]) -> Kde:
    points, of_y = _grid(_pass_1(x), JOINT_CELLS), _grid(_pass_1(y[None]), JOINT_CELLS)
    low, step = float(of_y.low[0]), float(of_y.step[0])
    counts = joint_counts(x, y.astype(np.float64), points, low, step, JOINT_CELLS)
    return kde_joint(counts, points, low, step, "silverman", "gaussian")


def _pearson(x: NDArray[np.float32], y: NDArray[np.float32]) -> Floats:
    found = _pass_1(x)
    return correlate(joint_sums(x, y, found.minimum(), found.maximum(), float(y.min()), float(y.max()))).rho


def _fasthdmi(inputs: Columns, repeats: int) -> dict[str, tuple[float, Floats]]:
    """fastHDMI's times and results for each of its tasks, at our bandwidths; nothing where it is not installed."""
    if not (FASTHDMI / "done").is_file():
        return {}
    by_class, by_quantity, y = (v.astype(np.float64) for v in (inputs.by_class, inputs.by_quantity, inputs.y))
    given = {
        "by_class": by_class,
        "by_quantity": by_quantity,
        "labels": inputs.labels.astype(np.float64),
        "quantity": y,
        "bandwidths_by_class": _kde_classes(inputs.by_class, inputs.labels).bandwidth,
        "bandwidths": _kde_continuous(inputs.by_quantity, inputs.y).bandwidth,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, values in given.items():
            np.save(Path(folder) / f"{name}.npy", values)
        done = subprocess.run(
            [FASTHDMI / "bin" / "python", PEER, folder, str(repeats)], capture_output=True, text=True, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"fastHDMI ended with {done.returncode}: {done.stderr[-2000:]}")
    return {name: (found["seconds"], np.array(found["values"])) for name, found in json.loads(done.stdout).items()}


def _ross_plain(x: NDArray[np.float32], labels: NDArray[np.int32]) -> Floats:
    """scikit-learn's estimate without the noise it adds, nor the scaling, which changes nothing but ties."""
    return np.array([plain._compute_mi_cd(v.astype(np.float64), labels, NEIGHBOURS) for v in x])


def _ksg_plain(x: NDArray[np.float32], y: NDArray[np.float32]) -> Floats:
    """scikit-learn's estimate without the noise it adds."""
    of_y = y / y.std(dtype=np.float64)
    return np.array([plain._compute_mi_cc(v / v.std(dtype=np.float64), of_y, NEIGHBOURS) for v in x])


def _agree(what: str, ours: Floats, theirs: Any, tolerance: float) -> None:
    worst = float(np.max(np.abs(ours - np.asarray(theirs))))
    assert worst <= tolerance, f"{what}: results differ by {worst:.3g}"


def _against_fasthdmi(inputs: Columns, repeats: int) -> list[Measurement]:
    """`binned` and `kde`."""
    by_class, labels, by_quantity, y = inputs.by_class, inputs.labels, inputs.by_quantity, inputs.y
    _agree("binned, classes", _binned(by_class, labels, CLASSES), _binned_plain(by_class, labels), 1e-12)
    _agree("binned, continuous", _binned_continuous(by_quantity, y), _binned_plain(by_quantity, _levels(y)), 1e-12)
    theirs = _fasthdmi(inputs, repeats)
    tasks: list[tuple[str, Callable[[], Floats], tuple[tuple[str, str], ...]]] = [
        ("binned, classes", partial(_binned, by_class, labels, CLASSES), (("binned classes", "fastHDMI"),)),
        ("binned, continuous", partial(_binned_continuous, by_quantity, y), (("binned continuous", "fastHDMI"),)),
        (
            "kde, classes", lambda: _kde_classes(by_class, labels).mi,
            (("honoured classes", "KDEpy, our bandwidth"), ("shipped classes", "fastHDMI as shipped")),
        ),
        (
            "kde, continuous", lambda: _kde_continuous(by_quantity, y).mi,
            (("honoured continuous", "KDEpy, our bandwidth"), ("shipped continuous", "fastHDMI as shipped")),
        ),
    ]  # fmt: skip
    found: list[Measurement] = []
    for name, function, peers in tasks:
        ours, seconds = function(), median_time(function, repeats)
        true = TRUE["classes" if "classes" in name else "continuous"]
        floor = read_seconds(by_class.nbytes)
        for task, peer in peers if theirs else peers[:1]:
            note = f"{ours.mean():.3f} nats, true {true:.3f}"
            taken, values = theirs.get(task, (None, None))
            if values is not None:
                note += f", theirs {values.mean():.3f}"
                if task in TOLERANCE:
                    _agree(name, ours, values, TOLERANCE[task])
            found.append(Measurement(name, inputs.size(len(by_class)), seconds, peer, taken, floor, note))
    return found


def _against_sklearn(inputs: Columns, repeats: int) -> list[Measurement]:
    """`knn` and `sparse`."""
    labels, y = inputs.labels, inputs.y
    bits, by_class, by_quantity = inputs.bits, inputs.by_class, inputs.by_quantity
    few = max(2, len(by_class) // 4)  # scikit-learn takes seconds a column
    mixed, both = by_class[:few], by_quantity[:few]
    of_classes = partial(ross, mixed, labels, CLASSES, NEIGHBOURS)
    of_quantity = partial(ksg, both, y.astype(np.float64), NEIGHBOURS)
    _agree("knn, classes", of_classes(), _ross_plain(mixed, labels), 1e-9)
    start, first = np.ascontiguousarray(both[:, :1000]), y[:1000]
    _agree("knn, continuous", ksg(start, first.astype(np.float64), NEIGHBOURS), _ksg_plain(start, first), 1e-9)
    # Among more rows of float32 some distances are equal, until scikit-learn's scaling rounds them.
    _agree("knn, continuous", of_quantity(), _ksg_plain(both, y), 1e-5)

    def sparse() -> Floats:
        return _binned(bits, labels, CLASSES)

    def by_score() -> list[float]:
        return [float(mutual_info_score(labels, v)) for v in bits]

    _agree("sparse", sparse(), by_score(), 1e-12)
    known = quantile_edges(_pass_1(bits), BINS)
    alone = median_time(lambda: score(contingency(bits, labels, known, CLASSES)).mi)
    classif: Any = partial(mutual_info_classif, n_neighbors=NEIGHBOURS, random_state=0)
    regression: Any = partial(mutual_info_regression, n_neighbors=NEIGHBOURS, random_state=0)
    of_columns = inputs.size(len(bits))
    note = f"pass 2 alone: {alone * 1e3:.3g} ms"
    return [
        Measurement(
            "knn, classes", inputs.size(few), median_time(of_classes, repeats),
            "sklearn", median_time(partial(classif, mixed.T, labels), repeats),
        ),
        Measurement(
            "knn, continuous", inputs.size(few), median_time(of_quantity, repeats),
            "sklearn", median_time(partial(regression, both.T, y), repeats),
        ),
        Measurement(
            "sparse", of_columns, median_time(sparse, repeats),
            "sklearn, a loop", median_time(by_score, 1), read_seconds(bits.nbytes), note,
        ),
        Measurement(
            "sparse", of_columns, median_time(sparse, repeats), "sklearn, discrete",
            median_time(partial(classif, bits.T, labels, discrete_features=True), 1), read_seconds(bits.nbytes), note,
        ),
    ]  # fmt: skip


def _against_scipy(inputs: Columns, repeats: int) -> list[Measurement]:
    """`pearson`."""
    x, y = inputs.by_quantity, inputs.y

    def theirs() -> list[Any]:
        return [pearsonr(v, y)[0] for v in x]

    _agree("pearson", _pearson(x, y), theirs(), 1e-6)
    return [
        Measurement(
            "pearson", inputs.size(len(x)), median_time(partial(_pearson, x, y), repeats),
            "scipy, a loop", median_time(theirs, repeats), read_seconds(x.nbytes),
        )
    ]  # fmt: skip


def run() -> list[Measurement]:
    """Measure every estimator at every size."""
    found: list[Measurement] = []
    if not (FASTHDMI / "done").is_file():
        sys.stderr.write("fastHDMI is not installed, so it is not measured: run make build/fasthdmi/done\n")
    with threadpool_limits(1):
        for rows, columns in SIZES:
            inputs, repeats = Columns(rows, columns), 3 if rows >= 100_000 else 5
            found += _against_fasthdmi(inputs, repeats)
            found += _against_sklearn(inputs, repeats)
            found += _against_scipy(inputs, repeats)
    return found
