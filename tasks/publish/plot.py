"""The screening table as one picture: how scores fall off, the best features, p-values, estimators compared.

Colours say the same in every panel: vermilion, the feature is selected (hollow: although its q-value is above the
level); blue, another one whose q-value is at most the level; grey, the others. Wide tables are thinned, never cropped,
and the picture says how.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.drawing import INK, RULE, SOFT, Sheet, drawing, number, plain, probability, root_ticks, shortened
from tasks.publish.agreement import spearman

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SELECTED, PASSES, FAILS = "#D55E00", "#0072B2", "#A0A0A0"  # Okabe & Ito: told apart by colour-blind eyes
ESTIMATORS = ("binned", "kde", "knn", "pearson")
LEVEL = 0.05
"""Level of false discovery shown where a recipe sets none."""
NAMED = 12
"""Best features that are named."""
DRAWN = 300
"""Best features that are drawn one by one, however many there are."""
SINGLY = 1000
"""Most features that a panel of estimators draws one by one; of more, the best and the selected (the rest: squares)."""
CELLS = 50
"""Squares along a side."""

_WIDTH, _MARGIN, _LINE, _SIDE = 675.0, 26.0, 15.0, 160.0  # points; a browser makes 900 pixels of 675


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Features with a rank, best first; NaN where the table has null."""

    rows: Any
    """pyarrow.Table of these features."""
    score: NDArray[np.float64]
    passes: NDArray[np.bool_]
    """Whether q is at most `level`."""
    selected: NDArray[np.bool_]
    level: float


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two estimators' values, nats, of the features that have both, best first."""

    x_name: str
    y_name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    which: NDArray[np.intp]
    """Their places among the ranked."""


def screening_plot(table: Any, title: str, max_q: float) -> bytes:
    """A picture of a screening table, as SVG, 900 pixels wide.

    Parameters
    ----------
    table : pyarrow.Table
        Of schema `schemas.tables.SCREENING`, in any order.
    title
        Line at the head.
    max_q
        Level of false discovery that is marked; at 1 (the recipe sets none) 0.05 is.

    Returns
    -------
    bytes
        Refers to nothing outside itself; the same bytes for the same table, title and release of matplotlib. Text
        stays text: it can be searched, and a reader's fonts supply the scripts that matplotlib's lack.
    """
    ranked = _ranked(table, max_q)
    pairs = _pairs(ranked.rows)
    lines = _LINE * max(8, min(NAMED, len(ranked.score)))
    third = 402.0 + lines
    with drawing():
        sheet = Sheet(_WIDTH, third + _SIDE + 78 if pairs else third)
        _head(sheet, table, ranked, title)
        _ranking(sheet, ranked, 84)
        _best(sheet, ranked, 344)
        _p_values(sheet, ranked, 344, lines)
        for place, pair in enumerate(pairs):
            _estimators(sheet, ranked, pair, third, place)
        return sheet.svg(title)


