"""Vectors for benchmarks of codes: real ones of few thousand texts, and made ones of any number."""

import ast
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

Floats = NDArray[np.float32]


def unit(x: NDArray[Any]) -> Floats:
    """Rows of length 1, so that Euclidean distance ranks as the cosine does."""
    return (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def docstrings(most: int) -> list[str]:
    """Distinct docstrings of 80 characters or more in the packages of this environment, sorted."""
    found: set[str] = set()
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        if len(found) >= most:
            break
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node)
                if text and len(text) >= 80:
                    found.add(text)
    return sorted(found)[:most]


def text_vectors(rows: int, dimensions: int) -> Floats:
    """Latent semantic vectors of docstrings: counts of words, weighted, reduced to principal directions; unit rows."""
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2, max_features=50_000).fit_transform(docstrings(rows))
    reduced = TruncatedSVD(dimensions, random_state=0, n_iter=3).fit_transform(counts)
    return unit(reduced)[np.random.default_rng(0).permutation(len(reduced))]


def made_vectors(rows: int, dimensions: int) -> Floats:
    """Rows about 2 000 centres, as vectors of models are: within and between, variances fall as 1 / √rank."""
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.standard_normal((dimensions, dimensions)))[0].astype(np.float32)
    spread = (np.arange(1, dimensions + 1) ** -0.25).astype(np.float32)
    centres = random.standard_normal((2000, dimensions), dtype=np.float32) * spread
    x = np.empty((rows, dimensions), dtype=np.float32)
    for start in range(0, rows, 65_536):
        part = x[start : start + 65_536]
        noise = random.standard_normal(part.shape, dtype=np.float32) * spread
        part[:] = unit((centres[random.integers(0, 2000, len(part))] + 0.7 * noise) @ turn)
    return x
