"""The command line: `binmill`."""

import gc
import json
import os
import signal
import sys
from typing import Any, NoReturn

from rich.markup import escape

# Importing a module of commands adds them to the application, in the order of `--help`.
# isort: off
from flows.cli import making, asking, versions, applying, storing, attesting

# isort: on
from flows.cli.app import app, err, interrupted
from schemas.errors import BinmillError, QueryError, RecipeError

__all__ = ["app", "applying", "asking", "attesting", "main", "making", "storing", "versions"]


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
        sys.exit(interrupted())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    finally:
        gc.freeze()  # or the interpreter looks through all that was imported, for half a second, before it ends


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
