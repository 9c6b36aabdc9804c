"""The command line: `binmill`."""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from schemas.errors import BinmillError, QueryError, RecipeError

app = typer.Typer(
    name="binmill",
    help="A mill for binaries: corpora of executables, tables and embeddings into datasets that can be trusted.",
    epilog="Exit codes: 0 done · 1 verify found damage, or another failure · 2 wrong recipe or usage · "
    "3 a source cannot be reached · 4 more failures than tolerated · 5 dataset missing, damaged or locked · "
    "6 a query cannot be answered · 7 workers lost · 130 interrupted (run again to go on).",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

out = Console()
err = Console(stderr=True)

JSON = Annotated[bool, typer.Option("--json", help="Print JSON for machines, and nothing else, on standard output.")]
DatasetArgument = Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")]
RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe: a YAML file.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the dataset. Default: the recipe's name, in this folder."),
]
Workers = Annotated[
    int,
    typer.Option("--workers", "-w", min=0, help="Local Dask workers; 0 runs all in this process, without Dask."),
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a running Dask scheduler (tcp://host:port) to use instead.")
]
Memory = Annotated[int | None, typer.Option("--memory", min=256, help="Memory of each local worker, in MiB.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Folder of downloaded archives.", envvar="BINMILL_CACHE")]


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


@app.command()
def run(
    recipe: RecipeArgument,
    output: Output = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    memory: Memory = None,
    cache: Cache = None,
    as_json: JSON = False,
) -> None:
    """Make the dataset that RECIPE describes, or bring it up to date.

    What is already there and right is kept: an interrupted run goes on from where it stopped, and a second run
    computes nothing.
    """
    from flows.recipes import load_recipe

    checked = load_recipe(recipe)
    _build(
        checked.model_dump(mode="json"),
        recipe.resolve().parent,
        output or Path(checked.name),
        workers, scheduler, memory, cache, as_json,
    )  # fmt: skip


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")] = Path("build/demo"),
    workers: Workers = 2,
    scheduler: Scheduler = None,
    memory: Memory = None,
    cache: Cache = None,
    print_recipe: Annotated[bool, typer.Option(help="Only print the demo's recipe, to start your own from.")] = False,
    as_json: JSON = False,
) -> None:
    """Which native modules in real wheels were written in Rust? The whole mill on about 25 pinned packages.

    Downloads at most 120 MB, once. With no package index in reach it uses the modules of this environment.
    """
    from flows.recipes import DEMO, load_recipe

    if print_recipe:
        sys.stdout.write(DEMO.read_text(encoding="utf-8"))
        return
    recipe = load_recipe(DEMO).model_dump(mode="json")
    _build(recipe, DEMO.parent, output, workers, scheduler, memory, cache, as_json)


def _build(
    recipe: dict[str, Any],
    base: Path,
    output: Path,
    workers: int,
    scheduler: str | None,
    memory: int | None,
    cache: Path | None,
    as_json: bool,
    *,
    only: Literal["screen", "rebalance"] | None = None,
) -> None:
    from tasks.query.dataset import open_dataset

    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    if not os.environ.get("PREFECT_API_URL"):
        err.print("[dim]starting Prefect on loopback for this run (PREFECT_API_URL names a server of yours) …[/]")
    from flows.progress import shown

    with _quiet_libraries():
        from flows.dataset import PROGRESS, build_dataset, rebalance_table, screen_table
        from flows.server import prefect_server

        with prefect_server(), shown(err) as progress:
            token = PROGRESS.set(progress)
            common: dict[str, Any] = {
                "recipe": recipe, "base": str(base), "output": str(output),
                "workers": workers, "scheduler": scheduler, "memory_mib": memory,
            }  # fmt: skip
            try:
                if only is not None:
                    result: Any = {"screen": screen_table, "rebalance": rebalance_table}[only](**common)
                else:
                    result = build_dataset(**common, cache=None if cache is None else str(cache))
            except KeyboardInterrupt:
                raise typer.Exit(_interrupted()) from None
            finally:
                PROGRESS.reset(token)
    dataset = open_dataset(output)
    if as_json:
        _print_json(result | {"summary": dataset.manifest.summary})
        return
    if only == "screen":
        from flows.show import screened

        screened(out, dataset.manifest, dataset.root)
    else:
        from flows.show import report

        report(out, dataset.manifest, dataset.root)
    if result["computed"] == 0:
        out.print("[dim]Everything was there: nothing was computed.[/]")


