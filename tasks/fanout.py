"""How a stage's items run on Dask: the only module that imports `distributed`.

A bounded window of futures: a few batches of items per worker are in flight, each future is released as it ends,
so that the scheduler's graph and the client's memory do not grow with the number of items. Items that take
milliseconds go several to a batch, since Dask needs five of them for each task.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import operator
import os
import shlex
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import key_split
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.comm.core import CommClosedError
from distributed.security import Security

from schemas.cluster import Kubernetes, Slurm, dask_cluster
from schemas.errors import BinmillError, WorkerError
from tasks.items import Item, Receipt, perform_some
from tasks.loading import load_stages_beside

# Dask says it in three ways, by who of the two sides notices first.
LOST = (asyncio.CancelledError, concurrent.futures.CancelledError, CommClosedError)

WINDOW_PER_WORKER = 3
"""Batches in flight for each worker: one that runs and two that wait, so that no worker idles."""

MOST = 16
"""Items of a batch."""

FORGET_EVERY = 1_000
"""Items after which the scheduler forgets how it split their keys: it would remember a hundred thousand."""

QUEUE_WAIT_S = 600.0
"""For the first of a cluster's workers: jobs and pods wait in queues."""

SETTINGS = {
    # A cluster that loses its workers says so; it does not hang (measured, see the design notes).
    "distributed.deploy.lost-worker-timeout": "60s",
    "distributed.scheduler.no-workers-timeout": "300s",
    # An item that killed one worker is not given to others: it is run again alone, by us.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.locks.lease-timeout": "60s",
    # What looks around all the time takes its time from the items: 1.5 % of a core, in the worker and here.
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.tick.interval": "500ms",
    "distributed.worker.memory.monitor-interval": "200ms",
    "distributed.worker.profile.enabled": False,
}


class DaskExecutor:
    """Runs items on a Dask cluster through a client.

    Parameters
    ----------
    client
        Connected client; the workers see the dataset's folder and the download cache at the same paths.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._size = 1  # of the next batch: steps that follow each other are alike

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return str(self.client.scheduler_info()["address"])

    @property
    def lost(self) -> bool:
        """Whether the scheduler is out of reach: what was submitted is gone with it."""
        return self.client.status != "running"

    @property
    def memory_limit(self) -> int | None:
        """Memory of the smallest worker in bytes; None when no worker says."""
        limits = [w["memory_limit"] for w in self.client.scheduler_info(n_workers=-1)["workers"].values()]
        known = [int(limit) for limit in limits if limit]
        return min(known) if known else None

    def _submit(self, root: str, batch: Sequence[Item], attempt: str = "") -> "Future[list[Receipt]]":
        # The key is the first item's fingerprint; `pure=False` since the work is a side effect: a shard.
        first = batch[0]
        return self.client.submit(
            perform_some, root, batch, key=f"{first.stage}.{first.step}-{first.key}{attempt}", pure=False, retries=2
        )

    def run(self, root: str, items: Iterable[Item]) -> Iterator[tuple[Item, Receipt]]:
        """Yield each item with its receipt as it ends; of the items no more are held than are in flight.

        Raises
        ------
        WorkerError
            An item killed its worker twice, the second time alone; or the cluster has no worker left.
        BinmillError
            What the item itself raised.
        """
        workers = max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        # Of few items each worker shall have its share.
        fair = max(1, operator.length_hint(items, workers * 2 * MOST) // (2 * workers))
        rest = iter(items)
        back: deque[Item] = deque()
        flying: dict[Future[list[Receipt]], list[Item]] = {}
        suspects: list[Item] = []
        # `loop` is given since this may run in a thread of Prefect's, which has no loop of Dask's.
        completed = as_completed(loop=self.client.loop)

        def launch() -> None:
            while len(flying) < workers * WINDOW_PER_WORKER:
                size = min(self._size, fair)
                batch = [back.popleft() for _ in range(min(size, len(back)))]
                batch += itertools.islice(rest, size - len(batch))
                if not batch:
                    return
                future = self._submit(root, batch)
                flying[future] = batch
                completed.add(future)

        try:
            launch()
            for number, future in enumerate(completed, 1):
                if number % FORGET_EVERY == 0:
                    self.client.run_on_scheduler(key_split.cache_clear)
                batch = flying.pop(future)
                try:
                    done = _result(future)
                    back.extend(batch[len(done) :])
                    self._size = min(MOST, 2 * self._size) if len(done) == len(batch) else len(done)
                    yield from zip(batch, done, strict=False)
                except KilledWorker:
                    suspects += batch
                finally:
                    future.release()
                launch()
            poison: list[str] = []
            for item in suspects:  # one that waited beside the poison is innocent: it is done before we say so
                try:
                    yield item, self._alone(root, item)
                except KilledWorker:
                    poison.append(f"{item.stage}.{item.step}: '{item.title}'")
            if poison:
                raise WorkerError(
                    f"{', '.join(poison)} killed its worker twice, the second time alone",
                    "give workers more memory (--memory), or leave the source out; finished work is kept",
                )
        except BinmillError:
            raise
        except Exception as error:  # what `submit` raises without a scheduler is of no type of its own
            if self.lost:
                raise _scheduler_lost() from error
            raise
        finally:
            if flying:
                with contextlib.suppress(Exception):
                    self.client.cancel(list(flying), force=True)

    def _alone(self, root: str, item: Item) -> Receipt:
        """Run an item that killed its worker once more, with nothing beside it, before it is declared poison."""
        future = self._submit(root, [item], attempt="-alone")
        try:
            return _result(future)[0]
        finally:
            future.release()


def _result(future: "Future[list[Receipt]]") -> list[Receipt]:
    try:
        return future.result()
    except (BinmillError, KilledWorker):
        raise
    except LOST as error:
        raise _scheduler_lost() from error
    except TimeoutError as error:
        raise WorkerError(
            "the Dask cluster has no worker left", "start workers, then run again: finished work is kept"
        ) from error


def _scheduler_lost() -> WorkerError:
    return WorkerError(
        "the Dask scheduler is lost", "start it again (with --scheduler) and run again: finished work is kept"
    )


@contextlib.contextmanager
def local_executor(workers: int, memory_limit: int | None = None) -> Generator[DaskExecutor]:
    """A cluster of `workers` one-threaded processes on loopback, without a dashboard, ended with the block.

    Parameters
    ----------
    memory_limit
        Bytes for each worker; by default the machine's memory shared out.
    """
    # Workers are started by executing this interpreter anew; they must find the rooms wherever they start.
    root = str(Path(__file__).parent.parent)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    paths = [root, *[p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]]
    environment = {"PYTHONPATH": os.pathsep.join(paths), **threads}
    with dask.config.set({**SETTINGS, "distributed.nanny.pre-spawn-environ": threads}), _quiet():
        with _without_interrupts():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                protocol="tls",  # loopback is open to everybody on this machine, and who reaches a scheduler runs code
                security=Security.temporary(),
                dashboard_address=None,  # pyright: ignore[reportArgumentType] # None is "no dashboard"
                # Dask serves its health over HTTP in any case: here, on a port that is free.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                memory_limit="auto" if memory_limit is None else memory_limit,
                silence_logs=logging.CRITICAL,
                env=environment,
            )
        try:
            with Client(cluster, set_as_default=False) as client:
                client.run(load_stages_beside, wait=False)
                yield DaskExecutor(client)
        finally:
            cluster.close(timeout=20)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Let Dask's loggers say nothing: what matters comes back through the futures.

    Tornado logs what Dask's loop meets when it is interrupted, the client what it meets when the scheduler is gone.
    """
    names = ("distributed", "distributed.client", "tornado")
    before = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in before:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


