"""New queries against old codes."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from schemas.errors import RecipeError
from tasks.binarize.compatible import RIDGES, compatible, ridge
from tasks.binarize.fitting import Options, fit
from tasks.codes.binarizer import Binarizer, Encoded
from tasks.codes.packing import unpack, values
from tasks.codes.rotation import random_rotation

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

NEW = 60


def spaces(rows: int) -> tuple[Floats, Floats]:
    """Vectors of 48 dimensions, and a model's that came after: turned, moved, lengthened, noisy, of 60 dimensions."""
    random = np.random.default_rng(0)
    old = random.standard_normal((rows, 48)) / np.sqrt(np.arange(1, 49)) + 0.2
    turn = random_rotation(7, "new model", NEW)[:48]
    new = 3.0 * old @ turn + 1.5 + 0.02 * random.standard_normal((rows, NEW))
    return old.astype(np.float32), new.astype(np.float32)


def distances(asked: Floats, stored: Encoded, binarizer: Binarizer) -> Doubles:
    """Of projected queries (or of their signs) to stored codes, up to a term of the query's."""
    v = values(stored.codes, binarizer.width, binarizer.weights).astype(np.float64)
    if stored.norms is None or stored.factors is None:
        return -(np.sign(asked) @ v.T)
    norms, factors = binarizer.tables[0][stored.norms], binarizer.tables[1][stored.factors]
    return norms.astype(np.float64) ** 2 - 2 * (asked @ v.T) * factors


def recall(found: Doubles, true: Doubles) -> float:
    a, b = (np.argsort(d, axis=1, kind="stable")[:, :10] for d in (found, true))
    return float(np.mean([len(np.intersect1d(p, q)) / 10 for p, q in zip(a, b, strict=True)]))


@pytest.mark.parametrize(
    ("method", "options"),
    [("itq", None), ("simhash", None), ("rabitq", None), ("residual", None), ("residual", Options("itq", planes=3))],
)
def test_new_queries_find_in_old_codes_what_old_queries_find(method: str, options: Options | None) -> None:
    old, new = spaces(4000)
    asking, paired, base = slice(0, 150), slice(150, 1150), slice(1150, None)
    binarizer = fit(method, old[paired], options=options)
    codes = binarizer.encode(old[base])
    fitted = compatible(binarizer, binarizer.encode(old[paired]), new[paired])
    assert (fitted.dimensions, fitted.bytes, fitted.rotation) == (NEW, binarizer.bytes, "compatible")
    true = ((old[asking, None].astype(np.float64) - old[None, base]) ** 2).sum(axis=2)
    before = recall(distances(binarizer.project(old[asking]), codes, binarizer), true)
    after = recall(distances(fitted.project(new[asking]), codes, fitted), true)
    unfitted = recall(distances(binarizer.project(new[asking][:, :48]), codes, binarizer), true)
    assert after > 0.85 * before
    assert after > 3 * unfitted
    # New rows may be added to old shards: their codes are nearly the old ones, and so are their scalars.
    width = binarizer.width
    first = -(-width // 8)
    again = fitted.encode(new[base])
    same = unpack(again.codes[:, :first], width) == unpack(codes.codes[:, :first], width)
    assert same.mean() > 0.9
    mixed = recall(distances(fitted.project(new[asking]), again, fitted), true)
    assert mixed > 0.8 * before
    if again.norms is not None and codes.norms is not None:
        norms = binarizer.tables[0].astype(np.float64)
        assert abs(np.median(norms[again.norms] / norms[codes.norms]) - 1) < 0.05


def test_thresholds_off_the_middle_are_found_again() -> None:
    """Signs without centring: most bits are mostly 1, and a map without a constant term would lose that."""
    old, new = spaces(2000)
    binarizer = fit("sign", old)
    shares = unpack(binarizer.encode(old).codes, 48).mean(axis=0)
    assert shares.max() > 0.85
    fitted = compatible(binarizer, binarizer.encode(old), new)
    again = unpack(fitted.encode(new).codes, 48).mean(axis=0)
    assert abs(again - shares).mean() < 0.06


@pytest.mark.parametrize("n", [30, 400])
def test_the_ridge_is_scikit_learns(n: int) -> None:
    random = np.random.default_rng(n)
    z = random.standard_normal((n, 20)) @ np.diag(1.0 / np.arange(1, 21))
    target = z @ random.standard_normal((20, 5)) + random.standard_normal((n, 5))
    z, target = z - z.mean(axis=0), target - target.mean(axis=0)
    penalties = RIDGES * np.linalg.eigvalsh(z.T @ z).mean()
    found = ridge(z, target)
    from sklearn.linear_model import Ridge

    fits = [Ridge(alpha=p, fit_intercept=False).fit(z, target).coef_.T for p in penalties]
    off = [abs(found - each).max() for each in fits]
    assert min(off) < 1e-8
    theirs = RidgeCV(penalties, fit_intercept=False).fit(z, target).alpha_
    assert abs(int(np.argmin(off)) - int(np.argmin(abs(penalties - theirs)))) <= 2


def test_constant_missing_and_few_rows_do_no_harm() -> None:
    old, new = spaces(300)
    binarizer = fit("rabitq", old)
    new[:, 3] = 5.0
    new[::7, 4] = np.nan
    new[:, 5] = np.nan
    for rows in (1, 2, 20, 300):
        fitted = compatible(binarizer, binarizer.encode(old[:rows]), new[:rows])
        assert np.isfinite(fitted.project(new)).all()
        assert fitted.encode(new).codes.shape == (300, 6)


def test_rows_that_do_not_match_are_refused() -> None:
    old, new = spaces(50)
    binarizer = fit("rabitq", old)
    stored = binarizer.encode(old)
    for vectors, codes in ((new[:10], stored), (new[:0], Encoded(stored.codes[:0], None, None))):
        with pytest.raises(RecipeError, match="same rows"):
            compatible(binarizer, codes, vectors)
