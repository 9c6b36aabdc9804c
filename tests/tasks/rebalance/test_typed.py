"""Values of new rows: between their parents in the column's own type; names as codes in order."""

from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from imblearn.over_sampling import SMOTE
from numpy.typing import NDArray
from sklearn.preprocessing import OrdinalEncoder

from tasks.rebalance.search import neighbors
from tasks.rebalance.typed import between, encoded, is_number

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
GAPS = hnp.arrays(np.float64, 4, elements=st.floats(0, 1, exclude_max=True))


def made(a: Any, b: Any, gap: Any, filling: float | None = None) -> Any:
    return between(pa.array(a), pa.array(b), np.asarray(gap, np.float64), whole=False, filling=filling)


@given(hnp.arrays(np.float32, 4, elements=FINITE), hnp.arrays(np.float32, 4, elements=FINITE), GAPS)
def test_any_finite_parents(a: NDArray[np.float32], b: NDArray[np.float32], gap: NDArray[np.float64]) -> None:
    found = made(a, b, gap).to_numpy()
    assert found.dtype == np.float32
    low, high = np.minimum(a, b).astype(np.float64), np.maximum(a, b).astype(np.float64)
    rounding = 2.0**-52 * np.maximum(abs(low), abs(high))
    assert (found >= low - rounding).all()
    assert (found <= high + rounding).all()
    assert np.array_equal(made(a, b, np.zeros(4)).to_numpy(), a)
    assert np.array_equal(made(a, a, gap).to_numpy(), a)


@given(st.sampled_from([np.int8, np.uint8, np.int32, np.uint64, np.int64]), st.data(), st.floats(-1, 1))
def test_whole_numbers_are_the_nearest_that_the_type_holds(kind: Any, data: st.DataObject, gap: float) -> None:
    """Beyond the parents too (a negative gap), and at the ends of 64 bits."""
    ends = np.iinfo(kind)
    x, y = (data.draw(st.integers(int(ends.min), int(ends.max))) for _ in range(2))
    found = made(np.array([x], kind), np.array([y], kind), [gap])
    assert found.type == pa.array(np.array([x], kind)).type
    value = found[0].as_py()
    exact = x + Fraction(gap) * (y - x)
    nearest = min(max(exact, Fraction(int(ends.min))), Fraction(int(ends.max)))
    # float64 holds whole numbers up to 2^53; beyond that it rounds what is added.
    slack = Fraction(1, 2) + max(abs(x), abs(y), abs(y - x)) * Fraction(2) ** -50
    assert abs(value - nearest) <= slack


def test_parents_that_are_not_finite() -> None:
    a = np.array([np.inf, np.nan, -np.inf, 1.0], dtype=np.float32)
    b = np.array([np.inf, 1.0, np.inf, np.nan], dtype=np.float32)
    found = made(a, b, np.full(4, 0.5)).to_numpy()
    assert found[0] == np.inf
    assert np.isnan(found[[1, 2, 3]]).all()
    filled = made(a, b, np.full(4, 0.5), filling=2.5).to_numpy()
    np.testing.assert_array_equal(filled, np.array([2.5, 1.75, 2.5, 1.75], np.float32))


@pytest.mark.parametrize(
    ("a", "b", "kind", "expected", "filled"),
    [
        ([None, 4, 5], [1, None, 8], pa.int16(), [None, None, 6], [2, 3, 6]),
        ([None, True, False], [True, None, True], pa.bool_(), [None, None, False], [True, True, False]),
        ([None, 1.0, 0.0], [1.0, None, 1.0], pa.float64(), [None, None, 0.5], [1.75, 1.75, 0.5]),
    ],
)
def test_missing_stays_missing_or_is_the_filling(
    a: list[Any], b: list[Any], kind: Any, expected: list[Any], filled: list[Any]
) -> None:
    columns = pa.array(a, kind), pa.array(b, kind)
    gap = np.full(3, 0.5)
    found = between(*columns, gap, whole=False, filling=None)
    assert found.type == kind
    assert found.to_pylist() == expected
    assert between(*columns, gap, whole=False, filling=2.5).to_pylist() == filled


def test_rows_equal_imbalanced_learns_given_its_draws() -> None:
    rng = np.random.default_rng(0)
    minority = rng.normal(size=(40, 7)).astype(np.float64)
    majority = rng.normal(size=(100, 7)) + 5
    x, y = np.concatenate([majority, minority]), np.array([0] * 100 + [1] * 40)
    resampled = SMOTE(k_neighbors=5, random_state=11).fit_resample(x, y)[0]
    # imbalanced-learn draws, from this state: places in the neighbour table, then gaps.
    state = np.random.RandomState(11)
    places = state.randint(low=0, high=40 * 5, size=60)
    gaps = state.uniform(size=(60, 1))[:, 0]
    near = neighbors(minority, 5)
    parent, slot = np.divmod(places, 5)
    for column in range(7):
        a, b = minority[parent, column], minority[near[parent, slot], column]
        np.testing.assert_array_equal(made(a, b, gaps).to_numpy(), resampled[140:, column])


@given(st.lists(st.sampled_from(["b", "a", "ä", "", "B", "10", "9"]), min_size=1, max_size=20))
def test_codes_are_those_of_scikit_learn(texts: list[str]) -> None:
    table = np.array(texts, dtype=object)[:, None]
    expected = OrdinalEncoder().fit(table)
    for column in (pa.array(texts), pa.array(texts).dictionary_encode(), pa.array(texts, pa.large_string())):
        codes, first, values = encoded([column])
        np.testing.assert_array_equal(codes, expected.transform(table))
        assert values[0].to_pylist() == list(expected.categories_[0])
        assert [texts[row] for row in first[0]] == values[0].to_pylist()
        assert all(texts.index(texts[row]) == row for row in first[0])


def test_missing_names_are_a_value_and_there_is_one_zero() -> None:
    codes, first, values = encoded([pa.array(["b", None, "a", None]), pa.array([0.0, -0.0, np.nan, None])])
    assert codes.T.tolist() == [[1, 2, 0, 2], [0, 0, 1, 2]]
    assert [part.tolist() for part in first] == [[2, 0, 1], [0, 2, 3]]
    assert values[0].to_pylist() == ["a", "b", None]
    codes, _, values = encoded([pa.array([True, False, None])])
    assert codes[:, 0].tolist() == [1, 0, 2]


def test_which_types_have_a_between() -> None:
    assert all(map(is_number, (pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.bool_())))
    assert not any(map(is_number, (pa.string(), pa.date32(), pa.decimal128(5), pa.list_(pa.int8()))))
