"""Progress bars for a terminal, plain lines for a log."""

import time
from typing import Any

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
    "screen.sketch": "screen: value ranges",
    "screen.edges": "screen: quantile bins",
    "screen.tables": "screen: contingency tables",
    "screen.scores": "screen: mutual information",
    "screen.apply": "screen: selected columns",
    "screen.scale": "screen: scaler",
    "rebalance.neighbors": "rebalance: nearest neighbours",
    "rebalance.synthesize": "rebalance: synthetic rows",
    "binarize.fit": "binarize: fit",
    "binarize.encode": "binarize: encode",
    "binarize.recall": "binarize: recall",
}
"""What a person reads for `stage.step`."""


class _Estimate(TimeRemainingColumn):
    """What is left, while something is."""

    def render(self, task: Task) -> Text:
        return Text("") if task.finished else super().render(task).append(" left")


class Bars:
    """One bar a step, with an estimate of what is left; finished steps stay as a line.

    On something that is not a terminal each step is one plain line, printed as it ends.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
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
        self.task: TaskID | None = None
        self.name, self.items, self.present, self.done, self.started = "", 0, 0, 0, 0.0

    def begin(self, stage: str, step: str, items: int, present: int, weight: int) -> None:
        """Show a bar for the step."""
        self.name = LABELS.get(f"{stage}.{step}", f"{stage}: {step}")
        self.items, self.present, self.started = items, present, time.monotonic()
        if self.live:
            self.done = present
            self.task = self.bars.add_task(self.name, total=max(weight, 1), items=f"{present}/{items}")

    def advance(self, weight: int) -> None:
        """Move the bar."""
        if self.task is not None:
            self.done += 1
            self.bars.update(self.task, advance=weight, items=f"{self.done}/{self.items}")

    def end(self) -> None:
        """Finish the bar."""
        if self.task is not None:
            items = f"{self.items}" + (f" [dim]({self.present} kept)[/]" if self.present else "")
            self.bars.update(self.task, completed=self.bars.tasks[self.task].total, items=items)
            self.task = None
        if not self.live:
            seconds = time.monotonic() - self.started
            self.console.print(
                f"{self.name}: {self.items - self.present} done, {self.present} there, {seconds:.1f} s",
                highlight=False,
            )

    def __enter__(self) -> "Bars":
        if self.live:
            self.bars.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.live:
            self.bars.stop()
