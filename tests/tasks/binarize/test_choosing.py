"""The choice of a code: what is tried, what is taken, and that what is written down was measured."""

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.binarize.choosing import WITHIN, choose, shapes

Floats = NDArray[np.float32]


def clustered(rows: int, d: int) -> Floats:
    random = np.random.default_rng(0)
    return (random.standard_normal((rows, d)) / np.sqrt(np.arange(1, d + 1)) + 0.3).astype(np.float32)


@pytest.mark.parametrize("rescored", [False, True])
def test_the_cheapest_within_half_a_point_is_taken(rescored: bool) -> None:
    choice = choose(clustered(1500, 32), rescored=rescored, iterations=5)
    scores = [m.rescored if rescored else m.recall for m in choice.measured]
    taken = choice.measured[choice.chosen]
    assert scores[choice.chosen] >= max(scores) - WITHIN
    for m, score in zip(choice.measured, scores, strict=True):
        assert score < max(scores) - WITHIN or m.bytes >= taken.bytes
        assert m.bytes <= 2 + 8
        assert m.bytes < taken.bytes or m.bytes > taken.bytes or score <= scores[choice.chosen]
        assert m.rescored >= m.recall - 0.02
    b = choice.binarizer
    assert (b.method, b.rotation, b.bits, b.planes, b.stored) == (
        taken.method, taken.rotation, taken.bits, taken.planes, taken.bytes,
    )  # fmt: skip
    assert {m.rotation for m in choice.measured} == {"axes", "random", "itq"}
    assert {m.planes for m in choice.measured} == {1, 2, 3, 4}


def test_a_choice_is_decided_by_vectors_and_seed() -> None:
    x = clustered(400, 9)
    a, b = (choose(x, seed=4, iterations=3) for _ in range(2))
    assert a.measured == b.measured
    assert a.binarizer.table().equals(b.binarizer.table())
    assert choose(x, seed=5, iterations=3).measured != a.measured


def test_a_rotation_is_taken_where_axes_are_poor() -> None:
    """Low-rank vectors: a few components hold everything, and signs of the others say nothing."""
    random = np.random.default_rng(1)
    x = np.hstack([random.standard_normal((1500, 4)), 0.01 * random.standard_normal((1500, 28))]).astype(np.float32)
    choice = choose(x, budget=6, iterations=5)
    best = {r: max(m.recall for m in choice.measured if m.rotation == r and m.planes == 1) for r in ("axes", "random")}
    assert best["random"] > best["axes"] + 0.1
    assert choice.binarizer.rotation in {"random", "itq"} or choice.binarizer.width < 32


@pytest.mark.parametrize(("d", "budget"), [(1, 3), (7, 3), (384, 50), (384, 98), (384, 20), (100, 10**6)])
def test_all_that_is_tried_is_within_the_budget(d: int, budget: int) -> None:
    found = shapes(d, budget)
    assert len(set(found)) == len(found) > 0
    for planes, width in found:
        assert 1 <= width <= d
        assert planes * -(-width // 8) + 2 <= budget
    assert (1, min(d, 8 * (budget - 2))) in found


def test_missing_values_and_few_rows_do_no_harm() -> None:
    x = clustered(20, 3)
    x[::4, 0] = np.nan
    x[:, 1] = 2.0
    choice = choose(x, k=100, iterations=2)
    assert (choice.queries, choice.base, choice.k) == (2, 9, 9)
    assert choice.binarizer.encode(x).codes.shape[0] == 20


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(RecipeError, match="20 rows"):
        choose(clustered(19, 4))
    with pytest.raises(RecipeError, match="3 at least"):
        choose(clustered(40, 4), budget=2)
