"""What people see: tables and trees of results, for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from flows.plan import Plan
from schemas.manifest import Manifest
from schemas.provenance import canonical_json
from tasks.query.trace import Link, Trace
from tasks.shards import read_shard
from tasks.store.objects import is_url


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def titled(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table with a title and columns, some of them to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def report(console: Console, manifest: Manifest, name: str, *, commands: bool = True) -> None:
    """Everything worth knowing of a dataset: files, failures, balance, features, recall, where it is."""
    summary = manifest.summary
    console.print()
    if summary["files"]:
        table = titled("Files", "format", "machine", "files", "size", "parsed", right=("files", "size", "parsed"))
        for row in summary["files"]:
            parsed = f"{row['ok']:,}" + (f" + {row['partial']:,} in part" if row["partial"] else "")
            table.add_row(row["format"], row["machine"], f"{row['files']:,}", size(row["bytes"]), parsed)
        console.print(table, "")
    if summary["failures"]:
        table = titled("Left out, and why", "stage", "reason", "inputs", "for example", right=("inputs",))
        for row in summary["failures"]:
            table.add_row(row["stage"], escape(row["reason"]), f"{row['count']:,}", escape(row["example"])[:60])
        console.print(table)
        console.print(f"[dim]{summary['failed']:,} of {summary['inputs']:,} inputs[/]", "", sep="\n")
    else:
        console.print(f"[bold]Left out:[/] none of {summary['inputs']:,} inputs", "", sep="\n")
    if summary["excluded"]:
        table = titled("Kept out by the recipe's licences", "reason", "sources", "files", right=("sources", "files"))
        for row in summary["excluded"]:
            table.add_row(escape(row["reason"]), f"{row['sources']:,}", f"{row['files']:,}")
        console.print(table, "")
    _balance(console, summary["balance"])
    for label, recall in summary["neighbours_found"].items():
        console.print(f"[dim]approximate search: {recall:.2%} of the true neighbours in {escape(label)}[/]", "")
    if summary["top_features"]:
        table = titled("Top features", "", "feature", "MI (bits)", "q", "", right=("", "MI (bits)", "q"))
        best = max(f["mi_bits"] for f in summary["top_features"]) or 1.0
        for f in summary["top_features"][:10]:
            bar = "█" * max(1, round(20 * f["mi_bits"] / best)) if f["mi_bits"] > 0 else ""
            table.add_row(str(f["rank"]), f["feature"], f"{f['mi_bits']:.3f}", f"{f['q_value']:.1e}", f"[cyan]{bar}[/]")
        console.print(table)
        counts = summary["features"]
        console.print(
            f"[dim]{counts['screened']:,} screened, {counts['q_below_0.05']:,} with q ≤ 0.05, "
            f"{counts['selected']:,} selected[/]",
            "",
            sep="\n",
        )
    if summary["recall"]:
        k = summary["recall"][0]["k"]
        right = ("bits", "bytes a row", f"recall@{k}", "rescored", "queries", "rows searched")
        table = titled("Codes", "method", *right, right=right)
        for r in summary["recall"]:
            table.add_row(
                r["method"],
                str(r["bits"]),
                str(r["bytes"]),
                f"{r['recall']:.3f}",
                f"{r['rescored']:.3f}",
                f"{r['queries']:,}",
                f"{r['base']:,}",
            )
        console.print(table, "")
    for note in manifest.run.get("notes", []):
        console.print(f"[yellow]Note:[/] {escape(note)}")
    console.print(f"[bold]Dataset[/] {escape(name)}", soft_wrap=True)
    console.print(f"[bold]Digest[/]  {manifest.digest}", soft_wrap=True)
    if commands:
        console.print("", "[bold]Try next[/]", sep="\n")
        for command in next_commands(manifest, name):
            console.print(f"  {escape(command)}", soft_wrap=True, highlight=False)


def screened(console: Console, manifest: Manifest, root: Path) -> None:
    """What a screening found: the best features, the counts, where the rest is."""
    from flows.show_screening import console_plot
    from tasks.publish.card import PLOT

    table = read_shard(root, manifest.tables["screening"][0].path)
    options = manifest.recipe["screening"]
    console.print("", console_plot(table, console.width, options["max_q"], options["top"]), "", sep="\n")
    for note in manifest.run.get("notes", []):
        console.print(f"[yellow]Note:[/] {escape(note)}")
    console.print(f"[bold]Result[/] {escape(str(root))}", soft_wrap=True)
    console.print(f"[bold]Plot[/]   {escape(str(root / PLOT))}", soft_wrap=True)
    console.print(f"[bold]Digest[/] {manifest.digest}", soft_wrap=True)
    sql = "SELECT feature, mi, q_value FROM screening WHERE selected ORDER BY rank"
    command = f'  binmill query {_shortest(root)} "{sql}"'
    console.print("", "[bold]Try next[/]", sep="\n")
    console.print(escape(command), soft_wrap=True, highlight=False)


def next_commands(manifest: Manifest, name: str) -> list[str]:
    """Three commands that work on this dataset."""
    place = name if is_url(name) else _shortest(Path(name))
    if manifest.is_index:
        sql = "SELECT filename, count(*) AS n FROM codes JOIN sources USING (source_id) GROUP BY ALL"
        asked = f"binmill search {place} --vectors QUERIES.npy -k 5"
        return [asked, f'binmill query {place} "{sql}"', f"binmill verify {place}"]
    counted = "split, label, count(*) AS n FROM splits JOIN labels USING (sample_id)"
    if "splits" not in manifest.tables:
        counted = "label, is_synthetic, count(*) AS n FROM train"
    sql = f"SELECT {counted} GROUP BY ALL ORDER BY ALL"
    commands = [f'binmill query {place} "{sql}"', f"binmill verify {place}"]
    sample = manifest.summary.get("sample")
    if sample:
        commands.insert(1, f"binmill search {place} --like {sample[:16]} -k 5")
    else:
        commands.append(f"binmill describe {place}")
    return commands


def _shortest(root: Path) -> str:
    here = Path.cwd()
    return str(root.relative_to(here)) if root.is_relative_to(here) and root != here else str(root)


def _balance(console: Console, balance: dict[str, dict[str, dict[str, int]]]) -> None:
    table = titled("Class balance", "split", "label", "before", "after", "", right=("before", "after"))
    largest = max((n for labels in balance["after"].values() for n in labels.values()), default=0)
    for split, labels in balance["after"].items():
        for label, after in labels.items():
            before = balance["before"][split].get(label, 0)
            real, synthetic = (round(20 * n / largest) for n in (before, after - before))
            bar = f"[cyan]{'█' * real}[/][magenta]{'▒' * synthetic}[/]"
            table.add_row(split, escape(label), f"{before:,}", f"{after:,}", bar)
    if table.row_count:
        console.print(table, "[dim]█ real, ▒ synthetic (train only)[/]", "", sep="\n")


def tables(console: Console, manifest: Manifest) -> None:
    """Tables of a dataset and their sizes."""
    table = titled("Tables", "table", "rows", "shards", "size", right=("rows", "shards", "size"))
    fitted = {f"fitted_{name}": [shard] for name, shard in manifest.fitted.items()}
    for name, shards in (manifest.tables | fitted).items():
        total = sum(shard.size for shard in shards)
        table.add_row(name, f"{sum(s.rows for s in shards):,}", f"{len(shards):,}", size(total))
    console.print("", table)


def plan(console: Console, found: Plan, name: str) -> None:
    """What a run would compute, and why."""
    table = titled("Plan", "step", "items", "there", "to compute", "memory an item", "",
                   right=("items", "there", "to compute", "memory an item"))  # fmt: skip
    for count in found.counts:
        missing = count.items - count.present
        names = ", ".join(count.titles) + (", …" if missing > len(count.titles) else "")
        table.add_row(
            f"{count.stage}.{count.step}",
            f"{count.items:,}",
            f"{count.present:,}",
            f"{missing:,}",
            size(count.memory) if missing else "-",
            escape(names) if missing else "",
        )
    console.print(table)
    if found.finished:
        console.print(f"[green]Everything is there:[/] a run would compute nothing ({escape(name)})")
        return
    console.print()
    for reason, items in found.why.items():
        console.print(f"[bold]Why:[/] {escape(reason)} [dim]({items:,} item{'s' if items > 1 else ''})[/]")
    if found.later:
        console.print(
            f"[dim]Then, as far as its results are others than before: {', '.join(found.later)}. "
            "What that is, is planned when this step is done.[/]"
        )


def rows(console: Console, table: Any, limit: int, *, short_ids: bool = False) -> None:
    """An Arrow table, as a terminal table; ids shortened on request (commands take their beginning)."""
    shown = titled("", *table.schema.names)
    for row in table.slice(0, limit).to_pylist():
        shown.add_row(*("[dim]null[/]" if v is None else escape(_cell(v, short_ids=short_ids)) for v in row.values()))
    console.print(shown)
    more = table.num_rows > limit
    console.print(
        f"[dim]{'first ' if more else ''}{min(limit, table.num_rows):,} rows{' (more: --limit)' if more else ''}[/]"
    )


def _cell(value: Any, *, short_ids: bool = False) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, bytes):
        return value.hex()
    text = str(value)
    if short_ids and len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:16]
    return text if len(text) <= 80 else text[:77] + "..."


def tree(console: Console, chain: Trace) -> None:
    """A row's chain back to its archives."""
    console.print(_branch(Tree(f"[bold]{chain.sample_id}[/]"), chain))


