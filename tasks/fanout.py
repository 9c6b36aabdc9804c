"""How a stage's items run on Dask: the only module that imports `distributed`.

A bounded window of futures: a few items per worker are in flight, each future is released as it ends,
so that the scheduler's graph and the client's memory do not grow with the number of items.
"""

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask.config
from distributed import Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.comm.core import CommClosedError

from schemas.errors import BinmillError, WorkerError
from tasks.items import Item, Receipt, perform

# Dask says it in three ways, by who of the two sides notices first.
LOST = (asyncio.CancelledError, concurrent.futures.CancelledError, CommClosedError)

WINDOW_PER_WORKER = 3
"""Items in flight for each worker: one that runs and two that wait, so that no worker idles."""

SETTINGS = {
    # A cluster that loses its workers says so; it does not hang (measured, see the design notes).
    "distributed.deploy.lost-worker-timeout": "60s",
    "distributed.scheduler.no-workers-timeout": "300s",
    # An item that killed one worker is not given to others: it is run again alone, by us.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.locks.lease-timeout": "60s",
    "distributed.admin.system-monitor.interval": "2s",
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

    def _submit(self, root: str, item: Item, attempt: str = "") -> "Future[Receipt]":
        # The key is the item's fingerprint; `pure=False` since the work is a side effect: a shard.
        return self.client.submit(
            perform, root, item, key=f"{item.stage}.{item.step}-{item.key}{attempt}", pure=False, retries=2
        )

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        """Yield each item with its receipt as it ends.

        Raises
        ------
        WorkerError
            An item killed its worker twice, the second time alone; or the cluster has no worker left.
        BinmillError
            What the item itself raised.
        """
        if not items:
            return
        workers = max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))
        waiting = iter(items)
        flying: dict[Future[Receipt], Item] = {}
        suspects: list[Item] = []
        # `loop` is given since this may run in a thread of Prefect's, which has no loop of Dask's.
        completed = as_completed(loop=self.client.loop)

        def launch(count: int) -> None:
            for item in itertools.islice(waiting, count):
                future = self._submit(root, item)
                flying[future] = item
                completed.add(future)

        try:
            launch(workers * WINDOW_PER_WORKER)
            for future in completed:
                item = flying.pop(future)
                try:
                    yield item, _result(future)
                except KilledWorker:
                    suspects.append(item)
                finally:
                    future.release()
                launch(1)
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
        future = self._submit(root, item, attempt="-alone")
        try:
            return _result(future)
        finally:
            future.release()


def _result(future: "Future[Receipt]") -> Receipt:
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
                dashboard_address=None,  # pyright: ignore[reportArgumentType] # None is "no dashboard"
                # Dask serves its health over HTTP in any case: here, on a port that is free.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                memory_limit="auto" if memory_limit is None else memory_limit,
                silence_logs=logging.CRITICAL,
                env=environment,
            )
        try:
            with Client(cluster, set_as_default=False) as client:
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


@contextlib.contextmanager
def remote_executor(address: str, timeout_s: float = 30) -> Generator[DaskExecutor]:
    """The cluster whose scheduler listens at `address` (`tcp://host:port`).

    Raises
    ------
    WorkerError
        No scheduler answers there, no worker is connected, or its Python differs from ours.
    """
    try:
        client = Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise WorkerError(
            f"--scheduler {address}: no Dask scheduler answers: {error}",
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
