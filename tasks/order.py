"""The training order: a permutation of the rows of train that a key gives, and the commitment to it.

A model remembers the order that it was trained in: the rows it saw last, it knows best. Who commits to the order before
training can show later, from the model's losses alone, that it was trained on this dataset.
"""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHUNK = 65_536
"""Ids that are Python objects at once."""


def order_key(seed: int, secret: bytes | None) -> bytes:
    """The key of an order: the secret's, or one that everybody can compute."""
    text = b"binmill.order.public\0%d" % seed if secret is None else b"binmill.order.secret\0" + secret
    return hashlib.sha256(text).digest()


def training_order(ids: Any, key: bytes) -> Any:
    """Ids (an Arrow array) in the order of their keyed digests: uniform among orders, however the ids come."""
    digests = np.empty((len(ids), 4), ">u8")
    for start in range(0, len(ids), CHUNK):
        part = ids.slice(start, CHUNK).to_pylist()
        joined = b"".join(hmac.digest(key, name.encode(), "sha256") for name in part)
        digests[start : start + CHUNK] = np.frombuffer(joined, ">u8").reshape(-1, 4)
    return ids.take(pa.array(np.lexsort(digests.T[::-1])))


def commitment(order: Any) -> str:
    """SHA-256 of an order: its ids, a line each."""
    digest = hashlib.sha256()
    for start in range(0, len(order), CHUNK):
        digest.update("".join(f"{name}\n" for name in order.slice(start, CHUNK).to_pylist()).encode())
    return digest.hexdigest()


def training_ids(paths: Iterable[Path]) -> Any:
    """Ids of all rows of train, as an Arrow array."""
    parts = [pq.ParquetFile(path).read(columns=["sample_id"]).column(0).cast(pa.large_string()) for path in paths]
    chunks = [chunk for part in parts for chunk in part.chunks]
    return pa.chunked_array(chunks, pa.large_string()).combine_chunks()
