"""Commands that ask a dataset: query, search, describe, trace, verify."""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.app import JSON, At, Cache, DatasetArgument, app, err, out, print_json
from schemas.errors import QueryError

PANEL = "Ask a dataset"


@app.command(rich_help_panel=PANEL)
def query(
    dataset: DatasetArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; tables go by their names.")],
    limit: Annotated[int, typer.Option(min=1, help="Rows to show (all of them with --json).")] = 100,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that the query may take.")] = 600,
    memory: Annotated[int, typer.Option(min=256, help="MiB that the query may take, and its answer.")] = 4096,
    at: At = None,
    as_json: JSON = False,
) -> None:
    """Ask a dataset with SQL (DuckDB). Read-only; nothing outside the dataset is in reach.

    Tables: sources, observations, binaries, labels, features, splits, screening, train, validation, test, codes,
    and fitted_NAME for what was learned.
    """
    from flows.show import rows
    from flows.stores import opened
    from tasks.query.sql import Limits, bound_process
    from tasks.query.sql import query as ask

    bound_process(memory << 20)
    table = ask(opened(dataset, at), sql, None if as_json else limit + 1, Limits(memory << 20, timeout))
    if as_json:
        print_json(table.to_pylist())
    else:
        rows(out, table, limit)


@app.command(rich_help_panel=PANEL)
def search(
    dataset: DatasetArgument,
    like: Annotated[str | None, typer.Option(help="A file, or the id of a row (or its beginning).")] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Vectors that ask, a row each: .npy, Parquet or Arrow.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Words that ask, where the index was made from texts (--encoder).")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Only rows that meet a condition on labels, binaries and splits, as \"format = 'pe'\".",
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help="Binarizer; default: the one with the best recall.")] = None,
    rescore: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Look closer, by int8 vectors, at this many times K rows. Default: 4 where the dataset keeps vectors "
            "(binarizing.rescoring), else 0.",
        ),
    ] = None,
    binarizer: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What 'binmill adapt' wrote: VECTORS are another model's than the rows'."),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Read only the cells nearest to the query (binarizing.cells): as many as held this share of true "
            "neighbours when measured. Default: read all rows.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Row groups searched at once.")] = 1,
    at: At = None,
    as_json: JSON = False,
) -> None:
    """Find the rows most like a file, a row, or vectors, by their bit codes.

    'information' is the mutual information of both rows' bits, in nats a bit (0.69: they tell each other's).
    """
    from flows.search import Text, neighbours
    from flows.show import rows
    from flows.stores import opened

    given = [asked for asked in (like, vectors, None if text is None else Text(text)) if asked is not None]
    if len(given) != 1:
        raise QueryError("search: give one of --like, --vectors and --text", "as --like FILE, or --text 'some words'")
    table = neighbours(
        opened(dataset, at), given[0], k, method,
        rescore=rescore, where=where, threads=threads, recall=recall, binarizer=binarizer,
    )  # fmt: skip
    if as_json:
        print_json(table.to_pylist())
    else:
        rows(out, table, max(k, 100), short_ids=True)


@app.command(rich_help_panel=PANEL)
def verify(
    dataset: DatasetArgument,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Public key in PEM: the dataset must be signed by it.")
    ] = None,
    rebuild: Annotated[
        int, typer.Option(metavar="N", min=0, help="Also compute N shards again from their inputs, and compare bytes.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed that draws the N shards.")] = 0,
    base: Annotated[
        Path, typer.Option(metavar="DIR", help="With --rebuild: folder that the recipe's relative paths start from.")
    ] = Path(),
    cache: Cache = None,
    at: At = None,
    as_json: JSON = False,
) -> None:
    """Check every byte of a dataset against its manifest, and its promises against its rows.

    Ends with 1 and names what is wrong when anything is. --rebuild needs the inputs (sources, archives in the cache),
    the partial states in .binmill, and the code and libraries that made the dataset.
    """
    from rich.progress import track

    from flows.cli.attesting import read_key
    from flows.stores import opened
    from tasks.query.verify import Finding
    from tasks.query.verify import verify as check

    there = opened(dataset, at)
    findings: list[Finding] = []
    checked = 0
    checks = check(there, None if key is None else read_key(key))
    if rebuild:
        from flows.rebuild import rebuild as again
        from tasks.ingest.cache import default_cache

        rebuild = min(rebuild, len(there.manifest.shards()))
        checks = itertools.chain(checks, again(there, rebuild, base, cache or default_cache(), seed))
    for _, found in track(
        checks,
        description="verifying",
        total=len(there.manifest.shards()) + len(there.manifest.files) + 7 + rebuild,
        console=err,
        disable=not err.is_terminal,
        transient=True,
    ):
        checked += 1
        findings += found
    if as_json:
        told = [dataclasses.asdict(finding) for finding in findings]
        print_json({"ok": not findings, "checked": checked, "rebuilt": rebuild, "findings": told})
    elif findings:
        for finding in findings:
            out.print(f"[red]✗[/] {escape(finding.where)}: {escape(finding.problem)}", soft_wrap=True)
        out.print(f"  → run the recipe again: damaged shards are made anew ({escape(str(dataset))}/recipe.yaml)")
    else:
        out.print(
            f"[green]✓[/] {escape(str(dataset))}: {len(there.manifest.shards())} shards and all promises hold; "
            f"{f'{rebuild} computed again are the same; ' if rebuild else ''}digest {there.manifest.digest}",
            soft_wrap=True,
        )
    if findings:
        raise typer.Exit(1)


@app.command(rich_help_panel=PANEL)
def trace(
    dataset: DatasetArgument,
    row: Annotated[
        str,
        typer.Argument(
            metavar="ROW",
            help="Id of a row or source, or its beginning; a feature's name; or TABLE:NUMBER, a row of any table, "
            "counted from 0 (fitted_scaler:3).",
        ),
    ],
    at: At = None,
    as_json: JSON = False,
) -> None:
    """Show where a row came from: parents, features, file, archive, URL, and what made each shard.

    Of each shard: stage, code, commit (and whether the checkout was changed), configuration, library versions. Of a
    row that was learned (a score, a scale): the shards and sources behind it.
    """
    from flows.show import tree
    from flows.stores import opened
    from tasks.query.trace import trace_row

    chain = trace_row(opened(dataset, at), row)
    if as_json:
        print_json(dataclasses.asdict(chain))
    else:
        tree(out, chain)


@app.command(rich_help_panel=PANEL)
def describe(dataset: DatasetArgument, at: At = None, as_json: JSON = False) -> None:
    """Say what a dataset is: files, failures, balance, top features, recall, tables."""
    from flows.show import report, tables
    from flows.stores import opened

    there = opened(dataset, at)
    if as_json:
        print_json(there.manifest.model_dump(mode="json"))
    else:
        report(out, there.manifest, there.name, commands=False)
        tables(out, there.manifest)
