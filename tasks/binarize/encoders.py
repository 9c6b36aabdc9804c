"""Encoders: models that make a vector of a text, found by the entry points of installed packages.

A package of yours offers one by a line of its `pyproject.toml`, and a recipe's source of vectors names it:

    [project.entry-points."binmill.encoders"]
    mine = "my_package:load"        # a function without parameters that gives an Encoder
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from schemas.errors import BinmillError, RecipeError

GROUP = "binmill.encoders"


@runtime_checkable
class Encoder(Protocol):
    """A model that makes a vector of a text.

    Attributes
    ----------
    version
        Of the code. A new one makes all vectors anew.
    digest
        SHA-256 of the model's files: what decides the vectors beside the code.
    dimensions
        Components of a vector.
    """

    version: str
    digest: str
    dimensions: int

    def encode(self, text: str) -> NDArray[np.float32]:
        """A text's vector, float32[dimensions]. One text at a time: a row's bits may not depend on its neighbours."""
        ...


@cache
def load_encoder(name: str) -> Encoder:
    """An installed encoder.

    Raises
    ------
    RecipeError
        None is installed under this name, or it cannot be loaded; its package's own errors name what it lacks.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise RecipeError(
            f"sources.encoder: no encoder '{name}' is installed",
            f"installed are: {', '.join(sorted(found)) or 'none'}; a package offers one as entry point '{GROUP}'",
        )
    try:
        encoder = found[name].load()()
    except BinmillError:
        raise
    except Exception as error:
        raise RecipeError(
            f"sources.encoder: '{name}' ({found[name].value}) cannot be loaded: {type(error).__name__}: {error}",
            "install what its package needs",
        ) from error
    if not isinstance(encoder, Encoder):
        raise RecipeError(
            f"sources.encoder: '{name}' ({found[name].value}) is no encoder",
            "it must have version, digest, dimensions and encode(text)",
        )
    return encoder


def identity(name: str) -> dict[str, str]:
    """What decides an encoder's vectors, for the key of what is made with it."""
    encoder = load_encoder(name)
    return {"name": name, "version": encoder.version, "digest": encoder.digest}


def encoded(name: str, text: str) -> NDArray[np.float32]:
    """The vector of one text, checked: float32[d]. By one thread, for the order of a sum is the threads' otherwise.

    Raises
    ------
    RecipeError
        The encoder gives no vector of finite numbers.
    """
    encoder = load_encoder(name)
    with threadpool_limits(limits=1):
        vector = np.asarray(encoder.encode(text))
    if vector.shape != (encoder.dimensions,) or vector.dtype.kind != "f" or not np.isfinite(vector).all():
        raise RecipeError(
            f"encoder '{name}': {vector.dtype} {vector.shape} for {text[:40]!r}, wanted are {encoder.dimensions} "
            "finite numbers",
            "mend the encoder, or use another",
        )
    return vector.astype(np.float32)
