"""The same flow as a Prefect deployment on a Dask cluster.

Prefect's server and worker, Dask's scheduler and two workers are processes of their own; the last two are in network
namespaces where the machine allows that.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from tasks.query.dataset import open_dataset
from tests.conftest import dask_scheduler, free_port, recipe_of, separate_hosts, stop

ROOT = Path(__file__).parent.parent.parent
PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture(scope="module")
def prefect(prefect_api: dict[str, str]) -> Iterator[dict[str, str]]:
    """Environment of the Prefect server, with a work pool and a worker."""
    environment = {**os.environ, **prefect_api, "PYTHONPATH": str(ROOT)}
    with (Path(prefect_api["PREFECT_HOME"]) / "worker.log").open("wb") as log:
        command = [*PREFECT, "work-pool", "create", "--type", "process", "binmill"]
        subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
        command = [*PREFECT, "worker", "start", "--pool", "binmill", "--name", "test"]
        worker = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
        try:
            yield environment
        finally:
            stop(worker)


@pytest.fixture(params=["small", pytest.param("demo", marks=pytest.mark.slow)])
def built(request: pytest.FixtureRequest, small: Path, corpus: Path, tmp_path: Path) -> tuple[str, Path, str]:
    """A recipe's name and file, and the digest that it has here with one worker."""
    if request.param == "small":
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe_of(corpus)))
        return "small", tmp_path / "small.yaml", open_dataset(small).manifest.digest
    recipe, output = ROOT / "flows" / "demo.yaml", tmp_path / "local"
    subprocess.run([sys.executable, "-m", "flows.cli", "run", str(recipe), "-o", str(output)], cwd=ROOT, check=True)
    return "compiler-language", recipe, open_dataset(output).manifest.digest


@pytest.mark.prefect
def test_a_deployed_run_gives_the_same_dataset(
    prefect: dict[str, str], built: tuple[str, Path, str], tmp_path: Path
) -> None:
    name, recipe, digest = built
    deployed = subprocess.run(
        [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml"],
        env=prefect, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    port = free_port()
    cluster = {"kind": "address", "scheduler": f"tcp://127.0.0.1:{port}"}
    parameters = {"recipe": str(recipe), "output": str(tmp_path / "out"), "cluster": cluster}
    with (
        separate_hosts(2) as hosts,
        dask_scheduler(f"tcp://0.0.0.0:{port}", hosts=hosts) as processes,
        (tmp_path / "run.log").open("w+") as log,
    ):
        run = subprocess.Popen(
            [*PREFECT, "deployment", "run", "build-dataset/dataset", "--params", json.dumps(parameters), "--watch"],
            env=prefect, cwd=tmp_path, stdout=log, stderr=log,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("out/tables/features/*.parquet")):  # half-way: features of some are there
            assert run.poll() is None, (tmp_path / "run.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for child in psutil.Process(processes[1].pid).children(recursive=True):
            child.kill()
        processes[1].kill()
        run.wait(timeout=240)
    told = (tmp_path / "run.log").read_text() + (Path(prefect["PREFECT_HOME"]) / "worker.log").read_text()
    assert run.returncode == 0, told[-3000:]
    assert open_dataset(tmp_path / "out").manifest.digest == digest
    auth = httpx.BasicAuth(*prefect["PREFECT_API_AUTH_STRING"].split(":"))
    newest = {"sort": "EXPECTED_START_TIME_DESC"}
    runs = httpx.post(f"{prefect['PREFECT_API_URL']}/task_runs/filter", json=newest, trust_env=False, auth=auth).json()
    stages_run = {run["name"].rsplit("-", 1)[0] for run in runs}
    stages = {"ingest", "extract", "label", "split", "screen", "rebalance", "binarize"}
    assert stages <= stages_run
    wanted = {"artifacts": {"key": {"like_": f"{name}-"}}}  # a server that has seen many runs tells of some only
    artifacts = httpx.post(
        f"{prefect['PREFECT_API_URL']}/artifacts/filter", json=wanted, trust_env=False, auth=auth
    ).json()
    kept = {(found["key"], found["type"]) for found in artifacts}
    assert {(f"{name}-{stage}", "progress") for stage in stages} <= kept
    assert {(f"{name}-summary", "table"), (f"{name}-failures", "markdown")} <= kept
    deployment = httpx.get(
        f"{prefect['PREFECT_API_URL']}/deployments/name/build-dataset/dataset", trust_env=False, auth=auth
    ).json()
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert {schedule["slug"] for schedule in deployment["schedules"]} == {"nightly", "weekly-large"}
    assert not any(schedule["active"] for schedule in deployment["schedules"])
