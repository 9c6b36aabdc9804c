"""The one door to numba, so that compiled kernels keep their types."""

import platform
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")


def _without_gathers() -> None:
    """Tell LLVM not to turn loops into gathers, which it believes to be fast: one query took five times as long.

    Bits stay the same. NUMBA_CPU_FEATURES goes before.
    """
    settings = cast("Any", numba).config
    if settings.CPU_FEATURES is None and platform.machine().lower() in {"x86_64", "amd64"}:
        settings.CPU_FEATURES = f"{get_host_cpu_features()},+prefer-no-gather"


_without_gathers()


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


def _wide_vectors() -> Callable[[], None]:
    """A kernel's door to its own LLVM attributes: where it is called, loops take the machine's widest vectors.

    LLVM keeps to 256 bits where a processor has 512, since the first ones slowed down for them. Bits stay the same.
    """

    def typed(_: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # llvmlite knows no attributes of this kind by name; it writes out what is there.
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')
            return context.get_dummy_value()

        return types.none(), emit

    return cast("Callable[[], None]", intrinsic(typed))


LANES = 8
CHAINS = 4
"""Vectors of sums that wait for no other: an addition takes as long as four can be begun."""


def _lane_sums() -> Callable[[Any, Any, int], tuple[float, ...]]:
    """A kernel's door to vector instructions: sums side by side, which LLVM does not find in a loop by itself.

    Of sums(a, b, n), sum l of chain c is a[i]·b[i] + a[i + 32]·b[i + 32] + ... from i = 8c + l on, in that order, each
    product and sum rounded to float64; lane l is (chain 0 + chain 2) + (chain 1 + chain 3). a and b are contiguous
    float32[>= n], n a multiple of 8.
    """

    def typed(_: Any, a: Any, b: Any, size: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            singles, doubles = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.DoubleType(), LANES)
            places = [
                context.make_array(kind)(context, builder, value).data
                for kind, value in zip(signature.args[:2], arguments[:2], strict=True)
            ]
            chains = [cgutils.alloca_once_value(builder, ir.Constant(doubles, [0.0] * LANES)) for _ in range(CHAINS)]

            def add(index: Any, chain: Any) -> None:
                x, y = (
                    builder.fpext(
                        builder.load(builder.bitcast(builder.gep(place, [index]), singles.as_pointer()), align=4),
                        doubles,
                    )
                    for place in places
                )
                builder.store(builder.fadd(builder.load(chain), builder.fmul(x, y)), chain)

            def after(index: Any, lanes: int) -> Any:
                return builder.add(index, context.get_constant(types.intp, lanes))

            size = arguments[2]
            zero, step = (context.get_constant(types.intp, n) for n in (0, CHAINS * LANES))
            whole = builder.sub(size, builder.urem(size, step))
            with cgutils.for_range_slice(builder, zero, whole, step, inc=True) as (index, _count):
                for number, chain in enumerate(chains):
                    add(after(index, number * LANES), chain)
            for number, chain in enumerate(chains[:-1]):
                index = after(whole, number * LANES)
                with builder.if_then(builder.icmp_signed("<", index, size)):
                    add(index, chain)
            c0, c1, c2, c3 = (builder.load(chain) for chain in chains)
            sums = builder.fadd(builder.fadd(c0, c2), builder.fadd(c1, c3))
            parts = [builder.extract_element(sums, ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(types.float64, LANES)(a, b, types.intp), emit

    return cast("Callable[[Any, Any, int], tuple[float, ...]]", intrinsic(typed))


lane_sums = _lane_sums()
wide_vectors = _wide_vectors()
trailing_zeros = _bit_count("cttz")
leading_zeros = _bit_count("ctlz")
population_count = _population_count()
