"""A whole run against its kernels, one worker against two, memory for many items, and what a corpus costs.

The corpus: native modules of this environment, each several times with bytes of its own at the end (what the loader
does not read), so that none is a duplicate; ten times the demo's files.
"""

import importlib
import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from schemas.provenance import Provenance
from tasks.build import InProcess
from tests.benchmarks.report import Measurement
from tests.conftest import prefect_server

FILES = 2_690
"""Ten times the demo's."""
SIZES = (FILES // 9, FILES // 3, FILES)
TURNS = 5
"""Of the largest, with and without Dask."""
ITEMS = (1_000, 10_000, 100_000)
LARGEST = 8_000_000
"""Of the modules here; they are then as large as the demo's, 0.7 MB."""
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
        "sources": [{"kind": "directory", "path": str(folder), "project": "file"}],
        "label": {"origin": "first-folder"},
        "dedup": {"by": ["features"]},
        "screening": {"bins": 16, "top": 64},
        "binarizing": {"methods": ["median", "itq", "rabitq"], "dimensions": 32},
    }


class Ran(NamedTuple):
    """What a run took: wall-clock and processor seconds, and the most bytes that one of its processes had."""

    seconds: float
    cpu: float
    memory: int


class Corpus(NamedTuple):
    """What was run on, and what it took: files, bytes, seconds of items by stage, the run, bytes published."""

    files: int
    size: int
    stages: dict[str, float]
    ran: Ran
    published: int


def command(recipe: Path, output: Path, workers: int, prefect: Mapping[str, str] | None = None) -> Ran:
    """Run `binmill run` in a process of its own; through the Prefect server of an environment, if it is given."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PREFECT_API_URL", None)
    environment |= prefect or {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "flows.cli", "run", str(recipe), "-o", str(output),
             "--workers", str(workers), "--json"],
            env=environment, stdout=subprocess.DEVNULL, stderr=told,
        )  # fmt: skip
        watched, most = psutil.Process(process.pid), 0
        while process.poll() is None:
            for one in (watched, *watched.children(recursive=True)):
                try:
                    most = max(most, one.memory_info().rss)
                except psutil.Error:
                    continue
            time.sleep(0.5)
        taken = time.perf_counter() - start
        if process.returncode:
            told.seek(0)
            raise RuntimeError(f"binmill run ended with {process.returncode}: {told.read()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Ran(taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, most)


def seconds_by_stage(output: Path) -> dict[str, float]:
    """Seconds that items took in their workers, by stage."""
    found: dict[str, float] = defaultdict(float)
    for line in (output / ".binmill" / "journal.jsonl").read_text().splitlines():
        receipt = json.loads(line)
        found[receipt["stage"]] += receipt["seconds"]
    return dict(found)


def plain(recipe: Path, output: Path) -> float:
    """Seconds of the same stages in a plain loop of one process: no Prefect, no Dask; imports do not count."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c",
         "import sys; from tests.benchmarks.bench_scale import loop; print(loop(*sys.argv[1:]))", recipe, output],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def loop(recipe: str, output: str) -> float:
    """What `plain` runs in its process."""
    from flows.recipes import load_recipe
    from flows.stages import run_stages
    from tasks import drawing
    from tasks.build import Build, InProcess
    from tasks.journal import Journal
    from tasks.loading import load_stages

    load_stages()
    importlib.import_module("tasks.publish.task")
    with drawing.drawing():
        drawing.Sheet(1, 1)
    root = Path(output)
    start = time.perf_counter()
    with Journal(root, write=True) as journal:
        run_stages(Build(load_recipe(Path(recipe)), root, root, root / ".cache", InProcess(), journal), {})
    return time.perf_counter() - start


