"""Commands that attest a dataset to others: sign, order, order-test."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.app import JSON, DatasetArgument, app, out, print_json
from schemas.errors import BinmillError

PANEL = "Attest a dataset"


def read_key(path: Path) -> bytes:
    """A key's file.

    Raises
    ------
    BinmillError
        It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BinmillError(f"--key {path}: {error.strerror}", "give the path of a key in PEM") from error


@app.command(rich_help_panel=PANEL)
def sign(
    dataset: DatasetArgument,
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="Your private key, Ed25519 or ECDSA, in PEM (openssl genpkey).")
    ],
) -> None:
    """Sign where a dataset came from: its in-toto statement, as a DSSE envelope beside it.

    Others check it, and every byte, with: binmill verify DATASET --key PUBLIC. A key's passphrase is read from
    BINMILL_KEY_PASSPHRASE.
    """
    from tasks.query.attest import sign as attest
    from tasks.query.dataset import open_dataset
    from tasks.store.objects import is_url

    if is_url(dataset):
        raise BinmillError(f"{dataset}: only a folder can be signed", "pull the dataset first: binmill pull")
    secret = os.environ.get("BINMILL_KEY_PASSPHRASE")
    place = attest(open_dataset(Path(dataset)), read_key(key), None if secret is None else secret.encode())
    out.print(f"[green]✓[/] signed: {escape(str(place))}", soft_wrap=True)


Secret = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The secret that the order was made with, when it is one.")
]


def _secret(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise BinmillError(f"--secret {path}: {error.strerror}", "give the file of publishing.order_secret") from error


@app.command(rich_help_panel=PANEL)
def order(
    dataset: DatasetArgument,
    secret: Secret = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the ids, a line each.")] = None,
) -> None:
    """Show the order to train in, which the manifest commits to: the SHA-256 of the ids, a line each.

    A model that saw the rows of train in this order can be told by its losses: binmill order-test.
    """
    from flows.stores import opened
    from tasks.query.ordering import order_of
    from tasks.shards import replace_atomically

    there = opened(dataset)
    ids = order_of(there, _secret(secret))
    if output is not None:
        replace_atomically(output.absolute(), "".join(f"{name}\n" for name in ids.to_pylist()).encode())
    said = there.manifest.summary["order"]
    sys.stdout.write(f"{said['commitment']}  {len(ids)} rows{'' if output is None else f'  {output}'}\n")


@app.command(rich_help_panel=PANEL)
def order_test(
    dataset: DatasetArgument,
    losses: Annotated[
        Path, typer.Argument(metavar="LOSSES", help="CSV or Parquet with sample_id and loss: the model's, row by row.")
    ],
    secret: Secret = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Losses of a model that never saw the dataset, to be taken off."),
    ] = None,
    permutations: Annotated[int, typer.Option(min=1, help="Permutations drawn for the second p-value.")] = 9999,
    as_json: JSON = False,
) -> None:
    """Test whether a model was trained on a dataset in its order: rows it saw later have smaller losses.

    The p-value says how often a model that never saw the order would look like this.
    """
    from flows.stores import opened
    from tasks.query.ordering import order_of
    from tasks.query.palimpsest import order_test as test
    from tasks.query.palimpsest import read_losses

    ids = order_of(opened(dataset), _secret(secret)).to_pylist()
    known = None if reference is None else read_losses(reference)
    found = test(ids, read_losses(losses), known, permutations)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    shown = f"{found.rows:,} rows, rank correlation of order and loss {found.correlation:+.4f}"
    drawn = f"{found.p_permutation:.3g} by {permutations:,} permutations"
    out.print(f"{shown}: p-value {found.p_value:.3g} ({drawn})", soft_wrap=True)