def _floats(table: Any, name: str) -> NDArray[np.float64]:
    values = np.asarray(table.column(name).cast(pa.float64()).to_numpy(), dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _ranked(table: Any, max_q: float) -> _Ranked:
    rank, score = _floats(table, "rank"), _floats(table, "score")
    order = np.argsort(rank, kind="stable")
    order = order[~np.isnan(rank[order]) & ~np.isnan(score[order])]
    rows = table.take(pa.array(order))
    level = max_q if max_q < 1 else LEVEL
    selected = np.asarray(rows.column("selected").to_numpy(), dtype=bool)
    return _Ranked(rows, score[order], _floats(rows, "q_value") <= level, selected, level)


def _pairs(rows: Any) -> list[_Pair]:
    values = {name: _floats(rows, f"mi_{name}") for name in ESTIMATORS}
    there = [name for name in ESTIMATORS if np.isfinite(values[name]).any()]
    pairs: list[_Pair] = []
    for name in there[1:]:
        which = np.flatnonzero(np.isfinite(values[name]) & np.isfinite(values[there[0]]))
        if len(which) > 1:
            pairs.append(_Pair(there[0], name, values[there[0]][which], values[name][which], which))
    return pairs


def _colours(selected: bool, passes: bool) -> tuple[str, str]:
    # Of face and edge.
    colour = SELECTED if selected else PASSES if passes else FAILS
    return "white" if selected and not passes else colour, colour


def _each(ranked: _Ranked, which: NDArray[np.intp]) -> tuple[list[str], list[str]]:
    pairs = [_colours(bool(ranked.selected[i]), bool(ranked.passes[i])) for i in which]
    return [face for face, _ in pairs], [edge for _, edge in pairs]


def _head(sheet: Sheet, table: Any, ranked: _Ranked, title: str) -> None:
    sheet.text(_MARGIN, 28, shortened(title, 52), size=13, weight="bold")
    left = _MARGIN
    for selected, passes, word, width in (
        (True, True, "selected", 90),
        (True, False, f"selected, q > {ranked.level:g}", 128),
        (False, True, f"more with q ≤ {ranked.level:g}", 138),
        (False, False, "others", 0),
    ):
        count = int(((ranked.selected == selected) & (ranked.passes == passes)).sum())
        if count or not selected or passes:
            face, edge = _colours(selected, passes)
            sheet.dot(left + 3, 47, face=face, edge=edge)
            sheet.text(left + 11, 50, f"{count:,} {word}", size=8.5)
            left += width
    kinds = Counter(table.column("kind").to_pylist())
    words = {"constant": "constant", "missing": "without values", "refused": "refused"}
    odd = ", ".join(f"{kinds[kind]:,} {word}" for kind, word in words.items() if kinds[kind])
    features = f"{table.num_rows:,} feature{'' if table.num_rows == 1 else 's'}"
    rows = int(np.max(_floats(table, "n") + _floats(table, "missing"), initial=0))
    sheet.note(_WIDTH - _MARGIN, 28, f"{features}, {rows:,} rows", ha="right", size=8.5)
    sheet.note(_WIDTH - _MARGIN, 50, odd, ha="right", size=8.5)


def _findings(ranked: _Ranked) -> str:
    count, passing = len(ranked.score), np.flatnonzero(ranked.passes)
    if not count:
        return "No feature has a score."
    for_whom = f"q ≤ {ranked.level:g} for"
    if not len(passing):
        return f"{for_whom} none."
    if len(passing) == count:
        return f"{for_whom} every feature with a score."
    lowest = f"lowest score among them {number(ranked.score[passing].min())} nats (dotted)"
    last = int(passing[-1]) + 1
    if last == len(passing):
        return f"{for_whom} the best {last:,}; {lowest}."
    first = int(np.argmin(ranked.passes)) + 1
    return (
        f"{for_whom} {len(passing):,}, mixed with others from rank {first:,} to {last:,} "
        f"(shaded: rank goes by score, q by p); {lowest}."
    )


def _ranking(sheet: Sheet, ranked: _Ranked, top: float) -> None:
    from matplotlib.ticker import MaxNLocator

    sheet.heading(_MARGIN, top, "Scores by rank", _findings(ranked))
    count = len(ranked.score)
    if not count:
        return
    left, width = 62.0, _WIDTH - 62.0 - 58.0
    axes = sheet.axes(left, top + 34, width, 150)
    strips = sheet.axes(left, top + 190, width, 23)
    many = count > 50
    for a in (axes, strips):
        a.set_xscale("log" if many else "linear")
        a.set_xlim(*((0.9, count + 0.5) if many else (0.4, count + 0.6)))
    steps = _steps(count)
    _cut(axes, ranked)
    ends = np.union1d(steps[:-1], steps[1:] - 1)  # of each interval: a curve that falls needs no more
    axes.plot(ends, ranked.score[ends - 1], color=FAILS, lw=0.8, zorder=2)
    drawn = _one_of_each(ranked, steps)
    _marks(axes, drawn + 1, ranked.score[drawn], ranked, drawn)

    largest = max(float(ranked.score.max()), 1e-9) * 1.1
    axes.set_yscale("function", functions=(_root, np.square))
    axes.set_ylim(0, largest)
    axes.tick_params(labelbottom=False)
    axes.tick_params(axis="x", which="minor", bottom=False)
    root_ticks(axes.yaxis, largest, 0.1)
    bits = axes.secondary_yaxis("right", functions=(lambda v: v / np.log(2), lambda v: v * np.log(2)))
    bits.spines["right"].set_visible(True)
    bits.set_yscale("function", functions=(_root, np.square))
    root_ticks(bits.yaxis, largest / np.log(2), 0.1)
    sheet.note(left - 4, top + 28, "nats", ha="right")
    sheet.note(left + width + 4, top + 28, "bits")
    sheet.note(left + 4, top + 28, "square-root scale")

    for row, (words, colour, marked) in enumerate(
        ((f"q ≤ {ranked.level:g}", PASSES, ranked.passes), ("selected", SELECTED, ranked.selected))
    ):
        share = np.add.reduceat(marked, steps[:-1] - 1, dtype=np.int64) / np.diff(steps)
        floor = 1.2 - 1.2 * row
        strips.stairs([floor + 1], [0.5, count + 0.5], baseline=floor, fill=True, color="#EAEAEA", lw=0)
        strips.stairs(floor + share, steps - 0.5, baseline=floor, fill=True, color=colour, lw=0)
        sheet.note(left - 4, top + 199 + 12 * row, words, color=colour, ha="right")
    sheet.note(left + width + 4, top + 199, "share by")
    sheet.note(left + width + 4, top + 209, "rank")
    strips.set_ylim(0, 2.2)
    strips.set_yticks([])
    strips.spines[["left", "bottom"]].set_visible(False)
    strips.tick_params(axis="x", which="minor", bottom=False)
    if not many:
        strips.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plain(strips.xaxis)
    thinned = f" (after {DRAWN}, one point of each colour for every 2 % of rank)" if len(drawn) < count else ""
    sheet.note(left + width / 2, top + 236, f"rank{thinned}", ha="center")


def _root(values: Any) -> Any:
    return np.sqrt(np.maximum(values, 0))


def _steps(count: int) -> NDArray[np.int64]:
    # Where intervals of ranks start, from 1, and the end of the last: single ranks first, then steps of 2 %.
    first = min(DRAWN, count)
    more = np.geomspace(first + 1, count + 1, int(np.log((count + 1) / (first + 1)) / np.log(1.02)) + 2)
    return np.unique(np.concatenate([np.arange(1, first + 2), np.round(more).astype(np.int64)]))


def _one_of_each(ranked: _Ranked, steps: NDArray[np.int64]) -> NDArray[np.intp]:
    # The first of each interval that is selected or not, that passes or not.
    interval = np.searchsorted(steps, np.arange(1, len(ranked.score) + 1), side="right")
    return np.sort(np.unique(interval * 4 + ranked.passes * 2 + ranked.selected, return_index=True)[1])


def _cut(axes: "Axes", ranked: _Ranked) -> None:
    # Rank goes by score and q by p: where they disagree there is no one cut, and the whole region is shown.
    passing = np.flatnonzero(ranked.passes)
    if not len(passing) or ranked.passes.all():
        return
    first, last = int(np.argmin(ranked.passes)) + 1, int(passing[-1]) + 1
    if first < last:
        axes.axvspan(first - 0.5, last + 0.5, color="#F2F2F2", lw=0)
    axes.axvline(last + 0.5, color=PASSES, lw=0.8)
    axes.axhline(float(ranked.score[passing].min()), color=PASSES, lw=0.8, ls=(0, (1, 2)))


def _marks(axes: "Axes", x: NDArray[Any], y: NDArray[Any], ranked: _Ranked, which: NDArray[np.intp]) -> None:
    # In order of rank, the best on top; not clipped, so that what lies on an axis is seen whole.
    faces, edges = _each(ranked, which[::-1])
    axes.scatter(x[::-1], y[::-1], s=9, c=faces, edgecolors=edges, linewidths=0.8, clip_on=False, zorder=3)


def _best(sheet: Sheet, ranked: _Ranked, top: float) -> None:
    count = min(NAMED, len(ranked.score))
    sheet.heading(_MARGIN, top, "Best features")
    if not count:
        sheet.note(_MARGIN, top + 13, "none")
        return
    rows = ranked.rows.slice(0, count)
    left, width, first = 180.0, 92.0, top + 20
    axes = sheet.axes(left, first, width, _LINE * count)
    axes.set_xlim(0, max(float(ranked.score[:count].max()), 1e-9))
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_axis_off()
    faces, edges = _each(ranked, np.arange(count))
    axes.barh(np.arange(count), ranked.score[:count], height=0.6, color=faces, edgecolor=edges, lw=0.8, clip_on=False)

    stability = _floats(rows, "stability")
    q = _floats(rows, "q_value")
    right = left + width
    columns: list[tuple[float, str, str, list[str], str]] = [
        (left - 6, "right", "", [shortened(name, 28) for name in rows.column("feature").to_pylist()], INK),
        (right + 40, "right", "nats", [number(v) for v in ranked.score[:count]], INK),
        (right + 86, "right", "q", ["" if np.isnan(v) else probability(v) for v in q], INK),
        (right + 93, "left", "by", [name or "" for name in rows.column("estimator").to_pylist()], SOFT),
    ]
    if np.isfinite(stability).any():
        columns.append((right + 168, "right", "stability", ["" if np.isnan(v) else f"{v:.0%}" for v in stability], INK))
    for place, side, heading, cells, colour in columns:
        sheet.note(place, first - 4, heading, ha=side)
        for line, cell in enumerate(cells):
            sheet.text(place, first + _LINE * (line + 0.5) + 2.9, cell, ha=side, color=colour)


def _p_values(sheet: Sheet, ranked: _Ranked, top: float, height: float) -> None:
    from matplotlib.ticker import MaxNLocator

    permuted = _floats(ranked.rows, "p_permutation")
    p = np.where(np.isnan(permuted), _floats(ranked.rows, "p_value"), permuted)
    q, by = _floats(ranked.rows, "q_value"), _floats(ranked.rows, "q_by")
    p = p[~np.isnan(p) & ~np.isnan(q)]
    left = 498.0
    heading = "Permutation p-values" if np.isfinite(permuted).any() else "p-values"
    if not len(p):
        sheet.heading(left - 24, top, heading, "none")
        return
    sheet.heading(
        left - 24,
        top,
        heading,
        f"q ≤ {ranked.level:g}: {int(ranked.passes.sum()):,} by Benjamini-Hochberg,",
        f"{int((by <= ranked.level).sum()):,} by Benjamini-Yekutieli",
    )
    axes = sheet.axes(left, top + 36, _WIDTH - left - _MARGIN, height - 16)
    counts, edges = np.histogram(p, bins=20, range=(0, 1))
    axes.stairs(counts, edges, fill=True, color="#B5C3CE", lw=0)
    axes.axhline(len(p) / 20, color=INK, lw=0.8, ls=(0, (3, 2)))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, counts.max() * 1.05)
    axes.set_xticks([0, 0.5, 1])
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    plain(axes.xaxis, axes.yaxis)
    sheet.note(left - 24, top + height + 44, f"{len(p):,} tested; dashed: if none were related")


