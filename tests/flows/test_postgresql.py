"""Prefect's server on Debian's PostgreSQL: runs are kept there, and outlive the server."""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import free_port, recipe_of, stop, wait_for

ROOT = Path(__file__).parent.parent.parent
FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
USERS = {entry.pw_name for entry in pwd.getpwall()}
SECRET = "binmill:kept"


@pytest.fixture
def database() -> Iterator[str]:
    """Address of a database of its own on loopback, whose files are gone with it."""
    programs, port = FOUND[-1], free_port()
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))  # another user must reach it
    shutil.chown(folder, "postgres")
    password = folder / "password"
    password.write_text("prefect-password\n")
    shutil.chown(password, "postgres")
    become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        subprocess.run(
            [*become, programs / "initdb", "-D", folder / "data", "-U", "prefect", "--auth=scram-sha-256",
             f"--pwfile={password}"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        log = stack.enter_context((folder / "log").open("wb"))
        server = subprocess.Popen(
            [*become, programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port), "-k", folder],
            stdout=log, stderr=log, cwd="/",
        )  # fmt: skip
        stack.callback(stop, server)
        environment = os.environ | {"PGPASSWORD": "prefect-password"}
        ask = [programs / "psql", "-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "-d", "postgres", "-c"]
        deadline = time.monotonic() + 60
        while subprocess.run([*ask, "CREATE DATABASE kept"], env=environment, capture_output=True).returncode:  # noqa: PLW1510
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.3)
        yield f"postgresql+asyncpg://prefect:prefect-password@127.0.0.1:{port}/kept"


@contextlib.contextmanager
def prefect_on(database: str, home: Path) -> Generator[str]:
    """Prefect's server as README starts it for others: on a database, behind a password."""
    port = free_port()
    environment = os.environ | {
        "PREFECT_HOME": str(home), "PREFECT_SERVER_DATABASE_CONNECTION_URL": database, "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_API_AUTH_STRING": SECRET, "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }  # fmt: skip
    with (home / "server.log").open("ab") as log:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/health", server)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            stop(server)


@pytest.mark.slow
@pytest.mark.skipif(not FOUND or "postgres" not in USERS, reason="Debian's PostgreSQL is not installed")
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs to become the user postgres")
def test_runs_are_kept_in_postgresql(database: str, small: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(corpus)))
    with prefect_on(database, tmp_path) as api:
        environment = os.environ | {
            "PREFECT_API_URL": api,
            "PREFECT_API_AUTH_STRING": SECRET,
            "PREFECT_HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "flows.cli", "run", str(tmp_path / "recipe.yaml"), "-o",
             str(tmp_path / "out"), "--json"],
            env=environment, capture_output=True, text=True, check=False, timeout=280, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["digest"] == json.loads((small / "manifest.json").read_text())["digest"]
    with prefect_on(database, tmp_path) as api:  # another server, the same runs
        auth = httpx.BasicAuth(*SECRET.split(":"))
        (run,) = httpx.post(f"{api}/flow_runs/filter", json={}, trust_env=False, auth=auth).json()
        assert run["state_type"] == "COMPLETED"
        kept = httpx.post(f"{api}/artifacts/filter", json={}, trust_env=False, auth=auth).json()
        assert "small-summary" in {found["key"] for found in kept}
        assert httpx.post(f"{api}/flow_runs/filter", json={}, trust_env=False).status_code == 401
    assert not (tmp_path / "prefect.db").exists(), "the server kept its runs elsewhere"
