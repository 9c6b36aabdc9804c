"""A Prefect server for tests: `python -m tests.prefect_server PORT PARENT`, gone when its parent is."""

import ctypes
import os
import signal
import sys

from tasks.loading import loading

PR_SET_PDEATHSIG = 1


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
