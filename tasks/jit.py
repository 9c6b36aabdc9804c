"""The one door to numba, so that compiled kernels keep their types."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a kernel on first call, cache the machine code, release the GIL.

    No `fastmath` and no `parallel`: a kernel gives the same bits on every worker.
    """
    return cast("Callable[P, R]", numba.njit(function, cache=True, nogil=True))


def _bit_count(instruction: str) -> Callable[[np.uint64], int]:
    """A kernel's door to an LLVM instruction that counts bits of a uint64; 64 for 0."""

    def typed(_: Any, word: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(arguments[0], cgutils.false_bit)

        return types.int64(types.uint64), emit

    return cast("Callable[[np.uint64], int]", intrinsic(typed))


def _population_count() -> Callable[[np.uint64], np.uint64]:
    """A kernel's door to LLVM's count of the set bits of a uint64: one instruction, over vectors too where there is."""

    def typed(_: Any, word: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ctpop(arguments[0])

        return types.uint64(types.uint64), emit

    return cast("Callable[[np.uint64], np.uint64]", intrinsic(typed))


trailing_zeros = _bit_count("cttz")
leading_zeros = _bit_count("ctlz")
population_count = _population_count()
