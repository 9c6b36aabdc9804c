"""The dataset's page: report.html, one file that a browser opens from disk, with no script and nothing fetched.

What it shows comes from strangers' files too: every text is escaped, and the page's own policy forbids all but styles
and the pictures in it. It holds no time, so that equal data gives an equal page.
"""

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from schemas.recipe import Recipe
from tasks.publish.agreement import agreement
from tasks.publish.card import CODES_PLOT, KINDS, NOTES, PLOT, leakage, learned_from, queries

PAGE = "report.html"
MOST_SOURCES = 200
MOST_LINES = 100
"""Lines of any other table; the page says how many more there are."""
LONGEST = 400
"""Characters of one text."""
MOST_PLOT = 500_000
"""Bytes of a plot; a larger one stays beside the page."""

LAYERS = (
    ("sources",),
    ("observations",),
    ("binaries", "features"),
    ("labels", "splits"),
    ("screening",),
    ("train", "validation", "test"),
    ("codes",),
    ("train_dropped", "voters", "borders"),
)
"""The tables from above: what a row is made of stands over it."""
EDGES = (
    ("sources", "observations"),
    ("observations", "binaries"),
    ("observations", "features"),
    ("sources", "features"),
    ("binaries", "labels"),
    ("features", "splits"),
    ("labels", "splits"),
    ("splits", "screening"),
    ("labels", "screening"),
    ("screening", "train"),
    ("screening", "validation"),
    ("screening", "test"),
    ("train", "codes"),
    ("validation", "codes"),
    ("test", "codes"),
    ("train", "train_dropped"),
    ("train", "voters"),
    ("codes", "borders"),
    ("sources", "codes"),
    ("sources", "screening"),
    ("sources", "train"),
)
WIDTH, BOX_WIDTH, BOX_HEIGHT, GAP = 560, 170, 60, 34