@contextlib.contextmanager
def _without_interrupts() -> Generator[None]:
    """Block SIGINT for processes and threads that are started meanwhile.

    Ctrl-C in a terminal reaches every process of the group. It is for us alone: the block is inherited by the
    cluster's thread and by every worker it will ever start, and we end them in order.
    """
    resource_tracker.ensure_running()  # as it starts it unblocks SIGINT; so it goes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def credentials(folder: str | None) -> Security | None:
    """Certificates for a scheduler at tls://: ca.pem, cert.pem and key.pem in a folder.

    Raises
    ------
    WorkerError
        One of them is not there.
    """
    if folder is None:
        return None
    places = {name: Path(folder) / f"{name}.pem" for name in ("ca", "cert", "key")}
    for place in places.values():
        if not place.is_file():
            raise WorkerError(
                f"--tls {folder}: {place.name} is not there",
                "name a folder with ca.pem, cert.pem and key.pem: those that scheduler and workers were started with",
            )
    roles, kinds = ("client", "scheduler", "worker"), ("cert", "key")
    ends: dict[str, Any] = {f"tls_{role}_{kind}": str(places[kind]) for role in roles for kind in kinds}
    return Security(tls_ca_file=str(places["ca"]), require_encryption=True, **ends)


@contextlib.contextmanager
def slurm_executor(cluster: Slurm) -> Generator[DaskExecutor]:
    """A scheduler in this process and workers as SLURM's jobs, all behind TLS; ended with the block.

    Raises
    ------
    WorkerError
        dask-jobqueue or SLURM is not installed, or no job starts in time.
    """
    shared = Path(cluster.log_directory or Path.cwd())
    shared.mkdir(parents=True, exist_ok=True)
    with (
        dask.config.set(SETTINGS),
        _quiet(),
        tempfile.TemporaryDirectory(prefix=".binmill-tls-", dir=shared) as folder,  # for its owner only
    ):
        made = Security.temporary()
        for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
            Path(folder, f"{name}.pem").write_text(str(text), encoding="ascii")
        there = slurm_cluster(cluster, credentials(folder))
        try:
            there.scale(jobs=cluster.workers)
            with Client(there, set_as_default=False) as client:
                _wait_for_workers(client, "--cluster slurm", "squeue says why jobs wait", QUEUE_WAIT_S)
                yield DaskExecutor(client)
        finally:
            there.close()


