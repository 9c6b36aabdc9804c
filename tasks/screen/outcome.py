"""The outcome: classes or a quantity; what of it every column is held against."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.errors import RecipeError
from tasks.screen.sketch import Edges, Sketch, quantile_edges, quantiles, uniform_edges

MAX_CLASSES = 255
MANY_VALUES = 16
"""Whole numbers with more different values than this are a quantity, if the recipe does not say."""
ROWS_A_CELL, FEWEST_LEVELS = 5, 4
"""A quantity has so many bins at most that the cells of its tables hold five rows on average; but four."""
QUARTILES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of the outcome of all rows.

    Attributes
    ----------
    classes
        Names of the classes, sorted; empty for a quantity.
    edges
        Edges of a quantity's bins; empty for classes.
    low, quartiles, high
        Least and greatest finite value of a quantity, and its quartiles.
    shift, factor
        A quantity v counts as (v - shift) · factor, so that float32 tells its values apart.
    rows
        Rows with an outcome.
    """

    classes: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    low: float = 0.0
    quartiles: tuple[float, ...] = (0.0, 0.0, 0.0)
    high: float = 0.0
    shift: float = 0.0
    factor: float = 1.0
    rows: int = 0

    @property
    def continuous(self) -> bool:
        """Whether the outcome is a quantity."""
        return not self.classes

    @property
    def levels(self) -> int:
        """Columns of a contingency table: classes, or bins of a quantity."""
        return len(self.classes) or len(self.edges) + 1

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Outcome":
        """Back from JSON."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        return Outcome(**fields)

    def quantity_of(self, raw: Any) -> NDArray[np.float32]:
        """float32[n]: each value of an Arrow array of numbers; NaN for none, and for an infinite one."""
        values = numbers(raw)
        assert values is not None
        return quantity(values, self.shift, self.factor)

    def levels_of(self, y: NDArray[np.float32]) -> NDArray[np.int32]:
        """int32[n]: the bin of each value of a quantity, for tables."""
        return np.digitize(y, np.array(self.edges, dtype=np.float32)).astype(np.int32)

    def labels_of(self, raw: Any) -> NDArray[np.int32]:
        """int32[n]: the class of each value of an Arrow array, -1 for none."""
        options = pc.SetLookupOptions(value_set=pa.array(self.classes, pa.string()))
        places = pc.call_function("index_in", [texts(raw)], options)
        return places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)


def quantity(values: NDArray[np.float64], shift: float, factor: float) -> NDArray[np.float32]:
    """float32[n]: (value - shift) · factor; NaN where that is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        moved = ((values - shift) * factor).astype(np.float32)
    return np.where(np.isfinite(moved), moved, np.float32(np.nan))


def texts(raw: Any) -> Any:
    """Values of an Arrow array as names of classes: 1.0 is "1"; NaN is none."""
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    if pa.types.is_floating(raw.type):
        values = raw.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0  # -0.0 is 0
        raw = pa.array(values, from_pandas=True)
    return raw.cast(pa.string())


def numbers(raw: Any) -> NDArray[np.float64] | None:
    """Values of an Arrow array as float64[n], NaN for none; None when they are not numbers."""
    if pa.types.is_dictionary(raw.type):
        raw = raw.dictionary_decode()
    if pa.types.is_temporal(raw.type):
        raw = raw.cast(pa.int64() if not pa.types.is_date32(raw.type) else pa.int32())
    if not (pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type)):
        return None
    return raw.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def classes_outcome(counts: dict[str, int]) -> Outcome:
    """The outcome whose classes have so many rows.

    Raises
    ------
    RecipeError
        There are fewer than two classes, or more than 255.
    """
    names = sorted(name for name, n in counts.items() if n)
    if len(names) < 2:
        raise RecipeError(
            f"label: train has {'only class ' + repr(names[0]) if names else 'no labelled row'}, "
            "screening needs two classes or more",
            "check label.origin and label.rules, add sources of the other class, or change seed",
        )
    if len(names) > MAX_CLASSES:
        raise RecipeError(
            f"screening.outcome: the outcome has {len(names):,} classes, at most {MAX_CLASSES} can be told apart",
            "say 'continuous' if it is a quantity, join rare classes by label.rules, or name another column",
        )
    return Outcome(classes=tuple(names), rows=sum(counts.values()))


def continuous_outcome(found: Sketch, bins: int, binning: str, shift: float, factor: float) -> Outcome:
    """The outcome that is a quantity, from its sketch (of one column, refined), and how its values were moved.

    Raises
    ------
    RecipeError
        It has no two different finite values.
    """
    low, high = float(found.minimum()[0]), float(found.maximum()[0])
    if not low < high:
        raise RecipeError(
            "screening: the outcome has no two different values", "name another column, or check the file"
        )
    rows = int(found.present()[0] - found.infinite[0])
    levels = min(bins, max(FEWEST_LEVELS, rows // (ROWS_A_CELL * bins)))
    edges: Edges = (uniform_edges if binning == "uniform" else quantile_edges)(found, levels)
    quartiles = tuple(float(q) for q in quantiles(found, QUARTILES)[:, 0])
    return Outcome(
        edges=tuple(float(v) for v in edges.values),
        low=low, quartiles=quartiles, high=high, shift=shift, factor=factor, rows=rows,
    )  # fmt: skip
