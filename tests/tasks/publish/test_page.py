"""The dataset's page: its numbers are the tables', strangers' texts stay texts, and a browser shows it."""

import json
import re
import shutil
import struct
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from flows.recipes import check_recipe
from schemas.tables import SOURCES
from tasks.publish.agreement import agreement
from tasks.publish.card import leakage
from tasks.publish.page import LONGEST, MOST_PLOT, MOST_SOURCES, lineage, page
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tests.conftest import Mill, recipe_of

CHROMIUM = shutil.which("chromium")
NASTY = "<script>alert(1)</script>\"'&\x00\x1b[31m\ud800\u202e"


class Read(HTMLParser):
    """Elements, attributes, and the text of table rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def shown(small: Path) -> Read:
    return Read((small / "report.html").read_text(encoding="utf-8"))


def test_its_numbers_are_the_tables(small: Path, shown: Read) -> None:
    dataset = open_dataset(small)
    sql = (
        "SELECT split, label, count(*) n FROM splits JOIN labels USING (sample_id) WHERE split IS NOT NULL GROUP BY ALL"
    )
    for row in query(dataset, sql).to_pylist():
        line = next(r for r in shown.rows if r[:2] == [row["split"], row["label"]])
        assert int(line[2].replace(",", "")) == row["n"]
    ranked = query(dataset, "SELECT feature, mi / ln(2) bits FROM screening WHERE rank <= 15 ORDER BY rank").to_pylist()
    lines = [r for r in shown.rows if len(r) == 6 and r[1] in {row["feature"] for row in ranked}]
    assert [(r[1], float(r[2])) for r in lines] == [(row["feature"], round(row["bits"], 3)) for row in ranked]
    for table, shards in dataset.manifest.tables.items():
        line = next(r for r in shown.rows if r[0] == table and len(r) == 3)
        assert int(line[1].replace(",", "")) == sum(shard.rows for shard in shards)
    assert dataset.manifest.digest in "".join(shown.text)


def test_it_is_whole_and_fetches_nothing(small: Path, shown: Read) -> None:
    loads = {"script", "link", "iframe", "object", "embed", "audio", "video", "source", "base", "form"}
    assert not loads & {tag for tag, _ in shown.tags}
    for _, attributes in shown.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/svg+xml;base64,") or "src" not in attributes
    policy = next(a["content"] for tag, a in shown.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not re.search(r"url\((?!#)", (small / "report.html").read_text(encoding="utf-8"))
    assert {"screening.svg", "codes.svg"} <= set(open_dataset(small).manifest.files)
    assert sum(tag == "img" for tag, _ in shown.tags) == 2
    assert (small / "report.html").stat().st_size < 1_000_000


def test_it_is_listed_and_the_same_again(small: Path, corpus: Path, mill: Mill, tmp_path: Path) -> None:
    assert "report.html" in open_dataset(small).manifest.files
    mill(recipe_of(corpus), tmp_path / "again")
    assert (tmp_path / "again" / "report.html").read_bytes() == (small / "report.html").read_bytes()


def made(small: Path, **changes: Any) -> str:
    """A page of the small dataset's summary, with something else in it."""
    manifest = open_dataset(small).manifest
    summary = manifest.summary | changes.pop("summary", {})
    rows = {name: sum(shard.rows for shard in shards) for name, shards in manifest.tables.items()}
    recipe = check_recipe(manifest.recipe | changes.pop("recipe", {}), "test")
    return page(recipe, manifest.digest, summary, changes.pop("rows", rows), {}, **changes).decode()


def test_strangers_texts_stay_texts(small: Path) -> None:
    source = dict.fromkeys(("version", "licence", "filename", "archive_sha256", "url", "licence_source"), NASTY)
    failure = {"stage": NASTY, "reason": NASTY, "count": 1, "example": NASTY + "long" * 1000}
    text = made(
        small,
        summary={"failures": [failure], "failed": 1, "licences": {NASTY: 1}},
        sources=[{"name": NASTY, "status": "failed", "reason": NASTY, **source}],
        fitted=[NASTY],
        recipe={"publishing": {"title": NASTY.replace("\ud800", ""), "description": NASTY.replace("\ud800", "")}},
    )
    assert "<script" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    found = Read(text)
    assert not {"script"} & {tag for tag, _ in found.tags}
    assert any(r[0] == NASTY.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
               .replace("\u202e", "\ufffd") for r in found.rows if r)  # fmt: skip
    assert max(len(cell) for row in found.rows for cell in row) <= LONGEST


def test_many_sources_are_counted_not_listed(small: Path) -> None:
    source = dict.fromkeys(SOURCES.names) | {"name": "x", "status": "ok"}
    text = made(small, sources=[source] * (MOST_SOURCES + 1234))
    assert "1,234 more stand in the table" in text
    assert len(text) < 1_000_000


def test_whatever_there_is_much_of_is_counted_not_listed(small: Path) -> None:
    many = {f"many {n:05}": 1 for n in range(20_000)}
    text = made(
        small,
        summary={
            "licences": many,
            "excluded": [{"reason": name, "sources": 1, "files": 1} for name in many],
            "failures": [{"stage": "label", "reason": name, "count": 1, "example": name} for name in many],
            "balance": {which: {"train": many, "validation": {}, "test": {}} for which in ("before", "after")},
        },
        sources=[dict.fromkeys(SOURCES.names) | {"status": "ok"}],
    )
    assert text.count("19,900 more stand in") == 4
    assert len(text) < 200_000


def test_every_table_is_in_the_lineage_of_what_rebalancing_made() -> None:
    found = lineage({"train": 3, "train_dropped": 2, "voters": 1}, {})
    assert {box["name"] for box in found["boxes"]} == {"train", "train_dropped", "voters"}
    assert len(found["edges"]) == 2


