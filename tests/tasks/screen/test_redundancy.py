"""Greedy choices against a slow search over scikit-learn's information, and what no data may change."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import mutual_info_score

from tasks.screen.redundancy import MISSING, Picked, pick

Method = Literal["mrmr", "jmi", "cmim"]
METHODS: list[Method] = ["mrmr", "jmi", "cmim"]


def information(a: Any, b: Any) -> float:
    return max(float(mutual_info_score(a, b)), 0.0) if len(a) else 0.0


def of_pair(a: NDArray[np.uint8], b: NDArray[np.uint8], labels: NDArray[np.int32], method: Method) -> float:
    """I(a; b), I(a, b; y) or I(b; y | a) of the rows that have both."""
    both = (a != MISSING) & (b != MISSING)
    x, z, y = a[both].astype(int), b[both].astype(int), labels[both]
    if method == "mrmr":
        return information(x, z)
    joint = information(x * 256 + z, y)
    return joint if method == "jmi" else max(joint - information(x, y), 0.0)


def values_of(
    codes: NDArray[np.uint8],
    labels: NDArray[np.int32],
    relevance: NDArray[np.float64],
    chosen: list[int],
    method: Method,
) -> NDArray[np.float64]:
    """The criterion of every candidate given those chosen; those and what has no relevance are -inf."""
    values = np.full(len(codes), -np.inf)
    for c in set(range(len(codes))) - set(chosen):
        if np.isnan(relevance[c]):
            continue
        with_chosen = [of_pair(codes[s], codes[c], labels, method) for s in chosen]
        if not chosen:
            values[c] = relevance[c]
        elif method == "mrmr":
            values[c] = relevance[c] - np.mean(with_chosen)
        else:
            values[c] = np.mean(with_chosen) if method == "jmi" else min(relevance[c], *with_chosen)
    return values


def relevance_of(codes: NDArray[np.uint8], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    return np.array([information(row[row != MISSING], labels[row != MISSING]) for row in codes])


def made(
    seed: int, n: int, candidates: int, bins: int, classes: int, missing: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Noisy copies of a hidden number that the label depends on: redundant, and all of them different."""
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(3, n))
    labels = np.digitize(hidden.sum(axis=0), np.linspace(-1.5, 1.5, classes - 1)).astype(np.int32)
    codes = np.empty((candidates, n), dtype=np.uint8)
    for c in range(candidates):
        noisy = hidden[c % 3] + random.normal(size=n) * (0.2 + 0.15 * c)
        codes[c] = np.digitize(noisy, np.quantile(noisy, np.linspace(0, 1, bins + 1)[1:-1]))
    codes[random.random(codes.shape) < missing] = MISSING
    return codes, labels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("n", "candidates", "bins", "classes", "missing"),
    [
        (400, 12, 4, 2, 0.0),
        (400, 12, 4, 3, 0.3),
        (301, 9, 16, 5, 0.1),
        (2_000, 8, 3, 2, 0.6),
        (900, 6, 255, 2, 0.05),  # every code there is; a wide table is read by its rows
        (300, 7, 40, 6, 0.4),
    ],
)
def test_agrees_with_a_direct_search(
    n: int, candidates: int, bins: int, classes: int, missing: float, method: Method
) -> None:
    codes, labels = made(n + bins, n, candidates, bins, classes, missing)
    relevance = relevance_of(codes, labels)
    found = pick(codes, labels, classes, relevance, candidates, method)
    order: list[int] = []
    scores: list[float] = []
    for _ in range(candidates):
        values = values_of(codes, labels, relevance, order, method)
        order.append(int(np.argmax(values)))
        scores.append(float(values[order[-1]]))
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.score, scores, rtol=0, atol=1e-9)


SMALL = st.tuples(st.integers(1, 6), st.integers(0, 12)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 200, MISSING])),
        hnp.arrays(np.int32, shape[1], elements=st.integers(0, 2)),
    )
)


