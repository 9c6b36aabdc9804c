"""`auto`: every rotation and number of planes that a byte budget allows, measured on held-out rows."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.binarize.fitting import Options, filled, fit, with_planes
from tasks.binarize.rotating import ROTATIONS
from tasks.codes.binarizer import MOST_PLANES, Binarizer
from tasks.codes.estimate import estimated_top_k
from tasks.codes.rescore import exact_top_k, quantise, recall
from tasks.codes.rescore import rescored as rescored_by
from tasks.codes.rotation import stream

Floats = NDArray[np.float32]

QUERIES = 256
BASE_ROWS = 16_384
"""Most rows that ask and that are searched."""
LEAST_ROWS = 20
WITHIN = 0.005
"""Recall that a cheaper code may lack: half a point."""
RESCORED = 4
"""Candidates for each neighbour that int8 vectors rescore."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one binarizer reached on held-out rows.

    Attributes
    ----------
    method, rotation, bits, planes
        The binarizer.
    bytes
        That a row takes: code and scalars.
    recall
        Share of the true k nearest rows among the k nearest by code.
    rescored
        The same after the 4k nearest by code are ranked by int8 vectors.
    """

    method: str
    rotation: str
    bits: int
    planes: int
    bytes: int
    recall: float
    rescored: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A binarizer fitted on all rows given, its measurement, and those of all that were tried.

    Attributes
    ----------
    binarizer
        The chosen one.
    measured
        All that were tried, the cheapest first.
    chosen
        Which of them.
    k, queries, base
        Neighbours, rows that asked, and rows searched.
    """

    binarizer: Binarizer
    measured: tuple[Measured, ...]
    chosen: int
    k: int
    queries: int
    base: int


def choose(
    x: Floats, *, budget: int | None = None, k: int = 10, seed: int = 0, rescored: bool = False, iterations: int = 50
) -> Choice:
    """The cheapest code whose recall is within half a point of the best, among those of a byte budget.

    A seeded part of the rows asks, a part is searched, and on the rest (on all but the askers where rows are few) each
    candidate is fitted: one plane and several, of the axes, a random rotation and ITQ, as wide as the dimensions and
    narrower where that is what the budget leaves.

    Parameters
    ----------
    x
        float32[n, d], of train.
    budget
        Bytes of a row, codes and two scalars; None: what two bits a dimension take.
    k
        Neighbours.
    seed
        Of the split and of all fits.
    rescored
        Whether recall after rescoring decides.
    iterations
        Of iterative quantisation.

    Raises
    ------
    RecipeError
        Fewer than 20 rows, or a budget below 3 bytes.
    """
    if x.ndim != 2 or len(x) < LEAST_ROWS or not x.shape[1]:
        raise RecipeError(f"vectors of shape {x.shape} to choose a code by", f"give {LEAST_ROWS} rows at least")
    d = x.shape[1]
    allowed = 2 + 2 * -(-d // 8) if budget is None else budget
    if allowed < 3:
        raise RecipeError(f"{allowed} bytes a row", "allow 3 at least: two scalars and a byte of bits")
    x = filled(x)
    order = stream(seed, "choose").permutation(len(x))
    asked = min(QUERIES, len(x) // 10)
    searched = min(BASE_ROWS, (len(x) - asked) // 2)
    queries, base = x[order[:asked]], x[order[asked : asked + searched]]
    training = x[order[asked + searched :]] if len(x) > 4 * LEAST_ROWS else x[order[asked:]]
    k = min(k, len(base))
    true, _ = exact_top_k(queries, base, k)
    whole = quantise(base)
    tried: list[tuple[Measured, tuple[str, int, Options]]] = []
    turned: dict[tuple[str, int], Binarizer] = {}
    for planes, width in shapes(d, allowed):
        method = "rabitq" if planes == 1 else "residual"
        for rotation in ROTATIONS:
            options = Options(rotation, planes=planes, iterations=iterations)
            if (rotation, width) not in turned:  # fitting a rotation is what takes time
                turned[rotation, width] = fit("rabitq", training, bits=width, seed=seed, options=options)
            binarizer = turned[rotation, width]
            if planes > 1:
                binarizer = with_planes(binarizer, training, planes)
            found = by_code(binarizer, queries, base, RESCORED * k)
            again, _ = rescored_by(queries, found, *whole, k)
            tried.append(
                (
                    Measured(
                        method, rotation, binarizer.bits, planes, binarizer.stored,
                        recall(found[:, :k], true), recall(again, true),
                    ),
                    (method, binarizer.bits, options),
                )
            )  # fmt: skip
    tried.sort(key=lambda pair: pair[0].bytes)  # stable: equal costs stay in the order tried
    scores = [m.rescored if rescored else m.recall for m, _ in tried]
    enough = [i for i, score in enumerate(scores) if score >= max(scores) - WITHIN]
    cheapest = [i for i in enough if tried[i][0].bytes == tried[enough[0]][0].bytes]
    chosen = max(cheapest, key=lambda i: (scores[i], -i))
    method, bits, options = tried[chosen][1]
    binarizer = fit(method, x, bits=bits, seed=seed, options=options)
    return Choice(binarizer, tuple(m for m, _ in tried), chosen, k, asked, searched)


def fit_trained(
    method: str, x: Floats, *, bits: int | None, k: int, seed: int, options: Options
) -> tuple[Binarizer, dict[str, float]]:
    """A binarizer by the trained rotation; by a closed form where this finds no fewer neighbours of held-out rows.

    Returns
    -------
    binarizer
        Its `rotation` says which it is.
    measured
        Recall by rotation, on rows that were neither searched nor fitted on; empty where rows are too few to say.
    """
    if len(x) < LEAST_ROWS:
        return fit(method, x, bits=bits, seed=seed, options=replace(options, rotation="random")), {}
    order = stream(seed, "choose").permutation(len(x))
    asked = min(4 * QUERIES, len(x) // 5)
    queries, rest = filled(x)[order[:asked]], filled(x)[order[asked:]]
    base = rest[:BASE_ROWS]
    true, _ = exact_top_k(queries, base, min(k, len(base)))
    measured: dict[str, float] = {}
    for rotation in ("random", "itq", "trained"):
        binarizer = fit(method, rest, bits=bits, seed=seed, options=replace(options, rotation=rotation))
        measured[rotation] = recall(by_code(binarizer, queries, base, true.shape[1]), true)
    best = max(measured, key=lambda name: measured[name])  # of equals the closed form
    return fit(method, x, bits=bits, seed=seed, options=replace(options, rotation=best)), measured


def shapes(d: int, budget: int) -> list[tuple[int, int]]:
    """Planes and widths to try: all dimensions, half of them, and as many as the budget holds."""
    found: list[tuple[int, int]] = []
    for planes in range(1, min(4, MOST_PLANES) + 1):
        most = min(d, 8 * ((budget - 2) // planes))
        found += [(planes, width) for width in sorted({most, min(most, -(-d // 2))}) if width > 0]
    return found


def by_code(binarizer: Binarizer, queries: Floats, base: Floats, k: int) -> NDArray[np.int64]:
    """The k rows whose estimated distance is least, int64[q, min(k, n)]."""
    codes, norms, factors = binarizer.encode(base)
    assert norms is not None
    assert factors is not None
    asked = binarizer.project(queries)
    return estimated_top_k(asked, codes, binarizer.planes, norms, factors, binarizer.tables, min(k, len(base)))[0]