def _branch(root: Tree, chain: Trace) -> Tree:
    for link in chain.links:
        node = root.add(f"[cyan]{link.table}[/]  [dim]{escape(link.shard)}{escape(_made(link))}[/]")
        for name, value in link.values.items():
            node.add(f"{name}: {escape(_cell(value))}")
        if made := link.provenance:
            node.add(f"[dim]with {escape(', '.join(f'{name} {v}' for name, v in made['libraries'].items()))}[/]")
            node.add(f"[dim]configured {escape(_cell(canonical_json(made['config'])))}, seed {made['seed']}[/]")
        for parent in link.derived_from:
            _branch(node.add(f"derived from [bold]{parent.sample_id}[/]"), parent)
    if (learned := chain.learned_from) is not None:
        states = f", by way of {learned.states:,} partial states" if learned.states else ""
        node = root.add(f"learned from {len(learned.shards):,} shards{states}")
        for shard in learned.shards:
            node.add(f"[dim]{escape(shard)}[/]")
        node = root.add(f"of {len(learned.sources):,} sources")
        for source in learned.sources:
            node.add(escape("  ".join(str(value) for value in source.values())), highlight=False)
    return root


def _made(link: Link) -> str:
    """What made a shard, in words."""
    if not (made := link.provenance):
        return ""
    said = f"  made by {made['stage']}.{made['step']}, binmill {made['binmill']}, code {made['code'][:12]}"
    if commit := link.tree.get("commit"):
        said += f", commit {commit[:12]}{' (changed)' if link.tree.get('dirty') else ''}"
    return said
