"""Where the work runs: in this process, on local Dask workers, or on a cluster that is already there."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.build import InProcess
from tasks.items import Item, Receipt

if TYPE_CHECKING:
    from tasks.fanout import DaskExecutor


@dataclass
class LazyCluster:
    """An executor that starts its cluster when there is work, so that a run with nothing to do is quick."""

    workers: int
    scheduler: str | None
    memory: int | None
    stack: contextlib.ExitStack
    started: "DaskExecutor | None" = field(default=None)

    def _start(self) -> "DaskExecutor":
        if self.started is None or self.started.lost:
            from tasks.fanout import local_executor, remote_executor  # Dask takes a second

            manager = remote_executor(self.scheduler) if self.scheduler else local_executor(self.workers, self.memory)
            self.started = self.stack.enter_context(manager)
        return self.started

    @property
    def memory_limit(self) -> int | None:
        """Memory of the smallest worker in bytes."""
        return self._start().memory_limit

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        """Run items on the cluster."""
        if items:
            yield from self._start().run(root, items)


@contextlib.contextmanager
def executor(workers: int, scheduler: str | None, memory: int | None) -> Generator[InProcess | LazyCluster]:
    """The executor for a run; what it started is ended with the block.

    Parameters
    ----------
    workers
        Local worker processes; 0 runs everything in this process, without Dask.
    scheduler
        Address of a Dask scheduler that is already there; `workers` is then not used.
    memory
        Bytes for each local worker.
    """
    if workers == 0 and scheduler is None:
        yield InProcess()
        return
    with contextlib.ExitStack() as stack:
        yield LazyCluster(workers, scheduler, memory, stack)