def slurm_cluster(cluster: Slurm, security: Security | None) -> Any:
    """dask-jobqueue's cluster of a setting; its `job_script()` is what is submitted.

    Parameters
    ----------
    security
        Certificates in files that the nodes can read.

    Raises
    ------
    WorkerError
        dask-jobqueue is not installed.
    """
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise WorkerError("--cluster slurm: dask-jobqueue is not installed", "pip install 'binmill[slurm]'") from error
    root = str(Path(__file__).parent.parent)
    return SLURMCluster(
        cores=1,
        processes=1,
        memory=f"{cluster.memory_mib} MiB",
        walltime=cluster.walltime,
        queue=cluster.partition,
        account=cluster.account,
        interface=cluster.interface,
        python=cluster.python or sys.executable,
        log_directory=cluster.log_directory,
        job_extra_directives=list(cluster.directives),
        job_script_prologue=[
            *cluster.prologue,
            f"export PYTHONPATH={shlex.quote(root)}${{PYTHONPATH:+:$PYTHONPATH}}",
            *(f"export {name}=1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")),
        ],
        worker_extra_args=["--no-dashboard"],
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
        protocol="tls://",
        security=security,
    )


@contextlib.contextmanager
def kubernetes_executor(cluster: Kubernetes) -> Generator[DaskExecutor]:
    """The Dask operator's cluster of a setting, made for the block and removed with it.

    Raises
    ------
    WorkerError
        dask-kubernetes is not installed, or no Kubernetes with the operator is in reach.
    """
    try:
        from dask_kubernetes.operator import KubeCluster
    except ImportError as error:
        raise WorkerError(
            "--cluster kubernetes: dask-kubernetes is not installed",
            "pip install dask-kubernetes 'binmill[kubernetes]'",
        ) from error
    with dask.config.set(SETTINGS), _quiet():
        try:
            there: Any = KubeCluster(
                custom_cluster_spec=dask_cluster(cluster), namespace=cluster.namespace, quiet=True, resource_timeout=120
            )
        except Exception as error:  # kr8s, httpx and the operator each have their own
            said = str(error).splitlines() or [type(error).__name__]
            raise WorkerError(
                f"--cluster kubernetes: no cluster in reach: {said[0]}",
                "check kubectl (KUBECONFIG), and that the Dask operator is installed in the cluster",
            ) from error
        try:
            with Client(there, set_as_default=False) as client:
                _wait_for_workers(client, "--cluster kubernetes", "kubectl get pods says why they wait", QUEUE_WAIT_S)
                yield DaskExecutor(client)
        finally:
            there.close()


def _wait_for_workers(client: Client, what: str, remedy: str, timeout_s: float) -> None:
    try:
        client.wait_for_workers(1, timeout=timeout_s)
    except TimeoutError as error:
        raise WorkerError(f"{what}: no worker started within {timeout_s:.0f} s", remedy) from error


@contextlib.contextmanager
def remote_executor(address: str, timeout_s: float = 30, tls: str | None = None) -> Generator[DaskExecutor]:
    """The cluster whose scheduler listens at `address` (`tcp://host:port`, or `tls://` with a folder of certificates).

    Raises
    ------
    WorkerError
        No scheduler answers there, no worker is connected, or its Python differs from ours.
    """
    try:
        client = Client(address, timeout=timeout_s, set_as_default=False, security=credentials(tls))
    except (OSError, TimeoutError, TypeError, ValueError) as error:
        if address.startswith("tls:") and tls is None:
            raise WorkerError(
                f"--scheduler {address}: certificates are needed for tls://",
                "name their folder: --tls DIRECTORY (ca.pem, cert.pem, key.pem)",
            ) from error
        raise WorkerError(
            f"--scheduler {address}: no Dask scheduler answers{' who takes our certificate' if tls else ''}: {error}",
            "start one with 'dask scheduler' and workers with 'dask worker ADDRESS --nthreads 1'",
        ) from error
    with dask.config.set(SETTINGS), _quiet(), client:
        try:
            client.wait_for_workers(1, timeout=timeout_s)
        except TimeoutError as error:
            raise WorkerError(
                f"--scheduler {address}: the scheduler has no worker",
                f"start one: 'dask worker {address} --nthreads 1' in an environment with binmill",
            ) from error
        found: Any = client.run(_python_version)
        versions: set[str] = set(found.values())
        if versions != {_python_version()}:
            raise WorkerError(
                f"--scheduler {address}: workers run Python {', '.join(sorted(versions))}, this is {_python_version()}",
                "use one Python version on all machines, or the same bytes cannot be promised",
            )
        yield DaskExecutor(client)


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