@pytest.mark.parametrize("tables", [{"screening": 9}, {"train": 9, "screening": 3}, {"codes": 9, "sources": 2}, {}])
def test_sections_without_data_are_left_out(small: Path, tables: dict[str, int]) -> None:
    empty: dict[str, Any] = {
        "files": [], "licences": {}, "excluded": [], "failures": [], "failed": 0, "duplicates": {}, "top_features": [],
        "recall": [], "features": {}, "balance": {"before": {}, "after": {}},
    }  # fmt: skip
    text = made(small, summary=empty, rows=tables)
    assert 'id="files"' not in text
    assert 'id="balance"' not in text
    assert 'id="query"' in text
    assert 'href="codes.svg"' not in text
    assert text.count("<rect") == len(tables)


def test_a_picture_that_is_too_large_is_linked(small: Path) -> None:
    found = Read(made(small, beside={"screening.svg": b"<svg/>", "codes.svg": b"x" * (MOST_PLOT + 1)}))
    assert sum(tag == "img" for tag, _ in found.tags) == 1
    assert {"href": "codes.svg"} in [attributes for tag, attributes in found.tags if tag == "a"]


def test_what_it_links_is_there(small: Path, shown: Read) -> None:
    links = [attributes["href"] for tag, attributes in shown.tags if tag == "a"]
    assert len(links) == len(set(links)) == 5
    assert all((small / str(name)).is_file() for name in links)


def test_it_says_what_the_card_says(small: Path, shown: Read) -> None:
    """Leakage, the cells' recall, and the order that a model is to be trained in."""
    summary = open_dataset(small).manifest.summary
    for line in leakage(summary["duplicates"]):
        cells = [line["kind"].replace("`", ""), line["limit"], *line["cells"], line["kept_whole"]]
        assert cells in shown.rows
    cells = [{"probes": 3, "read": 0.125, "recall": 0.98765}]
    assert ["3", "12.5%", "0.988", ""] in Read(made(small, summary={"cells": cells})).rows
    assert summary["order"]["commitment"] in "".join(shown.text)


def test_lineage_has_each_table_once_and_lines_only_downwards(small: Path) -> None:
    rows = dict.fromkeys(open_dataset(small).manifest.tables, 1)
    found = lineage(rows, {})
    names = [box["name"] for box in found["boxes"]]
    assert len(names) == len(set(names))
    assert set(names) >= {"sources", "binaries", "features", "splits", "screening", "train", "codes"}
    assert all(y1 <= y2 for _, y1, _, y2 in found["edges"])
    for box in found["boxes"]:
        assert 0 <= box["x"] <= found["width"] - box["width"]
        assert box["y"] + box["height"] <= found["height"]


def test_agreement_is_scipys() -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 5, 40).astype(float), random.standard_normal(40)
    scores: dict[str, list[float | None]] = {"a": [*x.tolist(), None, 1.0], "b": [*(x + y).tolist(), 3.0, None]}
    (found,) = agreement(scores)
    reference: Any = spearmanr(x, x + y)
    assert found["correlation"] == pytest.approx(reference.statistic)
    assert found["features"] == 40
    assert agreement({"a": [1.0, 1.0, 1.0], "b": [1.0, 2.0, 3.0]}) == []


def pixels(png: bytes) -> Any:
    """uint8[height, width, 3 or 4] of a PNG without interlacing."""
    width, height, _, kind = struct.unpack(">IIBB", png[16:26])
    channels = {2: 3, 6: 4}[kind]
    data, at = b"", 8
    while at < len(png):
        size, name = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += size + 12
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    return lines[:, 1:], lines[:, 0]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_shows_it(small: Path, tmp_path: Path, width: int) -> None:
    text = (small / "report.html").read_text(encoding="utf-8")
    # A copy that may measure itself: the policy of the page as it is forbids scripts, which the next test shows.
    measured = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace(
        "</body>",
        "<script>document.title = JSON.stringify([document.documentElement.scrollWidth, innerWidth,"
        " [...document.images].every(i => i.complete && i.naturalWidth > 0),"
        " document.querySelector('svg.lineage').getBoundingClientRect().height,"
        " getComputedStyle(document.body).fontFamily]);</script></body>",
    )
    (tmp_path / "measured.html").write_text(measured, encoding="utf-8")
    dom = browser(tmp_path, "--dump-dom", f"--window-size={width},900", (tmp_path / "measured.html").as_uri())
    title = re.search("<title>(.*?)</title>", dom)
    assert title is not None
    needed, room, pictures, height, _ = json.loads(title[1].replace("&quot;", '"'))
    assert needed <= room, "the page is wider than the window"
    assert pictures, "a picture does not show"
    assert height > 200
    shot = tmp_path / "shot.png"
    browser(tmp_path, f"--screenshot={shot}", f"--window-size={width},900", (small / "report.html").as_uri())
    values, _ = pixels(shot.read_bytes())
    assert len(np.unique(values)) > 20, "the page is blank"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_policy_forbids_scripts(small: Path, tmp_path: Path) -> None:
    text = (small / "report.html").read_text(encoding="utf-8")
    (tmp_path / "attacked.html").write_text(
        text.replace("</body>", "<script>document.title = 'taken'</script></body>"), encoding="utf-8"
    )
    dom = browser(tmp_path, "--dump-dom", (tmp_path / "attacked.html").as_uri())
    assert "<title>taken</title>" not in dom


def browser(folder: Path, *arguments: str) -> str:
    assert CHROMIUM is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update")  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *quiet, f"--user-data-dir={folder / 'profile'}", *arguments],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout
