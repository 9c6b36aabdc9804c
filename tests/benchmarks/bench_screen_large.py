"""`binmill screen` from the command line to the table of scores, on tables too large for a unit test.

One is as wide as ABIDE's brain images (1 050 rows, 150 000 columns), one as tall as it is large (1 000 000 rows, 2
500 columns, 10 GB), one has 100 000 000 rows. They are made once, in build/benchmarks, and used again. What is
reported is wall time against that of merely reading the files, and the most memory that the command and all its
processes held at once.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tests.benchmarks.report import Measurement

SCRATCH = Path(os.environ.get("BINMILL_BENCH_SCRATCH", "build/benchmarks"))
GIB = 1 << 30
SAMPLED_EVERY_S = 0.1
PLANTED = 5
"""Columns of each table that tell of the outcome; all others are noise."""
WORKERS = 2
NAMES = {"--multiprocessing-fork": "worker"}
"""Processes, by what their command lines hold."""

READ = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
for path in sorted(Path(sys.argv[1]).glob("*.parquet")):
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        file.read_row_group(group)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A table of noise, some of whose columns are shifted by a class, and how it is screened."""

    name: str
    rows: int
    columns: int
    files: int
    groups: int
    """Row groups of each file."""
    shift: float
    """What the class adds to a planted column, in standard deviations."""
    estimator: str
    most_gib: float

    @property
    def planted(self) -> list[int]:
        """Places of the planted columns, spread over the table."""
        return [(2 * i + 1) * self.columns // (2 * PLANTED) for i in range(PLANTED)]


CASES = (
    Case("wide", 1_050, 150_000, 1, 1, 1.0, "auto", 2),
    Case("tall", 1_000_000, 2_500, 20, 2, 0.2, "binned", 4),
    Case("long", 100_000_000, 10, 20, 5, 0.1, "auto", 4),
)


def make(case: Case) -> Path:
    """The folder of a case's Parquet files; made unless it is there. The same values on every machine."""
    folder = SCRATCH / f"{case.name}-{case.rows}x{case.columns}"
    if folder.is_dir():
        return folder
    size = 4 * case.rows * case.columns
    if shutil.disk_usage(SCRATCH).free < 2 * size:
        raise OSError(f"{SCRATCH.absolute()}: {2 * size / GIB:.3g} GiB must be free for the {case.name} table")
    being_made = folder.with_suffix(".part")
    shutil.rmtree(being_made, ignore_errors=True)
    being_made.mkdir(parents=True)
    names = [f"f{j}" for j in range(case.columns)]
    rows = case.rows // case.files
    for n in range(case.files):
        random = np.random.default_rng([case.rows, case.columns, n])
        classes = random.integers(0, 2, rows)
        x = random.standard_normal((case.columns, rows), dtype=np.float32)
        for j in case.planted:
            x[j] += np.float32(case.shift) * classes
        columns: list[Any] = [pa.array(column) for column in x]
        table = pa.table([*columns, pa.array(np.array(["control", "case"])[classes])], names=[*names, "y"])
        pq.write_table(
            table, being_made / f"part-{n:02}.parquet",
            use_dictionary=False, compression="zstd", row_group_size=-(-rows // case.groups),
        )  # fmt: skip
    being_made.rename(folder)
    return folder


@dataclass
class Memory:
    """Proportional set size of a process and all its descendants, looked at again and again."""

    root: psutil.Process
    peak: int = 0
    at_peak: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """What each process held when all held most, in bytes."""

    def look(self) -> None:
        """Look once."""
        found: list[tuple[str, int]] = []
        for process in [self.root, *self.root.children(recursive=True)]:
            try:
                held: Any = process.memory_full_info()
                line = " ".join(process.cmdline())
                name = next((name for mark, name in NAMES.items() if mark in line), "other")
                found.append((name if process.pid != self.root.pid else "command", getattr(held, "pss", held.uss)))
            except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile
                continue
        total = sum(size for _, size in found)
        if total > self.peak:
            self.peak, self.at_peak = total, sorted(found, key=lambda entry: -entry[1])

    def text(self) -> str:
        """The peak, and the shares of the largest processes in it."""
        shares = ", ".join(f"{name} {size / GIB:.2f}" for name, size in self.at_peak[:5])
        return f"{self.peak / GIB:.2f} GiB ({shares})"


def measured(command: list[str]) -> tuple[float, Memory]:
    """Wall seconds of a command, and its memory.

    Raises
    ------
    RuntimeError
        The command failed.
    """
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    memory, ended = Memory(psutil.Process(process.pid)), threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLED_EVERY_S):
            try:
                memory.look()
            except psutil.NoSuchProcess:
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    ended.set()
    sampler.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors[-2000:]}")
    return seconds, memory


def screen(case: Case, folder: Path) -> tuple[float, Memory]:
    """Screen a table anew, and check that the best features are those that were planted."""
    result = SCRATCH / f"{folder.name}-screened"
    shutil.rmtree(result, ignore_errors=True)
    command = [
        sys.executable, "-m", "flows.cli", "screen", str(folder), "--outcome", "y", "--estimator", case.estimator,
        "-w", str(WORKERS), "-o", str(result),
    ]  # fmt: skip
    seconds, memory = measured(command)
    best = query(open_dataset(result), f"SELECT feature FROM screening ORDER BY rank LIMIT {PLANTED}", None)
    found = set(best.column("feature").to_pylist())
    assert found == {f"f{j}" for j in case.planted}, f"{case.name}: the best features are {found}"
    shutil.rmtree(result)
    return seconds, memory


def run() -> list[Measurement]:
    """Measure all tables."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    measurements: list[Measurement] = []
    for case in CASES:
        folder = make(case)
        read = min(measured([sys.executable, "-c", READ, str(folder)])[0] for _ in range(2))
        seconds, memory = screen(case, folder)
        measurements.append(
            Measurement(
                f"screen, {case.estimator}, {WORKERS} workers", f"{case.rows:,} x {case.columns:,}", seconds,
                floor=read, note=f"floor: pyarrow reads the files; at most {memory.text()}, allowed {case.most_gib}",
            )
        )  # fmt: skip
    return measurements
