"""Debian's SLURM on one node: the workers are its jobs, and the bytes are as ever."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.cluster import Slurm
from tasks.fanout import slurm_executor
from tasks.query.dataset import open_dataset
from tests.conftest import Mill, free_port, recipe_of, stop

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A controller and a node on loopback, with munge for who is who; each stopped by its process."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets want short paths
    name = socket.gethostname().partition(".")[0]
    for place in ("spool", "state", "munge"):
        (folder / place).mkdir(mode=0o700)
    folder.chmod(0o755)
    (folder / "munge" / "key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge" / "key").chmod(0o400)
    munge = folder / "munge.sock"
    settings = {
        "ClusterName": "mill", "SlurmctldHost": f"{name}(127.0.0.1)", "SlurmUser": "root", "SlurmdUser": "root",
        "AuthType": "auth/munge", "AuthInfo": f"socket={munge}", "CredType": "cred/munge",
        "StateSaveLocation": folder / "state", "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "controller.pid", "SlurmdPidFile": folder / "node.pid",
        "SlurmctldPort": free_port(), "SlurmdPort": free_port(), "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none", "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory",
        "ReturnToService": 2, "MpiDefault": "none", "JobAcctGatherType": "jobacct_gather/none",
    }  # fmt: skip
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines.append(f"NodeName={name} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=6000 State=UNKNOWN")
    lines.append(f"PartitionName=cpu Nodes={name} Default=YES MaxTime=INFINITE State=UP")
    config = folder / "slurm.conf"
    config.write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SLURM_CONF", str(config))
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={folder}/munge/key", f"--socket={munge}",
         f"--pid-file={folder}/munge/pid", f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed"],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-N", name, "-f", str(config)],
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log = stack.enter_context((folder / "log").open("wb"))
        for command in commands:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(stop, process)
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in (said := _ask("sinfo", "--noheader", "-o", "%T")):
            assert time.monotonic() < deadline, f"{said}\n{(folder / 'log').read_text()[-2000:]}"
            time.sleep(0.5)
        yield folder


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons run as root here")
def test_workers_are_slurms_jobs(slurm: Path, small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    setting = Slurm(workers=2, memory_mib=1500, partition="cpu", walltime="00:30:00", log_directory=str(tmp_path))
    with slurm_executor(setting) as executor:
        found = mill(recipe_of(corpus), tmp_path / "out", executor)
        jobs = _ask("squeue", "--noheader", "-o", "%P %T").splitlines()
    assert found.digest == open_dataset(small).manifest.digest
    assert "cpu RUNNING" in jobs
    deadline = time.monotonic() + 60
    while (left := _ask("squeue", "--noheader").strip()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left == "", "jobs were left behind"