def _estimators(sheet: Sheet, ranked: _Ranked, pair: _Pair, top: float, place: int) -> None:
    crowded = len(pair.x) > SINGLY
    if place == 0:
        squares = f" Squares: those neither selected nor among the best {DRAWN}, by count." if crowded else ""
        note = f"Nats on square-root scales; on the grey line both estimators say the same.{squares}"
        sheet.heading(_MARGIN, top, "Estimators against each other", note)
    left, first = 62.0 + place * 211, top + 46
    axes = sheet.axes(left, first, _SIDE, _SIDE)
    largest = max(float(pair.x.max()), float(pair.y.max()), 1e-9) * 1.04
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_yscale("function", functions=(_root, np.square))
    axes.set_xlim(0, largest)
    axes.set_ylim(0, largest)
    root_ticks(axes.xaxis, largest, 0.14)
    root_ticks(axes.yaxis, largest, 0.1)
    axes.plot([0, largest], [0, largest], color=RULE, lw=0.8, zorder=1)
    singly = np.arange(len(pair.x))
    if crowded:
        singly = np.flatnonzero((singly < DRAWN) | ranked.selected[pair.which])[:SINGLY]
        _squares(axes, ranked, pair, np.delete(np.arange(len(pair.x)), singly), largest)
    _marks(axes, pair.x[singly], pair.y[singly], ranked, pair.which[singly])
    sheet.text(left - 24, first - 8, pair.y_name, weight="bold")
    sheet.text(left + _SIDE, first + _SIDE + 24, pair.x_name, weight="bold", ha="right")
    correlation = spearman(pair.x, pair.y)
    said = "-" if correlation is None else f"{correlation:.2f}"
    sheet.note(left + _SIDE, first - 8, f"{len(pair.x):,} features, Spearman {said}", ha="right")


def _squares(axes: "Axes", ranked: _Ranked, pair: _Pair, rest: NDArray[np.intp], largest: float) -> None:
    # Features on a grid, a shade for each power of ten; the colour is that of most of a square's features.
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    x, y = (np.minimum((_root(v[rest] / largest) * CELLS).astype(np.int64), CELLS - 1) for v in (pair.x, pair.y))
    cells, place, count = np.unique(x * CELLS + y, return_inverse=True, return_counts=True)
    passing = np.bincount(place, ranked.passes[pair.which[rest]]) * 2 > count
    shade = np.minimum(np.log10(count).astype(np.int64), 3)
    edges = np.square(np.arange(CELLS + 1) / CELLS) * largest
    for level in range(4):
        for colour, few in ((FAILS, ~passing), (PASSES, passing)):
            of = cells[few & (shade == level)]
            if len(of):
                i, j = of // CELLS, of % CELLS
                corners = [(edges[i + a], edges[j + b]) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
                path = Path.make_compound_path_from_polys(np.moveaxis(np.array(corners), 2, 0))
                axes.add_patch(PathPatch(path, facecolor=colour, alpha=(level + 1) / 4, lw=0, zorder=2))
