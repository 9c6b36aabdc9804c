"""`binmill bench-codes`: vectors of a file, held in every way, and what each reaches."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from schemas.errors import BinmillError, QueryError
from tasks.binarize.benchmark import NOISE, compare
from tasks.binarize.vectors import open_vectors
from tasks.build import Progress
from tasks.codes.plot import recall_plot
from tasks.codes.rotation import stream
from tasks.shards import replace_atomically

REPORT, TABLE, PLOT = "codes.json", "codes.parquet", "codes.svg"
METHODS = ("sign", "median", "simhash", "itq", "selected", "kernel", "rabitq", "residual")
BUDGETS = (64, 128, 256, 512)


def read_vectors(path: Path, columns: Sequence[str], rows: int, seed: int) -> NDArray[np.float32]:
    """So many rows of a table's vectors, a seeded sample in the table's order: float32[n, d].

    Parameters
    ----------
    columns
        Columns of numbers, or lists of one length of these; none: all.

    Raises
    ------
    QueryError
        No such file, or columns that are no numbers.
    """
    if not path.exists():
        raise QueryError(f"{path}: no such file", "give a .npy, Parquet, Arrow or CSV file of vectors")
    try:
        vectors = open_vectors(path, columns)
    except BinmillError as error:
        raise QueryError(error.problem, "name the columns of the vectors with --column") from error
    count = vectors.table.rows
    chosen = np.arange(count)
    if count > rows:
        chosen = np.sort(stream(seed, "rows").choice(count, rows, replace=False))
    return vectors.some(chosen)


def bench_codes(
    path: Path,
    *,
    columns: Sequence[str] = (),
    rows: int = 50_000,
    bits: Sequence[int] = BUDGETS,
    methods: Sequence[str] = METHODS,
    k: int = 10,
    seed: int = 0,
    threads: int = 1,
    progress: Progress,
) -> dict[str, Any]:
    """Every binarizer at every budget on the vectors of a file.

    Returns
    -------
    dict
        `vectors` (file, rows, dimensions, rows with missing values), `k`, `noise`, `seed`, and `lines`, those of
        `tasks.binarize.benchmark.Line`. All but seconds and rates are the same each time.

    Raises
    ------
    QueryError, RecipeError
        Not vectors; too few; an unknown method.
    """
    if unknown := sorted(set(methods) - set(METHODS)):
        raise QueryError(f"--method {unknown[0]}: not known", f"choose from {', '.join(METHODS)}")
    x = read_vectors(path, columns, rows, seed)
    missing = int((~np.isfinite(x)).any(axis=1).sum())
    lines: list[dict[str, Any]] = []

    def begin(count: int) -> None:
        progress.begin("bench-codes", "fit and search", count, 0, count)

    with threadpool_limits(1):
        for line in compare(x, bits=bits, methods=methods, k=k, seed=seed, threads=threads, begin=begin):
            lines.append(line.row())
            progress.advance(1)
    progress.end()
    about = {"file": path.name, "rows": len(x), "dimensions": x.shape[1], "missing": missing}
    return {"vectors": about, "k": k, "noise": list(NOISE), "seed": seed, "threads": threads, "lines": lines}


def write(report: dict[str, Any], folder: Path) -> None:
    """Write the report as JSON and Parquet, and the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_atomically(folder / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    pq.write_table(pa.Table.from_pylist(report["lines"]), folder / TABLE)
    about = report["vectors"]
    title = f"{about['file']}: {about['rows']:,} x {about['dimensions']}"
    replace_atomically(folder / PLOT, recall_plot(report["lines"], title, report["k"]))
