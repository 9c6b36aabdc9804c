"""A screening table in a terminal: the right rows, the right counts, within the width."""

import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from flows.show_screening import console_plot
from schemas.tables import SCREENING


def row(rank: int | None, **values: Any) -> dict[str, Any]:
    score = None if rank is None else 1 / rank
    return {
        "feature": f"f{rank}",
        "kind": "binary",
        "rank": rank,
        "score": score,
        "mi": score,
        "selected": False,
    } | values


def printed(rows: list[dict[str, Any]], width: int, max_q: float = 1.0) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(console_plot(pa.Table.from_pylist(rows, schema=SCREENING), width, max_q))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_best_first_with_the_counts() -> None:
    rows = [row(rank, q_value=rank / 1000, estimator="kde", selected=rank < 4) for rank in range(1, 101)]
    rows += [row(None, kind="missing", feature="gone")] * 3 + [row(101, kind="constant", q_value=1.0)] * 2
    lines = printed(rows[::-1], 100, 0.02)
    assert [line.split()[0] for line in lines[1:-1]] == [str(rank) for rank in range(1, 13)]
    assert ["●" in line for line in lines[1:-1]] == [True] * 3 + [False] * 9
    assert lines[-1] == "105 screened, 20 with q ≤ 0.02, 2 constant, 3 all missing, 3 selected"
    assert printed(rows, 100)[-1].startswith("105 screened, 50 with q ≤ 0.05,")  # no level set
    assert "kde 0.500 0.00200" in " ".join(lines[2].split())


def test_bars_are_as_long_as_scores() -> None:
    lines = printed([row(1, score=0.8), row(2, score=0.4), row(3, score=0.0)], 80)[1:-1]
    full, half, none = (line.count("█") + line.count("▌") / 2 for line in lines)
    assert (full / 2, none) == (half, 0)


@pytest.mark.parametrize("rows", [[], [row(None, kind="missing")], [row(1, score=0.0)], [row(1, q_value=0.0)]])
def test_little_to_show(rows: list[dict[str, Any]]) -> None:
    assert printed(rows, 80)[-1].startswith(f"{len(rows)} screened, ")


@settings(deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Mn", "Me", "Mc"]), max_size=60), max_size=14),
    st.integers(60, 160),
    st.booleans(),
)
def test_any_name_fits_the_width(names: list[str], width: int, stability: bool) -> None:
    share = 0.5 if stability else None
    rows = [
        row(i + 1, feature=name, q_value=1e-310, estimator="pearson", stability=share) for i, name in enumerate(names)
    ]
    lines = printed(rows, width)
    assert all(cell_len(line) <= width for line in lines)
    assert sum("<1e-300" in line for line in lines) == min(len(names), 12)