def extraction_seconds(folder: Path, recipes: tuple[Path, Path], workers: int, *, pinned: bool) -> float:
    """Wall-clock seconds of the extract stage alone, of the second recipe; the first warms the workers up.

    Parameters
    ----------
    pinned
        Each worker has a core for itself and its parser, and no other. Free, a worker takes more than one: it reads
        and hashes files while its parser is at work.
    """
    import tasks.extract.task
    import tasks.ingest.task
    from flows.recipes import load_recipe
    from tasks.build import Build
    from tasks.fanout import local_executor
    from tasks.journal import Journal

    seconds = 0.0
    with local_executor(workers) as executor:
        if pinned:
            for core, address in enumerate(executor.client.scheduler_info(n_workers=-1)["workers"]):
                executor.client.run(_pin, core, workers=[address])
        for recipe in recipes:
            output = folder / recipe.stem
            with Journal(output, write=True) as journal:
                build = Build(load_recipe(recipe), output, output, output / ".cache", executor, journal)
                tasks.ingest.task.build(build)
                start = time.perf_counter()
                tasks.extract.task.build(build)
                seconds = time.perf_counter() - start
    return seconds


def _pin(core: int) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


def _runs(folder: Path) -> list[Measurement]:
    found: list[Measurement] = []
    lines: list[Corpus] = []
    recipes: list[Path] = []
    for files in SIZES:
        place, output, recipe = folder / f"corpus-{files}", folder / f"out-{files}", folder / f"{files}.yaml"
        size = corpus(place, files)
        recipe.write_text(yaml.safe_dump(recipe_of(place)))
        recipes.append(recipe)
        if files == SIZES[0]:
            plain(recipe, folder / "compiled")
        # By turns, so that what else the machine does meets both.
        turns: list[tuple[float, Ran, str]] = []
        for turn in range(TURNS if files == FILES else 1):
            shutil.rmtree(output, ignore_errors=True)
            loop_output = folder / f"plain-{files}-{turn}"
            alone, ran = plain(recipe, loop_output), command(recipe, output, 1)
            rest = [
                seconds - sum(seconds_by_stage(place).values())
                for seconds, place in ((ran.seconds, output), (alone, loop_output))
            ]
            turns.append((alone, ran, f"beside their items {rest[0]:.1f} and {rest[1]:.1f} s"))
        alone, ran, beside = sorted(turns, key=lambda turn: turn[1].seconds / turn[0])[len(turns) // 2]
        published = [p for part in ("tables", "fitted") for p in (output / part).rglob("*.parquet")]
        lines.append(Corpus(files, size, seconds_by_stage(output), ran, sum(p.stat().st_size for p in published)))
        found.append(
            Measurement(
                "whole run, 1 worker", f"{files:,} files, {size / 1e6:,.0f} MB", ran.seconds, floor=alone,
                note=f"{ran.seconds - alone:.1f} s ({ran.seconds / alone - 1:.1%}) over a plain loop of the stages; "
                f"{beside}",
            )
        )  # fmt: skip
        if files == FILES:
            with prefect_server(folder) as (_, prefect):
                through = command(recipe, folder / "through", 1, prefect).seconds
            found.append(
                Measurement(
                    "the same through a Prefect server", f"{files:,} files", through, "without", ran.seconds,
                    floor=alone, note=f"{through - alone:.1f} s ({through / alone - 1:.1%}) over them; once",
                )
            )  # fmt: skip
    again = command(recipes[-1], folder / f"out-{FILES}", 1)
    found.append(Measurement("the same again: nothing to do", f"{FILES:,} files", again.seconds))
    two = (recipes[0], recipes[-1])
    for pinned in (True, False):
        one_by_two = [extraction_seconds(folder / f"extract-{w}-{pinned}", two, w, pinned=pinned) for w in (1, 2)]
        found.append(
            Measurement(
                f"extraction, 2 workers, {'a core each' if pinned else 'free'}", f"{FILES:,} files", one_by_two[1],
                "1 worker", one_by_two[0], floor=one_by_two[0] / 2,
            )
        )  # fmt: skip
    _costs(lines)
    return found


def _costs(lines: list[Corpus]) -> None:
    """Print what the runs say of larger corpora: a + b · files by least squares, line by line."""
    files = np.array([line.files for line in lines], dtype=np.float64)
    mean = sum(line.size for line in lines) / files.sum()
    a = np.stack([np.ones_like(files), files], axis=1)
    table = Table(title=f"What a corpus costs ({mean / 1e3:.0f} KB a file)", title_justify="left", box=None)
    for name in ("", *(f"{int(n):,} files" for n in files), "s per 1 000 files", "1 M files", "100 M files"):
        table.add_column(name, justify="right" if name else "left")

    def add(name: str, seconds: list[float]) -> None:
        slope = max(0.0, float(np.linalg.lstsq(a, np.array(seconds), rcond=None)[0][1]))
        hours = (f"{slope * n / HOURS:,.1f} h" for n in (1e6, 1e8))
        table.add_row(name, *(f"{s:.1f} s" for s in seconds), f"{slope * 1e3:.2f}", *hours)

    for stage in lines[-1].stages:
        add(stage, [line.stages[stage] for line in lines])
    add("all stages, by the clock", [sum(line.stages.values()) for line in lines])
    add("all processes, processor time", [line.ran.cpu for line in lines])
    grown = (lines[-1].published - lines[0].published) / (lines[-1].files - lines[0].files)
    table.add_row("bytes published", *(f"{line.published / 1e6:.1f} MB" for line in lines), f"{grown:,.0f} B a file",
                  *(f"{grown * n / 1e9:,.0f} GB" for n in (1e6, 1e8)))  # fmt: skip
    table.add_row("most memory of a process", *(f"{line.ran.memory / 2**20:.0f} MiB" for line in lines))
    Console(width=150).print(table, "")


def _nothing(root: str, items: Any) -> Any:
    """A batch's work, without the work."""
    from tasks.items import Receipt

    return [Receipt(item.stage, item.step, item.key, ()) for item in items]


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
                f"{count / line['seconds']:,.0f} items/s; a plan of as many takes {line['plan'] / 1e3:.1f} KB an item",
            )
        )  # fmt: skip
    return found


