"""Groups: joined by what they share, never torn, shared out class by class."""

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.split.groups import assign, keyed_order, merged_groups

NAMES = st.text("abcdef", min_size=1, max_size=2)


@given(st.lists(st.tuples(NAMES, NAMES), max_size=30))
def test_groups_are_the_connected_components(links: list[tuple[str, str]]) -> None:
    groups = merged_groups(links)
    expected = {name: min(part) for part in networkx.connected_components(networkx.Graph(links)) for name in part}
    assert groups == expected


@given(st.integers(0, 2**60), st.lists(NAMES, unique=True, min_size=1))
def test_the_order_is_of_names_not_of_places(seed: int, names: list[str]) -> None:
    order = [names[i] for i in keyed_order(names, seed)]
    backwards = names[::-1]
    assert order == [backwards[i] for i in keyed_order(backwards, seed)]
    assert sorted(order) == sorted(names)


def test_shares_are_kept_for_each_class_when_groups_are_small() -> None:
    rng = np.random.default_rng(0)
    counts = np.zeros((3_000, 2), dtype=np.int64)
    counts[np.arange(3_000), (rng.random(3_000) < 0.1).astype(int)] = rng.integers(1, 4, 3_000)
    where = assign([f"g{i}" for i in range(3_000)], counts, (0.6, 0.2, 0.2), seed=1)
    shares = np.stack([counts[where == s].sum(axis=0) for s in range(3)]) / counts.sum(axis=0)
    assert shares == pytest.approx(np.array([[0.6, 0.6], [0.2, 0.2], [0.2, 0.2]]), abs=0.02)


def test_large_groups_do_not_starve_a_split() -> None:
    counts = np.array([[108, 0], [38, 0], [33, 0], [16, 0], [14, 0], [8, 0], [0, 2], [0, 2], [0, 2], [0, 2], [0, 2]])
    where = assign([f"g{i}" for i in range(11)], counts, (0.6, 0.2, 0.2), seed=7)
    for split in range(3):
        assert (counts[where == split].sum(axis=0) > 0).all()
    assert counts[where == 0].sum() > counts[where != 0].sum()


@given(st.permutations(range(12)), st.integers(0, 100))
def test_the_order_of_groups_does_not_matter(order: list[int], seed: int) -> None:
    counts = np.arange(24).reshape(12, 2) % 7 + 1
    names = [f"g{i}" for i in range(12)]
    straight = assign(names, counts, (0.5, 0.25, 0.25), seed)
    mixed = assign([names[i] for i in order], counts[order], (0.5, 0.25, 0.25), seed)
    assert dict(zip(names, straight, strict=True)) == dict(zip([names[i] for i in order], mixed, strict=True))
