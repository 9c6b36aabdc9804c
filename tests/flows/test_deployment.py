"""The same flow as a Prefect deployment: a server, a worker and a scheduled run, as processes on loopback."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import recipe_of

ROOT = Path(__file__).parent.parent.parent
PREFECT = [sys.executable, "-m", "prefect"]


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a Prefect server with a work pool and a worker."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with (home / "server.log").open("wb") as log:
            command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                try:
                    if httpx.get(f"{environment['PREFECT_API_URL']}/health", trust_env=False).is_success:
                        break
                except httpx.HTTPError:
                    time.sleep(0.3)
            command = [*PREFECT, "work-pool", "create", "--type", "process", "binmill"]
            subprocess.run(command, env=environment, check=True, stdout=log, stderr=log)
            command = [*PREFECT, "worker", "start", "--pool", "binmill", "--name", "test"]
            processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log))
            yield environment
    finally:
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.prefect
def test_a_deployed_run_gives_the_same_dataset(
    prefect: dict[str, str], small: Path, corpus: Path, tmp_path: Path
) -> None:
    deployed = subprocess.run(
        [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", "deploy/prefect.yaml"],
        env=prefect, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe_of(corpus)))
    parameters = {"recipe": str(tmp_path / "small.yaml"), "output": str(tmp_path / "out")}
    started = subprocess.run(
        [*PREFECT, "deployment", "run", "build-dataset/dataset", "--params", json.dumps(parameters), "--watch"],
        env=prefect, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    log = (Path(prefect["PREFECT_HOME"]) / "server.log").read_text()
    assert started.returncode == 0, started.stdout + started.stderr + log[-3000:]
    digest = json.loads((tmp_path / "out" / "manifest.json").read_text())["digest"]
    assert digest == json.loads((small / "manifest.json").read_text())["digest"]
    runs = httpx.post(f"{prefect['PREFECT_API_URL']}/task_runs/filter", json={}, trust_env=False).json()
    names = {run["name"].rsplit("-", 1)[0] for run in runs}
    assert {"ingest", "extract", "label", "split", "screen", "rebalance", "binarize"} <= names
