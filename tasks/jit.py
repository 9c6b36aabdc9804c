"""The one door to numba, so that compiled kernels keep their types."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a kernel on first call, cache the machine code, release the GIL.

    No `fastmath` and no `parallel`: a kernel gives the same bits on every worker.
    """
    return cast("Callable[P, R]", numba.njit(function, cache=True, nogil=True))
