"""A Prefect server for one run: on loopback, behind a password, in a session of its own, gone when the run is.

Prefect can start a temporary server by itself, but Ctrl-C in a terminal reaches that server too; the flow then
cannot report its end, and tries for minutes. A run that is killed would leave it behind.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextvars import ContextVar
from pathlib import Path

import httpx

from schemas.errors import WorkerError
from tasks.loading import loading

START_S = 120.0
PR_SET_PDEATHSIG = 1
UNAUTHORIZED = 401
TEMPORARY: ContextVar[bool] = ContextVar("TEMPORARY", default=False)
"""Whether Prefect's server is this run's own, and gone with it."""


@contextlib.contextmanager
def prefect_server(meanwhile: Callable[[], object] = lambda: None) -> Generator[str]:
    """Address of a Prefect API: the one `PREFECT_API_URL` names, or that of a server for this block.

    Parameters
    ----------
    meanwhile
        What else there is to do, such as to import, while the server starts.

    Raises
    ------
    WorkerError
        The server does not start, does not let us in, or does not answer any more.
    """
    # Importing Prefect takes a second: the server starts meanwhile, for nothing if a profile names another.
    own = None if os.environ.get("PREFECT_API_URL") else _Own()
    try:
        with loading():
            from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

            if (configured := PREFECT_API_URL.value()) and own is not None:
                own.stop()
            meanwhile()
        if configured:
            with _named(
                f"Prefect's server at {configured} does not answer",
                "start it (prefect server start), or unset PREFECT_API_URL, and run again: finished work is kept",
            ):
                _ask(configured, PREFECT_API_AUTH_STRING.value())
                yield configured
            return
        own = own or _Own()
        own.wait()
        with (
            own.settings(),
            _named("the run's own Prefect server ended", "run again: finished work is kept"),
        ):
            yield own.address
    finally:
        if own is not None:
            own.stop()


class _Own:
    """A server that is starting, in a session of its own: Ctrl-C in a terminal is for the flow, which then stops it."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/api"
        self._secret = f"binmill:{secrets.token_urlsafe()}"  # loopback is open to everybody on this machine
        path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port), str(os.getpid())],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "PREFECT_SERVER_API_AUTH_STRING": self._secret},
        )

    def wait(self) -> None:
        """Wait until it answers."""
        _wait(self._process, f"{self.address}/health")

    @contextlib.contextmanager
    def settings(self) -> Generator[None]:
        """Prefect's settings for a block that uses it."""
        from prefect.settings import (
            PREFECT_API_AUTH_STRING,
            PREFECT_API_URL,
            PREFECT_CLIENT_MAX_RETRIES,
            PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
            temporary_settings,
        )

        token = TEMPORARY.set(True)
        try:
            with temporary_settings(
                {
                    PREFECT_API_URL: self.address,
                    PREFECT_API_AUTH_STRING: self._secret,
                    PREFECT_CLIENT_MAX_RETRIES: 1,
                    PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,  # nobody looks; and at its end a run waits for its pulse
                }
            ):
                yield
        finally:
            TEMPORARY.reset(token)

    def stop(self) -> None:
        """End it, if it has not ended."""
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def _named(problem: str, remedy: str) -> Generator[None]:
    """Say in plain words that a server is not there, or is there no more."""
    try:
        yield
    except httpx.TransportError as error:
        raise WorkerError(f"{problem}: {error or type(error).__name__}", remedy) from error


def _ask(url: str, secret: str | None) -> None:
    """Ask a server of the user's whether it is one, and lets us in."""
    auth = httpx.BasicAuth(*secret.split(":", 1)) if secret and ":" in secret else None
    answer = httpx.get(f"{url.rstrip('/')}/admin/version", auth=auth, timeout=30)
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


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + START_S
    with httpx.Client(timeout=5, trust_env=False, verify=False) as client:  # noqa: S501 # plain HTTP, on loopback
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).is_success:
                    return
            time.sleep(0.05)
    raise WorkerError(
        "Prefect's server did not start" + (f" within {START_S:.0f} s" if process.poll() is None else ""),
        "run 'prefect server start' to see why, or set PREFECT_API_URL to a server of yours",
    )


def main() -> None:
    """Serve Prefect's API on loopback until the parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(sys.argv[2]):  # it ended before we asked to be told
            return
    with loading():
        import uvicorn
        from prefect.server.api.server import create_app

        application = create_app(ephemeral=True)  # without a page and services that nobody asks
    uvicorn.run(application, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")


if __name__ == "__main__":
    main()
