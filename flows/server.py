"""The Prefect server that a user names, and what to say when it is not there. A run without one needs none."""

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from schemas.errors import WorkerError

UNAUTHORIZED = 401
ASK_S = 10.0


def named_server() -> str | None:
    """Address of the API of the server that `PREFECT_API_URL` names, or a profile or file of Prefect's; else None."""
    if "PREFECT_API_URL" not in os.environ and not any(word in _text(place) for place, word in _settings()):
        return None  # to ask Prefect itself takes half a second
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def _settings() -> list[tuple[Path, str]]:
    """Files that Prefect reads, and what stands in one that names a server."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml"))
    return [
        (profiles, "PREFECT_API_URL"),
        (Path(".env"), "PREFECT_API_URL"),
        (Path("prefect.toml"), "url"),
        (Path("pyproject.toml"), "[tool.prefect"),
    ]


def _text(place: Path) -> str:
    with contextlib.suppress(OSError):
        return place.read_text(encoding="utf-8", errors="replace")
    return ""


@contextlib.contextmanager
def answering(url: str) -> Generator[None]:
    """See that a server answers and lets us in, for a block that runs a flow; there and here say so if it does not.

    Raises
    ------
    WorkerError
        It does not answer, or does not any more; does not let us in; or is no server of Prefect's.
    """
    import httpx
    from prefect.settings import PREFECT_API_AUTH_STRING

    try:
        _ask(url, PREFECT_API_AUTH_STRING.value())
        yield
    except httpx.TransportError as error:
        raise WorkerError(
            f"Prefect's server at {url} does not answer: {error or type(error).__name__}",
            "start it (prefect server start), or unset PREFECT_API_URL, and run again: finished work is kept",
        ) from error


def _ask(url: str, secret: str | None) -> None:
    import httpx

    auth = httpx.BasicAuth(*secret.split(":", 1)) if secret and ":" in secret else None
    try:
        answer = httpx.get(f"{url.rstrip('/')}/admin/version", auth=auth, timeout=ASK_S)
    except httpx.ReadTimeout:  # it is there, and busy; whoever has more to ask of it has more patience too
        return
    if answer.status_code == UNAUTHORIZED:
        raise WorkerError(
            f"Prefect's server at {url} asks for a password",
            "set PREFECT_API_AUTH_STRING to what the server was started with",
        )
    if not answer.is_success:
        raise WorkerError(
            f"{url} answers {answer.status_code}, as Prefect's server would not",
            "check PREFECT_API_URL; it ends in /api",
        )
