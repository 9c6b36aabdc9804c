"""From examples to what models take: numbers standardised, names as codes; all learned from real train rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.evaluate.curves import Floats

NAMES = 32
"""Most columns that the values of one column of names become; the rarer values share the last."""


class Preparation:
    """Numbers, standardised, then codes of names: the space in which rows are resampled; and models' own matrix.

    A missing or infinite number stands at the mean of train. A missing name is a value by itself.

    Parameters
    ----------
    table : pyarrow.Table
        Real rows of train.
    numbers, nominal
        Columns of each kind.
    """

    def __init__(self, table: Any, numbers: Sequence[str], nominal: Sequence[str]) -> None:
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

        self.numbers, self.nominal = list(numbers), list(nominal)
        if self.numbers:
            filled = SimpleImputer(strategy="mean", keep_empty_features=True)
            self._scaler: Any = make_pipeline(filled, StandardScaler()).fit(self._numbers(table))
        if self.nominal:
            texts = self._names(table)
            unknown: Any = {"handle_unknown": "use_encoded_value", "unknown_value": -1}
            self._codes: Any = OrdinalEncoder(**unknown).fit(texts)
            self._columns: Any = OneHotEncoder(handle_unknown="ignore", max_categories=NAMES, sparse_output=False)
            self._columns.fit(self._codes.transform(texts))

    def place(self, table: Any) -> Floats:
        """float64[n, numbers + nominal]."""
        if not table.num_rows:  # scikit-learn refuses it
            return np.empty((0, len(self.numbers) + len(self.nominal)))
        parts = [np.empty((table.num_rows, 0))]
        if self.numbers:
            parts.append(self._scaler.transform(self._numbers(table)))
        if self.nominal:
            parts.append(self._codes.transform(self._names(table)))
        return np.hstack(parts)

    def encode(self, x: Floats) -> Floats:
        """float64[n, p] for models, of rows that `place` gave or that were made of such: names as columns of 0 and 1.

        A value that train lacks is 0 in all of its columns.
        """
        if not self.nominal:
            return x
        cut = len(self.numbers)
        return np.hstack([x[:, :cut], self._columns.transform(x[:, cut:])])

    def _numbers(self, table: Any) -> Floats:
        x = np.empty((table.num_rows, len(self.numbers)))
        for place, name in enumerate(self.numbers):
            column = table.column(name)
            if pa.types.is_boolean(column.type):
                column = column.cast(pa.uint8())
            x[:, place] = column.cast(pa.float64(), safe=False).to_numpy()
        x[~np.isfinite(x)] = np.nan
        return x

    def _names(self, table: Any) -> NDArray[Any]:
        columns = [table.column(name).cast(pa.string()).fill_null("").to_pylist() for name in self.nominal]
        return np.array(columns, dtype=object).T.reshape(table.num_rows, len(self.nominal))
