"""kill -9 at seeded moments: of a worker, the scheduler, the flow, the Prefect server. Run again, it is as ever."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from tasks.query.dataset import open_dataset
from tasks.query.verify import verify
from tasks.shards import Shard, is_right
from tests.conftest import Mill, dask_scheduler, free_port, prefect_server, recipe_of

MOMENTS = 40
VICTIMS = ("worker", "scheduler", "flow", "server")
IN_GATE = {0, 1}
"""Moments of the gate: a worker and a scheduler. `make test-slow` takes all."""


@pytest.fixture(scope="module")
def cases(corpus: Path, small: Path, mill: Mill, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The recipe that runs, the dataset it begins from, and the digest it must end with."""
    root = tmp_path_factory.mktemp("crash")
    recipe = recipe_of(corpus, screening={"top": 8}, binarizing={"dimensions": 6, "iterations": 5})
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    shutil.copytree(small, root / "done")
    digest = mill(recipe, root / "done").digest
    files = {p.name for p in (root / "done").rglob("*.parquet")} - {p.name for p in small.rglob("*.parquet")}
    return {"recipe": root / "recipe.yaml", "before": small, "digest": digest, "files": len(files)}


def lies(root: Path) -> list[str]:
    """Shards that the manifest lists and that are not there and right."""
    try:
        manifest = open_dataset(root).manifest
    except Exception as error:
        return [str(error)]
    return [s.path for s in manifest.shards() if not is_right(root, Shard(s.path, s.sha256, s.size, s.rows))]


def victim_of(what: str, process: "subprocess.Popen[str]") -> psutil.Process | None:
    """The process to kill, if it is there by now."""
    if what == "flow":
        return psutil.Process(process.pid)
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = " ".join(child.cmdline())
            if what == "worker" and "spawn_main" in line and child.num_threads() > 2:
                return child
    return None


def run(recipe: Path, output: Path, options: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "flows.cli", "run", str(recipe), "-o", str(output), "--json", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def moment(seed: int, files: int) -> tuple[str, int]:
    """Whom to kill, and when: after so many new shards."""
    return VICTIMS[seed % len(VICTIMS)], int(np.random.default_rng([99, seed]).integers(0, max(1, files - 2)))


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=() if n in IN_GATE else pytest.mark.slow) for n in range(MOMENTS)]
)
def test_a_kill_at_any_moment_costs_only_time(
    seed: int,
    cases: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    output = tmp_path / "out"
    shutil.copytree(cases["before"], output)
    there = {p.name for p in output.rglob("*.parquet")}
    what, after = moment(seed, cases["files"])
    started_anew = what == "scheduler" and seed // len(VICTIMS) % 2 == 0
    with contextlib.ExitStack() as stack:
        options, processes = ["--workers", "2"], list["subprocess.Popen[bytes]"]()
        if what == "server":
            server, environment = stack.enter_context(prefect_server(tmp_path))
            processes = [server]
            for name, value in (environment | {"PREFECT_CLIENT_MAX_RETRIES": "1"}).items():
                monkeypatch.setenv(name, value)
        if started_anew:  # a flow tries a stage again after a while, a person's run at once
            for name, value in request.getfixturevalue("prefect_api").items():
                monkeypatch.setenv(name, value)
        address = f"tcp://127.0.0.1:{free_port()}"
        if what == "scheduler":
            processes = stack.enter_context(dask_scheduler(address))
            options = ["--scheduler", address]
        process = run(cases["recipe"], output, options)
        stack.callback(lambda: process.poll() is not None or os.killpg(process.pid, signal.SIGKILL))
        deadline, killed = time.monotonic() + 240, False
        while process.poll() is None and time.monotonic() < deadline and not killed:
            # Folders come and go meanwhile: os.walk does not mind.
            new = sum(n.endswith(".parquet") and n not in there for _, _, names in os.walk(output) for n in names)
            if new >= after:
                if what in {"scheduler", "server"}:
                    processes[0].kill()
                    killed = True
                elif (found := victim_of(what, process)) is not None:
                    found.kill()
                    killed = True
            time.sleep(0.01)
        if killed and started_anew:
            processes[0].wait()
            stack.enter_context(dask_scheduler(address))
        said, wrong = process.communicate(timeout=240)
    assert killed, f"the run was over before {what} could be killed\n{said}\n{wrong}"
    assert lies(output) == []  # the old manifest, or the new one: what it lists is there
    if process.returncode == 0:
        assert json.loads(said)["digest"] == cases["digest"]
    elif what != "flow":
        assert not started_anew, wrong
        assert "Traceback" not in wrong, wrong
        assert '"remedy"' in wrong, wrong
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    again = run(cases["recipe"], output, ["--workers", "1"])
    said, wrong = again.communicate(timeout=240)
    assert again.returncode == 0, wrong
    assert json.loads(said)["digest"] == cases["digest"]
    dataset = open_dataset(output)
    assert [finding for _, found in verify(dataset) for finding in found] == []
    assert not list(output.rglob("*.tmp")), "an orphan was left"
