"""The journal: receipts of finished items, appended as they come, so that a killed run goes on."""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

from schemas.errors import LockedError
from tasks.items import Receipt
from tasks.shards import STATE, replace_atomically, writing


class Receipts(Sequence[Receipt]):
    """Receipts of a step, in the order of its plan; each is read when it is looked at.

    Parameters
    ----------
    read
        The receipt of a key.
    keys
        Of the items.
    """

    def __init__(self, read: Callable[[str], Receipt], keys: Sequence[str]) -> None:
        self._read, self.keys = read, keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> "Receipts": ...
    def __getitem__(self, index: int | slice) -> "Receipt | Receipts":
        if isinstance(index, slice):
            return Receipts(self._read, self.keys[index])
        return self._read(self.keys[index])


class Journal:
    """Receipts by key. One process at a time may write it: it holds the dataset's lock.

    Receipts stay in the file: in memory are their keys, and where each begins.

    Parameters
    ----------
    root
        The dataset's folder.
    write
        Take the lock and create the folder; without it, only look.

    Raises
    ------
    LockedError
        Another run holds the lock.
    """

    def __init__(self, root: Path, *, write: bool) -> None:
        self.path = root / STATE / "journal.jsonl"
        self._lock: int | None = None
        self._file: BinaryIO | None = None
        self._reader: BinaryIO | None = None
        self._places: dict[str, int] = {}
        self._passing: dict[str, Receipt] = {}
        if write:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire(root)
        try:
            self._load()
            if write:
                self._compact(list(self._places))
        except BaseException:
            self.close()  # or this process would be in its own way when it tries again
            raise

    def _acquire(self, root: Path) -> int:
        lock = os.open(root / STATE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise LockedError(
                f"{root}: another run is writing this dataset",
                "wait until it ends, or choose another folder with --output",
            ) from error
        return lock

    def _load(self) -> None:
        """Find each receipt in the file."""
        self._reopen()
        place = 0
        for line in self._reader or ():
            # A line torn by a kill is left out: that item is done again.
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self._places[Receipt.from_json(json.loads(line)).key] = place
            place += len(line)

    def _reopen(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        with contextlib.suppress(FileNotFoundError):
            self._reader = self.path.open("rb")

    def _line(self, key: str) -> bytes:
        assert self._reader is not None
        self._reader.seek(self._places[key])
        return self._reader.readline().rstrip(b"\n") + b"\n"

    def _compact(self, keys: list[str]) -> None:
        """Write the file anew with the receipts of these keys, and go on behind them."""
        if self._file is not None:
            self._file.close()
        places: dict[str, int] = {}

        def lines() -> Iterator[bytes]:
            place = 0
            for key in keys:
                line = self._line(key)
                places[key] = place
                place += len(line)
                yield line

        replace_atomically(self.path, lines())
        self._places = places
        self._reopen()
        self._file = self.path.open("ab")

    def get(self, key: str) -> Receipt | None:
        """The receipt of an item, if it was ever finished."""
        return Receipt.from_json(json.loads(self._line(key))) if key in self._places else None

    def receipts(self) -> Iterator[Receipt]:
        """All receipts."""
        for key in self._places:
            yield Receipt.from_json(json.loads(self._line(key)))

    def of(self, keys: Sequence[str]) -> Receipts:
        """Receipts of items that are finished, or done as far as this run goes."""
        return Receipts(self._of, keys)

    def _of(self, key: str) -> Receipt:
        receipt = self._passing.get(key) or self.get(key)
        if receipt is None:
            raise KeyError(key)
        return receipt

    def add(self, receipt: Receipt) -> None:
        """Remember a finished item."""
        assert self._file is not None, "the journal was opened for reading"
        with writing(self.path):
            place = self._file.tell()
            self._file.write(json.dumps(receipt.to_json()).encode() + b"\n")
            self._file.flush()
        self._places[receipt.key] = place
        self._passing.pop(receipt.key, None)

    def add_passing(self, receipt: Receipt) -> None:
        """Remember an item for as long as this journal is open: the next run does it again."""
        self._passing[receipt.key] = receipt

    def keep_only(self, keys: set[str]) -> None:
        """Forget every item that is not among `keys`; called when a run has ended well."""
        assert self._file is not None, "the journal was opened for reading"
        self._compact([key for key in self._places if key in keys])

    def close(self) -> None:
        """Close the file and give the lock back."""
        for file in (self._file, self._reader):
            if file is not None:
                with contextlib.suppress(OSError):  # a line that the full disk did not take: that item is done again
                    file.close()
        self._file = self._reader = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