def plan(count: int) -> float:
    """Bytes of the client an item, of so many that are planned as those of files are, and done."""
    import tasks.extract.task
    from flows.recipes import check_recipe
    from tasks.build import Build
    from tasks.items import Item, Receipt
    from tasks.journal import Journal
    from tasks.shards import Shard, table_path, work_path

    class Done(InProcess):
        """Each item is done at once, and has its three shards."""

        def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
            for item in items:
                places = [table_path("binaries", item.key), table_path("features", item.key)]
                places.append(work_path("vectors", item.key))
                shards = tuple(Shard(place, secrets.token_hex(32), 1_000_000, 64) for place in places)
                yield item, Receipt(item.stage, item.step, item.key, shards, {"statuses": {"ok": 64}}, 1.0)

    source = secrets.token_hex(32)
    batch = {"shard": work_path("owners", source[:32], 0), "title": "corpus", "files": 16, "sources": [source]}
    with tempfile.TemporaryDirectory() as name, Journal(Path(name), write=True) as journal:
        build = Build(
            check_recipe(recipe_of(Path(name)), "recipe"), Path(name), Path(name), Path(name), Done(), journal
        )
        before = psutil.Process().memory_info().rss
        batches = [
            {**batch, "batch": n, "bytes": 2**25 + n, "largest": 2**23 + n, "digest": secrets.token_hex(32)}
            for n in range(count)
        ]
        journal.add(Receipt("ingest", "assign", "assign", (), {"batches": batches}))
        journal.add(Receipt("ingest", "scan", "scan", (), {"locations": {source: name}}))
        build.receipts |= {f"ingest.{step}": journal.of([step]) for step in ("assign", "scan")}
        del batches
        tasks.extract.task.build(build)
        return (psutil.Process().memory_info().rss - before) / count


def many(count: int) -> dict[str, float]:
    """Run so many items of no work through a scheduler; the most MiB that it and this client took."""
    import tasks.fanout
    from tasks.items import Item

    tasks.fanout.perform_some = _nothing
    record = Provenance("bench", "extract", "features", "", "0", "", {}, (), {}, 0)
    items = (Item("extract", "features", secrets.token_hex(16), f"item {n}", {"n": n}, record) for n in range(count))
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
            seconds = time.perf_counter() - start
            return most | {"seconds": seconds, "plan": plan(count)}
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait()
