"""What is written into every shard about where it came from."""

import hashlib
import json
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
