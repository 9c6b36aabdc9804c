"""Commands that attest a dataset to others: sign."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.app import DatasetArgument, app, out
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
