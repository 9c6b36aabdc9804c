"""Commands about what a dataset was before: versions, diff."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.app import JSON, At, app, out, print_json
from schemas.errors import DatasetError

PANEL = "Ask a dataset"


@app.command(rich_help_panel=PANEL)
def versions(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")],
    prune: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Remove all but the newest N earlier versions.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """List what a folder's dataset was before: versions that query, search, trace and others read with --at.

    As many as the recipe says are kept (publishing.keep_versions, 3). What versions share is on disk once.
    """
    from flows.show_versions import rows_of, show_versions
    from tasks.journal import Journal
    from tasks.versions import prune as remove
    from tasks.versions import versions as list_versions

    removed: list[str] = []
    if prune is not None:
        with Journal(dataset, write=True):
            removed = remove(dataset, prune)
    there = list_versions(dataset)
    if not there:
        raise DatasetError(f"{dataset}: no dataset here", "name a folder that 'binmill run' wrote")
    if as_json:
        print_json({"versions": rows_of(there), "removed": removed})
        return
    show_versions(out, there)
    if removed:
        out.print(f"[dim]removed: {escape(', '.join(removed))}[/]")


@app.command(rich_help_panel=PANEL)
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A dataset: folder or URL.")],
    b: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Another. Without it: what A was before, against what it is.")
    ] = None,
    at: At = None,
    scores: Annotated[int, typer.Option(min=0, help="Features to list.")] = 20,
    as_json: JSON = False,
) -> None:
    """Explain the difference of two datasets: settings, code, sources, rows, labels, splits, features, scores.

    With --at, A is taken as that earlier version.
    """
    from flows.show_versions import show_difference
    from flows.stores import opened
    from tasks.query.diff import diff as compare

    before = opened(a, at or (None if b is not None else "previous"))
    after = opened(a if b is None else b)
    found = compare(before, after, scores)
    if as_json:
        print_json(dataclasses.asdict(found) | {"same": found.same})
    else:
        show_difference(out, found)
