"""What a Prefect server keeps of runs; that two runs never write one dataset at once; and a server that goes away."""

import contextlib
import html
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.errors import WorkerError
from tests.conftest import free_port

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.prefect

SCRIPT = """
import json, os, sys, time
from pathlib import Path
import flows.dataset as dataset
from flows.recipes import table_recipe
from schemas.errors import SourceError, WorkerError

table, output, how = sys.argv[1:]
tries = []

def stage(build, real=dataset.SCREENING_ONLY[0][1]):
    tries.append(time.time())
    if how == "unlucky" and len(tries) == 1:
        raise WorkerError("a worker was lost", "none")
    if how == "hopeless":
        raise SourceError("x: 'a|b' is <gone>", "look for it")
    time.sleep(3 if how == "slow" else 0)
    real(build)
    tries.append(time.time())

dataset.SCREENING_ONLY = (("screen", stage),)
dataset.PAUSES_S = [0.0, 0.0]
recipe = table_recipe(Path(table), "y", "screening", {"top": 2}, [], [], [], 0).model_dump(mode="json")
try:
    dataset.screen_table(recipe, output, base=str(Path(table).parent), workers=0)
finally:
    print(json.dumps(tries))
"""


@pytest.fixture
def api(prefect_api: dict[str, str]) -> Iterator[Callable[[str], list[Any]]]:
    """Ask the server for all objects of a kind."""
    auth = httpx.BasicAuth(*prefect_api["PREFECT_API_AUTH_STRING"].split(":"))
    with httpx.Client(base_url=prefect_api["PREFECT_API_URL"], auth=auth, trust_env=False) as client:

        def ask(kind: str) -> list[Any]:
            return client.post(f"/{kind}/filter", json={"limit": 200}).raise_for_status().json()

        yield ask


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / f"t{os.getpid()}-{tmp_path.name.replace('_', '-')}.csv"
    rows = (f"{number % 7},{number % 2},{'yes' if number % 2 else 'no'}" for number in range(200))
    path.write_text("a,b,y\n" + "\n".join(rows) + "\n")
    return path


def start(table: Path, output: Path, how: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(table), str(output), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_runs_leave_progress_a_summary_and_notes_of_what_failed(
    table: Path, tmp_path: Path, api: Callable[[str], list[Any]]
) -> None:
    processes = {how: start(table, tmp_path / how, how) for how in ("unlucky", "hopeless")}
    said = {how: process.communicate(timeout=120) for how, process in processes.items()}
    assert processes["unlucky"].returncode == 0, said["unlucky"][1][-3000:]
    assert processes["hopeless"].returncode == 1
    assert len(json.loads(said["unlucky"][0].splitlines()[-1])) == 3  # a try that failed; begin and end of the second
    assert len(json.loads(said["hopeless"][0].splitlines()[-1])) == 1  # a source that is not there stays away
    artifacts = {found["key"]: found for found in api("artifacts") if found["key"]}
    name = table.stem
    progress = artifacts[f"{name}-screen"]
    assert progress["type"] == "progress"
    assert progress["data"] == 100
    assert progress["task_run_id"]
    rows = {row["what"]: row["value"] for row in json.loads(artifacts[f"{name}-summary"]["data"])}
    manifest = json.loads((tmp_path / "unlucky" / "manifest.json").read_text())
    assert rows["digest"] == manifest["digest"]
    assert rows["rows of screening"] == "2"
    assert "0 of 200 inputs failed" in artifacts[f"{name}-failures"]["data"]
    note = html.unescape(artifacts["screen-table-failure"]["data"])
    assert "**Problem** x: 'a|b' is <gone>" in note
    assert "**Remedy** look for it" in note
    assert "<gone>" not in artifacts["screen-table-failure"]["data"]
    states = {run["id"]: run["state"] for run in api("flow_runs")}
    failed = states[artifacts["screen-table-failure"]["flow_run_id"]]
    assert failed["type"] == "FAILED"
    assert "is <gone>" in failed["message"]
    assert "look for it" in failed["message"]
    tags = [set(run["tags"]) for run in api("task_runs") if run["flow_run_id"] == progress["flow_run_id"]]
    assert tags == [{"binmill", "binmill-screen"}]


def test_a_second_run_of_a_dataset_waits_for_the_first(table: Path, tmp_path: Path) -> None:
    processes = [start(table, tmp_path / "out", "slow") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [err[-2000:] for _, err in said]
    first, second = sorted(json.loads(out.splitlines()[-1]) for out, _ in said)
    assert second[0] >= first[1]


def test_a_server_that_is_not_there_asks_for_a_password_or_is_another_is_named(
    prefect_api: dict[str, str],
) -> None:
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    from flows.server import answering

    url = prefect_api["PREFECT_API_URL"]
    wrong: list[tuple[str, str | None, str]] = [
        (f"http://127.0.0.1:{free_port()}/api", None, "does not answer"),
        (url, None, "asks for a password"),
        (url, "binmill:wrong", "asks for a password"),
        (url.removesuffix("/api") + "/other", prefect_api["PREFECT_API_AUTH_STRING"], "as Prefect's server would not"),
    ]
    for place, secret, says in wrong:
        changed: dict[Any, Any] = {PREFECT_API_AUTH_STRING: secret}
        with temporary_settings(changed), pytest.raises(WorkerError, match=says), answering(place):
            pass


def test_a_server_that_is_busy_is_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.server import answering

    monkeypatch.setattr("flows.server.ASK_S", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))  # takes connections, and says nothing
    with listener, answering(f"http://127.0.0.1:{listener.getsockname()[1]}/api"):
        pass


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("home/profiles.toml", 'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n'),
        ("prefect.toml", '[api]\nurl = "http://127.0.0.1:9/api"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "http://127.0.0.1:9/api"\n'),
        (".env", 'PREFECT_API_URL="http://127.0.0.1:9/api"\n'),
        ("pyproject.toml", '[project]\ndependencies = ["prefect"]\n'),
        (None, ""),
    ],
)
def test_a_server_is_named_wherever_prefect_looks(place: str | None, text: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    if place is not None:
        (tmp_path / place).write_text(text)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    code = "import sys; from flows.server import named_server as n; print(n()); print('prefect' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    found = text.startswith("[project]") or place is None
    assert done.stdout.split() == (["None", "False"] if found else ["http://127.0.0.1:9/api", "True"])


def relay(port: int, target: int, stopping: threading.Event) -> threading.Thread:
    """Pass connections on to a port until told to stop, then cut them all."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.settimeout(0.1)
    open_sockets: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    def accept() -> None:
        while not stopping.is_set():
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            near.settimeout(None)
            far = socket.create_connection(("127.0.0.1", target))
            open_sockets.extend((near, far))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=pump, args=ends, daemon=True).start()
        for end in open_sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    return thread


def test_a_server_that_goes_away_in_a_run_is_named_and_the_work_is_kept(
    table: Path, tmp_path: Path, prefect_api: dict[str, str]
) -> None:
    port, stopping = free_port(), threading.Event()
    thread = relay(port, int(prefect_api["PREFECT_API_URL"].split(":")[2].split("/")[0]), stopping)
    # Prefect's patience is about three minutes, so that a server may be started anew; not in a test.
    environment = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command = [sys.executable, "-m", "flows.cli", "screen", str(table), "--outcome", "y", "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "out").glob("tables/*/*.parquet")):
        threading.Event().wait(0.02)
    stopping.set()
    try:
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
    thread.join(timeout=10)
    assert process.returncode == 7, err
    assert f"127.0.0.1:{port}/api does not answer" in err
    assert "Traceback" not in err
    again = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 0, again.stderr
