"""What a Prefect server keeps of a run: how far it is, what came of it, why it failed; and that runs take turns."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_logger

from flows.progress import LABELS
from schemas.errors import BinmillError, LockedError
from schemas.manifest import Manifest
from tasks.build import Progress
from tasks.journal import Journal

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

EVERY_S = 3.0
"""Seconds between two updates of a stage's progress."""
LOOK_S = 1.0
"""Seconds between two looks whether a dataset is free."""


def _quietly(what: str, tell: Callable[[], object]) -> bool:
    """Tell the server something; what it does not take is no reason to end a run of hours."""
    try:
        tell()
    except Exception as error:
        get_logger("binmill").warning("%s is not recorded: %s: %s", what, type(error).__name__, str(error)[:200])
        return False
    return True


def _key(*parts: str) -> str:
    """An artifact's key, which keeps its versions together: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


class Recorded:
    """Progress that is shown elsewhere, and kept as one progress artifact a stage too.

    Parameters
    ----------
    shown
        Who else is told.
    name
        The dataset's.
    """

    def __init__(self, shown: Progress, name: str) -> None:
        self.shown, self.name = shown, name
        self.records = True
        self.stage, self.step = "", ""
        self.artifact: UUID | None = None
        self.total, self.done, self.told = 0, 0, 0.0

    def begin(self, stage: str, step: str, items: int, present: int, weight: int) -> None:
        """Open the stage's artifact, or go on in it with another step."""
        self.shown.begin(stage, step, items, present, weight)
        self.step = LABELS.get(f"{stage}.{step}", f"{stage}: {step}")
        self.total, self.done = weight, 0
        if stage != self.stage:
            self.stage, self.artifact, self.told = stage, None, float("-inf")
        self._tell()

    def advance(self, weight: int) -> None:
        """Move on."""
        self.shown.advance(weight)
        self.done += weight
        self._tell()

    def end(self) -> None:
        """Finish the step."""
        self.shown.end()
        self.done = self.total
        self._tell()

    def finish(self) -> None:
        """Finish the stage."""
        self._tell(self.artifact is not None)

    def _tell(self, now: bool = False) -> None:
        """Tell the server now, or now and then: to be told takes it a tenth of a second."""
        if self.records and (now or time.monotonic() - self.told > EVERY_S):
            self.told = time.monotonic()
            self.records = _quietly("progress", self._record)

    def _record(self) -> None:
        percent = 100.0 * self.done / self.total if self.total else 100.0
        if self.artifact is None:
            self.artifact = cast("UUID", create_progress_artifact(percent, _key(self.name, self.stage), self.step))
        else:
            update_progress_artifact(self.artifact, percent, self.step)


def record_result(manifest: Manifest, computed: int, notes: list[str]) -> None:
    """Keep a finished run's summary as a table, and what failed in it as a text."""
    summary = manifest.summary
    rows: list[tuple[str, Any]] = [
        ("digest", manifest.digest),
        ("computed", computed),
        ("inputs", summary.get("inputs")),
        ("failed", summary.get("failed")),
        *((f"rows of {table}", sum(shard.rows for shard in shards)) for table, shards in manifest.tables.items()),
    ]
    for split, labels in summary.get("balance", {}).get("after", {}).items():
        rows += [(f"{split}: {label}", count) for label, count in labels.items()]
    rows += [("note", note) for note in notes]
    table = [{"what": what, "value": str(value)} for what, value in rows]
    key = _key(manifest.name, "summary")
    _quietly("the summary", lambda: create_table_artifact(table, key, f"What the dataset {manifest.name} is now"))
    failed = summary.get("failures", [])
    lines = [
        f"# {manifest.name}: {summary.get('failed', 0)} of {summary.get('inputs', 0)} inputs failed",
        *(("", "| stage | reason | inputs | such as |", "|---|---|---:|---|") if failed else ()),
        *(f"| {f['stage']} | {_cell(f['reason'])} | {f['count']} | {_cell(f['example'])} |" for f in failed),
    ]
    key = _key(manifest.name, "failures")
    _quietly("the list of failures", lambda: create_markdown_artifact("\n".join(lines), key))


def _cell(text: Any, most: int = 200) -> str:
    """A text from a stranger's file, as one cell of a table."""
    return re.sub(r"[\\`*_{}\[\]<>|#!]", lambda found: f"&#{ord(found[0])};", " ".join(str(text).split())[:most])


def failure_of(state: "State[Any]") -> Any:
    """The exception that a task or flow ended with."""
    return getattr(state.data, "result", state.data)  # Prefect wraps that of a flow


def note_failure(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State[Any]") -> None:
    """Keep a note of a failed run: what is wrong, and what to do (Prefect calls this)."""
    error = failure_of(state)
    lines = [f"# {flow.name} failed: {flow_run.name}", ""]
    if isinstance(error, BinmillError):
        lines += [f"**Problem** {_cell(error.problem, 2000)}", "", f"**Remedy** {_cell(error.remedy, 2000)}"]
    else:
        lines += [_cell(state.message or state.name, 2000), "", "The log of the run says more."]
    note = ArtifactCreate(
        key=_key(flow.name, "failure"),
        type="markdown",
        data="\n".join(lines),
        description=flow_run.name,
        flow_run_id=flow_run.id,
    )

    def tell() -> None:
        with get_client(sync_client=True) as client:
            client.create_artifact(note)

    _quietly("the note of the failure", tell)


def journal_of(root: Path) -> Journal:
    """The dataset's journal, when it is this run's turn to write it.

    It waits for the run before it. The lock is the operating system's (not one of Prefect's limits, whose slots stay
    taken when a server is started anew).
    """
    told = False
    while True:
        try:
            return Journal(root, write=True)
        except LockedError as error:
            if not told:
                get_run_logger().info("%s: waiting for it to end", error.problem)
            told = True
        time.sleep(LOOK_S)
