"""The picture of a screening table: what it says, that it says it of any table, and the same each time."""

import hashlib
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from scipy.stats import false_discovery_control, spearmanr

from schemas.tables import SCREENING
from tasks.drawing import Sheet, cells, drawing, number, printable, root_ticks, shortened
from tasks.publish.plot import DRAWN, FAILS, PASSES, SELECTED, screening_plot

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def table_of(**columns: Any) -> Any:
    count = len(columns["score"])
    defaults: dict[str, Any] = {
        "feature": [f"feature_{i}" for i in range(count)],
        "group": ["all"] * count,
        "index": range(count),
        "kind": ["continuous"] * count,
        "n": [100] * count,
        "missing": [0] * count,
        "infinite": [0] * count,
        "bins": [16] * count,
        "selected": [False] * count,
        "rank": range(1, count + 1),
    }
    columns = defaults | columns
    arrays = [
        pa.array(columns[f.name], f.type, from_pandas=True) if f.name in columns else pa.nulls(count, f.type)
        for f in SCREENING
    ]
    return pa.Table.from_arrays(arrays, schema=SCREENING)


def screened(count: int, seed: int = 0, top: int = 64) -> Any:
    """A tenth of the features related to the outcome, scores and p-values that disagree in places."""
    random = np.random.default_rng(seed)
    true = np.where(random.random(count) < 0.1, random.beta(1, 8, count), 0.0)
    score = np.sort(true + random.exponential(0.004, count))[::-1]
    p = np.exp(-score * random.uniform(200, 600, count))
    kde, knn = (np.maximum(score + random.normal(0, 0.01, count), 0) for _ in range(2))
    return table_of(
        score=score,
        p_value=p,
        q_value=false_discovery_control(p),
        q_by=false_discovery_control(p, method="by"),
        estimator=random.choice(["kde", "binned"], count),
        stability=random.random(count),
        mi_binned=score,
        mi_kde=np.where(random.random(count) < 0.3, np.nan, kde),
        mi_knn=knn,
        selected=np.arange(count) < top,
    )


def texts(svg: bytes) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def marks(svg: bytes, colour: str) -> int:
    return sum(colour.lower() in element.get("style", "") for element in ET.fromstring(svg).iter(f"{SVG}use"))


@pytest.mark.parametrize("count", [3, 40, 700, 5_000])
def test_head_counts_each_feature_once(count: int) -> None:
    table = screened(count, top=20)
    passes, selected = table["q_value"].to_numpy() <= 0.01, table["selected"].to_numpy()
    said = texts(screening_plot(table, "t", 0.01))
    assert f"{(selected & passes).sum():,} selected" in said
    assert f"{(~selected & passes).sum():,} more with q ≤ 0.01" in said
    assert f"{(~selected & ~passes).sum():,} others" in said
    undeserved = int((selected & ~passes).sum())
    assert (f"{undeserved:,} selected, q > 0.01" in said) == (undeserved > 0)
    assert any(f"{passes.sum():,} by Benjamini-Hochberg" in line for line in said)
    assert any(f"{(table['q_by'].to_numpy() <= 0.01).sum():,} by Benjamini-Yekutieli" in line for line in said)


@pytest.mark.parametrize(
    ("q", "says"),
    [
        ([0.2, 0.3, 0.4, 0.5], "q ≤ 0.05 for none."),
        ([0.0, 0.01, 0.02, 0.05], "q ≤ 0.05 for every feature with a score."),
        ([0.0, 0.01, 0.2, 0.3], "q ≤ 0.05 for the best 2; lowest score among them 0.300 nats (dotted)."),
        (
            [0.0, 0.2, 0.3, 0.01],
            (
                "q ≤ 0.05 for 2, mixed with others from rank 2 to 4 "
                "(shaded: rank goes by score, q by p); lowest score among them 0.100 nats (dotted)."
            ),
        ),
    ],
)
def test_says_whether_ranks_and_q_values_agree(q: list[float], says: str) -> None:
    table = table_of(score=[0.4, 0.3, 0.2, 0.1], q_value=q, p_value=q)
    assert says in texts(screening_plot(table, "t", 0.05))
    assert says in texts(screening_plot(table, "t", 1.0))  # no level set: 0.05


def test_names_the_best_and_only_them() -> None:
    table = screened(200).take(np.random.default_rng(1).permutation(200))
    said = texts(screening_plot(table, "t", 0.05))
    assert [line for line in said if line.startswith("feature_")] == [f"feature_{i}" for i in range(12)]
    best = {row["rank"]: row for row in table.to_pylist()}
    assert all(number(best[rank]["score"]) in said for rank in range(1, 13))


