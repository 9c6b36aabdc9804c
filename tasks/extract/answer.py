"""What a child answers, believed only as far as it is checked: it has met hostile bytes."""

import json
import math
import re
import socket
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.tables import BINARIES, PARSE_STATUS
from tasks.extract.child import PREFIX, Rules
from tasks.extract.parse import Extracted
from tasks.extract.similarity import SIGNATURES, is_signature, is_tlsh

HEADER_BYTES = 1 << 20
"""The longest header that is believed."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_ALWAYS = {"size", "parse_status", "parser", "parser_version"}


def read_answer(connection: socket.socket, size: int, rules: Rules) -> Extracted:
    """What the child says of a file of `size` bytes.

    Raises
    ------
    ValueError
        It cannot be true.
    EOFError, OSError
        The child is gone.
    TimeoutError
        The file's time is over.
    """
    deadline = time.monotonic() + rules.timeout_s
    header_bytes, numbers = PREFIX.unpack(receive(connection, PREFIX.size, deadline))
    if header_bytes > HEADER_BYTES or numbers != sum(rules.groups.values()):
        raise ValueError("its sizes are wrong")
    body = receive(connection, header_bytes + 4 * numbers, deadline)
    row = checked_row(body[:header_bytes], size)
    values = np.frombuffer(body[header_bytes:], dtype="<f4")
    if not np.isfinite(values).all():
        raise ValueError("its numbers are not finite")
    return Extracted(row, {group: values[place] for group, place in _places(rules).items()})


@cache
def _places(rules: Rules) -> dict[str, slice]:
    """Where each group stands in the numbers of an answer."""
    places: dict[str, slice] = {}
    start = 0
    for group, size in rules.groups.items():
        places[group] = slice(start, start + size)
        start += size
    return places


def checked_row(text: bytes, size: int) -> dict[str, Any]:
    """The header, if it is one of ours: columns of `binaries` and their types, a known status, the size we sent.

    Raises
    ------
    ValueError
        It is not; with the reason.
    """
    try:
        row: Any = json.loads(text)
    except RecursionError as error:
        raise ValueError("its header is no row") from error
    checks = _checks()
    if not isinstance(row, dict) or not _ALWAYS <= set(row) <= set(checks):
        raise ValueError("its columns are unknown")
    if not all(checks[name](value) for name, value in row.items()):
        raise ValueError("a column has the wrong type")
    if row["parse_status"] not in PARSE_STATUS or row["size"] != size:
        raise ValueError("its status or size is wrong")
    return row


@cache
def _checks() -> dict[str, Callable[[Any], bool]]:
    """For each column of `binaries` but the id: whether a value fits. Arrow would take 20 times as long to say."""
    columns = {field.name: _check(field.type, field.nullable) for field in BINARIES if field.name != "sha256"}
    return columns | {"tlsh": is_tlsh} | dict.fromkeys(SIGNATURES, is_signature)


def _check(kind: Any, nullable: bool) -> Callable[[Any], bool]:
    if pa.types.is_string(kind):

        def fits(value: Any) -> bool:
            return type(value) is str and not _SURROGATE.search(value)

    elif pa.types.is_boolean(kind):

        def fits(value: Any) -> bool:
            return type(value) is bool

    elif pa.types.is_signed_integer(kind):
        most = 2 ** (kind.bit_width - 1)

        def fits(value: Any) -> bool:
            return type(value) is int and -most <= value < most

    elif kind == pa.float64():

        def fits(value: Any) -> bool:
            return type(value) is float and math.isfinite(value)

    else:
        raise TypeError(f"a column of type {kind} cannot be checked yet")
    return lambda value: nullable if value is None else fits(value)


def receive(connection: socket.socket, count: int, deadline: float) -> bytes:
    """Just so many bytes of a stream, before the clock shows `deadline`.

    Raises
    ------
    EOFError, TimeoutError
        The stream ends, or time does.
    """
    parts: list[bytes] = []
    while count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
