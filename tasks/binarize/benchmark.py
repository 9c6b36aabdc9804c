"""Binarizers against each other on vectors: recall for bytes, how fast, and what noise does."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.binarize.choosing import RESCORED
from tasks.binarize.fitting import Options, filled, fit
from tasks.codes.binarizer import MOST_PLANES, Binarizer
from tasks.codes.rescore import exact_top_k, quantise, recall, rescored
from tasks.codes.rotation import stream
from tasks.codes.search import ask, distance, nearest_codes

Floats = NDArray[np.float32]
T = TypeVar("T")

QUERIES = 500
"""Rows that ask; they are neither searched nor fitted on."""
LEAST_ROWS = 50
NOISE = (0.05, 0.1, 0.2)
"""Length of the noise that is added to queries, as a share of their distance from the mean."""
ROTATIONS = ("axes", "random", "itq")
PLAIN = ("sign", "median", "simhash", "itq", "selected", "kernel")


@dataclass(frozen=True, slots=True)
class Line:
    """What one way of holding vectors reached.

    Attributes
    ----------
    method, rotation, distance
        `float32` and `int8` are the vectors themselves.
    bits, bytes
        Of a row; bytes with scalars.
    recall, rescored
        Share of the true k nearest rows among the k nearest by code, and after the 4k nearest by code are ranked by
        int8 vectors (which take d + 4 bytes more).
    noisy
        Recall when noise is added to queries, by its size (`NOISE`).
    flipped
        Share of the queries' bits that the noise turns, by its size.
    fit_seconds, encoded, searched
        Seconds; rows and queries a second: as measured on this machine.
    """

    method: str
    rotation: str
    distance: str
    bits: int
    bytes: int
    recall: float
    rescored: float | None
    noisy: tuple[float, ...]
    flipped: tuple[float, ...] | None
    fit_seconds: float | None
    encoded: float | None
    searched: float

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Trial:
    """A binarizer to be fitted."""

    method: str
    bits: int
    options: Options

    @property
    def title(self) -> str:
        """For progress."""
        return f"{self.method} {self.options.rotation or ''} {self.bits} bits".replace("  ", " ")


def trials(d: int, bits: Sequence[int], methods: Sequence[str]) -> list[Trial]:
    """Every binarizer that can give so many bits of d dimensions."""
    found: list[Trial] = []
    for count in bits:
        found += [
            Trial(method, count, Options())
            for method in methods
            if method in PLAIN and (count <= d or method in {"simhash", "selected", "kernel"})
        ]
        for rotation in ROTATIONS:
            if "rabitq" in methods and (count <= d or rotation == "random"):
                found.append(Trial("rabitq", count, Options(rotation)))
            # As many planes as bring the width to the dimensions or just below.
            planes = min(MOST_PLANES, max(2, -(-count // d)))
            if "residual" in methods and count % planes == 0 and count // planes <= d:
                found.append(Trial("residual", count, Options(rotation, planes=planes)))
    return found


def noise(queries: Floats, size: float, seed: int, centre: Floats) -> Floats:
    """Queries with Gaussian noise as long, on average, as a share of their distance from the centre."""
    spread = np.linalg.norm(queries - centre, axis=1, keepdims=True) / np.sqrt(queries.shape[1])
    random = stream(seed, f"noise {size}").standard_normal(queries.shape)
    return (queries + size * spread * random).astype(np.float32)


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def compare(
    x: Floats,
    *,
    bits: Sequence[int],
    methods: Sequence[str],
    k: int = 10,
    seed: int = 0,
    threads: int = 1,
    begin: Callable[[int], None] | None = None,
) -> Iterator[Line]:
    """Measure vectors held as float32, as int8, and as every binarizer's codes.

    Parameters
    ----------
    x
        float32[n, d]. A missing or infinite component counts as its column's mean.
    bits, methods
        Budgets, and binarizers.
    k
        Neighbours.
    begin
        Told beforehand how many lines there will be.

    Raises
    ------
    RecipeError
        Fewer than 50 rows, one dimension at most, or nothing to try.
    """
    if x.ndim != 2 or len(x) < LEAST_ROWS or x.shape[1] < 2:
        raise RecipeError(f"vectors of shape {x.shape}", f"give {LEAST_ROWS} rows of 2 dimensions at least")
    todo = trials(x.shape[1], bits, methods)
    if not todo:
        raise RecipeError(
            f"no method among {', '.join(methods)} makes {', '.join(map(str, bits))} bits of {x.shape[1]} dimensions",
            "ask for fewer bits, or for simhash, selected, kernel or rabitq, which make more",
        )
    if begin is not None:
        begin(len(todo) + 2)
    x = filled(x)
    order = stream(seed, "bench").permutation(len(x))
    asked = min(QUERIES, len(x) // 5)
    queries, base = x[order[:asked]], np.ascontiguousarray(x[order[asked:]])
    centre = base.mean(axis=0)
    noisy = [noise(queries, size, seed, centre) for size in NOISE]
    k = min(k, len(base))
    true, _ = exact_top_k(queries, base, k)
    small = quantise(base)
    d = x.shape[1]

    def by_vectors(name: str, rows: Floats, size: int) -> Line:
        found, spent = _timed(lambda: exact_top_k(queries, rows, k)[0])
        disturbed = tuple(recall(exact_top_k(part, rows, k)[0], true) for part in noisy)
        return Line(
            name, "", "L2", 8 * size, size, recall(found, true), None, disturbed, None, None, None, len(queries) / spent
        )

    yield by_vectors("float32", base, 4 * d)
    yield by_vectors("int8", small[0] * small[1][:, None], d + 4)
    for trial in todo:
        yield _measured(trial, queries, base, noisy, true, small, k, seed, threads)


def _measured(
    trial: Trial,
    queries: Floats,
    base: Floats,
    noisy: Sequence[Floats],
    true: NDArray[np.int64],
    small: tuple[NDArray[np.int8], Floats],
    k: int,
    seed: int,
    threads: int,
) -> Line:
    binarizer, fitting = _timed(partial(fit, trial.method, base, bits=trial.bits, seed=seed, options=trial.options))
    binarizer.encode(base[:8])  # compiles
    rows, encoding = _timed(partial(binarizer.encode, base))

    def search(asking: Floats) -> NDArray[np.int64]:
        return nearest_codes(binarizer, ask(binarizer, asking), rows, RESCORED * k, threads=threads)[0]

    search(queries)
    found, searching = _timed(partial(search, queries))
    closer, _ = rescored(queries, found, *small, k)
    return Line(
        trial.method, binarizer.rotation, distance(binarizer), binarizer.bits, binarizer.stored,
        recall(found[:, :k], true), recall(closer, true),
        tuple(recall(search(part)[:, :k], true) for part in noisy), _flipped(binarizer, queries, noisy),
        fitting, len(base) / encoding, len(queries) / searching,
    )  # fmt: skip


def _flipped(binarizer: Binarizer, queries: Floats, noisy: Sequence[Floats]) -> tuple[float, ...]:
    codes = binarizer.encode(queries).codes
    turned = [np.bitwise_count(codes ^ binarizer.encode(part).codes).sum() for part in noisy]
    return tuple(float(count) / (len(queries) * binarizer.bits) for count in turned)


def frontier(lines: Sequence[dict[str, Any]]) -> list[bool]:
    """Of each code whether none of as few bytes has more recall."""
    codes = [line for line in lines if line["rescored"] is not None]
    return [
        line["rescored"] is not None
        and not any(
            (other["bytes"] <= line["bytes"] and other["recall"] > line["recall"])
            or (other["bytes"] < line["bytes"] and other["recall"] >= line["recall"])
            for other in codes
        )
        for line in lines
    ]