def page(
    recipe: Recipe,
    digest: str,
    summary: Mapping[str, Any],
    rows: Mapping[str, int],
    stages: Mapping[str, str],
    *,
    fitted: Sequence[str] = (),
    sources: Sequence[Mapping[str, Any]] = (),
    scores: Mapping[str, Sequence[float | None]] | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> bytes:
    """The page, in UTF-8.

    Parameters
    ----------
    summary
        As `summarise` gives it.
    rows
        Rows of each table.
    stages
        By table: the stage that wrote it, and how its code's digest begins.
    sources
        Rows of the table `sources`.
    scores
        By estimator: a score for each feature, None where it was not measured.
    beside
        Files beside the page by name: the plots are shown, the others linked.
    """
    about = recipe.publishing
    told = {
        "Version": about.version,
        "Published": "" if about.published is None else about.published.isoformat(),
        "By": ", ".join(by.name for by in about.creators),
        "Licence": about.licence,
        "Home": about.url,
        "To cite": about.citation.strip(),
        "Training order": _order(summary.get("order")),
    }
    beside = beside or {}
    balance = _balance(summary["balance"])
    listed = sources[:MOST_SOURCES]
    real = sum(sum(labels.values()) for labels in summary["balance"]["before"].values())
    numbers = {
        "files": rows.get("binaries", 0),
        "sources": rows.get("sources", 0),
        "labelled rows": real,
        "rows to train on": rows.get("train", 0),
        "features screened": summary["features"].get("screened", 0),
        "features selected": summary["features"].get("selected", 0),
        "rows with codes": rows.get("codes", 0),
        "inputs left out": summary["failed"],
    }
    text = _template().render(
        title=about.title or recipe.name,
        name=recipe.name,
        digest=digest,
        description=[line for line in about.description.split("\n") if line.strip()],
        told={key: value for key, value in told.items() if value},
        numbers={word: count for word, count in numbers.items() if count or word == "inputs left out"},
        lineage=lineage(rows, stages),
        fitted=fitted,
        learned_from=learned_from(rows).replace("`", ""),
        beside=[name for name in ("README.md", "recipe.yaml", "croissant.json") if name in beside],
        files=summary["files"],
        sources={"rows": listed, "more": max(rows.get("sources", 0), len(sources)) - len(listed)},
        licences=summary["licences"],
        excluded=summary["excluded"],
        most=MOST_LINES,
        inputs=summary["inputs"],
        failed=summary["failed"],
        failures=summary["failures"],
        balance=balance,
        duplicates=_duplicates(summary["duplicates"]),
        features=_features(summary["top_features"]),
        screened=summary["features"],
        estimator=recipe.screening.estimator,
        agreement=agreement(scores or {}),
        recall=summary["recall"],
        cells=summary.get("cells") or [],
        plots={"screening": _plot(beside, PLOT), "codes": _plot(beside, CODES_PLOT)},
        commands=queries(rows),
        tables=[{"name": name, "rows": count, "note": NOTES.get(name, "")} for name, count in rows.items()],
    )
    return text.encode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def _shown(value: Any) -> Any:
    """A text without what HTML cannot hold (control characters, halves of surrogate pairs), and not without end."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    if len(value) > LONGEST:
        value = value[: LONGEST - 1] + "…"
    clean = (c if c in "\n\t" or (c.isprintable() and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in value)
    return "".join(clean)


def lineage(rows: Mapping[str, int], stages: Mapping[str, str]) -> dict[str, Any]:
    """Boxes and lines of the graph of tables, from above to below; tables that are not there are left out."""
    boxes: dict[str, dict[str, Any]] = {}
    y = 4
    for layer in LAYERS:
        names = [name for name in layer if name in rows]
        room = WIDTH / max(1, len(names))
        for number, name in enumerate(names):
            x = room * (number + 0.5) - BOX_WIDTH / 2
            place = {"x": x, "y": y, "width": BOX_WIDTH, "height": BOX_HEIGHT}
            boxes[name] = {"name": name, "rows": rows[name], "stage": stages.get(name, ""), **place}
        y += BOX_HEIGHT + GAP if names else 0
    present = [(a, b) for a, b in EDGES if a in boxes and b in boxes]
    # A line that only repeats a way over other tables is left out.
    edges = [edge for edge in present if not _reached(*edge, [other for other in present if other != edge])]
    lines = [_line(boxes[a], boxes[b]) for a, b in edges]
    text = "; ".join(f"{b} from {', '.join(a for a, c in edges if c == b)}" for b in dict.fromkeys(b for _, b in edges))
    height = max(y - GAP + 4, BOX_HEIGHT)
    return {"width": WIDTH, "height": height, "boxes": list(boxes.values()), "edges": lines, "text": f"Lineage: {text}"}


def _reached(start: str, end: str, edges: Sequence[tuple[str, str]]) -> bool:
    return any(b == end or _reached(b, end, edges) for a, b in edges if a == start)


def _line(above: Mapping[str, Any], below: Mapping[str, Any]) -> tuple[float, float, float, float]:
    if above["y"] == below["y"]:  # beside each other
        return above["x"] + BOX_WIDTH, above["y"] + BOX_HEIGHT / 2, below["x"], below["y"] + BOX_HEIGHT / 2
    return above["x"] + BOX_WIDTH / 2, above["y"] + BOX_HEIGHT, below["x"] + BOX_WIDTH / 2, below["y"]


def _balance(balance: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[dict[str, Any]]:
    """A line for each split and label; widths in percent of the largest count."""
    lines: list[dict[str, Any]] = [
        {"split": split, "label": label, "before": balance["before"][split].get(label, 0), "after": count}
        for split, labels in balance["after"].items()
        for label, count in labels.items()
    ]
    largest = max((max(line["before"], line["after"]) for line in lines), default=1) or 1
    for line in lines:
        line["width"] = {which: round(100 * line[which] / largest, 1) for which in ("before", "after")}
    return lines


def _duplicates(found: Mapping[str, Any]) -> dict[str, Any] | None:
    if not found:
        return None
    return {
        "samples": found["samples"],
        "largest_group": found["largest_group"],
        "clusters": [{"kind": _kind(kind), **counts} for kind, counts in found["clusters"].items()],
        "leakage": [line | {"kind": line["kind"].replace("`", "")} for line in leakage(found)],
    }


def _order(order: Mapping[str, Any] | None) -> str:
    if not order:
        return ""
    return f"committed to {order['commitment']} ({order['rows']:,} rows): binmill order-test"


def _kind(kind: str) -> str:
    return KINDS.get(kind, kind).replace("`", "")


def _features(top: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    most = max((f["mi_bits"] for f in top), default=1.0) or 1.0
    return [
        {
            **f,
            "width": round(100 * max(0.0, f["mi_bits"]) / most, 1),
            "q": "" if f["q_value"] is None else f"{f['q_value']:.2g}",
        }
        for f in top
    ]


def _plot(beside: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A picture as a data URL; of one that is too large only its name, which the page links."""
    data = beside.get(name)
    if data is None or len(data) > MOST_PLOT:
        return {"name": name if data else "", "url": ""}
    return {"name": name, "url": Markup("data:image/svg+xml;base64,") + base64.b64encode(data).decode()}
