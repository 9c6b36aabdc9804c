"""An evaluation as one picture: curves with their hulls, calibration, and what each treatment changes."""

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.drawing import INK, RULE, SOFT, Sheet, drawing, plain, shortened
from tasks.evaluate.compare import MEASURES, NONE, Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    NONE: INK,
    "class weights": "#E69F00",
    "under-sampling": "#56B4E9",
    "SMOTE": "#D55E00",
    "SMOTE + under-sampling": "#CC79A7",
    "as made": "#009E73",
}
"""Okabe & Ito's: told apart by colour-blind eyes."""

_WIDTH, _MARGIN = 675.0, 26.0
_TOP, _CURVES, _LINE = 112.0, 178.0, 13.0
_HULL = (0, (3, 2))


def evaluation_plot(report: dict[str, Any]) -> bytes:
    """A picture of an evaluation, as PNG, 1350 pixels wide.

    Parameters
    ----------
    report
        What `flows.evaluate.evaluate` returns.

    Returns
    -------
    bytes
        The same for the same report and release of matplotlib.
    """
    heights = [_CURVES + 142 + _LINE * len(_lines(model, measured=False)) for model in report["models"]]
    sweep = report["sweep"]
    with drawing():
        sheet = Sheet(_WIDTH, _TOP + sum(heights) + (290 if sweep else 10))
        _head(sheet, report)
        top = _TOP
        for model, height in zip(report["models"], heights, strict=True):
            _model(sheet, report, model, top)
            top += height
        if sweep:
            _sweep(sheet, report, top)
        return sheet.png(f"Evaluation of {report['dataset']}")


def _lines(model: dict[str, Any], *, measured: bool = True) -> list[dict[str, Any]]:
    others = [line for line in model["treatments"] if line["name"] != NONE]
    return [line for line in others if "measures" in line] if measured else others


def _head(sheet: Sheet, report: dict[str, Any]) -> None:
    test, positive = report["rows"]["test"], report["positive"]
    sheet.text(_MARGIN, 28, f"{shortened(report['dataset'], 36)}: does rebalancing help?", size=13, weight="bold")
    rows = f"{test.get(positive, 0):,} of {sum(test.values()):,} test rows are '{shortened(positive, 24)}'"
    sheet.note(_WIDTH - _MARGIN, 28, rows, ha="right", size=8.5)
    for number, line in enumerate(textwrap.wrap(report["verdict"]["text"], 128)[:2]):
        sheet.text(_MARGIN, 48 + 12 * number, line, size=9)
    left = _MARGIN
    names = {line["name"] for model in report["models"] for line in model["treatments"]}
    for name, colour in COLOURS.items():
        if name in names:
            sheet.dot(left + 3, 80, face=colour, edge=colour)
            sheet.text(left + 11, 83, name, size=8.5)
            left += 26 + 4.95 * len(name)
    sheet.note(_WIDTH - _MARGIN, 83, "dashed: convex hulls", ha="right", size=8.5)


def _model(sheet: Sheet, report: dict[str, Any], model: dict[str, Any], top: float) -> None:
    said: list[str] = []
    for entry in report["verdict"]["each"]:
        if entry["model"] == model["name"]:
            but = f", but is not shown to be better than {' or '.join(entry['as_good'])}" if entry["as_good"] else ""
            said.append(entry["text"].split(" (")[0] + but)
    given = ", ".join(f"{key}={value}" for key, value in model["parameters"].items())
    sheet.heading(_MARGIN, top, f"{model['name']}{f' ({shortened(given, 60)})' if given else ''}", "; ".join(said))
    first = top + 26
    _curves(sheet, model, first)
    _calibration(sheet, model, first, report["bins"])
    _differences(sheet, report, model, first + _CURVES + 24)


def _square(axes: "Axes") -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, 0.5, 1])
    axes.set_yticks([0, 0.5, 1])
    plain(axes.xaxis, axes.yaxis)


def _curves(sheet: Sheet, model: dict[str, Any], top: float) -> None:
    size = _CURVES - 24
    roc, recall = sheet.axes(52, top + 14, size, size), sheet.axes(52 + size + 56, top + 14, size, size)
    roc.plot([0, 1], [0, 1], color=RULE, lw=0.8)
    for line in reversed(model["treatments"]):
        if "curves" not in line:
            continue
        colour = COLOURS[line["name"]]
        drawn = line["curves"]["roc"]
        hull: dict[str, Any] = {"color": colour, "lw": 0.7, "ls": _HULL, "clip_on": False}
        curve: dict[str, Any] = {"color": colour, "lw": 1.0, "clip_on": False}
        roc.plot(drawn["false_positive_rate"], drawn["true_positive_rate"], **curve)
        roc.plot(drawn["hull_false_positive_rate"], drawn["hull_true_positive_rate"], **hull)
        drawn = line["curves"]["precision_recall"]
        recall.step(drawn["recall"], drawn["precision"], where="pre", **curve)  # as average precision adds it up
        recall.plot(drawn["achievable_recall"], drawn["achievable_precision"], **hull)
    for axes in (roc, recall):
        _square(axes)
    for left, y, x in (
        (52.0, "true positive rate", "false positive rate"),
        (52 + size + 56, "precision", "recall (hull: the best that can be had by thresholds)"),
    ):
        sheet.note(left - 18, top + 6, y)
        sheet.note(left + size / 2, top + 14 + size + 23, x, ha="center")


