"""Importing many modules at once, in a process that starts."""

import asyncio
import gc
import importlib
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


async def load_stages() -> None:
    """Import what any stage's items need, as a worker does beside its first."""
    await asyncio.to_thread(_load_stages)


def _load_stages() -> None:
    with loading():
        from tasks.build import VALUE_LIBRARIES

        for stage in VALUE_LIBRARIES:
            importlib.import_module(f"tasks.{stage}.task")
