"""What a binarizer promises: exact bits, rows by themselves, tables that come back or are refused."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.linalg import hadamard

from schemas.errors import DatasetError
from tasks.codes.binarizer import BINARIZERS, Binarizer, from_table, load, number
from tasks.codes.lifting import Lift
from tasks.codes.packing import pack, unpack, values
from tasks.codes.rotation import ROUNDS, FastRotation, product, random_flips, random_rotation

Floats = NDArray[np.float32]

TABLE = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 255)]).astype(np.float32)
TABLES = np.stack([TABLE, TABLE])


def made(matrix: Floats | None, d: int, planes: int = 1, *, estimates: bool = True, **rest: Any) -> Binarizer:
    width = d if matrix is None else matrix.shape[1]
    shift = rest.pop("shift", np.zeros(d, np.float32))
    return Binarizer("residual", "random", d, width, planes, estimates, shift, matrix, TABLES, **rest)


def turned(d: int, width: int, seed: int = 0) -> Floats:
    return np.ascontiguousarray(random_rotation(seed, "test", max(d, width))[:d, :width], np.float32)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(0, 9), st.integers(1, 200))))
def test_unpacked_bits_are_the_bits_packed(bits: NDArray[np.bool_]) -> None:
    codes = pack(bits)
    assert codes.dtype == np.uint8
    assert codes.shape == (len(bits), -(-bits.shape[1] // 8))
    assert np.array_equal(unpack(codes, bits.shape[1]), bits)


def test_first_bit_is_lowest_and_the_tail_is_zero() -> None:
    assert pack(np.array([[True] + [False] * 7 + [True]])).tolist() == [[1, 1]]


def test_values_of_planes_are_their_weighted_signs() -> None:
    # Planes of 3 bits: 101 and 001, lowest first: signs + - + and + - -, of weights 1 and 1/2.
    codes = np.array([[0b101, 0b001]], np.uint8)
    assert values(codes, 3, np.array([1, 0.5], np.float32)).tolist() == [[1.5, -1.5, 0.5]]


@pytest.mark.parametrize("dimensions", [1, 2, 17, 64])
def test_rotations_are_orthogonal_and_decided_by_seed_and_name(dimensions: int) -> None:
    rotation = random_rotation(5, "itq", dimensions)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(dimensions), atol=1e-12)
    assert np.array_equal(rotation, random_rotation(5, "itq", dimensions))
    if dimensions > 1:
        assert not np.allclose(rotation, random_rotation(6, "itq", dimensions))
        assert not np.allclose(rotation, random_rotation(5, "rabitq", dimensions))


def fast(d: int, width: int, seed: int = 0) -> FastRotation:
    return FastRotation(random_flips(seed, "test", max(d, width)), d, width)


def by_hadamard(rotation: FastRotation) -> NDArray[np.float64]:
    """The matrix by SciPy's Hadamard matrices, in the order that pairs of halves give."""
    size = max(rotation.d, rotation.width)
    block = 1 << (size.bit_length() - 1)
    mixed = hadamard(block) / np.sqrt(block)
    found = np.eye(size)
    signs = 1.0 - 2.0 * np.unpackbits(rotation.flips, axis=1, count=size, bitorder="little")
    for turn, first in zip(signs, (0, size - block, (size - block) // 2, 0), strict=True):
        found = found * turn
        found[:, first : first + block] = found[:, first : first + block] @ mixed
    return found[: rotation.d, : rotation.width] * np.sqrt(size / rotation.width)


SIZES = [(1, 1), (2, 2), (3, 3), (7, 7), (31, 31), (32, 32), (100, 100), (128, 128), (200, 255), (255, 200), (384, 384)]


@pytest.mark.parametrize(("d", "width"), SIZES)
def test_a_fast_rotation_is_its_matrix(d: int, width: int) -> None:
    rotation = fast(d, width)
    matrix = rotation.matrix().astype(np.float64)
    np.testing.assert_allclose(matrix, by_hadamard(rotation), atol=1e-6)
    if width >= d:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(d), atol=1e-6)
    else:
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(width) * d / width, atol=1e-6)
    x = np.random.default_rng(d).standard_normal((64, d)).astype(np.float32)
    exact = x.astype(np.float64) @ matrix
    length = np.sqrt((x.astype(np.float64) ** 2).sum(axis=1))[:, None] * np.sqrt((matrix**2).sum(axis=0))
    assert (abs(rotation.turn(x) - exact) <= rotation.roundings * 2.0**-24 * length).all()
    assert rotation.turn(x[5:6]).tobytes() == rotation.turn(x)[5:6].tobytes()


