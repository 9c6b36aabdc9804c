"""TLSH against the reference library's digests; MinHash against the exact Jaccard index."""

import base64
import hashlib
import importlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.extract.similarity import (
    FEWEST_TOKENS,
    PERMUTATIONS,
    as_text,
    is_signature,
    is_tlsh,
    minhash,
    string_keys,
    tlsh,
    token_keys,
)


def array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def noise(seed: int, length: int) -> bytes:
    return hashlib.shake_128(str(seed).encode()).digest(length)


KNOWN = {
    (0, 49): None,
    (0, 50): "T18E90028117B0912A5B959D056F2498C40A2605310941059154806675412246B7B2F861",
    (0, 51): "T1EC90028117B0912A5B959D056F2498C40A2605310941069154846675412246BBB2F861",
    (1, 60): "T1AAA0024B3004A3918215965C0C22A540B9587D665752641C22DF4D1B7885CD4818E068",
    (1, 656): "T1CAF0238335518DEF9348A91FA934EAC5E419ED2348413A5D38EFE909E274985847D688",
    (1, 657): "T14101838335928DEF8348A80FA934EAC5E419ED2308413A1C38EFE808E234880803D688",
    (2, 3199): "T122616D9435D2841A9E8BE08C244D991F6F7B4310C5D209EE5147E20BFA78B1FECBD128",
    (2, 3200): "T1D4616D9435D2841A9E8BE08C244D991F6F7B4310C5D209EE5147E20BFA78B1FECBD128",
    (3, 100_003): "T132A30253C9F394FBA7F2285530D3A60602B99E761074D6E8118B05223B07F96EF4E95F",
}
"""Digests by py-tlsh 5.0.0 of `noise(seed, length)`."""

SQUARES = b" ".join(b"%d" % (i * i) for i in range(400))
SQUARES_TLSH = "T1F44103FED85C51EA271FF584ABC12CB7C25B0A2759194CD1D198EDA43889578CF4BC4C"


@pytest.mark.parametrize(("of", "digest"), KNOWN.items())
def test_tlsh_of_noise_is_the_reference_librarys(of: tuple[int, int], digest: str | None) -> None:
    assert tlsh(array(noise(*of))) == digest


def test_tlsh_of_text_is_the_reference_librarys() -> None:
    assert tlsh(array(SQUARES)) == SQUARES_TLSH


@pytest.mark.parametrize("data", [b"", b"abc", bytes(10_000), b"ab" * 5_000, bytes(range(20)) * 30])
def test_what_varies_too_little_has_no_tlsh(data: bytes) -> None:
    assert tlsh(array(data)) is None


@given(st.one_of(st.binary(max_size=900), st.text("abcdefghij", max_size=900).map(str.encode)), st.integers(1, 5))
def test_tlsh_equals_the_reference_library_where_it_is_installed(data: bytes, times: int) -> None:
    library: Any = pytest.importorskip("tlsh")
    theirs = library.hash(data * times)
    assert tlsh(array(data * times)) == (None if theirs == "TNULL" else theirs)


def test_length_codes_equal_the_reference_librarys_at_every_step() -> None:
    """Where the code changes, up to 16 MiB; bytes repeat so that the digests are quick to check."""
    library: Any = pytest.importorskip("tlsh")
    similarity: Any = importlib.import_module("tasks.extract.similarity")
    code = similarity._length_code
    steps = [n for n in range(51, 40_000) if code(n) != code(n - 1)]
    far = [int(40_000 * 1.1**k) for k in range(64)]
    pool = noise(5, 1 << 16) * 260
    for n in [*steps, *(n - 1 for n in steps), *far]:
        assert tlsh(array(pool[:n])) == library.hash(pool[:n])


@given(st.lists(st.one_of(st.binary(max_size=12), st.text("ab\t~ ", max_size=9).map(str.encode)), max_size=40))
def test_strings_are_the_distinct_printable_runs(parts: list[bytes]) -> None:
    data = b"\0".join(parts)
    expected = {text.decode() for text in re.findall(rb"[\t\x20-\x7e]{6,}", data)}
    assert set(string_keys(array(data)).tolist()) == set(token_keys(expected).tolist())
    assert len(string_keys(array(data))) == len(expected)


def test_too_many_strings_are_sampled_alike_in_two_files() -> None:
    def file(numbers: Sequence[int]) -> NDArray[np.uint8]:
        return array(b"\0".join(b"string %d" % i for i in numbers))

    every = set(string_keys(file(range(3_000)), 10_000).tolist())
    some = set(string_keys(file(range(3_000)), 1_000).tolist())
    assert 300 < len(some) <= 1_000
    assert some == {key for key in every if key <= max(some)}
    assert set(string_keys(file(range(2_999, -1, -1)), 1_000).tolist()) == some


def test_tokens_that_are_not_text_have_keys() -> None:
    keys = token_keys(["kernel32.dll:Sleep", "", "\udcff", "ä", "ä"])
    assert len(set(keys.tolist())) == len(keys) == 4


def test_a_small_set_has_no_signature() -> None:
    tokens = [f"t{i}" for i in range(FEWEST_TOKENS)]
    assert minhash(token_keys(tokens[1:])) is None
    assert minhash(token_keys(tokens)) is not None


@given(st.permutations(list(range(40))))
def test_a_signature_is_of_the_set(order: list[int]) -> None:
    straight, mixed = (minhash(token_keys(f"t{i}" for i in numbers)) for numbers in (range(40), order * 2))
    np.testing.assert_array_equal(straight, mixed)


@pytest.mark.parametrize("jaccard", [0.1, 0.5, 0.7, 0.9, 0.98])
def test_the_estimate_keeps_to_the_binomial_law(jaccard: float) -> None:
    """Equal places are binomial with the exact index: the mean within 4 standard errors, the variance near."""
    size, trials = 300, 400
    shared = round(2 * size * jaccard / (1 + jaccard))
    exact = shared / (2 * size - shared)
    found: list[int] = []
    for trial in range(trials):
        own = [[f"{trial} {side} {i}" for i in range(size - shared)] for side in "ab"]
        both = [f"{trial} {i}" for i in range(shared)]
        a, b = (minhash(token_keys(both + tokens)) for tokens in own)
        found.append(int((np.asarray(a) == np.asarray(b)).sum()))
    deviation = math.sqrt(exact * (1 - exact) * PERMUTATIONS)
    assert abs(np.mean(found) - exact * PERMUTATIONS) < 4 * deviation / math.sqrt(trials)
    assert 0.75 < np.std(found) / deviation < 1.25


@given(st.none() | st.booleans() | st.text(max_size=4) | st.integers() | st.binary(max_size=600).map(base64.b64encode))
def test_only_what_we_could_have_made_is_taken_for_a_digest_or_signature(value: object) -> None:
    assert not is_signature(value) or value is None
    assert not is_tlsh(value) or value is None
    made = as_text(minhash(token_keys(f"t{i}" for i in range(20))))
    assert made is not None
    assert is_signature(made)
    assert not is_signature(made[:-4])
    assert not is_signature(made[:5] + "*" + made[6:])
    assert is_tlsh(SQUARES_TLSH)
    assert not is_tlsh(SQUARES_TLSH.lower())