def test_quotes_spearmans_correlation() -> None:
    table = screened(400)
    both = ~np.isnan(table["mi_kde"].to_numpy())
    said = texts(screening_plot(table, "t", 0.05))
    for name, rows in (("kde", both), ("knn", np.full(400, True))):
        x, y = (table[column].to_numpy()[rows] for column in ("mi_binned", f"mi_{name}"))
        assert f"{rows.sum():,} features, Spearman {spearmanr(x, y)[0]:.2f}" in said
    assert "pearson" not in said


@pytest.mark.parametrize("count", [30, 20_000])
def test_no_mark_that_matters_is_thinned_away(count: int) -> None:
    last = count - 7
    score, q = np.linspace(1, 0.1, count), np.full(count, 0.9)
    selected = np.full(count, False)
    plain = screening_plot(table_of(score=score, q_value=q, p_value=q, mi_binned=score, mi_knn=score), "t", 0.05)
    assert marks(plain, FAILS) >= 2 * min(count, DRAWN)
    q[last] = 0.01
    one = table_of(score=score, q_value=q, p_value=q, mi_binned=score, selected=selected)
    assert marks(screening_plot(one, "t", 0.05), PASSES) - marks(plain, PASSES) == 1
    selected[last + 2] = True
    one = table_of(score=score, q_value=q, p_value=q, mi_binned=score, mi_knn=score, selected=selected)
    svg = screening_plot(one, "t", 0.05)
    assert marks(svg, SELECTED) - marks(plain, SELECTED) == 3  # among the ranks, the estimators, and hollow in the head
    assert "1 selected, q > 0.05" in texts(svg)


def test_wide_table_stays_small() -> None:
    svg = screening_plot(screened(150_000, top=2_000), "t", 0.05)
    assert len(svg) < 600_000
    assert any("after 300, one point of each colour" in line for line in texts(svg))


def test_hostile_names_are_text() -> None:
    names = [
        "$x_1^2$", "a < b & c > \"d\" 'e'", "]]><script>alert(1)</script>", "<!-- no comment -->", "{_\\frac",
        "特徴量" * 20, "Größe_übermäßig", "nul\0bell\7line\nend", "\u202egnp.exe", "\ufffe\U0010ffff", "",
        "e\u0301" * 40,
    ]  # fmt: skip
    table = table_of(feature=names, score=np.linspace(1, 0, len(names)))
    svg = screening_plot(table, "Title: $\\alpha$ <&> \u202e\0 " + "x" * 200, 0.05)
    said = texts(svg)
    for name in names:
        assert not name or shortened(name, 28) in said
    root = ET.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    assert (root.findtext(f"{SVG}title") or "").startswith("Title: $\\alpha$ <&> \N{REPLACEMENT CHARACTER}")


def test_refers_to_nothing_outside_itself() -> None:
    svg = screening_plot(screened(2_000), "t", 0.05)
    root = ET.fromstring(svg)
    links = [value for element in root.iter() for key, value in element.attrib.items() if key in {HREF, "href", "src"}]
    assert links
    assert all(link.startswith("#") for link in links)
    assert svg.count(b"url(") == svg.count(b"url(#")
    assert not list(root.iter(f"{SVG}image"))
    assert b"@import" not in svg


def test_same_bytes_in_another_process_that_leaves_no_trace(tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    (work / "matplotlibrc").write_text("font.size: 31\nsvg.fonttype: path\n", encoding="utf-8")
    table = screened(2_000)
    with pa.OSFile(str(work / "table.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    program = (
        "import hashlib, os, sys, pyarrow as pa\n"
        "from tasks.publish.plot import screening_plot\n"
        "table = pa.ipc.open_file(pa.OSFile('table.arrow')).read_all()\n"
        "print(hashlib.sha256(screening_plot(table, 'títle', 0.05)).hexdigest())\n"
        "print('MPLCONFIGDIR' in os.environ, 'matplotlib.pyplot' in sys.modules)"
    )
    for seed in ("1", "2"):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "MPL", "MATPLOTLIB"))}
        variables = {"HOME": str(home), "USERPROFILE": str(home), "LOCALAPPDATA": str(home), "PYTHONUTF8": "1"}
        child = subprocess.run(
            [sys.executable, "-c", program],
            env=kept | variables | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=work,
            capture_output=True,
            text=True,
            check=True,
        )
        digest = hashlib.sha256(screening_plot(table, "títle", 0.05)).hexdigest()
        assert child.stdout.split() == [digest, "False", "False"]
        assert child.stderr == ""
    assert not list(home.rglob("*"))


