"""What is written into every shard about where it came from."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = "binmill-dataset@1"
"""Version of the dataset layout; a reader refuses one it does not know."""

METADATA_KEY = b"binmill.provenance"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, and so equal digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Provenance:
    """The record in a shard's Parquet metadata (W3C PROV: wasGeneratedBy, used).

    It names everything the bytes depend on and nothing else: no clock, no host, no worker.
    """

    dataset: str
    stage: str
    step: str
    key: str
    """Digest of all the shard depends on; also in its file name."""
    binmill: str
    """Release of binmill."""
    code: str
    """Digest of the source files of the stage."""
    config: dict[str, Any]
    """The part of the recipe that matters to the step."""
    inputs: tuple[str, ...]
    """SHA-256 of each input shard or archive."""
    libraries: dict[str, str]
    """Versions of the libraries that can change a value."""
    seed: int

    def metadata(self, rows: int, schema_fingerprint: str) -> dict[bytes, bytes]:
        """Key-value metadata for a Parquet file."""
        record = asdict(self) | {"rows": rows, "schema": schema_fingerprint}
        return {METADATA_KEY: canonical_json(record).encode()}


def changes_since(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """Which parts of a provenance record differ, and how, in words: why something is not what it was.

    Parameters
    ----------
    before, after
        Two records of one step, as shards carry them.

    Returns
    -------
    dict
        Some of `release`, `code`, `config`, `inputs`, `libraries` and `seed`, each with what changed; empty when the
        step would write the same.
    """
    found: dict[str, str] = {}
    if before["binmill"] != after["binmill"]:
        found["release"] = f"{before['binmill']} → {after['binmill']}"
    if before["code"] != after["code"]:
        found["code"] = f"the stage's source files are others ({before['code'][:12]} → {after['code'][:12]})"
    if config := differences(before["config"], after["config"]):
        found["config"] = "; ".join(config)
    if inputs := _inputs(before["inputs"], after["inputs"]):
        found["inputs"] = inputs
    if libraries := differences(before["libraries"], after["libraries"]):
        found["libraries"] = "; ".join(libraries)
    if before["seed"] != after["seed"]:
        found["seed"] = f"{before['seed']} → {after['seed']}"
    return found


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Leaves of two JSON values that are not equal: `place: before → after`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys: list[str] = sorted({*before, *after})
        pairs = [(before.get(key), after.get(key), f"{where}.{key}" if where else key) for key in keys]
        return [text for old, new, place in pairs for text in differences(old, new, place)]
    # A record that was read from JSON has lists where a new one has tuples.
    if canonical_json(before) == canonical_json(after):
        return []
    return [f"{where}: {_short(before)} → {_short(after)}"]


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _inputs(before: Sequence[str], after: Sequence[str]) -> str:
    gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
    parts = [f"{n} {word}" for n, word in ((new.total(), "new"), (gone.total(), "gone")) if n]
    if not parts and list(before) != list(after):
        return "in another order"
    return ", ".join(parts)
