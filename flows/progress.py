"""Progress bars for a terminal, plain lines for a log."""

import contextlib
import time
from collections.abc import Callable, Generator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LABELS = {
    "ingest.scan": "ingest: open sources",
    "ingest.assign": "ingest: find duplicates",
    "extract.features": "extract: features of binaries",
    "extract.rows": "extract: rows of the table",
    "label.labels": "label: declared against observed",
    "split.splits": "split: whole groups",
    "screen.open": "screen: open the table",
    "screen.look": "screen: ranges and categories",
    "screen.settle": "screen: columns",
    "screen.outcome": "screen: outcome",
    "screen.columns": "screen: mutual information",
    "screen.sketch": "screen: value ranges",
    "screen.merge-16": "screen: bins",
    "screen.refine-24": "screen: finer value ranges",
    "screen.merge-24": "screen: finer bins",
    "screen.refine-32": "screen: finest value ranges",
    "screen.merge-32": "screen: finest bins",
    "screen.counts": "screen: counts",
    "screen.scores": "screen: mutual information",
    "screen.rank": "screen: ranks",
    "screen.candidates": "screen: the best again",
    "screen.select": "screen: selection",
    "screen.apply": "screen: selected columns",
    "screen.scale": "screen: scaler",
    "rebalance.open": "rebalance: open the table",
    "rebalance.rows": "rebalance: rows of the table",
    "rebalance.scale": "rebalance: scaler",
    "rebalance.values": "rebalance: names by class",
    "rebalance.gather": "rebalance: smaller classes",
    "rebalance.around": "rebalance: neighbours of any class",
    "rebalance.centres": "rebalance: clusters",
    "rebalance.clusters": "rebalance: rows by cluster",
    "rebalance.plan": "rebalance: nearest neighbours",
    "rebalance.synthesize": "rebalance: synthetic rows",
    "rebalance.near": "rebalance: rows near the smallest class",
    "rebalance.candidates": "rebalance: rows near the smallest class, merged",
    "rebalance.rank": "rebalance: ranks of rows",
    "rebalance.limit": "rebalance: rows that stay",
    "rebalance.under": "rebalance: under-sampling",
    "rebalance.crowd": "rebalance: rows near other classes",
    "rebalance.links": "rebalance: rows to leave out",
    "rebalance.clean": "rebalance: cleaning",
    "binarize.fit": "binarize: fit",
    "binarize.encode": "binarize: encode",
    "binarize.recall": "binarize: recall",
    "evaluate.read": "evaluate: read the rows",
    "evaluate.fit": "evaluate: fit models",
    "evaluate.bootstrap": "evaluate: bootstrap",
    "evaluate.sweep": "evaluate: over- and under-sampling swept",
}
"""What a person reads for `stage.step`."""


class _Estimate(TimeRemainingColumn):
    """What is left, while something is."""

    def render(self, task: Task) -> Text:
        return Text("") if task.finished else super().render(task).append(" left")


class Lines:
    """A line for each step as it ends: for logs, and for what is not a terminal.

    Parameters
    ----------
    say
        Takes each line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.name, self.items, self.present, self.started = "", 0, 0, 0.0

    def begin(self, stage: str, step: str, items: int, present: int, weight: int) -> None:
        """Remember the step and when it began."""
        self.name = LABELS.get(f"{stage}.{step}", f"{stage}: {step}")
        self.items, self.present, self.started = items, present, time.monotonic()

    def advance(self, weight: int) -> None:
        """Say nothing: a line for each of a million items helps nobody."""

    def end(self) -> None:
        """Say what was done."""
        seconds = time.monotonic() - self.started
        self.say(f"{self.name}: {self.items - self.present} done, {self.present} there, {seconds:.1f} s")


class Bars:
    """One bar a step, with an estimate of what is left; finished steps stay as a line."""

    def __init__(self, console: Console) -> None:
        self.bars = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TextColumn("{task.fields[items]}"),
            TimeElapsedColumn(),
            _Estimate(),
            console=console,
        )
        self.task = TaskID(0)
        self.items, self.present, self.done = 0, 0, 0

    def begin(self, stage: str, step: str, items: int, present: int, weight: int) -> None:
        """Show a bar for the step."""
        self.items, self.present, self.done = items, present, present
        name = LABELS.get(f"{stage}.{step}", f"{stage}: {step}")
        self.task = self.bars.add_task(name, total=max(weight, 1), items=f"{present}/{items}")

    def advance(self, weight: int) -> None:
        """Move the bar."""
        self.done += 1
        self.bars.update(self.task, advance=weight, items=f"{self.done}/{self.items}")

    def end(self) -> None:
        """Finish the bar."""
        items = f"{self.items}" + (f" [dim]({self.present} kept)[/]" if self.present else "")
        total = next(task.total for task in self.bars.tasks if task.id == self.task)
        self.bars.update(self.task, completed=total, items=items)


@contextlib.contextmanager
def shown(console: Console) -> Generator[Bars | Lines]:
    """Bars on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Lines(lambda line: console.print(line, highlight=False))
        return
    bars = Bars(console)
    with bars.bars:
        yield bars