@pytest.mark.parametrize("size", [255, 256, 257, 384, 511, 768])
def test_a_fast_rotation_mixes_as_a_random_one(size: int) -> None:
    """Fourth moments of what becomes of unit vectors are those of normals: 3, and 1 would be a block by itself."""
    moments = np.array(
        [(fast(size, size, seed).matrix().astype(np.float64) ** 4).sum(axis=1) * size for seed in range(4)]
    )
    assert 2.7 < moments.mean() < 3.3
    assert moments.max() < 8


@given(
    st.integers(0, 99),
    st.sampled_from([(128, 128), (130, 130), (150, 129), (129, 260)]),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=20)
def test_no_bit_depends_on_how_a_rotation_is_computed(
    seed: int, shape: tuple[int, int], planes: int, estimates: bool
) -> None:
    rotation = fast(*shape, seed=seed)
    matrix = rotation.matrix()
    # Whole numbers, so that some products are 0 but for a rounding.
    x = np.random.default_rng(seed).integers(-2, 3, (60, shape[0])).astype(np.float32)
    x[::2] += np.random.default_rng(seed).standard_normal((30, shape[0])).astype(np.float32)
    quick, plain = (made(matrix, shape[0], planes, estimates=estimates, fast=f) for f in (rotation, None))
    for a, b in zip(quick.measure(x), plain.measure(x), strict=True):
        assert a.tobytes() == b.tobytes()