@given(SMALL, st.sampled_from(METHODS), st.integers(0, 7))
def test_each_choice_is_a_best_one(
    drawn: tuple[NDArray[np.uint8], NDArray[np.int32]], method: Method, count: int
) -> None:
    """Where few rows make many ties: of those within rounding of the best, any; its score is the criterion's."""
    codes, labels = drawn
    relevance = relevance_of(codes, labels)
    relevance[[len(row) > 2 and bool((row == MISSING).all()) for row in codes]] = np.nan
    found = pick(codes, labels, 3, relevance, count, method)
    assert len(found.order) == len(found.score) == min(count, int((~np.isnan(relevance)).sum()))
    for step, (place, score) in enumerate(zip(found.order, found.score, strict=True)):
        values = values_of(codes, labels, relevance, found.order[:step].tolist(), method)
        assert score == pytest.approx(values[place], rel=0, abs=1e-9)
        assert values[place] >= values.max() - 1e-9


@given(SMALL, st.sampled_from(METHODS), st.randoms(use_true_random=False))
def test_neither_order_of_rows_nor_names_of_bins_change_a_bit(
    drawn: tuple[NDArray[np.uint8], NDArray[np.int32]], method: Method, random: Any
) -> None:
    codes, labels = drawn
    relevance = relevance_of(codes, labels)
    found = pick(codes, labels, 3, relevance, len(codes), method)
    shuffled = np.array(random.sample(range(len(labels)), len(labels)), dtype=np.int64)
    names = np.array([*random.sample(range(MISSING), MISSING), MISSING], dtype=np.uint8)
    others = [names[codes], codes[:, shuffled], np.asfortranarray(codes)]
    for changed, y in zip(others, [labels, labels[shuffled], labels], strict=True):
        other = pick(changed, y, 3, relevance, len(codes), method)
        np.testing.assert_array_equal(other.order, found.order)
        np.testing.assert_array_equal(other.score.view(np.int64), found.score.view(np.int64))


@pytest.mark.parametrize("method", METHODS)
def test_a_duplicate_waits_for_what_is_new(method: Method) -> None:
    """Two strong twins, a weaker feature that knows something else, and noise: the twin is not the second."""
    random = np.random.default_rng(3)
    one, two, noise = random.integers(0, 2, (3, 4_000))
    labels = (2 * one + two).astype(np.int32)
    weaker = np.where(random.random(4_000) < 0.8, two, 1 - two)
    codes = np.array([noise, one, one, weaker], dtype=np.uint8)
    found = pick(codes, labels, 4, relevance_of(codes, labels), 3, method)
    assert found.order.tolist()[:2] == [1, 3]


@pytest.mark.parametrize("method", METHODS)
def test_twins_are_taken_by_their_places(method: Method) -> None:
    codes, labels = made(8, 500, 3, 5, 3, 0.2)
    codes = np.concatenate([codes, codes])
    relevance = relevance_of(codes, labels)
    order = pick(codes, labels, 3, relevance, 6, method).order.tolist()
    for place in range(3):
        assert order.index(place) < order.index(place + 3)


def test_jmi_and_cmim_find_an_exclusive_or() -> None:
    """Neither column tells anything alone; after one of them the other tells all. mRMR cannot see it."""
    a, b, noise, weak = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3 & 1] for i in range(1024)]).T
    labels = (a ^ b).astype(np.int32)
    labels[weak == 1] ^= (np.arange(1024) % 64 < 4)[weak == 1]
    codes = np.array([noise, weak, a, b], dtype=np.uint8)
    given_first = np.array([0.0, 0.0, 1e-3, 0.0])  # the first is made one of the two
    found = pick(codes, labels, 2, given_first, 2, "jmi")
    assert found.order.tolist() == [2, 3]
    assert found.score[1] > 0.5
    exact = (a ^ b).astype(np.int32)
    assert pick(codes, exact, 2, given_first, 2, "jmi").score[1] == pytest.approx(np.log(2), abs=1e-12)
    # CMIM is bounded by the relevance, so that one of nothing stays at nothing; with some it shows.
    bounded = np.array([0.6, 0.6, 1.0, 0.65])
    assert pick(codes, exact, 2, bounded, 2, "cmim").score.tolist() == [1.0, 0.65]
    assert pick(codes, exact, 2, bounded, 4, "cmim").score[2:].tolist() == [0.0, 0.0]
    assert pick(codes, exact, 2, given_first, 2, "mrmr").order.tolist() == [2, 0]


