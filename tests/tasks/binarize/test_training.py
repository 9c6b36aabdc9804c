"""The trained rotation: its error never rises, it is orthogonal, seeded, and kept only where it measures better."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from schemas.errors import RecipeError
from tasks.binarize.choosing import fit_trained
from tasks.binarize.fitting import Options, fit
from tasks.binarize.training import error, grid_points, trained, unit_rows
from tasks.codes.binarizer import load


def rows(n: int, d: int, seed: int) -> Any:
    """Centred rows of a few clusters: what a rotation can be trained on."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((6, d))[random.integers(0, 6, n)] + 0.3 * random.standard_normal((n, d))
    return x - x.mean(axis=0)


@given(st.integers(1, 8), st.integers(0, 99))
def test_grid_points_are_the_nearest(planes: int, seed: int) -> None:
    y = np.random.default_rng(seed).standard_normal((5, 7)) * 1.5
    found = grid_points(y, planes)
    levels = np.unique(grid_points(np.linspace(-9, 9, 4001), planes))
    assert len(levels) == 2**planes
    assert np.allclose(levels, -levels[::-1])
    nearest = levels[np.abs(y[..., None] - levels).argmin(axis=-1)]
    assert np.allclose(np.abs(y - found), np.abs(y - nearest))


@pytest.mark.parametrize("planes", [1, 2, 3])
@pytest.mark.parametrize("width", [6, 16])
def test_the_error_never_rises_and_columns_are_orthonormal(planes: int, width: int) -> None:
    z = rows(600, 16, 1)
    errors: list[float] = []
    for iterations in (0, 1, 2, 4, 8, 16, 32):
        matrix = trained(z, width, planes, 5, iterations)
        assert np.allclose(matrix.T @ matrix, np.eye(width), atol=1e-5)
        projected = z @ matrix.astype(np.float64)
        errors.append(error(unit_rows(projected), planes))
    assert all(b <= a + 1e-6 for a, b in pairwise(errors))
    assert errors[-1] < errors[0]


def test_it_is_the_seed_s_and_is_stored(tmp_path: Path) -> None:
    x = rows(500, 12, 2).astype(np.float32)
    options = Options("trained", planes=2)
    one, other = (fit("residual", x, seed=seed, options=options) for seed in (1, 2))
    again = fit("residual", x, seed=1, options=options)
    assert one.matrix is not None
    assert again.matrix is not None
    assert other.matrix is not None
    assert one.matrix.tobytes() == again.matrix.tobytes() != other.matrix.tobytes()
    one.save(tmp_path / "b.parquet")
    stored = load(tmp_path / "b.parquet")
    assert stored.rotation == "trained"
    assert stored.encode(x).codes.tobytes() == one.encode(x).codes.tobytes()
    with pytest.raises(RecipeError, match="trained"):
        fit("rabitq", x, bits=13, options=options)


def test_what_measures_better_is_kept() -> None:
    x = load_digits().data.astype(np.float32)  # pyright: ignore[reportAttributeAccessIssue]
    binarizer, measured = fit_trained("residual", x, bits=128, k=10, seed=0, options=Options("trained", planes=2))
    assert set(measured) == {"random", "itq", "trained"}
    assert measured[binarizer.rotation] == max(measured.values())
    # Noise of no structure has nothing to be trained on: no rotation is better than chance by much.
    few, none = fit_trained("rabitq", x[:10], bits=None, k=5, seed=0, options=Options("trained"))
    assert few.rotation == "random"
    assert none == {}
