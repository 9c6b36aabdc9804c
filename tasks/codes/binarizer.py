"""What a fitted binarizer is: from float vectors to bit codes, and how it is stored."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.errors import DatasetError
from tasks.codes.lifting import Lift
from tasks.codes.rotation import FEW, ROUNDS, FastRotation
from tasks.codes.settling import cells, centre, rounded, signs, slack, summed
from tasks.jit import CHAINS, LANES

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

METHODS = ("sign", "median", "simhash", "itq", "rabitq", "residual", "selected", "kernel")
MOST_PLANES = 8
FEW_ROWS = 4
"""Up to which sums row by row are faster than a product of matrices in float64."""
LARGEST = float(np.finfo(np.float32).max)
TILE_BYTES = 2**20
"""Of a tile's vectors and of its products: both stay in a cache of two mebibytes, and the product is still at full
speed."""

BINARIZERS: Any = pa.schema(
    [
        pa.field("method", pa.string(), nullable=False),
        pa.field("rotation", pa.string(), nullable=False),
        pa.field("dimensions", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("planes", pa.int32(), nullable=False),
        pa.field("estimates", pa.bool_(), nullable=False),
        pa.field("step", pa.float64(), nullable=False),
        pa.field("gain", pa.float64(), nullable=False),
        pa.field("shift", pa.list_(pa.float32()), nullable=False),
        pa.field("matrix", pa.list_(pa.float32())),
        pa.field("norms", pa.list_(pa.float32(), 256), nullable=False),
        pa.field("factors", pa.list_(pa.float32(), 256), nullable=False),
        pa.field("anchors", pa.list_(pa.float32())),
        pa.field("gamma", pa.float64()),
        pa.field("flips", pa.binary()),
    ]
)
"""Fitted binarizers, a row each; matrix and anchors row after row. Where the matrix is null it is that of the fast
rotation with these flips, round after round (`tasks.codes.rotation`); of neither, the identity."""


class Encoded(NamedTuple):
    """Codes of n rows, and where distances are estimated the numbers of their norms and factors.

    Attributes
    ----------
    codes
        uint8[n, bytes].
    norms, factors
        uint8[n], places in the binarizer's tables; None where codes are compared by Hamming distance.
    """

    codes: Bytes
    norms: Bytes | None
    factors: Bytes | None


@dataclass(frozen=True, slots=True, eq=False)
class Binarizer:
    """y = (x − shift)·matrix, and bits that say on which side of thresholds the components of y lie.

    A row's code depends on the row alone: not on the rows beside it, nor on how BLAS adds up. A missing or infinite
    component counts as the shift. One plane is the bits y > 0. Plane i > 0 is the bits of what the planes before it
    leave, each of which took off weight·a, with a = step·‖x − shift‖ / √width:
    r₀ = y, bᵢ = rᵢ > 0, rᵢ₊₁ = rᵢ − a·2⁻ⁱ·(2bᵢ − 1). A code stands for v = Σ 2⁻ⁱ·(2bᵢ − 1), and with a row's norm and
    factor f = ‖y‖² / <y, v> the squared distance to a query is about ‖q'‖² + ‖x − shift‖² − 2f<q', v>, q' projected
    (RaBitQ: Gao and Long, SIGMOD 2024; for more bits, Gao and others, SIGMOD 2025, whose grid this is).

    Attributes
    ----------
    method
        One of METHODS.
    rotation
        What the matrix is: `axes`, `random`, `itq`, `pca`, `selected`, `compatible`.
    dimensions
        d of the vectors.
    width
        Bits of a plane.
    planes
        Bit planes, at most 8.
    estimates
        Whether rows carry norms and factors, so that distances are estimated; else they are Hamming distances.
    shift
        float32[d], or of as many components as `lift` makes.
    matrix
        float32[d, width], or None for the identity.
    tables
        float32[2, 256], what the numbers of norms and factors mean: 0 first, then rising.
    step
        The a above as a share of a row's root mean square. Of one plane it only sets how finely factors are computed.
    gain
        Norm of a code's row for one of x − shift: 1 but where the codes are those of another space.
    lift
        Of kernelised hashing: what is done to vectors before all else.
    fast
        Of a random rotation: the same matrix as one that is multiplied with in O(d log d). No bit depends on it.
    """

    method: str
    rotation: str
    dimensions: int
    width: int
    planes: int
    estimates: bool
    shift: Floats
    matrix: Floats | None
    tables: Floats
    step: float = 1.0
    gain: float = 1.0
    lift: Lift | None = None
    fast: FastRotation | None = None
    _columns: Floats = field(init=False, repr=False)
    _slack: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        columns = np.zeros((0, 0), np.float32) if self.matrix is None else np.ascontiguousarray(self.matrix.T)
        object.__setattr__(self, "_columns", columns)
        if self.matrix is None:
            within = np.zeros(self.width, np.float32)
        else:
            within = slack(self.matrix, len(self.matrix) if self._turn is None else self._turn.roundings)
        object.__setattr__(self, "_slack", within)

    @property
    def bits(self) -> int:
        """Bits of a row."""
        return self.planes * self.width

    @property
    def bytes(self) -> int:
        """Bytes of a row's code: each plane fills its last byte with zeros."""
        return self.planes * -(-self.width // 8)

    @property
    def stored(self) -> int:
        """Bytes that a row takes, scalars and all."""
        return self.bytes + 2 * self.estimates

    @property
    def weights(self) -> Floats:
        """float32[planes], 1, 1/2, 1/4, ..."""
        return np.float32(2.0) ** -np.arange(self.planes, dtype=np.float32)

    @property
    def _turn(self) -> FastRotation | None:
        """The fast rotation, where it is faster than a product of matrices."""
        return self.fast if self.fast is not None and max(self.fast.d, self.width) >= FEW else None

    @property
    def _finer(self) -> int:
        # Factors are read from cells this many halvings finer than the codes'. The finer, the more values lie near a
        # border of cells and are settled: as fine as one value of a row, within 1/64 and 1/4 of the root mean square.
        settled = 2.0**-23 * (len(self.shift) + 16) * self.width**1.5
        return max(0, round(-math.log2(min(max(settled, 2.0**-6), 2.0**-2))) + 2 - self.planes)

    def _tiles(self, x: Floats) -> Iterator[tuple[slice, Floats, NDArray[np.float64], NDArray[np.float64]]]:
        """Rows, centred and lifted, a tile at a time: the slice, float32[rows, k], norms and scales float64[rows]."""
        if x.ndim != 2 or x.shape[1] != self.dimensions:
            raise DatasetError(
                f"vectors of shape {x.shape} where the binarizer takes {self.dimensions} components",
                "encode vectors of the embedding that the binarizer was fitted on",
            )
        size = max(16, TILE_BYTES // (4 * max(len(self.shift), self.width)))
        for start in range(0, len(x), size):
            part = np.ascontiguousarray(x[start : start + size], np.float32)
            lifted = part if self.lift is None else self.lift(part)
            z = np.empty(lifted.shape, np.float32)
            norms, scales = np.empty((2, len(z)))
            centre(lifted, self.shift, z, norms, scales)
            yield slice(start, start + size), z, norms, scales

    def project(self, x: Floats) -> Floats:
        """float32[n, d] to float32[n, width]: y, the float32 values nearest to sums in float64.

        About half as fast as `encode`; a row's bits do not depend on the rows beside it.
        """
        result = np.empty((len(x), self.width), np.float32)
        for rows, z, norms, scales in self._tiles(x):
            part = result[rows]
            if self.matrix is None:
                part[:] = z
            elif len(z) <= FEW_ROWS:
                summed(z, self.matrix, np.empty((CHAINS * LANES, self.width)), part)
            else:
                rounded(z.astype(np.float64) @ self.matrix.astype(np.float64), z, norms, self._columns, part)
            if (scales != 1).any():
                part[:] = np.clip(part * scales[:, None], -LARGEST, LARGEST)
        return result

    def measure(self, x: Floats) -> tuple[Bytes, NDArray[np.float64]]:
        """Codes uint8[n, bytes]; norms and factors before they are numbered, float64[2, n], 0 if not `estimates`."""
        codes = np.empty((len(x), self.bytes), np.uint8)
        scalars = np.zeros((2, len(x)))
        flags = np.zeros(8 * -(-self.width // 8), np.uint8)
        words = flags.view(np.uint64)
        for rows, z, norms, scales in self._tiles(x):
            p = z if self.matrix is None else z @ self.matrix if self._turn is None else self._turn.turn(z)
            if not self.estimates and self.planes == 1:
                signs(p, z, norms, self._columns, self._slack, flags, words, codes[rows])
                continue
            cells(
                p, z, norms, self._columns, self._slack, self.step, self.planes, self._finer,
                np.empty(self.width, np.int32), flags, words, codes[rows], scalars[1, rows],
            )  # fmt: skip
            scalars[0, rows] = norms * scales * self.gain
            scalars[1, rows] *= scales
        return codes, scalars

    def encode(self, x: Floats) -> Encoded:
        """float32[n, d] to codes, and to numbers of norms and factors where distances are estimated."""
        codes, scalars = self.measure(x)
        if not self.estimates:
            return Encoded(codes, None, None)
        return Encoded(codes, *(number(v, table) for v, table in zip(scalars, self.tables, strict=True)))

    def table(self) -> Any:
        """An Arrow table of one row, schema BINARIZERS."""
        row: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("method", "rotation", "dimensions", "width", "planes", "estimates", "step", "gain", "shift")
        }
        row |= {"norms": self.tables[0], "factors": self.tables[1]}
        row["matrix"] = None if self.matrix is None or self.fast is not None else self.matrix.ravel()
        row["flips"] = None if self.fast is None else self.fast.flips.tobytes()
        row["anchors"] = None if self.lift is None else self.lift.anchors.ravel()
        row["gamma"] = None if self.lift is None else self.lift.gamma
        return pa.Table.from_arrays([pa.array([row[f.name]], f.type) for f in BINARIZERS], schema=BINARIZERS)

    def save(self, path: Path) -> None:
        """Write the table to a Parquet file."""
        pq.write_table(self.table(), path, compression="none", use_dictionary=False, write_statistics=False)


def number(x: NDArray[np.float64], table: Floats) -> Bytes:
    """The place in a table (0, then rising) of the value nearest to each x by ratio: uint8[n]. Only 0 becomes 0."""
    wide = table[1:].astype(np.float64)
    # Borders are geometric means; squares, since a root may round.
    return np.where(x > 0, 1 + np.searchsorted(wide[:-1] * wide[1:], x * x), 0).astype(np.uint8)


def load(path: Path, method: str | None = None) -> Binarizer:
    """The binarizer in a Parquet file that `save` wrote, or that of a method in one of several.

    Raises
    ------
    DatasetError
        The file is missing, damaged, or holds something else.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(f"{path}: {error}") from error
    return from_table(table, method)


def from_table(table: Any, method: str | None = None) -> Binarizer:
    """The binarizer of an Arrow table with one row, or of its only row of a method.

    Raises
    ------
    DatasetError
        The table has another schema, or a row that no fit writes.
    """
    if table.schema.names == BINARIZERS.names[:-1]:  # of a version before fast rotations
        table = table.append_column(BINARIZERS.field("flips"), pa.nulls(len(table), pa.binary()))
    if table.schema.names != BINARIZERS.names:
        raise _damaged(f"columns are {', '.join(table.schema.names)}")
    try:
        rows = table.cast(BINARIZERS)
    except (pa.ArrowException, ValueError) as error:
        raise _damaged(str(error)) from error
    wanted = [i for i, name in enumerate(rows.column("method").to_pylist()) if method in {None, name}]
    if len(wanted) != 1:
        raise _damaged(f"{len(wanted)} rows of method {method or 'any'} instead of one")
    cell = {name: rows.column(name)[wanted[0]] for name in rows.schema.names}
    plain = {n: v.as_py() for n, v in cell.items() if not isinstance(v, pa.ListScalar | pa.FixedSizeListScalar)}
    arrays = {n: _floats(n, v) for n, v in cell.items() if isinstance(v, pa.ListScalar | pa.FixedSizeListScalar)}
    return _checked(plain, arrays)


def _floats(name: str, value: Any) -> Floats | None:
    if not value.is_valid:
        return None
    array = np.asarray(value.values.to_numpy(zero_copy_only=False), np.float32)
    if not np.isfinite(array).all():
        raise _damaged(f"{name} has values that are not finite")
    return array


def _checked(plain: dict[str, Any], arrays: dict[str, Floats | None]) -> Binarizer:
    shift, matrix, anchors = (arrays[name] for name in ("shift", "matrix", "anchors"))
    d, width, planes = (plain[name] for name in ("dimensions", "width", "planes"))
    scale, gain, gamma = (plain[name] for name in ("step", "gain", "gamma"))
    if plain["method"] not in METHODS:
        raise _damaged(f"method {plain['method']!r} is none of {', '.join(METHODS)}")
    if None in {d, width, planes, scale, gain, plain["estimates"], plain["rotation"]} or shift is None:
        raise _damaged("a value is missing")
    lift = None
    if anchors is not None:
        if gamma is None or d < 1 or not np.isfinite(gamma) or len(anchors) != d * len(shift):
            raise _damaged(f"{len(anchors)} components of anchors, {len(shift)} of the shift, {d} dimensions")
        lift = Lift(anchors.reshape(-1, d), float(gamma))
    k = d if lift is None else len(shift)
    if d < 1 or width < 1 or not 1 <= planes <= MOST_PLANES or len(shift) != k:
        raise _damaged(f"{d} dimensions, {width} bits, {planes} planes, {len(shift)} components of the shift")
    fast = None if plain["flips"] is None else _fast(plain["flips"], k, width)
    if fast is None and (len(matrix) != k * width if matrix is not None else width != k):
        raise _damaged(f"a matrix of {0 if matrix is None else len(matrix)} components for {k} x {width}")
    if fast is not None and matrix is not None:
        raise _damaged("both a matrix and the signs of a fast rotation")
    if not (np.isfinite(scale) and scale > 0 and np.isfinite(gain) and gain > 0):
        raise _damaged(f"step {scale}, gain {gain}")
    norms, factors = arrays["norms"], arrays["factors"]
    if norms is None or factors is None or len(norms) != 256 or len(factors) != 256:
        raise _damaged("tables of norms and factors are not of 256 values")
    tables = np.stack([norms, factors])
    if (tables[:, 0] != 0).any() or (np.diff(tables) <= 0).any():
        raise _damaged("tables of norms and factors do not rise from 0")
    if fast is not None:
        matrix = fast.matrix()
    return Binarizer(
        plain["method"], plain["rotation"], d, width, planes, plain["estimates"], shift,
        None if matrix is None else matrix.reshape(k, width), tables, scale, gain, lift, fast,
    )  # fmt: skip


def _fast(flips: bytes, k: int, width: int) -> FastRotation:
    size = max(k, width)
    if len(flips) != ROUNDS * -(-size // 8):
        raise _damaged(f"{len(flips)} bytes of signs for a rotation of {size} components")
    return FastRotation(np.frombuffer(flips, np.uint8).reshape(ROUNDS, -1), k, width)


def _damaged(problem: str) -> DatasetError:
    return DatasetError(f"not a fitted binarizer: {problem}", "fit it again, or take the file from a whole copy")
