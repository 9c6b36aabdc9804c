"""The grid of over- and under-sampling: the paper's own example, and what holds at every point."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.rebalance.sweep import OVER, UNDER, sweep

COUNTS = st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), min_size=2, max_size=5)


def test_the_papers_example() -> None:
    # Chawla et al., section 4.2: 50 against 200, under-sampled at 200 %, leaves 25 of the majority.
    assert sweep({"rare": 50, "common": 200}, [0.0], [2.0]) == [{"rare": 50, "common": 25}]
    assert sweep({"rare": 50, "common": 200}, [1.0], [2.0]) == [{"rare": 100, "common": 50}]


def test_order_ties_and_limits() -> None:
    assert sweep({"a": 300, "b": 10, "c": 15}, [0.0, 1.0], [0.5, 1.0]) == [
        {"a": 20, "b": 10, "c": 15},
        {"a": 10, "b": 10, "c": 10},
        {"a": 40, "b": 20, "c": 15},
        {"a": 20, "b": 20, "c": 15},
    ]
    assert sweep({"b": 5, "a": 5}, [1.0], [1e-300, 0.1, 1.0, 1e300]) == [{"b": 10, "a": 5}, {"b": 10, "a": 1}]
    # At 500 % and 10 or 15 % more of the majority is asked for than there is: 126 points less one.
    assert len(sweep({0: 10_000, 1: 260})) == 125


@pytest.mark.parametrize(
    ("counts", "over", "under"),
    [
        ({}, [1.0], [1.0]),
        ({"a": 5}, [1.0], [1.0]),
        ({"a": 5, "b": 0}, [1.0], [1.0]),
        ({"a": 5, "b": 9}, [-0.1], [1.0]),
        ({"a": 5, "b": 9}, [1.0], [0.0]),
        ({"a": 5, "b": 9}, [float("nan")], [1.0]),
        ({"a": 5, "b": 9}, [1.0], [float("inf")]),
    ],
)
def test_refusals(counts: dict[str, int], over: list[float], under: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sweep needs|shares must"):
        sweep(counts, over, under)


@given(
    COUNTS,
    st.lists(st.floats(0, 20), min_size=1, max_size=4),
    st.lists(st.floats(0.01, 50), min_size=1, max_size=4),
)
def test_points(counts: dict[str, int], over: list[float], under: list[float]) -> None:
    points = sweep(counts, over, under)
    minority = min(counts, key=lambda label: counts[label])
    assert 1 <= len(points) <= len(over) * len(under)
    assert all(a != b for i, a in enumerate(points) for b in points[:i])
    assert {p[minority] for p in points} == {round((1 + o) * counts[minority]) for o in over}
    for point in points:
        assert list(point) == list(counts)
        assert point[minority] >= counts[minority]
        rest = [label for label in counts if label != minority]
        assert all(1 <= point[label] <= counts[label] for label in rest)
        # What is cut, is cut to one size, which the shares asked for explain.
        cut = {point[label] for label in rest if point[label] < counts[label]}
        assert len(cut) <= 1
        assert all(any(abs(n - max(1, point[minority] / u)) <= 0.5 for u in under) for n in cut)


def test_default_grid_is_the_papers() -> None:
    assert OVER[0] == 0
    assert (min(UNDER), max(UNDER)) == (0.1, 20.0)
    assert list(UNDER) == sorted(set(UNDER))
