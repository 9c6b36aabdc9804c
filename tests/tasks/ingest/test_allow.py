"""Licences against an allow list; a dataset without what its recipe does not allow."""

import hashlib
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.search import neighbours
from schemas.errors import RecipeError, ToleranceError
from schemas.recipe import Licences
from tasks.ingest.allow import permitted
from tasks.query.dataset import open_dataset
from tasks.query.sql import query
from tasks.query.verify import verify
from tests.conftest import Mill, recipe_of


@pytest.mark.parametrize(
    ("expression", "allow", "expected"),
    [
        ("MIT", ["MIT"], True),
        ("mit", ["MIT"], True),
        ("MIT", ["mit"], True),
        ("GPL-3.0-only", ["MIT"], False),
        ("MIT OR GPL-3.0-only", ["MIT"], True),
        ("MIT AND GPL-3.0-only", ["MIT"], False),
        ("MIT AND GPL-3.0-only", ["MIT", "GPL-3.0-only"], True),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", ["MIT", "Apache-2.0"], True),
        ("(MIT AND GPL-3.0-only) OR Apache-2.0", ["MIT"], False),
        ("GPL-3.0-only WITH GCC-exception-3.1", ["GPL-3.0-only"], True),
        ("GPL-3.0-only WITH GCC-exception-3.1", ["GPL-3.0-only WITH GCC-exception-3.1"], True),
        ("GPL-3.0-only", ["GPL-3.0-only WITH GCC-exception-3.1"], False),
        ("GPL-2.0-only WITH GCC-exception-3.1", ["GPL-3.0-only"], False),
        ("GPL-3.0-or-later", ["GPL-3.0-only"], False),
        ("LicenseRef-own", ["MIT"], False),
        ("LicenseRef-own OR MIT", ["MIT"], True),
        ("LicenseRef-own", ["LicenseRef-own"], True),
        ("(MIT AND " * 2000 + "MIT" + ")" * 2000, ["MIT"], False),
        ("MIT OR", ["MIT"], False),
        ("", ["MIT"], False),
    ],
)
def test_expressions(expression: str, allow: list[str], expected: bool) -> None:
    assert permitted(expression, allow) is expected


names = st.sampled_from(["MIT", "Apache-2.0", "BSD-3-Clause", "GPL-3.0-only", "Zlib"])
trees = st.recursive(names, lambda t: st.tuples(t, st.sampled_from(["AND", "OR"]), t), max_leaves=8)


@given(tree=trees, allow=st.sets(names))
def test_any_expression_is_its_truth_table(tree: object, allow: set[str]) -> None:
    def text(t: object) -> str:
        return t if isinstance(t, str) else f"({text(t[0])} {t[1]} {text(t[2])})"  # type: ignore[index]

    def truth(t: object) -> bool:
        if isinstance(t, str):
            return t in allow
        left, operator, right = t  # type: ignore[misc]
        return truth(left) and truth(right) if operator == "AND" else truth(left) or truth(right)

    assert permitted(text(tree), sorted(allow)) is truth(tree)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (" mit ", "MIT"),
        ("GPL-3.0", "GPL-3.0-only"),
        ("gpl-2.0+", "GPL-2.0-or-later"),
        ("gpl-3.0-only  with GCC-EXCEPTION-3.1", "GPL-3.0-only WITH GCC-exception-3.1"),
        ("GPL-2.0-with-GCC-exception", "GPL-2.0-with-GCC-exception"),
        ("LicenseRef-own.1", "LicenseRef-own.1"),
    ],
)
def test_an_allowed_identifier_is_spelled_as_spdx_does(written: str, meant: str) -> None:
    assert Licences(allow=(written,)).allow == (meant,)
    assert permitted(meant, [meant])
    assert Licences(allow=(written, meant)).allow == (meant,)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "BSD",
        "MIT OR Apache-2.0",
        "Classpath-exception-2.0",
        "MIT WITH Apache-2.0",
        "MIT WITH LLVM-exception WITH",
    ],
)
def test_what_is_no_identifier_is_refused(written: str) -> None:
    with pytest.raises(ValidationError, match="is not an SPDX"):
        Licences(allow=(written,))


