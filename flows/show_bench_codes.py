"""What a terminal shows of a comparison of codes."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tasks.binarize.benchmark import frontier


def console_report(report: dict[str, Any], width: int) -> Group:
    """A table, the smallest codes first; those that none of as few bytes surpasses are bold and have a mark."""
    about, k = report["vectors"], report["k"]
    head = Text(f"{about['file']}: {about['rows']:,} vectors of {about['dimensions']:,} dimensions", style="bold")
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    for name in ("method", "rotation"):
        table.add_column(name)
    wide = width >= 110
    noisy = [f"noise {size:g}" for size in report["noise"]] if wide else []
    rates = ["rows/s", "queries/s"]
    for name in ("bits", "bytes", f"recall@{k}", "rescored", *noisy, *rates):
        table.add_column(name, justify="right")
    best = dict(zip(map(id, report["lines"]), frontier(report["lines"]), strict=True))
    for line in sorted(report["lines"], key=lambda line: (line["bytes"], -line["recall"])):
        cells = [
            "●" if best[id(line)] else "", line["method"], line["rotation"], f"{line['bits']:,}", f"{line['bytes']:,}",
            f"{line['recall']:.3f}", "" if line["rescored"] is None else f"{line['rescored']:.3f}",
            *([f"{value:.3f}" for value in line["noisy"]] if wide else []),
            "" if line["encoded"] is None else _short(line["encoded"]), _short(line["searched"]),
        ]  # fmt: skip
        table.add_row(*cells, style="bold" if best[id(line)] else "dim" if line["rescored"] is None else "")
    more = f"{about['dimensions'] + 4:,} bytes a row more"
    notes = [
        f"● no code of as few bytes finds more. Rescored: the 4k nearest by code ranked by int8 vectors, {more}.",
        "Rates are those of this machine in this run.",
    ]
    if noisy:
        notes.insert(1, "Noise: recall when queries are moved, by a share of their distance from the mean.")
    if about["missing"]:
        notes.append(f"{about['missing']:,} rows have missing values, which count as their columns' means.")
    return Group(head, Text(""), table, Text(""), *(Text(note, style="dim") for note in notes))


def _short(value: float) -> str:
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
