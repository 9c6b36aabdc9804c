"""A server of the S3 protocol (moto's) as a process of its own on loopback."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator

from tests.conftest import free_port, stop, wait_for

KEYS = {"AWS_ACCESS_KEY_ID": "binmill", "AWS_SECRET_ACCESS_KEY": "binmill", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def s3_server() -> Generator[str]:
    """Its address; stopped at the end."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        command, env=os.environ | KEYS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/moto-api/", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server)
