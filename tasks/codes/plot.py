"""Recall of codes against the bytes they take, as one picture."""

from collections.abc import Sequence
from typing import Any

from tasks.drawing import INK, RULE, Sheet, drawing, shortened

COLOURS = {
    "sign": "#999999", "median": "#5C5C5C", "simhash": "#56B4E9", "itq": "#0072B2", "selected": "#CC79A7",
    "kernel": "#F0E442", "rabitq": "#009E73", "residual": "#D55E00",
}  # fmt: skip
"""Okabe and Ito's: told apart by colour-blind eyes."""
MARKS = {"axes": "s", "random": "o", "itq": "^"}

_WIDTH, _HEIGHT = 675.0, 372.0  # points; a browser makes 900 pixels of 675


def recall_plot(lines: Sequence[dict[str, Any]], title: str, k: int) -> bytes:
    """A picture of recall@k by code alone (left) and after rescoring (right), against bytes a row.

    Parameters
    ----------
    lines
        With `method`, `rotation`, `bytes`, `recall` and `rescored`. Of `rabitq` and `residual` a
        line for each rotation.

    Returns
    -------
    bytes
        SVG, 900 pixels wide, that refers to nothing outside itself.
    """
    codes = [line for line in lines if line["method"] in COLOURS]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in codes:
        turned = line["rotation"] if line["method"] in {"rabitq", "residual"} else ""
        groups.setdefault((line["method"], turned), []).append(line)
    with drawing():
        sheet = Sheet(_WIDTH, _HEIGHT)
        sheet.text(26, 30, shortened(title, 70), size=13, weight="bold")
        sizes = sorted({line["bytes"] for line in codes})
        for left, key, name in (
            (56.0, "recall", "by code alone"), (300.0, "rescored", "of the 4k nearest, ranked by int8 vectors"),
        ):  # fmt: skip
            sheet.note(left - 28, 62, f"recall@{k}, {name}")
            axes = sheet.axes(left, 72, 196, 250)
            for (method, turned), some in groups.items():
                rising = sorted(some, key=lambda line: line["bytes"])
                colour = COLOURS[method]
                axes.plot(
                    [line["bytes"] for line in rising], [line[key] for line in rising],
                    color=colour, lw=1.1, marker=MARKS.get(turned, "D"), markersize=3.6,
                    markeredgecolor=INK if method == "kernel" else colour, markeredgewidth=0.4,
                )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.minorticks_off()
            shown = _spread(sizes)
            axes.set_xticks(shown, [str(size) for size in shown])
            axes.set_ylim(0, 1.02)
            axes.grid(axis="y", color=RULE, lw=0.5)
            axes.set_axisbelow(True)
            sheet.note(left + 98, 350, f"bytes a row{', without the vectors' if key != 'recall' else ''}", ha="center")
        top = 84.0
        for method, turned in groups:
            mark = MARKS.get(turned, "D")
            _entry(sheet, 520, top, COLOURS[method], mark)
            sheet.text(536, top + 3, f"{method}{f', {turned}' if turned else ''}", size=8)
            top += 16
        return sheet.svg(title)


def _spread(sizes: list[int]) -> list[int]:
    """Sizes that are far enough apart for their numbers to stand side by side."""
    apart = max(1.1, (sizes[-1] / sizes[0]) ** (1 / 8)) if sizes else 1.0
    shown: list[int] = []
    for size in sizes:
        if not shown or size >= apart * shown[-1]:
            shown.append(size)
    return shown


def _entry(sheet: Sheet, x: float, y: float, colour: str, mark: str) -> None:
    from matplotlib.lines import Line2D

    style: Any = {"marker": mark, "markersize": 4, "color": colour, "linewidth": 1.1}
    xs = [(x + step) / sheet.width for step in (0.0, 5.0, 10.0)]
    sheet.figure.add_artist(Line2D(xs, [1 - y / sheet.height] * 3, markevery=[1], **style))
