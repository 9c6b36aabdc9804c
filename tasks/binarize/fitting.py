"""Fitting of binarizers on training vectors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.binarize.rotating import Doubles, rotated, spread
from tasks.binarize.selection import select
from tasks.binarize.training import trained
from tasks.codes.binarizer import METHODS, MOST_PLANES, Binarizer
from tasks.codes.lifting import Lift
from tasks.codes.rotation import FastRotation, random_rotation, stream

Floats = NDArray[np.float32]

FIT_ROWS = 65_536
"""Rows that means, covariances and tables are fitted on."""
STEP_ROWS = 4_096
"""Rows that the step of residual planes is chosen on."""
TAIL, BEYOND = 24, 1.2
"""Values of a scalar's table beyond each end of the usual ones, and their ratio."""
BLANK = np.stack([np.arange(256, dtype=np.float32)] * 2)
"""Tables before they are fitted, and of methods without scalars."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a fit may be asked for beside method and bits.

    Attributes
    ----------
    rotation
        `axes`, `random` or `itq`, for rabitq, residual and kernel; `trained` (`tasks.binarize.training`) for rabitq and
        residual; None: random for rabitq and residual, itq for kernel as far as its features reach.
    planes
        Bit planes of residual: its bits are spread over them.
    iterations
        Of iterative quantisation.
    anchors
        Of kernelised hashing.
    pool
        Candidates of `selected`, as a multiple of its bits.
    """

    rotation: str | None = None
    planes: int = 2
    iterations: int = 50
    anchors: int = 256
    pool: int = 3


def fit(method: str, x: Floats, *, bits: int | None = None, seed: int = 0, options: Options | None = None) -> Binarizer:
    """Fit a binarizer.

    Parameters
    ----------
    method
        `sign`: y > 0 of the components as they are. `median`: against their medians, the thresholds of greatest
        entropy. `simhash`: random rotations, as many as it takes; angle = π·Hamming / bits. `itq`: principal
        components, then iterative quantisation. `rabitq`: centred, rotated, with two scalars a row, so that distances
        are estimated. `residual`: the same with several bit planes. `selected`: of a pool of bits those that tell
        most about neighbourhood and least about each other. `kernel`: of features that say how near each anchor is.
    x
        float32[n, d], of train. A missing or infinite component counts as its column's mean.
    bits
        Of a code, over all planes; None: one a dimension and plane.
    seed
        Of all randomness.
    options
        The rest.

    Raises
    ------
    RecipeError
        An unknown method, no rows, or bits that the method cannot give.
    """
    options = options or Options()
    if method not in METHODS:
        raise RecipeError(f"binarizer {method!r} is unknown", f"use one of {', '.join(METHODS)}")
    if x.ndim != 2 or not x.size:
        raise RecipeError(f"no vectors to fit {method} on (shape {x.shape})", "give rows of train")
    planes = options.planes if method == "residual" else 1
    if not 1 <= planes <= MOST_PLANES:
        raise RecipeError(f"{planes} bit planes", f"ask for 1 to {MOST_PLANES}")
    d = x.shape[1]
    wanted = planes * d if bits is None else bits
    if wanted < 1 or wanted % planes:
        raise RecipeError(f"{wanted} bits over {planes} planes", "ask for a positive multiple of the planes")
    x = filled(spread(x, FIT_ROWS))
    width = wanted // planes
    lift = _lift(x, min(options.anchors, len(x)), seed) if method == "kernel" else None
    features = x if lift is None else lift(x)
    shift = _shift(method, features)
    z = features.astype(np.float64) - shift
    kind, matrix = _matrix(method, z, width, seed, options)
    fast, matrix = (matrix, matrix.matrix()) if isinstance(matrix, FastRotation) else (None, matrix)
    estimates = method in {"rabitq", "residual"}
    made = Binarizer(method, kind, d, width, planes, estimates, shift, matrix, BLANK, lift=lift, fast=fast)
    return calibrated(made, x) if estimates else made


def filled(x: Floats) -> Floats:
    """Vectors with the mean of their column's finite values (0 of none) wherever a value is not finite."""
    finite = np.isfinite(x)
    if finite.all():
        return np.ascontiguousarray(x, np.float32)
    sums = np.where(finite, x, 0).sum(axis=0, dtype=np.float64)
    return np.where(finite, x, sums / np.maximum(finite.sum(axis=0), 1)).astype(np.float32)


def _shift(method: str, x: Floats) -> Floats:
    if method == "sign":
        return np.zeros(x.shape[1], np.float32)
    if method == "median":
        return np.median(x, axis=0).astype(np.float32)
    return x.mean(axis=0, dtype=np.float64).astype(np.float32)