@contextlib.contextmanager
def _quiet_libraries() -> Generator[None]:
    """Libraries' warnings are for developers; binmill's own errors are for users."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        logging.getLogger("httpx").setLevel(logging.ERROR)
        yield


@app.command()
def screen(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="CSV, Parquet, Arrow, .npy or PLINK .bed, or a folder of such files; larger than memory.",
        ),
    ],
    outcome: Annotated[str, typer.Option(metavar="COL", help="Column that the others are held against.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the result. Default: TABLE's name and '-screened'.")
    ] = None,
    estimator: Annotated[
        str, typer.Option(help="auto, binned, kde, knn, sparse or pearson: what features are ranked by.")
    ] = "auto",
    kind: Annotated[str, typer.Option(help="The outcome: auto, classes or continuous.")] = "auto",
    exclude: Annotated[list[str] | None, typer.Option(help="Column that is no feature; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this column; may be repeated.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many features are selected at most.")] = 64,
    max_q: Annotated[float, typer.Option(help="Select only features with a false-discovery rate up to this.")] = 0.05,
    share: Annotated[float, typer.Option(help="Select the fewest that make up this share of all scores.")] = 1.0,
    redundancy: Annotated[str, typer.Option(help="none, mrmr, jmi or cmim: choose each for what it adds.")] = "none",
    permutations: Annotated[int, typer.Option(min=0, help="Draws for permutation p-values; 0: chi-square's.")] = 0,
    stability: Annotated[int, typer.Option(min=0, help="Subsamples for stability selection.")] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any other key of a recipe's 'screening' (bandwidth, kernel, bins, ...)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all randomness.")] = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    memory: Memory = None,
    as_json: JSON = False,
) -> None:
    """Which columns of TABLE tell something about COL? Mutual information of each, with p- and q-values.

    The result is a folder like a dataset's: the table 'screening', the bins, a plot (screening.svg), and the recipe;
    'binmill query' and 'binmill verify' work on it. Rows and columns may be many; no column fails the run.
    """
    from flows.recipes import table_recipe

    given = {
        "estimator": estimator, "outcome": kind, "top": top, "max_q": max_q, "share": share,
        "redundancy": redundancy, "permutations": permutations, "stability": stability,
    }  # fmt: skip
    recipe = table_recipe(table, outcome, "screening", given, option or [], exclude or [], only or [], seed)
    where = output or Path(f"{recipe['name']}-screened")
    _build(recipe, table.absolute().parent, where, workers, scheduler, memory, None, as_json, only="screen")


@app.command()
def rebalance(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE",
            help="Training rows: CSV, Parquet, Arrow or .npy, or a folder of such files; larger than memory.",
        ),
    ],
    label: Annotated[str, typer.Option(metavar="COL", help="Column that holds the class.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the result. Default: TABLE's name and '-rebalanced'."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="What makes new rows: auto (smote, smote-nc or smoten, as the columns are), borderline-1, "
            "borderline-2, adasyn, kmeans-smote, svm-smote, random, none."
        ),
    ] = "auto",
    target: Annotated[
        str,
        typer.Option(
            help="Size of the smaller classes: a share of the largest, a name ('not majority', ...), or rows by class: "
            "'{rare: 500}'."
        ),
    ] = "1.0",
    under: Annotated[
        str, typer.Option(help="Rows left out of the other classes: none, random, nearmiss-1, nearmiss-2, nearmiss-3.")
    ] = "none",
    under_target: Annotated[
        str, typer.Option(help="What is kept of them: the smallest class over it, a name, or rows by class.")
    ] = "1.0",
    clean: Annotated[str, typer.Option(help="Last, leave out: none, tomek (Tomek links), enn (edited).")] = "none",
    neighbors: Annotated[int, typer.Option("-k", min=1, help="Neighbours that a new row may lie towards.")] = 5,
    nominal: Annotated[
        list[str] | None,
        typer.Option(help="Column of numbers that are names (codes, flags), or a pattern; may be repeated."),
    ] = None,
    missing: Annotated[str, typer.Option(help="Missing values: error, mean (of the column), keep.")] = "error",
    exclude: Annotated[list[str] | None, typer.Option(help="Column to leave out; may be repeated.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this column; may be repeated.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other key of a recipe's 'rebalancing' (weights=mi, search=ivf, m_neighbors=20, ...).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all randomness.")] = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    memory: Memory = None,
    as_json: JSON = False,
) -> None:
    """Make the classes of TABLE equally large: new rows of small ones, fewer of large ones. Types are kept.

    Give training rows only: rows made from a row that is tested on later would leak. The result is a folder like a
    dataset's: 'train' names the parents of each new row and the gap between them, 'train_dropped' holds what was left
    out; 'binmill query', 'trace' and 'verify' work on it.
    """
    import yaml

    from flows.recipes import table_recipe

    given = {
        "method": method, "target": yaml.safe_load(target),
        "under": under, "under_target": yaml.safe_load(under_target), "clean": clean,
        "k_neighbors": neighbors, "nominal": nominal or [], "missing": missing,
    }  # fmt: skip
    recipe = table_recipe(table, label, "rebalancing", given, option or [], exclude or [], only or [], seed)
    where = output or Path(f"{recipe['name']}-rebalanced")
    _build(recipe, table.absolute().parent, where, workers, scheduler, memory, None, as_json, only="rebalance")


@app.command()
def index(
    vectors: Annotated[list[Path], typer.Argument(metavar="VECTORS...", help=".npy, Parquet or Arrow files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the index.")],
    append: Annotated[
        bool, typer.Option("--append", help="Add VECTORS to an index; nothing is learned again.")
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Column of the vectors (lists of one length, or numbers); may be repeated. Default: all."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column that names a row.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Binarizer; may be repeated. auto: what measures best. [rabitq]")
    ] = None,
    bits: Annotated[int | None, typer.Option(min=1, help="Bits of a row. Default: one for each component.")] = None,
    planes: Annotated[int | None, typer.Option(min=1, max=8, help="Bit planes of 'residual'. [2]")] = None,
    cells: Annotated[
        int | None, typer.Option(min=1, help="Cells, so that a search can leave most rows out (--recall). [none]")
    ] = None,
    rescoring: Annotated[
        bool, typer.Option("--rescoring", help="Keep int8 vectors, to look closer at the nearest codes.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all randomness.")] = 0,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    memory: Memory = None,
    as_json: JSON = False,
) -> None:
    """Code VECTORS as bits, to be searched: binmill search INDEX --vectors FILE.

    Everything is learned from the first file; recall is measured on rows of it that are held out.
    """
    from flows.index import index_recipe

    given = {
        "methods": method, "bits": bits, "planes": planes, "cells": cells, "rescoring": rescoring or None
    }  # fmt: skip
    settings = {key: value for key, value in given.items() if value is not None}
    recipe = index_recipe(vectors, output, settings, column or (), id_column, seed, append=append)
    output.mkdir(parents=True, exist_ok=True)
    _build(recipe, output.absolute(), output, workers, scheduler, memory, None, as_json)


@app.command()
def plan(
    recipe: RecipeArgument,
    output: Output = None,
    cache: Cache = None,
    as_json: JSON = False,
) -> None:
    """Show what a run would compute, what is already there, and the memory it plans for. Computes nothing."""
    from flows.plan import plan_dataset
    from flows.recipes import load_recipe
    from flows.show import plan as show_plan

    checked = load_recipe(recipe)
    root = output or Path(checked.name)
    build = plan_dataset(checked, recipe.resolve().parent, root, cache)
    finished = all(count.items == count.present for count in build.counts)
    if as_json:
        _print_json({"finished": finished, "steps": [dataclasses.asdict(count) for count in build.counts]})
    else:
        show_plan(out, build, root, finished=finished)


@app.command()
def query(
    dataset: DatasetArgument,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; tables go by their names.")],
    limit: Annotated[int, typer.Option(min=1, help="Rows to show (all of them with --json).")] = 100,
    as_json: JSON = False,
) -> None:
    """Ask a dataset with SQL (DuckDB). Read-only; nothing outside the dataset is in reach.

    Tables: sources, observations, binaries, labels, features, splits, screening, train, validation, test, codes,
    and fitted_NAME for what was learned.
    """
    from flows.show import rows
    from tasks.query.dataset import open_dataset
    from tasks.query.sql import query as ask

    table = ask(open_dataset(dataset), sql, None if as_json else limit + 1)
    if as_json:
        _print_json(table.to_pylist())
    else:
        rows(out, table, limit)


@app.command()
def search(
    dataset: DatasetArgument,
    like: Annotated[str | None, typer.Option(help="A file, or the id of a row (or its beginning).")] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Vectors that ask, a row each: .npy, Parquet or Arrow.")
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
    as_json: JSON = False,
) -> None:
    """Find the rows most like a file, a row, or vectors, by their bit codes.

    'information' is the mutual information of both rows' bits, in nats a bit (0.69: they tell each other's).
    """
    from flows.search import neighbours
    from flows.show import rows
    from tasks.query.dataset import open_dataset

    asked = vectors if vectors is not None else like
    if asked is None or (vectors is not None and like is not None):
        raise QueryError("search: give one of --like and --vectors", "as --like FILE, or --vectors FILE")
    table = neighbours(
        open_dataset(dataset), asked, k, method,
        rescore=rescore, where=where, threads=threads, recall=recall, binarizer=binarizer,
    )  # fmt: skip
    if as_json:
        _print_json(table.to_pylist())
    else:
        rows(out, table, max(k, 100), short_ids=True)


@app.command()
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
    from tasks.query.dataset import open_dataset

    found = adapted(
        open_dataset(dataset), vectors, of=of, columns=column or (), id_column=id_column, method=method, seed=seed
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    found.binarizer.save(output)
    shown = table(found)
    if as_json:
        _print_json(shown.to_pylist()[0] | {"file": str(output)})
    else:
        rows(out, shown, 1)


@app.command()
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
    from tasks.query.dataset import open_dataset

    opened = open_dataset(dataset)
    for difference in differences(opened):
        err.print(f"[yellow]note[/]: {escape(difference)} is not what made the dataset: values may differ")
    total = usable = 0
    hidden = not err.is_terminal or (output is None and out.is_terminal)  # rows on the screen say how far it is
    with Writer(output, features=features) as writer, Progress(console=err, disable=hidden, transient=True) as bars:
        bar = bars.add_task("files", total=len(files) if opened.manifest.tables.get("binaries") else None)
        for table in applied(opened, files, features=features):
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


@app.command()
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
    from tasks.query.dataset import open_dataset

    opened = open_dataset(dataset)
    with _quiet_libraries(), shown(err) as progress:
        report = compared(opened, models=model or (), positive=positive, sweep=sweep, progress=progress)
    folder = output or dataset / "evaluation"
    write(report, folder)
    if as_json:
        _print_json(report)
        return
    out.print("", console_report(report, out.width), "", sep="\n")
    for word, name in (("Report", REPORT), ("Plot  ", PLOT)):
        out.print(f"[bold]{word}[/] {escape(str(folder / name))}", soft_wrap=True)


@app.command("bench-codes")
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
        _print_json(report)
        return
    out.print("", console_report(report, out.width), "", sep="\n")
    if output is not None:
        for word, name in (("Report", REPORT), ("Plot  ", PLOT)):
            out.print(f"[bold]{word}[/] {escape(str(output / name))}", soft_wrap=True)


@app.command()
def verify(dataset: DatasetArgument, as_json: JSON = False) -> None:
    """Check every byte of a dataset against its manifest, and its promises against its rows.

    Ends with 1 and names what is wrong when anything is.
    """
    from rich.progress import track

    from tasks.query.dataset import open_dataset
    from tasks.query.verify import Finding
    from tasks.query.verify import verify as check

    opened = open_dataset(dataset)
    findings: list[Finding] = []
    checked = 0
    for _, found in track(
        check(opened),
        description="verifying",
        total=len(opened.manifest.shards()) + len(opened.manifest.files) + 4,
        console=err,
        disable=not err.is_terminal,
        transient=True,
    ):
        checked += 1
        findings += found
    if as_json:
        _print_json({"ok": not findings, "checked": checked, "findings": [dataclasses.asdict(f) for f in findings]})
    elif findings:
        for finding in findings:
            out.print(f"[red]✗[/] {escape(finding.where)}: {escape(finding.problem)}", soft_wrap=True)
        out.print(f"  → run the recipe again: damaged shards are made anew ({escape(str(dataset))}/recipe.yaml)")
    else:
        out.print(
            f"[green]✓[/] {escape(str(dataset))}: {len(opened.manifest.shards())} shards and all promises hold; "
            f"digest {opened.manifest.digest}",
            soft_wrap=True,
        )
    if findings:
        raise typer.Exit(1)


@app.command()
def trace(
    dataset: DatasetArgument,
    row: Annotated[str, typer.Argument(metavar="ID", help="Id of a row, or its beginning.")],
    as_json: JSON = False,
) -> None:
    """Show where a row came from: parents, features, file, archive, URL, and what made each shard."""
    from flows.show import tree
    from tasks.query.dataset import open_dataset
    from tasks.query.trace import resolve_id
    from tasks.query.trace import trace as follow

    opened = open_dataset(dataset)
    chain = follow(opened, resolve_id(opened, row))
    if as_json:
        _print_json(dataclasses.asdict(chain))
    else:
        tree(out, chain)


@app.command()
def describe(dataset: DatasetArgument, as_json: JSON = False) -> None:
    """Say what a dataset is: files, failures, balance, top features, recall, tables."""
    from flows.show import report, tables
    from tasks.query.dataset import open_dataset

    opened = open_dataset(dataset)
    if as_json:
        _print_json(opened.manifest.model_dump(mode="json"))
    else:
        report(out, opened.manifest, opened.root, commands=False)
        tables(out, opened.manifest)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for your editor."""
    from flows.recipes import recipe_schema

    sys.stdout.write(recipe_schema() + "\n")


def _fail(error: BinmillError, as_json: bool) -> NoReturn:
    if as_json:
        value = {"error": type(error).__name__, "problem": error.problem, "remedy": error.remedy}
        sys.stderr.write(json.dumps(value) + "\n")
    else:
        err.print(f"[bold red]{_kind(error)}:[/] {escape(error.problem)}", soft_wrap=True)
        err.print(f"  → {escape(error.remedy)}", soft_wrap=True)
    sys.exit(error.exit_code)


def _kind(error: BinmillError) -> str:
    if isinstance(error, RecipeError):
        return "recipe"
    return "query" if isinstance(error, QueryError) else "error"


def main() -> None:
    """Run the command line; known failures end without a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    as_json = "--json" in sys.argv
    try:
        app()
    except BinmillError as error:
        _fail(error, as_json)
    except KeyboardInterrupt:
        sys.exit(_interrupted())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _interrupted() -> int:
    err.print("[yellow]interrupted:[/] finished work is kept; run the same command to go on")
    return 130


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