def test_tables_of_versions_before_fast_rotations_are_read() -> None:
    before = samples()[1].table().drop_columns(["flips"])
    assert from_table(before).table().equals(samples()[1].table())


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_the_product_is_the_product_of_matrices(n: int, p: int, d: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Column order, as a slice of a table may have.
    x, matrix = np.asfortranarray(random.standard_normal((n, p))), random.standard_normal((d, p)).T
    np.testing.assert_allclose(product(x, matrix), x @ matrix, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimates", [False, True])
@pytest.mark.parametrize("width", [1, 7, 8, 65])
def test_bits_are_those_of_whole_numbers_where_float32_cannot_tell(width: int, estimates: bool) -> None:
    """Products of whole numbers that float32 rounds by thousands; int64 is the judge."""
    random = np.random.default_rng(width)
    d, n = 48, 300
    matrix = random.integers(-(2**10), 2**10, (d, width)).astype(np.float32)
    x = random.integers(-(2**20), 2**20, (n, d)).astype(np.float32)
    # The last two components bring the sum of column i % width near zero.
    matrix[-1], matrix[-2] = 1, 2**10
    rest = x[:, :-2].astype(np.int64) @ matrix[:-2].astype(np.int64)
    aimed = rest[np.arange(n), np.arange(n) % width]
    x[:, -2] = -(aimed // 2**10)
    x[:, -1] = -(aimed % 2**10) + random.integers(-3, 4, n)
    exact = x.astype(np.int64) @ matrix.astype(np.int64)
    assert (abs(exact) <= 3).sum() >= n
    binarizer = made(matrix, d, estimates=estimates)
    assert np.array_equal(unpack(binarizer.encode(x).codes, width), exact > 0)
    assert np.array_equal(binarizer.project(x), exact.astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 90), st.integers(1, 70), st.integers(1, 40), st.integers(1, 4), st.booleans(), st.integers(0, 9),
    st.data(),
)  # fmt: skip
def test_rows_do_not_depend_on_the_rows_beside_them(
    d: int, width: int, rows: int, planes: int, estimates: bool, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    # Columns that cancel leave nothing but rounding: any other order of adding up shows.
    half = (random.standard_normal((rows, d)) * np.exp(2 * random.standard_normal(d))).astype(np.float32)
    x, part = np.hstack([half, half]), random.standard_normal((d, width))
    x[random.random(x.shape) < 0.01] = np.nan
    x[random.random(rows) < 0.2] = random.standard_normal(2 * d)
    binarizer = made(np.vstack([part, -part]).astype(np.float32), 2 * d, planes, estimates=estimates)
    together, projected = binarizer.encode(x), binarizer.project(x)
    cuts = sorted(data.draw(st.sets(st.integers(0, rows), max_size=4)) | {0, rows})
    parts = [slice(*pair) for pair in itertools.pairwise(cuts)]
    assert np.concatenate([binarizer.project(x[part]) for part in parts]).tobytes() == projected.tobytes()
    for field, whole in zip(zip(*(binarizer.encode(x[part]) for part in parts), strict=True), together, strict=True):
        assert whole is None or np.concatenate(field).tobytes() == whole.tobytes()
    assert (together.norms is None) is not estimates


def recurrence(y: NDArray[np.float64], a: NDArray[np.float64], planes: int) -> NDArray[np.bool_]:
    """The planes' bits by their definition, bool[planes, n, width]."""
    left, found = y.copy(), np.zeros((planes, *y.shape), bool)
    for i in range(planes):
        found[i] = left > 0
        left -= np.where(found[i], 1.0, -1.0) * a[:, None] * 2.0**-i
    return found


@pytest.mark.parametrize(
    ("d", "width", "identity"),
    [(1, 1, True), (24, 24, True), (1, 1, False), (5, 5, False), (24, 24, False), (24, 9, False), (24, 31, False)],
)
@pytest.mark.parametrize("planes", [1, 2, 3, 5, 8])
def test_planes_are_what_the_recurrence_leaves(planes: int, d: int, width: int, identity: bool) -> None:
    random = np.random.default_rng(planes)
    x = random.standard_normal((400, d)).astype(np.float32)
    binarizer = made(None if identity else turned(d, width), d, planes, step=0.83)
    y = x.astype(np.float64) if binarizer.matrix is None else x.astype(np.float64) @ binarizer.matrix
    a = 0.83 * np.sqrt((x.astype(np.float64) ** 2).sum(axis=1) / width)
    bits = recurrence(y, a, planes)
    encoded = binarizer.encode(x)
    size = -(-width // 8)
    for i in range(planes):
        assert np.array_equal(unpack(encoded.codes[:, i * size : (i + 1) * size], width), bits[i])
    v = np.tensordot(2.0 ** -np.arange(planes), np.where(bits, 1.0, -1.0), 1)
    np.testing.assert_allclose(values(encoded.codes, width, binarizer.weights), v)
    # Factors are of the middles of cells of 1/64 of the first plane's, as few products are, or of the last plane's.
    _, (norms, factors) = binarizer.measure(x)
    np.testing.assert_allclose(norms, np.sqrt((x.astype(np.float64) ** 2).sum(axis=1)), rtol=1e-12)
    h = a[:, None] * min(2.0**-6, 2.0 ** (2 - planes))
    middle = (np.ceil(y / h) - 0.5) * h
    square = (middle**2 - h**2 / 12).sum(axis=1)
    np.testing.assert_allclose(factors, square / (middle * v).sum(axis=1), rtol=1e-5)
    if d == width == 24:
        ratio = factors * (y * v).sum(axis=1) / (y**2).sum(axis=1)
        assert abs(ratio.mean() - 1) < 1e-3
        assert ratio.std() < 3e-3


def test_what_is_not_finite_counts_as_the_shift() -> None:
    shift = np.linspace(-1, 1, 16).astype(np.float32)
    binarizer = made(turned(16, 16), 16, 2, shift=shift)
    x = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    hole = np.random.default_rng(1).random(x.shape) < 0.3
    plain = np.where(hole, shift, x).astype(np.float32)
    for worst in (np.nan, np.inf, -np.inf):
        broken = np.where(hole, np.float32(worst), x).astype(np.float32)
        for found, expected in zip(binarizer.encode(broken), binarizer.encode(plain), strict=True):
            assert np.array_equal(np.asarray(found), np.asarray(expected))
        assert np.array_equal(binarizer.project(broken), binarizer.project(plain))
    nothing = binarizer.encode(np.full((1, 16), np.nan, np.float32))
    assert [part.sum() for part in nothing if part is not None] == [0, 0, 0]


@pytest.mark.parametrize("power", [-140, -100, -60, 40, 100, 120])
def test_bits_do_not_change_with_the_unit(power: int) -> None:
    """Products of extreme rows would underflow or overflow in float32."""
    random = np.random.default_rng(4)
    x = random.integers(-64, 65, (80, 20)).astype(np.float32)
    binarizer = made(turned(20, 33), 20, 2)
    scaled = np.ldexp(x, power).astype(np.float32)
    assert np.isfinite(scaled).all()
    assert np.array_equal(binarizer.encode(scaled).codes, binarizer.encode(x).codes)
    (_, before), (_, after) = binarizer.measure(x), binarizer.measure(scaled)
    np.testing.assert_allclose(after, np.ldexp(before, power), rtol=1e-12)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30),
    st.floats(1e-3, 10),
    st.floats(1.001, 1e6),
)
def test_numbers_are_of_the_nearest_ratio(x: list[float], low: float, times: float) -> None:
    table = np.concatenate([[0.0], np.geomspace(low, low * times, 255)]).astype(np.float32)
    found = number(np.array([*x, 0.0]), table)
    assert found[-1] == 0
    ratios = abs(np.log(np.array(x)[:, None] / table[1:].astype(np.float64)))
    assert (found[:-1] >= 1).all()
    np.testing.assert_allclose(ratios[np.arange(len(x)), found[:-1].astype(int) - 1], ratios.min(axis=1), atol=1e-9)


def samples() -> list[Binarizer]:
    random = np.random.default_rng(3)
    lift = Lift(random.standard_normal((6, 3)).astype(np.float32), 0.25)
    return [
        made(None, 5, shift=np.arange(5, dtype=np.float32)),
        made(turned(12, 31), 12, 3, step=0.7, gain=1.5),
        made(turned(6, 4), 6, estimates=False),
        made(fast(12, 31).matrix(), 12, 3, fast=fast(12, 31)),
        Binarizer("kernel", "random", 3, 4, 1, False, np.ones(6, np.float32), turned(6, 4), TABLES, lift=lift),
    ]


@pytest.mark.parametrize("binarizer", samples(), ids=lambda b: f"{b.method}-{b.dimensions}-{b.width}")
def test_what_is_loaded_encodes_as_what_was_saved(binarizer: Binarizer, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, binarizer.dimensions)).astype(np.float32)
    path = tmp_path / "binarizer.parquet"
    binarizer.save(path)
    again = load(path)
    for a, b in zip(binarizer.encode(x), again.encode(x), strict=True):
        assert a is b is None or (a is not None and b is not None and a.tobytes() == b.tobytes())
    assert again.project(x).tobytes() == binarizer.project(x).tobytes()
    assert again.table().equals(binarizer.table())
    before = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == before


def test_one_of_several_is_found_by_its_method(tmp_path: Path) -> None:
    path = tmp_path / "several.parquet"
    first, last = samples()[0], samples()[-1]
    pq.write_table(pa.concat_tables([first.table(), last.table()]), path)
    assert load(path, "kernel").table().equals(last.table())
    for wrong in (None, "itq"):
        with pytest.raises(DatasetError, match="instead of one"):
            load(path, wrong)


DAMAGE: list[tuple[str, Any]] = [
    ("method", "magic"),
    ("dimensions", 0),
    ("dimensions", 13),
    ("width", 30),
    ("width", -1),
    ("planes", 0),
    ("planes", 9),
    ("step", float("nan")),
    ("step", 0.0),
    ("gain", float("inf")),
    ("shift", [0.0] * 11),
    ("shift", [float("nan")] * 12),
    ("matrix", None),
    ("matrix", [1.0] * 7),
    ("matrix", [float("inf")] * 12 * 31),
    ("norms", [1.0] * 256),
    ("factors", [0.0] * 256),
    ("flips", b"1234567"),
    ("flips", b"\0" * 4 * ROUNDS),
    ("anchors", [1.0] * 5),
    ("anchors", [1.0] * 12 * 12),
]


@pytest.mark.parametrize(("name", "value"), DAMAGE)
def test_a_damaged_table_is_refused(name: str, value: Any) -> None:
    row = samples()[1].table().to_pylist()[0] | {name: value}
    with pytest.raises(DatasetError, match="not a fitted binarizer"):
        from_table(pa.Table.from_pylist([row], BINARIZERS))


@pytest.mark.parametrize(("column", "replacement"), [("shift", None), ("step", None), ("norms", None)])
def test_a_table_of_another_schema_is_refused(column: str, replacement: Any) -> None:
    table = samples()[1].table()
    place = table.schema.names.index(column)
    emptied = table.set_column(place, column, pa.nulls(1))
    for wrong in (table.drop_columns([column]), emptied, table.slice(0, 0), pa.table({"a": [1]})):
        with pytest.raises(DatasetError, match="not a fitted binarizer"):
            from_table(wrong)


@given(st.binary(max_size=64))
def test_a_file_of_other_bytes_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("damaged") / "binarizer.parquet"
    path.write_bytes(content)
    with pytest.raises(DatasetError):
        load(path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binarizer.parquet"
    samples()[1].save(path)
    whole = path.read_bytes()
    for size in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DatasetError):
            load(path)
    with pytest.raises(DatasetError):
        load(tmp_path / "missing.parquet")


@pytest.mark.parametrize("shape", [(3, 4), (3,), (3, 5, 1)])
def test_vectors_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="5 components"):
        samples()[0].encode(np.zeros(shape, np.float32))


def test_norms_are_lengthened_by_the_gain() -> None:
    x = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    plain, longer = made(turned(12, 31), 12), made(turned(12, 31), 12, gain=1.5)
    np.testing.assert_allclose(longer.measure(x)[1][0], 1.5 * plain.measure(x)[1][0], rtol=1e-12)


def test_sizes_are_those_of_codes() -> None:
    binarizer = samples()[1]
    assert (binarizer.bits, binarizer.bytes, binarizer.stored) == (93, 12, 14)
    assert binarizer.weights.tolist() == [1, 0.5, 0.25]
    assert binarizer.encode(np.zeros((0, 12), np.float32)).codes.shape == (0, 12)
    assert samples()[2].stored == 1
