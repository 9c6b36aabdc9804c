"""`make bench`: every benchmark, each against its peer in this very run, and against its floor."""

import importlib
import os
import platform
import sys
from pathlib import Path

# Before any library that brings threads: one thread each, so that ratios compare code and not cores.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"

from rich.console import Console
from rich.table import Table

from tests.benchmarks.report import Measurement

WHEN_NAMED = {"screen-large", "rebalance-large", "codes-large"}
"""Benchmarks of many minutes."""


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _ratio(other: float | None, ours: float, *, inverse: bool = False) -> str:
    if other is None:
        return "-"
    return f"{ours / other:.3g}" if inverse else f"{other / ours:.3g}"


def main() -> None:
    """Run the benchmarks named on the command line (`extract`, `screen`, ...), or all but the longest."""
    console = Console(width=150 if not sys.stdout.isatty() else None)
    wanted = sys.argv[1:]
    console.print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; medians")
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        name = path.stem.removeprefix("bench_").replace("_", "-")
        if name not in wanted if wanted else name in WHEN_NAMED:
            continue
        measurements: list[Measurement] = importlib.import_module(f"tests.benchmarks.{path.stem}").run()
        table = Table(title=name, title_justify="left", box=None, header_style="dim")
        for column in ("what", "size", "ours", "peer", "peer's", "peer / ours", "floor", "ours / floor", "note"):
            table.add_column(column, justify="left" if column in {"what", "size", "peer", "note"} else "right")
        for m in measurements:
            table.add_row(
                m.name, m.size, _time(m.ours), m.peer_name or "-", _time(m.peer), _ratio(m.peer, m.ours),
                _time(m.floor), _ratio(m.floor, m.ours, inverse=True), m.note,
            )  # fmt: skip
        console.print(table, "")


if __name__ == "__main__":
    main()
