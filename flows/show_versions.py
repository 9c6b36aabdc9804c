"""What people see of versions, and of the difference of two datasets."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.show import titled
from schemas.provenance import differences
from tasks.query.diff import Difference, Move
from tasks.versions import SHORT, Version

SETTINGS = 3
"""Most settings to name for a version."""


def rows_of(versions: Sequence[Version]) -> list[dict[str, Any]]:
    """Versions for machines: digest, when made, rows by table, and the settings that differ from the one before."""
    rows: list[dict[str, Any]] = []
    for number, version in enumerate(versions):
        manifest = version.manifest
        older = versions[number + 1].manifest if number + 1 < len(versions) else None
        rows.append(
            {
                "digest": manifest.digest,
                "current": version.current,
                "made": manifest.run.get("finished"),
                "binmill": manifest.run.get("binmill"),
                "rows": {name: sum(shard.rows for shard in shards) for name, shards in manifest.tables.items()},
                "settings": None if older is None else differences(older.recipe, manifest.recipe),
                "root": str(version.root),
            }
        )
    return rows


def show_versions(console: Console, versions: Sequence[Version]) -> None:
    """What a folder held, the newest first."""
    right = ("files", "train")
    table = titled("Versions", "version", "made", "files", "train", "settings changed", right=right)
    for row in rows_of(versions):
        settings = row["settings"]
        text = "-" if settings is None else "none" if not settings else "; ".join(settings[:SETTINGS])
        if settings and len(settings) > SETTINGS:
            text += f"; {len(settings) - SETTINGS} more"
        rows = row["rows"]
        now = " [green]now[/]" if row["current"] else ""
        table.add_row(
            row["digest"][:SHORT] + now,
            str(row["made"] or "-").partition("+")[0].replace("T", " "),
            f"{rows.get('binaries', rows.get('codes', 0)):,}",
            f"{rows.get('train', 0):,}",
            escape(text),
        )
    console.print(table)


def show_difference(console: Console, found: Difference) -> None:
    """In what two datasets differ; what is the same is not shown."""
    if found.same:
        console.print(f"[green]The same dataset:[/] digest {found.before}", soft_wrap=True)
        return
    console.print(f"[bold]{found.before[:SHORT]} → {found.after[:SHORT]}[/]")
    if found.recipe:
        table = titled("Settings", "", "")
        for line in found.recipe:
            place, _, change = line.partition(": ")
            table.add_row(escape(place), escape(change))
        console.print("", table)
    if found.steps:
        table = titled("Why steps gave something else", "step", "what", "")
        for step, changes in found.steps.items():
            for part, change in changes.items():
                table.add_row(step, part, escape(change))
        console.print("", table)
    _rows(console, found)
    for title, moves in (("Labels", found.labels), ("Splits", found.splits)):
        if moves:
            console.print("", _moves(title, moves))
    if found.features_gone or found.features_new:
        console.print("")
        for word, names in (("gone", found.features_gone), ("new", found.features_new)):
            if names:
                more = f", … ({len(names):,})" if len(names) > 5 else ""
                console.print(f"[bold]Features {word}:[/] {escape(', '.join(names[:5]))}{more}", soft_wrap=True)
    if found.scores:
        _scores(console, found)
    if found.fitted:
        console.print("", f"[bold]Fitted anew:[/] {', '.join(found.fitted)}")


def _rows(console: Console, found: Difference) -> None:
    if not found.tables:
        console.print("", "[dim]Every table has the same rows.[/]")
        return
    right = ("before", "after", "gone", "new", "changed")
    table = titled("Rows", "table", *right, "such as", right=right)
    for change in found.tables:
        ends = (("-", change.gone_such_as, change.columns_gone), ("+", change.new_such_as, change.columns_new))
        such = [f"{sign}{name[:28]}" for sign, names, _ in ends for name in names[:1]]
        such += [f"{sign}column {name}" for sign, _, columns in ends for name in columns[:1]]
        numbers = (change.before, change.after, change.gone, change.new, change.changed)
        table.add_row(change.table, *(f"{n:,}" for n in numbers), escape(" ".join(such)))
    console.print("", table)


def _moves(title: str, moves: Sequence[Move]) -> Table:
    table = titled(title, "before", "after", "rows", "such as", right=("rows",))
    for move in moves[:20]:
        table.add_row(
            escape(str(move.before or "none")), escape(str(move.after or "none")), f"{move.rows:,}", move.such_as[:16]
        )
    return table


def _scores(console: Console, found: Difference) -> None:
    right = ("MI before", "MI after", "rank before", "rank after")
    table = titled("Scores (MI in nats)", "feature", *right, "selected", right=right)
    for score in found.scores:
        chosen = (bool(score.selected_before), bool(score.selected_after))
        word = {(True, True): "yes", (False, False): "no", (True, False): "[red]no more[/]",
                (False, True): "[green]now[/]"}[chosen]  # fmt: skip
        table.add_row(
            escape(score.feature),
            *("-" if v is None else f"{v:.4f}" for v in (score.mi_before, score.mi_after)),
            *("-" if v is None else f"{v:,}" for v in (score.rank_before, score.rank_after)),
            word,
        )
    console.print("", table)
