"""Fanning out: a bounded window, and an item that kills its workers costs only itself."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from distributed import Client, Future, LocalCluster
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError

import tasks.items
from schemas.errors import RecipeError, WorkerError
from schemas.provenance import Provenance
from tasks.fanout import LOST, MOST, SETTINGS, WINDOW_PER_WORKER, DaskExecutor
from tasks.items import BRIEF_S, Item, Receipt, perform_some


def item(name: str) -> Item:
    provenance = Provenance("d", "s", "t", name, "0", "c", {}, (), {}, 0)
    return Item("stage", "step", name, f"item {name}", {}, provenance)


def work(_: str, work: Item) -> Receipt:
    if work.key.startswith("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
    if work.key.startswith("wrong"):
        raise RecipeError("a field is wrong", "mend it")
    if work.key.startswith("slow"):
        time.sleep(2 * BRIEF_S)
    return Receipt(work.stage, work.step, work.key, ())


def work_some(items: Sequence[Item]) -> list[Receipt]:
    tasks.items.perform = work  # in a worker, which does nothing else
    return perform_some("", items)


class Trial(DaskExecutor):
    """The executor, with other work than the stages'; counts what is in flight."""

    flying = 0
    most = 0

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.sizes: list[int] = []

    def _submit(self, root: str, batch: Sequence[Item], attempt: str = "") -> "Future[Any]":
        self.flying += 1
        self.most = max(self.most, self.flying)
        self.sizes.append(len(batch))
        future = self.client.submit(work_some, batch, key=f"{batch[0].key}{attempt}", pure=False, retries=2)
        future.add_done_callback(lambda _: setattr(self, "flying", self.flying - 1))
        return future


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    import dask.config

    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            2,
            threads_per_worker=1,
            dashboard_address=None,  # pyright: ignore[reportArgumentType]
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # its health page: 8787 may be another's
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_every_item_comes_back_and_the_window_is_bounded(client: Client) -> None:
    trial = Trial(client)
    items = [item(f"a{i}") for i in range(200)]
    found = {receipt.key for _, receipt in trial.run("", items)}
    assert found == {i.key for i in items}
    assert trial.most <= 2 * WINDOW_PER_WORKER + 2  # callbacks may come a moment late
    assert list(trial.run("", [])) == []


def test_items_that_take_no_time_go_in_batches_and_the_others_by_themselves(client: Client) -> None:
    trial = Trial(client)
    assert len(list(trial.run("", (item(f"e{i}") for i in range(600))))) == 600  # no length is known
    assert max(trial.sizes) == MOST
    assert len(trial.sizes) < 150
    trial.sizes.clear()
    assert len(list(trial.run("", [item(f"f{i}") for i in range(20)]))) == 20
    assert max(trial.sizes) <= 5  # of few, two for each worker
    trial.sizes.clear()
    slow = [item(f"slow{i}") for i in range(24)]
    assert {found.key for found, _ in trial.run("", slow)} == {i.key for i in slow}
    assert sorted(trial.sizes)[len(trial.sizes) // 2] <= 2


def test_what_was_done_before_another_item_failed_is_kept(client: Client) -> None:
    trial = Trial(client)
    assert len(list(trial.run("", [item(f"g{i}") for i in range(200)]))) == 200  # batches are large now
    items = [item(f"h{i}") for i in range(64)]
    items[7] = item("wrong2")
    done: list[str] = []

    def run() -> None:
        done.extend(receipt.key for _, receipt in trial.run("", items))

    with pytest.raises(RecipeError, match="a field is wrong"):
        run()
    assert {f"h{i}" for i in range(7)} <= set(done)


def test_an_items_own_error_comes_through_as_it_is(client: Client) -> None:
    with pytest.raises(RecipeError, match="a field is wrong"):
        list(Trial(client).run("", [item("wrong1")]))


def test_a_poison_item_is_named_and_the_others_are_done(client: Client) -> None:
    items = [*(item(f"b{i}") for i in range(6)), item("poison"), *(item(f"c{i}") for i in range(6))]
    done: list[str] = []

    def run() -> None:
        done.extend(receipt.key for _, receipt in Trial(client).run("", items))

    with pytest.raises(WorkerError, match="item poison"):
        run()
    assert sorted(done) == sorted(i.key for i in items if i.key != "poison")


def test_every_poison_is_named_and_one_that_waited_beside_it_is_done(client: Client) -> None:
    """Both that a worker holds fail with it; the innocent one is run alone, whichever comes first."""
    items = [item("poison1"), item("poison2"), *(item(f"d{i}") for i in range(4))]
    done: list[str] = []

    def run() -> None:
        done.extend(receipt.key for _, receipt in Trial(client).run("", items))

    with pytest.raises(WorkerError, match=r"item poison1.*item poison2|item poison2.*item poison1"):
        run()
    assert sorted(done) == [f"d{i}" for i in range(4)]


@pytest.mark.parametrize("said", [asyncio.CancelledError(), FutureCancelledError("key", "lost"), CommClosedError()])
def test_a_lost_scheduler_is_known_by_whatever_dask_raises(said: BaseException) -> None:
    assert isinstance(said, LOST)
