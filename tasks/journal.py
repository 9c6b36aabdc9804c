"""The journal: receipts of finished items, appended as they come, so that a killed run goes on."""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, TextIO

from schemas.errors import LockedError
from tasks.items import Receipt
from tasks.shards import STATE, replace_atomically, writing


class Journal:
    """Receipts by key. One process at a time may write it: it holds the dataset's lock.

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
        self._file: TextIO | None = None
        if write:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire(root)
        try:
            self._receipts = self._load()
            if write:
                self._compact(self._receipts)
                self._file = self.path.open("a", encoding="utf-8")
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

    def _load(self) -> dict[str, Receipt]:
        receipts: dict[str, Receipt] = {}
        if not self.path.exists():
            return receipts
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                receipt = Receipt.from_json(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # a line torn by a kill: that item is done again
            receipts[receipt.key] = receipt
        return receipts

    def _compact(self, receipts: dict[str, Receipt]) -> None:
        lines = [json.dumps(receipt.to_json()) + "\n" for receipt in receipts.values()]
        replace_atomically(self.path, "".join(lines).encode())

    def get(self, key: str) -> Receipt | None:
        """The receipt of an item, if it was ever finished."""
        return self._receipts.get(key)

    def receipts(self) -> list[Receipt]:
        """All receipts."""
        return list(self._receipts.values())

    def add(self, receipt: Receipt) -> None:
        """Remember a finished item."""
        assert self._file is not None, "the journal was opened for reading"
        self._receipts[receipt.key] = receipt
        with writing(self.path):
            self._file.write(json.dumps(receipt.to_json()) + "\n")
            self._file.flush()

    def keep_only(self, keys: set[str]) -> None:
        """Forget every item that is not among `keys`; called when a run has ended well."""
        assert self._file is not None, "the journal was opened for reading"
        self._receipts = {key: value for key, value in self._receipts.items() if key in keys}
        self._file.close()
        self._compact(self._receipts)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file and give the lock back."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # a line that the full disk did not take: that item is done again
                self._file.close()
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()