def test_a_corpus_with_nothing_allowed_says_so(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    with pytest.raises(ToleranceError, match=r"keeps every source out: 1 x licence unknown"):
        mill(recipe_of(corpus, licences={"allow": ["MIT"]}), tmp_path)


def test_an_unknown_identifier_is_refused_with_the_nearest(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'Apache-2\.0'"):
        mill(recipe_of(corpus, licences={"allow": ["Apache2.0"]}), tmp_path)


def test_a_dataset_without_what_is_not_allowed(corpus: Path, mill: Mill, tmp_path: Path) -> None:
    files = sorted(path for path in corpus.rglob("*.so"))
    shared = files[0]

    def packed(name: str, some: list[Path]) -> str:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in some:
                archive.write(path, path.relative_to(corpus).as_posix())
            if name == "gpl.zip":
                archive.writestr("../escape.so", b"refused, but not a failure of a dataset that leaves it out")
        return (tmp_path / name).as_uri()

    sources = [
        {
            "kind": "http",
            "files": [
                {"url": packed("gpl.zip", [shared, *files[1:9]]), "licence": "GPL-3.0-only"},
                {"url": packed("mit.zip", [shared, *files[9:]]), "licence": "MIT OR GPL-3.0-only"},
                {"url": packed("nothing-said.zip", files[1:4])},
            ],
            "members": {"include": ["*.so"]},
        }
    ]
    recipe = recipe_of(corpus, sources=sources, licences={"allow": ["MIT"]})
    mill(recipe, tmp_path / "dataset")
    dataset = open_dataset(tmp_path / "dataset")

    def answer(sql: str) -> list[tuple[object, ...]]:
        return [tuple(row.values()) for row in query(dataset, sql).to_pylist()]

    assert answer("SELECT filename, status, reason FROM sources ORDER BY 1") == [
        ("gpl.zip", "excluded", "licence not allowed: GPL-3.0-only"),
        ("mit.zip", "ok", None),
        ("nothing-said.zip", "excluded", "licence unknown"),
    ]
    assert answer("SELECT status FROM observations WHERE path_in_source LIKE '%escape.so'") == [("refused",)]
    assert [finding for _, findings in verify(dataset) for finding in findings] == []
    # A file of both is the allowed source's.
    places = {row["sample_id"]: row["found_in"] for row in neighbours(dataset, str(shared), 200).to_pylist()}
    assert places[hashlib.sha256(shared.read_bytes()).hexdigest()].startswith("mit.zip/")
    assert all(place.startswith("mit.zip/") for place in places.values())
    for table, key in (
        ("binaries", "sha256"),
        ("features", "sample_id"),
        ("labels", "sample_id"),
        ("codes", "sample_id"),
    ):
        rows = answer(
            f"SELECT count(*) FROM {table} t WHERE {key} NOT IN (SELECT sha256 FROM observations "
            "JOIN sources USING (source_id) WHERE filename = 'mit.zip')"
        )
        assert rows == [(0,)], table
    assert answer("SELECT count(*) FROM binaries") == [(len(files) - 8,)]
    assert dataset.manifest.summary["excluded"] == [
        {"reason": "licence not allowed: GPL-3.0-only", "sources": 1, "files": 8},
        {"reason": "licence unknown", "sources": 1, "files": 3},
    ]
    assert dataset.manifest.summary["failed"] == 0
    assert dataset.manifest.summary["inputs"] == len(files) - 8
    assert "licence not allowed: GPL-3.0-only" in (tmp_path / "dataset" / "README.md").read_text()
    kept = mill(recipe | {"licences": {"allow": ["MIT"], "unknown": "keep"}}, tmp_path / "dataset")
    assert {e["reason"] for e in kept.summary["excluded"]} == {"licence not allowed: GPL-3.0-only"}
