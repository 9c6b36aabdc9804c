"""Importing many modules at once, in a process that starts."""

import gc
import importlib
import os
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def loading() -> Generator[None]:
    """While modules are imported: nothing is garbage then, and to look for it takes a quarter of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor later: what modules made stays until the end
        gc.enable()


def load_stages() -> None:
    """Import what the stages need."""
    with loading():
        from tasks.build import VALUE_LIBRARIES

        for stage in VALUE_LIBRARIES:
            importlib.import_module(f"tasks.{stage}.task")


async def load_stages_beside() -> None:
    """Import it as a worker does beside its first items; who waits for something goes before."""
    threading.Thread(target=_load_stages_niced, daemon=True).start()


def _load_stages_niced() -> None:
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    load_stages()
