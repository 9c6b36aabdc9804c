"""What a terminal shows of a screening table: the best features with their scores, and the counts."""

from collections import Counter
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tasks.drawing import cells, number, probability, shortened
from tasks.publish.plot import LEVEL, NAMED
from tasks.screen.stability import expected_false

STABLE = 0.9
"""Share of subsamples from which on a feature counts as stable."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


def console_plot(table: Any, width: int, max_q: float = 1.0, top: int = 64) -> Group:
    """The best features and the counts, to print on a console of so many columns.

    Parameters
    ----------
    table : pyarrow.Table
        Of schema `schemas.tables.SCREENING`, in any order.
    width
        Columns there are; from 72 on with the estimator, from 90 on with its value, wider with longer names and bars.
    max_q
        Level of false discovery of the count; at 1 (the recipe sets none) it is 0.05.
    top
        Among how many best a feature was to be in a subsample, to count as chosen there.
    """
    level = max_q if max_q < 1 else LEVEL
    ranked = table.filter(table["rank"].is_valid())
    ranked = ranked.filter(ranked["score"].is_valid())
    best: list[dict[str, Any]] = ranked.sort_by("rank").slice(0, NAMED).to_pylist()
    kinds = Counter(table["kind"].to_pylist())
    counts = {
        "screened": table.num_rows,
        f"with q ≤ {level:g}": int((ranked["q_value"].to_numpy() <= level).sum()),
        "constant": kinds["constant"],
        "all missing": kinds["missing"],
        "selected": int(table["selected"].to_numpy().sum()),
    }
    words = ", ".join(f"{count:,} {words}" for words, count in counts.items())
    stable = ranked["stability"].drop_null().to_numpy()
    if len(stable):
        false = expected_false(len(stable), top, STABLE)
        words += f"; {int((stable >= STABLE).sum()):,} stable in {STABLE:.0%}, {false:.2g} of them false at most"
    line = Text(words, style="dim")
    return Group(_best(best, width, level), line) if best else Group(line)


def _best(rows: list[dict[str, Any]], width: int, level: float) -> Table:
    columns: list[tuple[str, list[Text], bool]] = [
        ("score", [_number(row["score"]) for row in rows], True),
        ("q", [Text("" if row["q_value"] is None else probability(row["q_value"])) for row in rows], True),
    ]
    if width >= 72:
        columns.insert(1, ("by", [Text(row["estimator"] or "", style="dim") for row in rows], False))
    if width >= 90:
        columns.insert(2, ("MI", [_number(row["mi"]) for row in rows], True))
    if any(row["stability"] is not None for row in rows):
        shares = [Text("" if row["stability"] is None else f"{row['stability']:.0%}") for row in rows]
        columns.append(("stability", shares, True))
    taken = 11 + sum(1 + max(len(heading), *(cell.cell_len for cell in column)) for heading, column, _ in columns)
    name = max(12, min(max(cells(row["feature"]) for row in rows), (width - taken) * 3 // 5))
    bar = max(4, min(40, width - taken - name))
    most = max(row["score"] for row in rows)

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    for heading in ("", "feature", ""):
        table.add_column(heading, no_wrap=True)
    for heading, _, right in columns:
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for i, row in enumerate(rows):
        passes = row["q_value"] is not None and row["q_value"] <= level
        table.add_row(
            Text(f"{row['rank']:,}", style="dim"),
            Text("●" if row["selected"] else " ", style="green"),
            Text(shortened(row["feature"], name)),
            Text(_bar(row["score"] / most if most > 0 else 0.0, bar), style="cyan" if passes else "bright_black"),
            *(column[i] for _, column, _ in columns),
        )
    return table


def _number(value: float | None) -> Text:
    return Text("" if value is None else number(value))


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
