"""The journal against a plain dict: whatever is added, forgotten, torn or opened anew."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import LockedError
from tasks.items import Receipt
from tasks.journal import Journal
from tasks.shards import Shard


def receipt(key: str, number: int) -> Receipt:
    shard = Shard(f"tables/a/part-{key}.parquet", "0" * 64, number, number)
    return Receipt("stage", "step", key, (shard,), {"title": "über\u2028\n", "number": number}, 0.5)


KEYS = st.sampled_from("abcde")
ACTS = st.one_of(
    st.tuples(st.just("add"), KEYS, st.integers(0, 9)),
    st.tuples(st.just("keep"), st.sets(KEYS)),
    st.tuples(st.sampled_from(["again", "tear"])),
)


@given(st.lists(ACTS, max_size=20))
def test_what_is_read_is_what_was_added(acts: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root, model = Path(name), dict[str, Receipt]()
        journal = Journal(root, write=True)
        for act in acts:
            match act:
                case ("add", str(key), int(number)):
                    model[key] = receipt(key, number)
                    journal.add(model[key])
                case ("keep", set(keys)):
                    journal.keep_only({str(key) for key in keys})
                    model = {key: value for key, value in model.items() if key in keys}
                case _:
                    journal.close()
                    if act == ("tear",):  # a kill in the middle of a line
                        with journal.path.open("ab") as file:
                            file.write(b'{"stage": "stage", "ste')
                    journal = Journal(root, write=True)
            with Journal(root, write=False) as looking:
                for one in (journal, looking):
                    assert {found.key: found for found in one.receipts()} == model
                    assert all(one.get(key) == model.get(key) for key in "abcde")
        journal.close()


def test_receipts_are_read_in_the_order_of_the_plan_and_sliced(tmp_path: Path) -> None:
    with Journal(tmp_path, write=True) as journal:
        for number, key in enumerate("abc"):
            journal.add(receipt(key, number))
        journal.add_passing(receipt("d", 3))
        found = journal.of(["c", "d", "a", "c"])
        assert [r.key for r in found] == ["c", "d", "a", "c"]
        assert len(found) == 4
        assert found[-1] == receipt("c", 2)
        assert [r.key for r in found[1:3]] == ["d", "a"]
        assert journal.get("d") is None  # it is to be done again
        with pytest.raises(KeyError):
            journal.of(["e"])[0]
        with pytest.raises(LockedError, match="another run"):
            Journal(tmp_path, write=True)
    with Journal(tmp_path, write=True) as again:
        assert [r.key for r in again.receipts()] == ["a", "b", "c"]


def test_who_looks_goes_on_with_what_was_there(tmp_path: Path) -> None:
    """A run replaces the file meanwhile; places in it are others then."""
    with Journal(tmp_path, write=True) as journal:
        for number, key in enumerate("abcd"):
            journal.add(receipt(key, number))
        with Journal(tmp_path, write=False) as looking:
            journal.keep_only({"d"})
            assert [r.key for r in looking.receipts()] == list("abcd")
    lines = (tmp_path / ".binmill/journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["d"]
