"""Feature hashing against scikit-learn's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_extraction import FeatureHasher
from sklearn.utils import murmurhash3_32

from tasks.extract.hashing import hashed

TEXT = st.text(max_size=40)


def theirs(tokens: list[Any], n: int, kind: str, *, sign: bool) -> NDArray[np.float32]:
    hasher = FeatureHasher(n, input_type=kind, alternate_sign=sign)
    return hasher.transform([tokens]).toarray()[0].astype(np.float32)


@given(st.lists(TEXT, max_size=50), st.sampled_from([1, 2, 3, 50, 128, 512]), st.booleans())
def test_strings(tokens: list[str], n: int, sign: bool) -> None:
    ours = hashed([t.encode() for t in tokens], None, n, alternate_sign=sign)
    np.testing.assert_array_equal(ours, theirs(list(tokens), n, "string", sign=sign))
    assert ours.dtype == np.float32


@given(st.lists(st.tuples(TEXT, st.integers(-(2**31), 2**31)), max_size=50), st.sampled_from([1, 7, 50]), st.booleans())
def test_pairs(pairs: list[tuple[str, int]], n: int, sign: bool) -> None:
    ours = hashed([t.encode() for t, _ in pairs], [v for _, v in pairs], n, alternate_sign=sign)
    np.testing.assert_array_equal(ours, theirs(pairs, n, "pair", sign=sign))


def test_many_collide() -> None:
    tokens = [f"symbol_{i}" for i in range(5000)]
    for sign in (True, False):
        ours = hashed([t.encode() for t in tokens], None, 16, alternate_sign=sign)
        np.testing.assert_array_equal(ours, theirs(tokens, 16, "string", sign=sign))


@pytest.mark.parametrize("length", range(9))
def test_every_tail_length(length: int) -> None:
    token = bytes(range(0xF8, 0xF8 + length))
    n = 2**20
    place = int(np.flatnonzero(hashed([token], None, n, alternate_sign=False))[0])
    assert place == abs(int(murmurhash3_32(token, seed=0))) % n


def test_nothing_gives_zeros() -> None:
    assert hashed([], None, 8).tolist() == [0] * 8
    np.testing.assert_array_equal(hashed([b""], None, 8), theirs([""], 8, "string", sign=True))
