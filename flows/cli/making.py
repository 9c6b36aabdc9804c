"""Commands that make datasets: run, demo, screen, rebalance, index, plan, schema."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli.app import (
    JSON,
    Cache,
    Memory,
    Output,
    RecipeArgument,
    Scheduler,
    Tls,
    Where,
    Workers,
    app,
    err,
    interrupted,
    out,
    print_json,
    quiet_libraries,
)
from tasks.loading import loading

if TYPE_CHECKING:
    from schemas.cluster import Cluster
    from schemas.recipe import Recipe

PANEL = "Make datasets"


@app.command(rich_help_panel=PANEL)
def run(
    recipe: RecipeArgument,
    output: Output = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Where = None,
    tls: Tls = None,
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
        checked,
        recipe.resolve().parent,
        output or checked.name,
        (workers, scheduler, memory, cluster, tls), cache, as_json,
    )  # fmt: skip


@app.command(rich_help_panel=PANEL)
def demo(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the dataset, or URL.")] = "build/demo",
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Where = None,
    tls: Tls = None,
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
    if workers is None and cluster is None and scheduler is None:
        workers = 2
    _build(load_recipe(DEMO), DEMO.parent, output, (workers, scheduler, memory, cluster, tls), cache, as_json)


def _build(
    recipe: "Recipe",
    base: Path,
    output: str,
    where: tuple[int | None, str | None, int | None, str | None, str | None],
    cache: Path | None,
    as_json: bool,
    *,
    only: Literal["screen", "rebalance"] | None = None,
) -> None:
    with loading():
        from flows.cluster import cluster_of
        from flows.progress import shown
        from flows.running import make
        from flows.server import named_server
        from flows.stages import stages_of
        from flows.stores import opened

    workers, scheduler, memory_mib, setting, tls = where
    cluster = cluster_of(setting, workers=workers, scheduler=scheduler, memory_mib=memory_mib, tls=tls)
    kept = None if cache is None else str(cache)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # before Prefect is imported
    try:
        with quiet_libraries():
            if (server := named_server()) is not None:
                result = _through(server, recipe, base, output, cluster, kept, only)
            else:
                with shown(err) as progress:
                    result = make(recipe, base, stages_of(recipe, only), output, cluster, kept, progress)
    except KeyboardInterrupt:
        raise typer.Exit(interrupted()) from None
    dataset = opened(output)
    if as_json:
        print_json(result | {"summary": dataset.manifest.summary})
        return
    if only == "screen":
        from flows.show import screened

        screened(out, dataset.manifest, dataset.root)
    else:
        from flows.show import report

        report(out, dataset.manifest, dataset.name)
    if result["computed"] == 0:
        out.print("[dim]Everything was there: nothing was computed.[/]")


def _through(
    server: str,
    recipe: "Recipe",
    base: Path,
    output: str,
    cluster: "Cluster",
    cache: str | None,
    only: Literal["screen", "rebalance"] | None,
) -> dict[str, Any]:
    """Run as a flow that a Prefect server keeps a record of."""
    from flows.progress import shown
    from flows.server import answering

    err.print(f"[dim]through Prefect's server at {server} …[/]")
    with answering(server), shown(err) as progress:
        with loading():
            from flows.dataset import PROGRESS, build_dataset, rebalance_table, screen_table

        common: dict[str, Any] = {
            "recipe": recipe.model_dump(mode="json"), "base": str(base), "output": output,
            "cluster": cluster.model_dump(mode="json"),
        }  # fmt: skip
        token = PROGRESS.set(progress)
        try:
            if only is not None:
                result: Any = {"screen": screen_table, "rebalance": rebalance_table}[only](**common)
            else:
                result = build_dataset(**common, cache=cache)
            return result
        finally:
            PROGRESS.reset(token)


@app.command(rich_help_panel=PANEL)
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
        str | None, typer.Option("--output", "-o", help="Folder of the result. Default: TABLE's name and '-screened'.")
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
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Where = None,
    tls: Tls = None,
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
    where = output or f"{recipe.name}-screened"
    _build(
        recipe, table.absolute().parent, where, (workers, scheduler, memory, cluster, tls), None, as_json, only="screen"
    )


@app.command(rich_help_panel=PANEL)
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
        str | None,
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
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Where = None,
    tls: Tls = None,
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
    where = output or f"{recipe.name}-rebalanced"
    _build(
        recipe,
        table.absolute().parent,
        where,
        (workers, scheduler, memory, cluster, tls),
        None,
        as_json,
        only="rebalance",
    )


@app.command(rich_help_panel=PANEL)
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
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Make vectors of the texts in --column by an installed encoder, as minilm. Then: search --text."
        ),
    ] = None,
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
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Where = None,
    tls: Tls = None,
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
    recipe = index_recipe(vectors, output, settings, column or (), id_column, seed, encoder=encoder, append=append)
    output.mkdir(parents=True, exist_ok=True)
    _build(recipe, output.absolute(), str(output), (workers, scheduler, memory, cluster, tls), None, as_json)


@app.command(rich_help_panel=PANEL)
def plan(
    recipe: RecipeArgument,
    output: Output = None,
    cache: Cache = None,
    as_json: JSON = False,
) -> None:
    """Show what a run would compute and why, what is already there, and the memory it plans for. Computes nothing."""
    from flows.plan import plan_dataset
    from flows.recipes import load_recipe
    from flows.show import plan as show_plan

    checked = load_recipe(recipe)
    root = output or checked.name
    found = plan_dataset(checked, recipe.resolve().parent, root, cache)
    if as_json:
        steps = [dataclasses.asdict(count) for count in found.counts]
        print_json({"finished": found.finished, "steps": steps, "why": found.why, "later": found.later})
    else:
        show_plan(out, found, root)


@app.command(rich_help_panel=PANEL)
def schema() -> None:
    """Print the JSON Schema of recipes, for your editor."""
    from flows.recipes import recipe_schema

    sys.stdout.write(recipe_schema() + "\n")
