"""What all tests share: hypothesis' patience, a machine's real binaries, and a small corpus of them."""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from flows.recipes import check_recipe
from flows.stages import run_stages
from schemas.manifest import Manifest
from tasks.build import Build, Executor, InProcess
from tasks.journal import Journal

settings.register_profile(
    "binmill", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("binmill")

os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    "test_readme.py", "test_scale_out.py", "test_crash.py", "test_cli.py", "test_deployment.py", "test_stores.py",
    "test_dataset.py", "test_pe.py", "test_screen.py", "test_rebalance.py", "test_scores.py",
)  # fmt: skip
"""Files that take longest: begun first, so that no core is left alone with one of them at the end."""


def pytest_xdist_auto_num_workers() -> int:
    """One test process more than there are cores: much of what they do is to wait for servers and pauses."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the rest keeps its order."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="session")
def native_modules() -> list[Path]:
    """Native modules of the environment the tests run in, the smaller ones, sorted."""
    site = Path(sysconfig.get_paths()["platlib"])
    found = sorted(p for p in site.rglob("*.so") if p.is_file() and p.stat().st_size < 3_000_000)
    assert len(found) > 40, "the test environment has too few native modules"
    return found


@pytest.fixture(scope="session")
def windows_programs() -> list[Path]:
    """The launchers for Windows (x86, x64, ARM64) inside pip."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = sorted(site.glob("pip/_vendor/distlib/*.exe"))
    assert found, "this environment's pip has no launchers for Windows"
    return found


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, native_modules: list[Path]) -> Path:
    """A folder of real modules: `science/` (of NumPy, SciPy, scikit-learn) and fewer in `other/`."""
    root = tmp_path_factory.mktemp("corpus")
    science = [p for p in native_modules if {"numpy", "scipy", "sklearn"} & set(p.parts)][:48]
    other = [p for p in native_modules if not {"numpy", "scipy", "sklearn", "pyarrow"} & set(p.parts)][:16]
    for label, files in (("science", science), ("other", other)):
        (root / label).mkdir()
        for number, path in enumerate(files):
            shutil.copy(path, root / label / f"{number:02d}-{path.name}")
    return root


def recipe_of(corpus: Path, **changes: Any) -> dict[str, Any]:
    """A small recipe over a folder whose first folders are the labels."""
    return {
        "name": "small",
        "sources": [{"kind": "directory", "path": str(corpus), "project": "file"}],
        "label": {"origin": "first-folder"},
        "screening": {"top": 16},
        "binarizing": {"dimensions": 8, "iterations": 5},
        "publishing": {"shard_files": 20},
        **changes,
    }


Mill = Callable[..., Manifest]


@pytest.fixture(scope="session")
def mill() -> Mill:
    """Run a recipe in a plain loop, without Prefect; returns the manifest."""

    def run(recipe: dict[str, Any], root: Path, executor: Executor | None = None) -> Manifest:
        with Journal(root, write=True) as journal:
            build = Build(
                recipe=check_recipe(recipe, "test"),
                base=root,
                root=root,
                cache=root / ".cache",
                executor=executor or InProcess(),
                journal=journal,
            )
            manifest = run_stages(build, {"notes": build.notes})
            computed = sum(count.items - count.present for count in build.counts)
            return manifest.model_copy(update={"run": {"computed": computed, "notes": build.notes}})

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, corpus: Path, mill: Mill) -> Path:
    """A committed dataset of the small corpus; tests only read it."""
    root = tmp_path_factory.mktemp("small") / "dataset"
    mill(recipe_of(corpus), root)
    return root


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url: str, process: "subprocess.Popen[Any]", seconds: float = 120) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5, trust_env=False).is_success:
                return
        time.sleep(0.1)
    raise AssertionError(f"{url} does not answer; its process ended with {process.poll()}")


def stop(process: "subprocess.Popen[Any]") -> None:
    """End a process, at last by force."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Host:
    """Where a process runs: what its command begins with, its own address, and that of the machine outside."""

    prefix: tuple[str, ...]
    address: str
    gateway: str


LOOPBACK = Host((), "127.0.0.1", "127.0.0.1")


@contextlib.contextmanager
def separate_hosts(count: int) -> Generator[list[Host]]:
    """Network namespaces, each with a wire to this one; where the machine does not allow that, loopback."""
    made: list[Host] = []
    with contextlib.ExitStack() as stack:
        for number in range(count):
            name, net = f"binmill-{os.getpid()}-{number}", f"10.77.{os.getpid() % 100 * 2 + number}"
            outside, inside = f"bm{os.getpid() % 10_000}{number}a", f"bm{os.getpid() % 10_000}{number}b"
            within = ("ip", "netns", "exec", name)
            commands = [
                ("ip", "netns", "add", name),
                ("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name),
                ("ip", "addr", "add", f"{net}.1/24", "dev", outside),
                ("ip", "link", "set", outside, "up"),
                (*within, "ip", "addr", "add", f"{net}.2/24", "dev", inside),
                (*within, "ip", "link", "set", inside, "up"),
                (*within, "ip", "link", "set", "lo", "up"),
            ]
            try:
                for command in commands:
                    subprocess.run(command, check=True, capture_output=True)
                    if command[:3] == ("ip", "netns", "add"):  # the wire goes with it
                        stack.callback(subprocess.run, ("ip", "netns", "del", name), check=False, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                yield [LOOPBACK] * count
                return
            made.append(Host(within, f"{net}.2", f"{net}.1"))
        yield made


@contextlib.contextmanager
def dask_scheduler(
    address: str, *options: str, hosts: Sequence[Host] = (LOOPBACK, LOOPBACK)
) -> Generator[list["subprocess.Popen[bytes]"]]:
    """A Dask scheduler with a worker on each host, processes of their own, the scheduler first."""
    log = subprocess.DEVNULL
    command = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_scheduler", "--host", address,
               "--dashboard-address", "127.0.0.1:0", *options]  # fmt: skip
    processes = [subprocess.Popen(command, stdout=log, stderr=log)]
    try:
        for host in hosts:
            there = address.replace("0.0.0.0", host.gateway)
            command = [*host.prefix, sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker", there,
                       "--nthreads", "1", "--no-dashboard", "--death-timeout", "30", "--host", host.address,
                       *options]  # fmt: skip
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
        yield processes
    finally:
        for process in reversed(processes):
            stop(process)


@contextlib.contextmanager
def prefect_server(home: Path) -> Generator[tuple["subprocess.Popen[bytes]", dict[str, str]]]:
    """A Prefect server in a process of its own, and the environment that leads to it."""
    port, secret = free_port(), "binmill:of-the-tests"
    environment = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": secret,
        "DO_NOT_TRACK": "1",
    }
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.prefect_server", str(port), str(os.getpid())],
            env={**os.environ, **environment, "PREFECT_SERVER_API_AUTH_STRING": secret},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        try:
            wait_for(f"{environment['PREFECT_API_URL']}/health", process)
            yield process, environment
        finally:
            stop(process)


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment that leads to the one Prefect server of a test process (of each, with pytest-xdist)."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as (_, environment):
        yield environment


@pytest.fixture(autouse=True)
def _address_space() -> Iterator[None]:
    """Give back the address space that `binmill query` takes from its process, where a test calls it in its own."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def _one_prefect_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of tests marked `prefect` go through the one server, those of others through none."""
    if request.node.get_closest_marker("prefect"):
        for name, value in request.getfixturevalue("prefect_api").items():
            monkeypatch.setenv(name, value)
