"""Where the work runs: in this process, on local Dask workers, or on a cluster; from one setting."""

import contextlib
import importlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import ValidationError

from schemas.cluster import CLUSTER, KINDS, Address, Cluster, Kubernetes, Local, Slurm
from schemas.errors import RecipeError, WorkerError
from tasks import drawing
from tasks.build import InProcess
from tasks.items import Item, Receipt
from tasks.loading import load_stages

if TYPE_CHECKING:
    from tasks.fanout import DaskExecutor

T = TypeVar("T")


def cluster_of(
    setting: str | dict[str, Any] | None = None,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    memory_mib: int | None = None,
    tls: str | None = None,
) -> Cluster:
    """The typed setting of what a user or a deployment says.

    Parameters
    ----------
    setting
        A kind (`local`, `slurm`), an address (`tcp://host:port`), a YAML file, or its content. Without a word: one
        worker of this machine.
    workers, scheduler, memory_mib, tls
        What the shortcuts say; they go before the setting.

    Raises
    ------
    RecipeError
        Naming the field that is wrong, and how it can be right.
    """
    where, value = "--cluster", setting
    if scheduler is not None:
        value = {"kind": "address", "scheduler": scheduler}
        where = "--scheduler"
    elif setting is None:
        value = {"kind": "local", "workers": 1}
    elif isinstance(setting, str):
        if "://" in setting:
            value = {"kind": "address", "scheduler": setting}
        elif setting in KINDS:
            value = {"kind": setting}
        else:
            where, value = setting, _file(setting)
    if not isinstance(value, dict):
        raise RecipeError(f"{where}: a cluster is a mapping", f"begin with kind: {', '.join(KINDS)}")
    told = {"workers": workers, "memory_mib": memory_mib, "tls": tls}
    fields = _fields(value.get("kind"))
    value = value | {name: given for name, given in told.items() if given is not None and name in fields}
    if tls is not None and "tls" not in fields:
        raise RecipeError("--tls: only a scheduler at an address takes certificates", "name it: --scheduler tls://...")
    try:
        return CLUSTER.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "kind"
        raise RecipeError(
            f"{where}: {place}: {first['msg'].removeprefix('Value error, ')}",
            f"kinds are {', '.join(KINDS)}; README's 'Schedule it on a cluster' lists their settings",
        ) from error


def _fields(kind: Any) -> set[str]:
    models = {"local": Local, "address": Address, "slurm": Slurm, "kubernetes": Kubernetes}
    return set(models[kind].model_fields) if kind in models else set()


def _file(name: str) -> Any:
    try:
        return yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"--cluster {name}: no such kind or file", f"give {', '.join(KINDS)}, tcp://host:port, or a YAML file"
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not YAML: {error}", "mend the file") from error


def beside(work: Callable[[], T]) -> "Future[T]":
    """Do something in a thread of its own. It keeps no process from ending."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


@dataclass
class LazyCluster:
    """An executor that starts its cluster when there is work, so that a run with nothing to do is quick."""

    cluster: Cluster
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    started: "DaskExecutor | None" = None
    leaving: "Future[None] | None" = None
    busy: bool = False
    turn: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> "DaskExecutor":
        """The cluster's executor; it is started if it was not, or if it is lost.

        Raises
        ------
        WorkerError
            It cannot be started, or was told to end.
        """
        with self.turn:
            if self.leaving is not None:
                raise WorkerError("the run has ended", "run again: finished work is kept")
            if self.started is None or self.started.lost:
                self.started = self.stack.enter_context(_started(self.cluster))
            return self.started

    @property
    def memory_limit(self) -> int | None:
        """Memory of the smallest worker in bytes."""
        return self.start().memory_limit

    def prepare(self) -> None:
        """Begin to start workers of this machine, beside what else there is to do before there is work for them."""
        if isinstance(self.cluster, Local):
            importlib.import_module("tasks.fanout")
            beside(self.start)

    def run(self, root: str, items: Sequence[Item]) -> Iterator[tuple[Item, Receipt]]:
        """Run items on the cluster."""
        if items:
            if not self.busy:
                self.busy = True
                beside(_load_ahead)  # workers are busy from here on, and this process is not
            yield from self.start().run(root, items)

    def leave(self) -> "Future[None]":
        """Begin to end the cluster, beside what else there is to do."""
        with self.turn:
            if self.leaving is None:
                self.leaving = beside(self.stack.close)
            return self.leaving

    def close(self) -> None:
        """End the cluster, and wait until it has ended."""
        self.leave().result()


def _load_ahead() -> None:
    """Import what this process needs later: to plan the stages, and to draw."""
    load_stages()
    importlib.import_module("tasks.publish.task")
    drawing.prepare()


def _started(cluster: Cluster) -> "contextlib.AbstractContextManager[DaskExecutor]":
    from tasks.fanout import kubernetes_executor, local_executor, remote_executor, slurm_executor  # Dask takes a second

    match cluster:
        case Local():
            memory = None if cluster.memory_mib is None else cluster.memory_mib << 20
            return local_executor(cluster.workers, memory)
        case Address():
            return remote_executor(cluster.scheduler, tls=cluster.tls)
        case Slurm():
            return slurm_executor(cluster)
        case Kubernetes():
            return kubernetes_executor(cluster)


@contextlib.contextmanager
def executor(cluster: Cluster) -> Generator[InProcess | LazyCluster]:
    """The executor for a run, ended with the block."""
    if isinstance(cluster, Local) and cluster.workers == 0:
        yield InProcess()
        return
    with contextlib.closing(LazyCluster(cluster)) as lazy:
        yield lazy