def _calibration(sheet: Sheet, model: dict[str, Any], top: float, bins: int) -> None:
    left, width = 52.0 + 2 * (_CURVES - 24 + 56), _WIDTH - _MARGIN - 52.0 - 2 * (_CURVES - 24 + 56)
    height = (_CURVES - 24 - 32) / 2
    ticks = [0, 0.1, 0.3, 0.6, 1]
    for row, (key, words) in enumerate(
        (("reliability", "share of rows against probability"), ("reliability_recalibrated", "recalibrated"))
    ):
        place = top + 14 + row * (height + 32)
        axes = sheet.axes(left, place, width, height)
        axes.plot([0, 1], [0, 1], color=RULE, lw=0.8)
        for line in reversed(model["treatments"]):
            found = line.get("curves", {}).get(key)
            if found:
                style: dict[str, Any] = {"color": COLOURS[line["name"]], "lw": 0.7, "marker": "o", "ms": 2.2}
                axes.plot(found["probability"], found["share"], clip_on=False, **style)
        for set_scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            set_scale("function", functions=(_root, np.square))
            axis.set_ticks(ticks)
            axis.set_ticks([], minor=True)
            plain(axis)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        sheet.note(left - 18, place - 8, words)
    sheet.note(left + width / 2, top + 14 + _CURVES - 24 + 23, f"square-root scales, {bins} bins", ha="center")


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _differences(sheet: Sheet, report: dict[str, Any], model: dict[str, Any], top: float) -> None:
    every = _lines(model, measured=False)
    sheet.note(_MARGIN, top + 20, f"Differences to '{NONE}'")
    for row, line in enumerate(every):
        place = top + 32 + _LINE * (row + 0.5) + 2.5
        name = line["name"] if "measures" in line else f"{line['name']}: not done"
        sheet.text(_MARGIN, place, name, size=8, color=COLOURS[line["name"]] if "measures" in line else SOFT)
    there = _lines(model)
    if not there:
        return
    measures = [measure for measure in MEASURES if measure.key in there[0]["measures"]]
    left, gap = 140.0, 12.0
    width = (_WIDTH - _MARGIN - left - gap * 5) / 6
    for column, measure in enumerate(measures):
        _forest(sheet, every, measure, left + column * (width + gap), top, width)
    level, draws = report["bootstrap"]["level"], report["bootstrap"]["draws"]
    text = f"{level:.0%} intervals of {draws:,} paired draws; filled: 0 is outside; shaded: the better side"
    sheet.note(_WIDTH - _MARGIN, top + 32 + _LINE * len(every) + 30, text, ha="right")


def _forest(sheet: Sheet, lines: list[dict[str, Any]], measure: Measure, left: float, top: float, width: float) -> None:
    words = measure.words.split(", ") if ", " in measure.words else [measure.words]
    for row, word in enumerate(words):
        sheet.note(left + width / 2, top + 20 - 9 * (len(words) - 1 - row), word, ha="center", color=INK)
    axes = sheet.axes(left, top + 28, width, _LINE * len(lines) + 8)
    found = [(row, line) for row, line in enumerate(lines) if "measures" in line]
    ends = [line["measures"][measure.key]["differences"][NONE] for _, line in found]
    most = max(0.01, *(abs(end[key]) for end in ends for key in ("low", "high"))) * 1.08
    axes.set_xlim(-most, most)
    axes.set_ylim(len(lines) - 0.2, -0.8)
    axes.axvspan(*((0, most) if measure.higher_is_better else (-most, 0)), color="#F1F1F1", lw=0)
    axes.axvline(0, color=SOFT, lw=0.7)
    for (row, line), end in zip(found, ends, strict=True):
        colour = COLOURS[line["name"]]
        decided = end["low"] > 0 or end["high"] < 0
        axes.plot([end["low"], end["high"]], [row, row], color=colour, lw=1.3, solid_capstyle="butt")
        face = colour if decided else "white"
        axes.plot([end["value"]], [row], "o", ms=4, mfc=face, mec=colour, mew=1, clip_on=False)
    step = float(f"{most * 0.6:.0e}")
    axes.set_xticks([-step, 0, step])
    axes.tick_params(axis="x", labelsize=7)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    plain(axes.xaxis)


def _sweep(sheet: Sheet, report: dict[str, Any], top: float) -> None:
    sweep = report["sweep"]
    points = len(sweep["rows"])
    base = next(m for m in report["models"] if m["name"] == sweep["model"])["treatments"][0]
    sheet.heading(
        _MARGIN,
        top,
        f"Over- and under-sampling swept ({sweep['model']})",
        f"Decisions on test at {points:,} mixtures of SMOTE and under-sampling (Chawla et al., 2002); hull's area "
        f"{sweep['hull_area']:.4f}.",
    )
    axes = sheet.axes(52, top + 40, 300, 210)
    axes.plot([0, 1], [0, 1], color=RULE, lw=0.8)
    if "curves" in base:
        roc = base["curves"]["roc"]
        axes.plot(roc["hull_false_positive_rate"], roc["hull_true_positive_rate"], color=INK, lw=0.8, ls=_HULL)
        sheet.text(380, top + 62, f"'{NONE}', by thresholds alone: hull's area {roc['hull_area']:.4f}", size=8.5)
        better = sweep["hull_area"] > roc["hull_area"]
        sheet.note(380, top + 76, f"The sweep's hull is {'larger' if better else 'no larger'}.", size=8.5)
        if better:
            sheet.note(380, top + 88, "But it joins the best of many, chosen on the rows that", size=8.5)
            sheet.note(380, top + 100, "judge them, which flatters.", size=8.5)
    colour = COLOURS["SMOTE + under-sampling"]
    axes.scatter(
        sweep["false_positive_rate"], sweep["true_positive_rate"], s=9, color=colour, clip_on=False, zorder=3, lw=0
    )
    axes.plot(sweep["hull_false_positive_rate"], sweep["hull_true_positive_rate"], color=colour, lw=1.0)
    _square(axes)
    sheet.note(34, top + 32, "true positive rate")
    sheet.note(202, top + 273, "false positive rate", ha="center")
