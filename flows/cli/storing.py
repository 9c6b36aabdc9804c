"""Commands that carry datasets to object stores and back: push, pull."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.app import JSON, app, err, out, print_json

PANEL = "Carry it elsewhere"
Url = Annotated[str, typer.Argument(metavar="URL", help="Place in an object store, as s3://bucket/name.")]


@app.command(rich_help_panel=PANEL)
def push(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")],
    url: Url,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Then remove what older datasets left there, if it is older than a day.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Publish a dataset in an object store, by one conditional put of its manifest: readers find all of it or the old.

    What is there already is not sent again. If somebody else published meanwhile, nothing of theirs is replaced.
    """
    from rich.progress import Progress

    from tasks.journal import Journal
    from tasks.query.dataset import open_dataset
    from tasks.store.objects import ObjectStore
    from tasks.store.push import published
    from tasks.store.push import push as send
    from tasks.store.push import sweep as clean

    manifest = open_dataset(dataset).manifest
    store = ObjectStore(url)
    with (
        Journal(dataset, write=True),
        Progress(console=err, disable=not err.is_terminal, transient=True) as bars,
    ):
        bar = bars.add_task("sending", total=None)
        sent = send(
            dataset,
            store,
            published(store).tag,
            told=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    removed = clean(store) if sweep else []
    if as_json:
        print_json({"url": url, "digest": manifest.digest, "sent": sent, "removed": removed})
        return
    more = f"; {len(removed)} left behind removed" if sweep else ""
    out.print(f"[green]✓[/] {escape(url)}: {sent} objects sent{more}; digest {manifest.digest}", soft_wrap=True)


@app.command(rich_help_panel=PANEL)
def pull(
    url: Url,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to copy the dataset into.")],
    as_json: JSON = False,
) -> None:
    """Copy a dataset from an object store into a folder, every byte held against its manifest.

    Not needed to ask one: query, search, describe, trace and verify take the URL and fetch what they need.
    """
    from rich.progress import Progress

    from flows.stores import pull as receive

    with Progress(console=err, disable=not err.is_terminal, transient=True) as bars:
        bar = bars.add_task("receiving", total=None)
        dataset = receive(url, folder, lambda done, total: bars.update(bar, completed=done, total=total))
    digest = dataset.manifest.digest
    if as_json:
        print_json({"folder": str(folder), "digest": digest, "shards": len(dataset.manifest.shards())})
        return
    out.print(f"[green]✓[/] {escape(str(folder))}: digest {digest}", soft_wrap=True)