def test_cmim_does_not_trust_a_bound_that_ties() -> None:
    """The noise may have as much as the best by what is known so far, and a lower place: it has to be compared."""
    a, b, noise = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(64)]).T
    codes, labels = np.array([noise, b, a], dtype=np.uint8), (a ^ b).astype(np.int32)
    best = pick(codes, labels, 2, np.array([0.0, 1.0, 2.0]), 2, "cmim").score[1]
    assert best == pytest.approx(np.log(2))
    found = pick(codes, labels, 2, np.array([best, 1.0, 2.0]), 3, "cmim")
    assert (found.order.tolist(), found.score.tolist()) == ([2, 1, 0], [2.0, best, 0.0])
    # And where it is as good indeed, the lower place wins.
    codes[0] = b
    assert pick(codes, labels, 2, np.array([best, 1.0, 2.0]), 2, "cmim").order.tolist() == [2, 0]


def test_pairs_without_a_common_row_share_nothing() -> None:
    codes = np.full((3, 40), MISSING, dtype=np.uint8)
    labels = (np.arange(40) % 2).astype(np.int32)
    codes[0, :20] = labels[:20]
    codes[1, 20:] = labels[20:]
    codes[2] = (np.arange(40) // 2) % 2
    relevance = np.array([0.7, 0.6, 0.1])
    found = pick(codes, labels, 2, relevance, 3, "mrmr")
    assert found.order.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.score, [0.7, 0.6, 0.1], atol=1e-15)
    assert pick(codes, labels, 2, relevance, 2, "cmim").score.tolist() == [0.7, 0.0]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_choose_from(method: Method) -> None:
    def empty(found: Picked) -> bool:
        return found.order.tolist() == [] and found.score.tolist() == []

    labels = np.zeros(5, dtype=np.int32)
    codes = np.zeros((2, 5), dtype=np.uint8)
    assert empty(pick(codes[:0], labels, 1, np.empty(0), 3, method))
    assert empty(pick(codes, labels, 1, np.full(2, np.nan), 3, method))
    assert empty(pick(codes, labels, 1, np.zeros(2), 0, method))
    assert empty(pick(codes, labels, 1, np.zeros(2), -4, method))
    constant = pick(codes, labels, 1, np.array([np.nan, 0.0]), 9, method)
    assert (constant.order.tolist(), constant.score.tolist()) == ([1], [0.0])
    unknown = pick(np.full((2, 5), MISSING, dtype=np.uint8), labels, 1, np.zeros(2), 9, method)
    assert (unknown.order.tolist(), unknown.score.tolist()) == ([0, 1], [0.0, 0.0])
    no_rows = pick(codes[:, :0], labels[:0], 2, np.array([0.0, 1.0]), 2, method)
    assert no_rows.order.tolist() == [1, 0]


def test_refuses_what_does_not_go_together() -> None:
    codes, labels = np.zeros((2, 3), dtype=np.uint8), np.zeros(3, dtype=np.int32)
    for y, relevance in ((labels[:2], np.zeros(2)), (labels, np.zeros(3))):
        with pytest.raises(ValueError, match="do not go with"):
            pick(codes, y, 2, relevance, 1, "jmi")
    for y in ([0, 1, 2], [0, -1, 1]):
        with pytest.raises(ValueError, match="outside"):
            pick(codes, np.array(y, dtype=np.int32), 2, np.zeros(2), 1, "jmi")
