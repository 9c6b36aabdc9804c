"""Commands that put what a dataset learned to use: apply, adapt, evaluate, bench-codes."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.app import JSON, DatasetArgument, app, err, out, print_json, quiet_libraries
from schemas.errors import QueryError

PANEL = "Put it to use"


@app.command(rich_help_panel=PANEL)
def adapt(
    dataset: DatasetArgument,
    vectors: Annotated[
        Path, typer.Argument(metavar="VECTORS", help="New vectors of rows that have codes: .npy, Parquet, Arrow.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File for what is learned (Parquet).")],
    of: Annotated[str | None, typer.Option(help="File of the index whose rows they are, in order. [its first]")] = None,
    column: Annotated[list[str] | None, typer.Option(help="Column of the vectors; may be repeated. [all]")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column with the id of the row that each is of.")] = None,
    method: Annotated[str | None, typer.Option(help="Binarizer; default: the one with the best recall.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is held out.")] = 0,
    as_json: JSON = False,
) -> None:
    """Search old codes with a new model's vectors: learn to code them so, from rows that are known in both.

    No stored code changes. Then: binmill search DATASET --vectors NEW --binarizer FILE. Rows that are held out say how
    often a new vector finds its own row.
    """
    from flows.adapt import adapt as adapted
    from flows.adapt import table
    from flows.show import rows
    from flows.stores import opened

    found = adapted(
        opened(dataset), vectors, of=of, columns=column or (), id_column=id_column, method=method, seed=seed
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    found.binarizer.save(output)
    shown = table(found)
    if as_json:
        print_json(shown.to_pylist()[0] | {"file": str(output)})
    else:
        rows(out, shown, 1)


@app.command(rich_help_panel=PANEL)
def apply(
    dataset: DatasetArgument,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="New files; of a table dataset, tables.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the rows to this file: .parquet, .csv or .jsonl.")
    ] = None,
    features: Annotated[bool, typer.Option("--features", help="Add whole vectors, not only selected columns.")] = False,
    as_json: JSON = False,
) -> None:
    """Give new files the features, selected columns and bit codes that the pipeline would have given them.

    What was fitted on the dataset's training split is used as it is; nothing is learned from the new files. A file
    that cannot be parsed is a row with the reason; the command fails (6) when no file could be.
    """
    from rich.progress import Progress

    from flows.apply import Writer, brief, differences, json_row, parsed_rows
    from flows.apply import apply as applied
    from flows.show import rows
    from flows.stores import opened

    there = opened(dataset)
    for difference in differences(there):
        err.print(f"[yellow]note[/]: {escape(difference)} is not what made the dataset: values may differ")
    total = usable = 0
    hidden = not err.is_terminal or (output is None and out.is_terminal)  # rows on the screen say how far it is
    with Writer(output, features=features) as writer, Progress(console=err, disable=hidden, transient=True) as bars:
        bar = bars.add_task("files", total=len(files) if there.manifest.tables.get("binaries") else None)
        for table in applied(there, files, features=features):
            writer.write(table)
            if as_json:
                for n, row in enumerate(table.to_pylist(), total):
                    sys.stdout.write(("," if n else "[") + "\n" + json_row(row))
            elif output is None:
                rows(out, brief(table), table.num_rows, short_ids=True)
            total, usable = total + table.num_rows, usable + parsed_rows(table)
            bars.update(bar, completed=total)
    if as_json:
        sys.stdout.write("\n]\n" if total else "[]\n")
    elif output is not None:
        out.print(f"[green]✓[/] {escape(str(output))}: {total} rows, {usable} of them parsed", soft_wrap=True)
    if not usable:
        raise QueryError("no file could be parsed", "see the column parse_error of each row")


@app.command(rich_help_panel=PANEL)
def evaluate(
    dataset: DatasetArgument,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for evaluation.json and evaluation.png. Default: 'evaluation' in DATASET."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="logistic, forest, boosting, tree or knn, in place of the recipe's; may be repeated."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Class told from all others. Default: the rarest of train.")
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also sweep over- and under-sampling with the first model (126 fits).")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Does rebalancing help? Ways of treating imbalance compared on the dataset's test split.

    Models are fitted to real rows of train: as they are, with class weights, under-sampled, with SMOTE, with both, and
    as the dataset was rebalanced. Ranking and probabilities are measured on test, with bootstrap intervals of what
    each way changes. The dataset stays as it is.
    """
    from flows.evaluate import PLOT, REPORT, write
    from flows.evaluate import evaluate as compared
    from flows.progress import shown
    from flows.show_evaluation import console_report
    from flows.stores import opened

    there = opened(dataset)
    with quiet_libraries(), shown(err) as progress:
        report = compared(there, models=model or (), positive=positive, sweep=sweep, progress=progress)
    folder = output or (Path() if there.fetch else there.root) / "evaluation"
    write(report, folder)
    if as_json:
        print_json(report)
        return
    out.print("", console_report(report, out.width), "", sep="\n")
    for word, name in (("Report", REPORT), ("Plot  ", PLOT)):
        out.print(f"[bold]{word}[/] {escape(str(folder / name))}", soft_wrap=True)


@app.command("bench-codes", rich_help_panel=PANEL)
def bench_codes(
    vectors: Annotated[Path, typer.Argument(metavar="VECTORS", help=".npy, Parquet, Arrow or CSV.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for codes.json, codes.parquet and codes.svg (a plot)."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the vectors (lists of one length, or numbers); may be repeated. Default: all."),
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option(min=1, max=65_536, help="Bits of a row; may be repeated. [64, 128, 256, 512]")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this binarizer; may be repeated.")] = None,
    rows: Annotated[int, typer.Option(min=50, help="Sample of so many rows.")] = 50_000,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all randomness.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a search.")] = 1,
    as_json: JSON = False,
) -> None:
    """Which bit codes hold these vectors best? Every binarizer at every budget of bits.

    Reports recall against bytes (by code alone, and rescored by int8 vectors), rates of encoding and search, and what
    noise does to them. Rows that ask are neither searched nor fitted on.
    """
    from flows.bench_codes import BUDGETS, METHODS, PLOT, REPORT, write
    from flows.bench_codes import bench_codes as compared
    from flows.progress import shown
    from flows.show_bench_codes import console_report

    with shown(err) as progress:
        report = compared(
            vectors, columns=column or (), rows=rows, bits=bits or BUDGETS, methods=method or METHODS, k=k,
            seed=seed, threads=threads, progress=progress,
        )  # fmt: skip
    if output is not None:
        write(report, output)
    if as_json:
        print_json(report)
        return
    out.print("", console_report(report, out.width), "", sep="\n")
    if output is not None:
        for word, name in (("Report", REPORT), ("Plot  ", PLOT)):
            out.print(f"[bold]{word}[/] {escape(str(output / name))}", soft_wrap=True)