def _matrix(
    method: str, z: Doubles, width: int, seed: int, options: Options
) -> tuple[str, Floats | FastRotation | None]:
    d = z.shape[1]
    if method in {"sign", "median"}:
        return "axes", rotated("axes", z, width, seed)
    if method == "simhash":
        turns = [random_rotation(seed, f"simhash {i}", d) for i in range(-(-width // d))]
        return "random", np.ascontiguousarray(np.hstack(turns)[:, :width], np.float32)
    if method == "selected":
        return "selected", select(z, width, seed, options.pool)
    if options.rotation == "trained" and method in {"rabitq", "residual"}:
        if width > d:
            raise RecipeError(
                f"{width} bits of {d} dimensions by a trained rotation, which gives one bit a dimension and plane",
                f"ask for at most {d} bits a plane",
            )
        return "trained", trained(z, width, options.planes if method == "residual" else 1, seed, options.iterations)
    kinds = {"itq": "itq", "kernel": "itq" if width <= d else "random"}
    kind = kinds[method] if method == "itq" else options.rotation or kinds.get(method, "random")
    return kind, rotated(kind, z, width, seed, options.iterations)


def _lift(x: Floats, count: int, seed: int) -> Lift:
    """Anchors drawn from the rows; γ is 1 over their mean squared distance."""
    anchors = x[np.sort(stream(seed, "anchors").choice(len(x), count, replace=False))]
    wide = anchors.astype(np.float64)
    squared = 2 * ((wide - wide.mean(axis=0)) ** 2).sum(axis=1).mean()
    return Lift(np.ascontiguousarray(anchors), 1.0 / squared if squared > 0 else 1.0)


def with_planes(rabitq: Binarizer, x: Floats, planes: int) -> Binarizer:
    """What `residual` with these planes would be on the vectors that `rabitq` was fitted on: the matrix is the same."""
    b = rabitq
    made = Binarizer("residual", b.rotation, b.dimensions, b.width, planes, True, b.shift, b.matrix, BLANK, fast=b.fast)
    return calibrated(made, filled(spread(x, FIT_ROWS)))


def calibrated(binarizer: Binarizer, x: Floats) -> Binarizer:
    """The binarizer with its step and its tables fitted to vectors float32[n, d]."""
    stepped = replaced(binarizer, step=best_step(binarizer, spread(x, STEP_ROWS)))
    _, scalars = stepped.measure(x)
    return replaced(stepped, tables=np.stack([scale_table(values) for values in scalars]))


def best_step(binarizer: Binarizer, x: Floats) -> float:
    """The step whose codes v lie nearest to their rows in angle: greatest mean of <y, v>² / ‖y‖²‖v‖².

    Of one plane the step only says how finely factors are computed: it is the root mean square.
    """
    y = binarizer.project(x).astype(np.float64)
    centred = filled(x).astype(np.float64) if binarizer.lift is None else binarizer.lift(x).astype(np.float64)
    norm = np.sqrt(((centred - binarizer.shift) ** 2).sum(axis=1))
    kept = norm > 0
    if not kept.any():
        return 1.0
    y, norm = y[kept], norm[kept]
    unit = y / norm[:, None] * np.sqrt(binarizer.width)
    rms = max(float(np.sqrt((unit**2).mean())), 1e-6)
    if binarizer.planes == 1:
        return rms
    squares = np.maximum((unit**2).sum(axis=1), 1e-300)
    half = 2.0 ** (binarizer.planes - 1)
    found: list[tuple[float, float]] = []
    for step in rms * np.geomspace(0.4, 2.5, 48):
        v = np.clip(np.ceil(unit * (half / (2 * step))) - 1, -half, half - 1) + 0.5
        found.append((float(((unit * v).sum(axis=1) ** 2 / (squares * (v**2).sum(axis=1))).mean()), -float(step)))
    return -max(found)[1]


def scale_table(values: NDArray[np.float64]) -> Floats:
    """What the 256 numbers of a scalar mean: 0, then 255 rising values.

    Most lie at equal ratios over all but the rarest of the values given, so that rounding costs 0.4 % at most where
    these lie within a factor of four; the rest are steps of a fifth beyond both ends, as far as a factor of 80. A rare
    row whose factor were rounded up to the others' would seem near to every query.
    """
    positive = values[values > 0]
    if not len(positive):
        return np.concatenate([[0.0], np.geomspace(0.5, 2.0, 255)]).astype(np.float32)
    low, high = np.quantile(positive, [0.0005, 0.9995]) * [0.95, 1.05]
    low = float(np.clip(low, 1e-28, 1e36))
    high = float(np.clip(high, 1.3 * low, 3e36))
    beyond = BEYOND ** np.arange(1, TAIL + 1)
    inner = np.geomspace(low, high, 255 - 2 * TAIL)
    return np.concatenate([[0.0], low / beyond[::-1], inner, high * beyond]).astype(np.float32)


def replaced(binarizer: Binarizer, *, step: float | None = None, tables: Floats | None = None) -> Binarizer:
    """A copy with another step or other tables."""
    b = binarizer
    return Binarizer(
        b.method, b.rotation, b.dimensions, b.width, b.planes, b.estimates, b.shift, b.matrix,
        b.tables if tables is None else tables, b.step if step is None else step, b.gain, b.lift, b.fast,
    )  # fmt: skip
