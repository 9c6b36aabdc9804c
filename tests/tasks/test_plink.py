"""PLINK .bed: what bed-reader wrote is read, and a file made by hand from the published format."""

import sys
from pathlib import Path

import numpy as np
import pytest
from bed_reader import to_bed
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecipeError, SourceError
from tasks.blocks import blocks, outcome_of, ranges
from tasks.columns import features_of
from tasks.tabular import open_table

PEOPLE, VARIANTS = 41, 29


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    dosage = np.random.default_rng(0).integers(0, 4, (PEOPLE, VARIANTS)).astype(np.float32)
    dosage[dosage == 3] = np.nan
    path = tmp_path_factory.mktemp("bed") / "cohort.bed"
    ids = [f"rs{i}" for i in range(VARIANTS - 2)] + ["rs3", "."]
    pheno = [f"{i / 4}" for i in range(PEOPLE - 1)] + ["-9"]
    to_bed(path, dosage, properties={"sid": ids, "pheno": pheno, "sex": [i % 3 for i in range(PEOPLE)]})
    return path, dosage


@given(st.data())
def test_any_variants_of_any_people(bed: tuple[Path, np.ndarray], data: st.DataObject) -> None:
    path, dosage = bed
    table = open_table(path)
    features, apart = features_of(table, "phenotype")
    assert set(apart) == {"sex"}
    assert [f.name for f in features[-3:]] == ["rs26", "rs3#2", "."]
    places = data.draw(st.lists(st.integers(0, VARIANTS - 1), min_size=1, unique=True))
    start, stop = sorted((data.draw(st.integers(0, PEOPLE)), data.draw(st.integers(0, PEOPLE))))
    some = [features[i] for i in places]
    found = list(blocks(table, some, start, stop, data.draw(st.sampled_from([4, 7, 100]))))
    assert [b.first for b in found] == [start + sum(c.values.shape[1] for c in found[:i]) for i in range(len(found))]
    values = np.concatenate([np.empty((len(some), 0)), *(b.values for b in found)], axis=1)
    assert np.array_equal(values, dosage[start:stop, places].T, equal_nan=True)


def test_outcomes_of_the_fam(bed: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    table = open_table(bed[0])
    assert outcome_of(table, "phenotype", 2, PEOPLE).to_pylist() == [i / 4 for i in range(2, PEOPLE - 1)] + [None]
    assert outcome_of(table, "sex", 0, 5).to_pylist() == [None, 1, 2, None, 1]
    assert outcome_of(table, "rs4", 0, 5).to_pylist() == [None if np.isnan(v) else v for v in bed[1][:5, 4]]
    with pytest.raises(RecipeError, match="no column 'height'"):
        outcome_of(table, "height", 0, 1)
    for codes, wanted in ((["0", "1", "2", "-9"], [None, 1, 2, None]), (["0", "1", "3", "NA"], [0, 1, 3, None])):
        path = tmp_path / "c.bed"
        to_bed(path, np.zeros((4, 1)), properties={"pheno": codes})
        assert outcome_of(open_table(path), "phenotype", 0, 4).to_pylist() == wanted


def by_hand(folder: Path) -> Path:
    """Three people and three variants. Two bits a person from the lowest up: 00 two copies of allele 1, 01 missing,
    10 one, 11 none (PLINK 1.9 file formats, .bed); a variant fills whole bytes."""
    path = folder / "hand.bed"
    path.write_bytes(bytes([0x6C, 0x1B, 0x01, 0b00_11_10_00, 0b00_00_01_11, 0b00_10_10_10]))
    (folder / "hand.fam").write_text("f a 0 0 1 1\nf b 0 0 2 2\nf c 0 0 0 0\n")
    (folder / "hand.bim").write_text("1 v0 0 1 A C\n1 v1 0 2 A C\n1 v2 0 3 A C\n")
    return path


def test_a_file_made_by_hand(tmp_path: Path) -> None:
    table = open_table(by_hand(tmp_path))
    features, _ = features_of(table, "phenotype")
    (block,) = blocks(table, features, 0, 3)
    assert np.array_equal(block.values, [[2, 1, 0], [0, np.nan, 2], [1, 1, 1]], equal_nan=True)
    assert [v.tolist() for v in ranges(table, features, 0, 3)] == [[0, 0, 1], [2, 2, 1]]
    assert outcome_of(table, "phenotype", 0, 3).to_pylist() == [1, 2, None]


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = by_hand(tmp_path)
    whole, fam = path.read_bytes(), (tmp_path / "hand.fam").read_text()
    for data, message in (
        (whole[:-1], r"5 bytes, where 3 variants in the \.bim and 3 people in the \.fam make 6"),
        (whole + b"\0", "7 bytes"),
        (b"\x6c\x1c\x01" + whole[3:], "first bytes are 6c 1c 01"),
        (b"", "first bytes are"),
        (b"\x6c\x1b\x00" + whole[3:], "by person"),
    ):
        path.write_bytes(data)
        with pytest.raises(SourceError, match=message):
            open_table(path)
    path.write_bytes(whole)
    (tmp_path / "hand.fam").write_text(fam * 2)
    with pytest.raises(SourceError, match="6 people"):
        open_table(path)
    (tmp_path / "hand.fam").write_text(fam.replace(" 2\n", "\n"))
    with pytest.raises(SourceError, match="person 2 has 5 fields, not 6"):
        open_table(path)
    (tmp_path / "hand.fam").unlink()
    with pytest.raises(SourceError, match=r"needs its \.bim and \.fam beside it"):
        open_table(path)


def test_without_the_library_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_table(by_hand(tmp_path))
    monkeypatch.setitem(sys.modules, "bed_reader", None)
    with pytest.raises(SourceError, match=r"binmill\[plink\]"):
        list(blocks(table, features_of(table, "phenotype")[0], 0, 3))
