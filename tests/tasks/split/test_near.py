"""Near pairs: none missed, none twice, each at the distance that others measure."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.split import near
from tasks.split.near import Pairs, different_places, digests, minhash_pairs, packed, tlsh_pairs

KNOWN = (
    "T1FF817D004A719D286364568D422A7C2C56D6CCE77270A0213169EBED6FC8F0E04FB7B3",
    "T16C817D004A729D186364568D462A7C2D42D6DCE77270A0222169EBED6FC8F4E05BB773",
    "T114817D104A61AD68739496CD4227786883D3DCE7766094213268EBED5BCCF4E00BB773",
    "T12D816E1689B0F9DD33C48A8C872B78A9479768D63910D03121EE67CB968CB4A16B3173",
    "T195818D865870F4CFA4DAB8DF87755CE4DF4394680923506532BD6503449FFC897AE4AC",
    "T1BB512A100222D92CA67525CA052B687DA1E5ECE771A060252138E7E87FC8B5E04FF673",
    "T1AD819E104A719D286368568C412B7C3D56D7DCE7716050222168EBED2FC8F0E01FB7B3",
    "T12D02AF1659868C1C31852B4D453AB83C41DAA4D7365494101362EBDC6FCD7768AB7EB3",
    "T1F44103FED85C51EA271FF584ABC12CB7C25B0A2759194CD1D198EDA43889578CF4BC4C",
)
DISTANCES = [
    [0, 14, 35, 97, 203, 166, 33, 222, 422],
    [14, 0, 36, 90, 201, 163, 36, 215, 411],
    [35, 36, 0, 80, 185, 174, 51, 219, 408],
    [97, 90, 80, 0, 160, 232, 116, 250, 372],
    [203, 201, 185, 160, 0, 321, 207, 337, 382],
    [166, 163, 174, 232, 321, 0, 199, 362, 316],
    [33, 36, 51, 116, 207, 199, 0, 191, 395],
    [222, 215, 219, 250, 337, 362, 191, 0, 447],
    [422, 411, 408, 372, 382, 316, 395, 447, 0],
]
"""Distances of the known digests by py-tlsh 5.0.0."""


def plain_distance(x: str, y: str) -> int:
    """TLSH's distance digit by digit, as it is defined."""

    def ring(a: int, b: int, size: int) -> int:
        return min((a - b) % size, (b - a) % size)

    a, b = [[int(digit, 16) for digit in text[2:]] for text in (x, y)]
    length = ring(a[2] + 16 * a[3], b[2] + 16 * b[3], 256)
    total = int(a[:2] != b[:2]) + (length if length <= 1 else 12 * length)
    for place in (4, 5):
        ratio = ring(a[place], b[place], 16)
        total += ratio if ratio <= 1 else 12 * (ratio - 1)
    for p, q in zip(a[6:], b[6:], strict=True):
        total += sum((0, 1, 2, 6)[abs((p >> s) % 4 - (q >> s) % 4)] for s in (0, 2))
    return total


def listed(blocks: Iterable[Pairs]) -> list[tuple[int, int, int]]:
    return sorted(
        (min(a, b), max(a, b), d)
        for block in blocks
        for a, b, d in zip(block.a.tolist(), block.b.tolist(), block.distance.tolist(), strict=True)
    )


def test_distances_are_the_reference_librarys() -> None:
    pairs = [(i, j) for i in range(len(KNOWN)) for j in range(i + 1, len(KNOWN))]
    expected = [(i, j, DISTANCES[i][j]) for i, j in pairs]
    assert listed(tlsh_pairs(digests(packed(KNOWN)), 1000)) == expected
    assert [(i, j, plain_distance(KNOWN[i], KNOWN[j])) for i, j in pairs] == expected
    for limit in (13, 14, 35, 36, 166):
        assert listed(tlsh_pairs(digests(packed(KNOWN)), limit)) == [e for e in expected if e[2] <= limit]


DIGITS = st.text("0123456789ABCDEF", min_size=70, max_size=70)


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Digests some of which are changed a little from another one."""
    found = [draw(DIGITS)]
    for _ in range(draw(st.integers(1, 20))):
        text = list(draw(st.sampled_from(found)))
        for _ in range(draw(st.integers(0, 6))):
            text[draw(st.integers(0, 69))] = draw(st.sampled_from("0123456789ABCDEF"))
        found.append("".join(text))
    return [f"T1{text}" for text in dict.fromkeys(found)]


@given(families(), st.integers(0, 120))
def test_no_tlsh_pair_is_missed(texts: list[str], limit: int) -> None:
    n = len(texts)
    every = [(i, j, plain_distance(texts[i], texts[j])) for i in range(n) for j in range(i + 1, n)]
    assert listed(tlsh_pairs(digests(packed(texts)), limit)) == [e for e in every if e[2] <= limit]


@given(families())
def test_the_plain_distance_is_the_reference_librarys_where_it_is_installed(texts: list[str]) -> None:
    library: Any = pytest.importorskip("tlsh")
    for text in texts:
        assert plain_distance(texts[0], text) == library.diff(texts[0], text)


def signatures(rng: np.random.Generator, count: int, places: int) -> NDArray[np.uint32]:
    """Families of signatures: each row is an earlier one with some places drawn anew."""
    found = rng.integers(0, 2**32, (count, places), dtype=np.uint32)
    for i in range(1, count):
        if rng.random() < 0.8:
            kept = rng.random(places) < rng.choice([0.5, 0.8, 0.9, 0.97])
            found[i, kept] = found[rng.integers(0, i), kept]
    return found


@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([1.0, 0.97, 0.9, 0.8, 0.7, 0.5]))
def test_no_minhash_pair_is_missed(seed: int, count: int, jaccard: float) -> None:
    rng = np.random.default_rng(seed)
    found = signatures(rng, count + 5, 128)
    rows = np.sort(rng.permutation(count + 5)[:count]).astype(np.int32)
    limit = different_places(jaccard, 128)
    apart = (found[rows][:, None] != found[rows][None]).sum(axis=2)
    expected = [(i, j, int(apart[i, j])) for i in range(count) for j in range(i + 1, count) if apart[i, j] <= limit]
    assert listed(minhash_pairs(found, rows, limit)) == expected


def test_blocks_are_cut_without_losing_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    found, rows = signatures(rng, 300, 128), np.arange(300, dtype=np.int32)
    texts = [f"T1{KNOWN[0][2:8]}{bytes(row).hex().upper()}" for row in rng.integers(0, 256, (300, 32), dtype=np.uint8)]
    whole = listed(minhash_pairs(found, rows, 38)), listed(tlsh_pairs(digests(packed(texts)), 200))
    monkeypatch.setattr(near, "BLOCK", 7)
    blocks = list(minhash_pairs(found, rows, 38)), list(tlsh_pairs(digests(packed(texts)), 200))
    assert (listed(blocks[0]), listed(blocks[1])) == whole
    assert all(len(part) > 10 for part in (whole[0], whole[1], blocks[0]))
    assert max(len(block.a) for part in blocks for block in part) <= 307


def test_places_that_may_differ() -> None:
    assert [different_places(j, 128) for j in (1.0, 0.9, 0.8, 0.75, 0.7, 0.5)] == [0, 12, 25, 32, 38, 64]
