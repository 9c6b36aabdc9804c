"""What a terminal shows of an evaluation: a table for each model, the verdict, and what else must be known."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tasks.drawing import shortened
from tasks.evaluate.compare import DECISIVE, MACRO, MEASURES, NONE, Measure, effect, signed

_STYLES = {1: "green", 0: "dim", -1: "red"}
_HELPS = {"yes": "green", "mixed": "yellow", "no": "red", "unknown": "yellow"}


def console_report(report: dict[str, Any], width: int) -> Group:
    """An evaluation, to print on a console of so many columns.

    Parameters
    ----------
    report
        What `flows.evaluate.evaluate` returns.
    width
        Columns there are; below 100 only the measures that a verdict goes by are shown, from 110 on intervals as well.
    """
    rows, positive = report["rows"], report["positive"]
    there = ", ".join(f"{_share(rows[split], positive)} of {split}" for split in ("train", "test"))
    head = Text(shortened(positive, 40), style="bold")
    head.append(f" against all others: {there}; {rows['features']:,} features", style="not bold")
    parts: list[RenderableType] = [head, Text("")]
    for model in report["models"]:
        parts += [_model(model, width), Text("")]
        parts += [
            Text(f"{line['name']}: {line['reason']}", style="yellow") for line in model["treatments"] if line["reason"]
        ]
    sweep = report["sweep"]
    if sweep:
        words = f"{len(sweep['rows']):,} mixtures of SMOTE and under-sampling ({sweep['model']})"
        parts.append(Text(f"{words}: area under the hull of their ROC points {sweep['hull_area']:.4f}"))
    parts.append(Text(report["verdict"]["text"], style=f"bold {_HELPS[report['verdict']['helps']]}"))
    parts += [Text(f"  {entry['text']}") for entry in report["verdict"]["each"]]
    draws, level = report["bootstrap"]["draws"], report["bootstrap"]["level"]
    notes = [
        f"Differences to '{NONE}': {level:.0%} intervals, each by itself, of {draws:,} paired bootstrap draws of test.",
        "Whether it helps goes by ranking and the recalibrated Brier score: recalibration needs no new rows.",
        *report["notes"],
        *sorted(
            {f"{m['name']}: {w}" for m in report["models"] for t in m["treatments"] for w in t.get("warnings", [])}
        ),
    ]
    return Group(*parts, *(Text(note, style="dim") for note in notes))


def _share(counts: Mapping[str, int], label: str) -> str:
    total = sum(counts.values())
    return f"{counts.get(label, 0):,} of {total:,} rows"


def _model(model: dict[str, Any], width: int) -> Table:
    given = ", ".join(f"{key}={value}" for key, value in model["parameters"].items())
    done = [line for line in model["treatments"] if "measures" in line]
    table = Table(
        title=f"{model['name']}{f' ({given})' if given else ''}", title_justify="left", title_style="bold",
        header_style="dim", box=None, pad_edge=False,
    )  # fmt: skip
    table.add_column("", overflow="fold")
    table.add_column("rows", justify="right")
    shown = MEASURES if width >= 100 else [m for m in MEASURES if m.key in DECISIVE]
    measures = [m for m in (*shown, *([MACRO] if width >= 100 else [])) if done and m.key in done[0]["measures"]]
    for measure in measures:
        table.add_column(measure.words, justify="right")
    wide = width >= 110
    for line in done:
        cells = [_cell(measure, line["measures"][measure.key], wide=wide) for measure in measures]
        table.add_row(line["name"], f"{sum(line['rows'].values()):,}", *cells)
    return table


def _cell(measure: Measure, found: Mapping[str, Any], *, wide: bool) -> Text:
    text = Text(f"{found['value']:.3f}")
    difference = found["differences"].get(NONE)
    if difference is not None:
        style = _STYLES[effect(measure, difference)]
        text.append(f"\n{signed(difference['value'])}", style=style)
        if wide:
            text.append(f"\n{signed(difference['low'])}…{signed(difference['high'])}", style=style)
    return text
