"""The application of the command line, the options that commands share, and how they speak."""

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Folder of a dataset, or its URL in an object store (s3://...).")
]
At = Annotated[
    str | None,
    typer.Option(
        metavar="VERSION",
        help="An earlier version (binmill versions): the beginning of its digest, or 'previous'.",
        show_default=False,
    ),
]
RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe: a YAML file.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Folder of the dataset, or its URL in an object store (s3://...). Default: the recipe's name, here.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", "-w", min=0, help="Dask workers; 0 runs all in this process, without Dask. Default: one, here.",
        show_default=False,
    ),
]  # fmt: skip
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a running Dask scheduler (tcp://host:port, tls://...) to use instead.")
]
Where = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="KIND|ADDRESS|FILE",
        help="Where the work runs: local, slurm, kubernetes, a scheduler's address, or a YAML file with settings.",
    ),
]
Tls = Annotated[
    str | None,
    typer.Option("--tls", metavar="DIR", help="Certificates for a scheduler at tls://: ca.pem, cert.pem, key.pem."),
]
Memory = Annotated[int | None, typer.Option("--memory", min=256, help="Memory of each worker, in MiB.")]
Cache = Annotated[Path | None, typer.Option("--cache", help="Folder of downloaded archives.", envvar="BINMILL_CACHE")]


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output, texts for what JSON has no type for."""
    sys.stdout.write(json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


@contextlib.contextmanager
def quiet_libraries() -> Generator[None]:
    """Libraries' warnings are for developers; binmill's own errors are for users."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        logging.getLogger("httpx").setLevel(logging.ERROR)
        yield


def interrupted() -> int:
    """Say that an interrupted run can go on; returns the exit code."""
    err.print("[yellow]interrupted:[/] finished work is kept; run the same command to go on")
    return 130