def test_settings_of_the_process_neither_show_nor_change() -> None:
    import matplotlib

    keys: list[Any] = [key for key in matplotlib.rcParams if key != "backend"]  # reading that one imports pyplot
    table = screened(100)
    before = screening_plot(table, "t", 0.05)
    with matplotlib.rc_context({"font.size": 23, "axes.facecolor": "red", "text.usetex": True}):
        settings, filters = [(key, matplotlib.rcParams[key]) for key in keys], list(warnings.filters)
        assert screening_plot(table, "t", 0.05) == before
        assert [(key, matplotlib.rcParams[key]) for key in keys] == settings
        assert warnings.filters == filters


def test_threads_draw_the_same() -> None:
    tables = [screened(60, seed) for seed in range(6)]
    alone = [screening_plot(table, "t", 0.05) for table in tables]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda table: screening_plot(table, "t", 0.05), tables)) == alone
    assert len(set(alone)) == len(alone)


@st.composite
def any_table(draw: st.DrawFn) -> Any:
    count = draw(st.integers(0, 70))
    column = st.lists(
        st.floats(0, 1) | st.sampled_from([0.0, 1e-300, 5e-324, 1.0, 0.3]), min_size=count, max_size=count
    )

    def values() -> list[float | None]:
        holes = draw(st.sampled_from(["none", "all", "some"]))
        if holes == "all":
            return [None] * count
        whole = draw(column)
        return [None if holes == "some" and i % 3 == 0 else value for i, value in enumerate(whole)]

    score = draw(st.sampled_from([values(), [0.0] * count, [0.25] * count]))
    there = [i for i in range(count) if score[i] is not None]
    there.sort(key=lambda i: -(score[i] or 0.0))
    rank: list[int | None] = [None] * count
    for place, i in enumerate(there):
        rank[i] = place + 1
    kinds = ["continuous", "binary", "constant", "missing", "refused", "categorical"]
    return table_of(
        score=score,
        rank=rank,
        feature=draw(st.lists(st.text(max_size=60), min_size=count, max_size=count)),
        kind=draw(st.lists(st.sampled_from(kinds), min_size=count, max_size=count)),
        selected=draw(st.lists(st.booleans(), min_size=count, max_size=count)),
        **{
            name: values()
            for name in "p_value p_permutation q_value q_by mi_binned mi_kde mi_knn mi_pearson stability".split()
        },
    )


@settings(max_examples=10, deadline=None)
@given(any_table(), st.text(max_size=90), st.sampled_from([1e-9, 0.05, 0.999, 1.0]), st.randoms())
def test_any_table_in_any_order_gives_one_picture(table: Any, title: str, max_q: float, random: Any) -> None:
    svg = screening_plot(table, title, max_q)
    ET.fromstring(svg)
    order = list(range(table.num_rows))
    random.shuffle(order)
    assert screening_plot(table.take(pa.array(order, pa.int64())), title, max_q) == svg


@given(st.text(max_size=80), st.integers(3, 40))
def test_shortened_fits_and_keeps_both_ends(name: str, most: int) -> None:
    short = shortened(name, most)
    assert cells(short) <= most
    assert short.isprintable()
    assert shortened(short, most) == short
    if short != printable(name):
        head, tail = short.split("…")[0], short.split("…")[-1]
        assert printable(name).startswith(head)
        assert printable(name).endswith(tail)
        assert cells(short) >= most - 2  # a wide character may not fit on either side


@given(st.text(st.sampled_from("abcXYZ_09 éüß日本語特徴量한국Жд"), max_size=50))
def test_cells_are_richs(text: str) -> None:
    assert cells(text) == cell_len(text)


@settings(deadline=None)
@given(st.floats(1e-9, 1e4), st.sampled_from([0.1, 0.14]))
def test_root_ticks_have_room_and_reach_far(largest: float, gap: float) -> None:
    with drawing():
        axes = Sheet(100, 100).axes(0, 0, 100, 100)
        root_ticks(axes.xaxis, largest, gap)
        ticks = axes.xaxis.get_ticklocs()
    places = np.sqrt(ticks / largest)
    assert places[0] == 0
    assert (np.diff(places) >= gap * (1 - 1e-9)).all()
    assert 0.6 <= places[-1] <= 1
    assert len(ticks) >= 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0625, "1.06"),
        (0.3, "0.300"),
        (123.4, "123"),
        (0.00012345, "0.000123"),
        (3.2e-7, "3e-7"),
        (2e-100, "2e-100"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
