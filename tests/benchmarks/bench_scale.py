"""A whole run against its kernels, one worker against two, memory for many items, and what a corpus costs.

The corpus: native modules of this environment, each several times with bytes of its own at the end (what the loader
does not read), so that none is a duplicate; ten times the demo's files.
"""

import json
import os
import secrets
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from schemas.provenance import Provenance
from tests.benchmarks.report import Measurement

FILES = 2_690
"""Ten times the demo's."""
SIZES = (FILES // 9, FILES // 3, FILES)
ITEMS = (1_000, 10_000)
"""`scale-large` goes on to 100 000, for a quarter of an hour."""
LARGEST = 3_000_000
ROOT = Path(__file__).parent.parent.parent
MANY = "many items"
HOURS = 3600.0


def run() -> list[Measurement]:
    """Overhead, scaling and a cost model on a corpus below the temporary folder; then memory."""
    with tempfile.TemporaryDirectory(prefix="binmill-scale-") as name:
        folder = Path(name)
        found = list(_runs(folder))
    return [*found, *memory()]


def corpus(folder: Path, files: int) -> int:
    """Write so many modules, a third of them under a label of their own; returns their bytes."""
    site = Path(sysconfig.get_paths()["platlib"])
    modules = sorted(p for p in site.rglob("*.so") if 50_000 < p.stat().st_size < LARGEST)
    size = 0
    for number in range(files):
        module = modules[number % len(modules)]
        package = module.relative_to(site).parts[0]
        label = "science" if package in {"numpy", "scipy", "sklearn", "pandas", "matplotlib"} else "other"
        # A project a copy of a package: a split needs groups.
        place = folder / label / f"{package}-{number // len(modules)}" / f"{number:06d}-{module.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        data = module.read_bytes() + number.to_bytes(8, "little")
        place.write_bytes(data)
        size += len(data)
    return size


def recipe_of(folder: Path) -> dict[str, Any]:
    """The demo's settings over a folder."""
    return {
        "name": "scale",
        "sources": [{"kind": "directory", "path": str(folder), "project": "folder"}],
        "label": {"origin": "first-folder"},
        "dedup": {"by": ["features"]},
        "screening": {"bins": 16, "top": 64},
        "binarizing": {"methods": ["median", "itq", "rabitq"], "dimensions": 32},
    }


def command(recipe: Path, output: Path, workers: int) -> tuple[float, int]:
    """Seconds of `binmill run`, a process of its own, and the most memory that one of its processes took."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "flows.cli", "run", str(recipe), "-o", str(output),
         "--workers", str(workers), "--json"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    watched, most = psutil.Process(process.pid), 0
    while process.poll() is None:
        for one in (watched, *watched.children(recursive=True)):
            try:
                most = max(most, one.memory_info().rss)
            except psutil.Error:
                continue
        time.sleep(0.2)
    if process.returncode:
        raise RuntimeError(f"binmill run ended with {process.returncode}")
    return time.perf_counter() - start, most


def seconds_by_stage(output: Path) -> dict[str, float]:
    """Seconds that items took in their workers, by stage."""
    found: dict[str, float] = defaultdict(float)
    for line in (output / ".binmill" / "journal.jsonl").read_text().splitlines():
        receipt = json.loads(line)
        found[receipt["stage"]] += receipt["seconds"]
    return dict(found)


def extraction_seconds(output: Path, recipe: dict[str, Any], workers: int) -> float:
    """Wall-clock seconds of the extract stage alone on so many Dask workers that have started and warmed up."""
    import tasks.extract.task
    import tasks.ingest.task
    from flows.recipes import check_recipe
    from tasks.build import Build
    from tasks.fanout import local_executor
    from tasks.journal import Journal

    with Journal(output, write=True) as journal, local_executor(workers) as executor:
        build = Build(
            check_recipe(recipe, "bench"), output, output, output / ".cache", executor=executor, journal=journal
        )
        tasks.ingest.task.build(build)
        executor.client.run(_warm)
        start = time.perf_counter()
        tasks.extract.task.build(build)
        return time.perf_counter() - start


def _warm() -> None:
    from tasks.extract.parse import load_kernels

    load_kernels()


def _runs(folder: Path) -> list[Measurement]:
    found: list[Measurement] = []
    lines: list[tuple[int, int, dict[str, float], int, int]] = []
    for files in SIZES:
        place, output = folder / f"corpus-{files}", folder / f"out-{files}"
        size = corpus(place, files)
        recipe = folder / f"{files}.yaml"
        recipe.write_text(yaml.safe_dump(recipe_of(place)))
        whole, memory = command(recipe, output, 1)
        stages = seconds_by_stage(output)
        published = [p for part in ("tables", "fitted") for p in (output / part).rglob("*.parquet")]
        lines.append((files, size, stages, memory, sum(p.stat().st_size for p in published)))
        kernels = sum(stages.values())
        found.append(
            Measurement(
                "whole run, 1 worker", f"{files:,} files, {size / 1e6:,.0f} MB", whole, floor=kernels,
                note=f"{whole - kernels:.1f} s are not kernels, {whole / kernels - 1:.1%} of them",
            )
        )  # fmt: skip
    again, _ = command(folder / f"{FILES}.yaml", folder / f"out-{FILES}", 1)
    found.append(Measurement("the same again: nothing to do", f"{FILES:,} files", again))
    place = folder / f"corpus-{FILES}"
    taken = {w: extraction_seconds(folder / f"extract-{w}", recipe_of(place), w) for w in (1, 2)}
    found.append(
        Measurement(
            "extraction, 2 workers", f"{FILES:,} files", taken[2], "1 worker", taken[1], floor=taken[1] / 2,
            note=f"{taken[1] / taken[2]:.2f}x",
        )
    )  # fmt: skip
    _costs(lines)
    return found


def _costs(lines: list[tuple[int, int, dict[str, float], int, int]]) -> None:
    """Print what the runs say of larger corpora: a + b · files by least squares, stage by stage."""
    files = np.array([line[0] for line in lines], dtype=np.float64)
    mean = sum(line[1] for line in lines) / files.sum()
    a = np.stack([np.ones_like(files), files], axis=1)
    table = Table(title=f"What a corpus costs ({mean / 1e3:.0f} KB a file)", title_justify="left", box=None)
    for name in ("stage", *(f"{int(n):,} files" for n in files), "s per 1 000 files", "1 M files", "100 M files"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    total = 0.0
    for stage in lines[-1][2]:
        seconds = np.array([line[2][stage] for line in lines])
        slope = max(0.0, float(np.linalg.lstsq(a, seconds, rcond=None)[0][1]))
        total += slope
        hours = (f"{slope * n / HOURS:,.1f} h" for n in (1e6, 1e8))
        table.add_row(stage, *(f"{s:.1f} s" for s in seconds), f"{slope * 1e3:.2f}", *hours)
    table.add_row("all", *(f"{sum(line[2].values()):.1f} s" for line in lines), f"{total * 1e3:.2f}",
                  *(f"{total * n / HOURS:,.0f} h" for n in (1e6, 1e8)))  # fmt: skip
    grown = (lines[-1][4] - lines[0][4]) / (lines[-1][0] - lines[0][0])
    table.add_row("bytes published", *(f"{line[4] / 1e6:.1f} MB" for line in lines), f"{grown:,.0f} B a file",
                  *(f"{grown * n / 1e9:,.0f} GB" for n in (1e6, 1e8)))  # fmt: skip
    table.add_row("most memory of a process", *(f"{line[3] / 2**20:.0f} MiB" for line in lines))
    Console(width=150).print(table, "")


def _nothing(root: str, item: Any) -> Any:
    """An item's work, without the work."""
    from tasks.items import Receipt

    return Receipt(item.stage, item.step, item.key, ())


def memory(items: tuple[int, ...] = ITEMS) -> list[Measurement]:
    """Scheduler, worker and client are processes of their own; each size in a fresh client."""
    found: list[Measurement] = []
    for count in items:
        done = subprocess.run(
            # Not as __main__: the work is then sent by its name, as ours is.
            [sys.executable, "-W", "ignore", "-c",
             f"import json; from tests.benchmarks.bench_scale import many; print(json.dumps(many({count})))"],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        line = json.loads(done.stdout.splitlines()[-1])
        found.append(
            Measurement(
                MANY, f"{count:,}", line["seconds"],
                note=f"scheduler {line['scheduler']:.0f} MiB, client {line['client']:.0f} MiB, "
                f"{count / line['seconds']:,.0f} items/s",
            )
        )  # fmt: skip
    return found


def many(count: int) -> dict[str, float]:
    """Run so many items of no work through a scheduler; the most MiB that it and this client took."""
    import tasks.fanout
    from tasks.items import Item

    tasks.fanout.perform = _nothing
    record = Provenance("bench", "extract", "features", "", "0", "", {}, (), {}, 0)
    items = [Item("extract", "features", secrets.token_hex(16), f"item {n}", {"n": n}, record) for n in range(count)]
    port = 20_000 + os.getpid() % 20_000
    address = f"tcp://127.0.0.1:{port}"
    base = [sys.executable, "-W", "ignore", "-m"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(
        [*base, "distributed.cli.dask_scheduler", "--host", address, "--dashboard-address", "127.0.0.1:0"], **quiet
    )
    worker = subprocess.Popen(
        [*base, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, **quiet,
    )  # fmt: skip
    try:
        with tasks.fanout.remote_executor(address, 60) as executor:
            ours, theirs = psutil.Process(), psutil.Process(scheduler.pid)
            most = {"scheduler": 0.0, "client": 0.0}
            start = time.perf_counter()
            for number, _ in enumerate(executor.run(str(ROOT), items)):
                if number % 200 == 0:
                    for name, process in (("scheduler", theirs), ("client", ours)):
                        most[name] = max(most[name], process.memory_info().rss / 2**20)
            return most | {"seconds": time.perf_counter() - start}
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait()
