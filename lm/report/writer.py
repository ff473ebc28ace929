"""Metrics on disk: metrics.jsonl, which is the truth, and a TensorBoard event file beside it.

    writer = Writer(folder)
    writer.truncate(step)                 # at every start: 0 for a fresh one, the restored step otherwise
    writer.scalars(10, {"loss": 2.1})     # {"step": 10, "loss": 2.1}

A number that JSON lacks is written as "nan", "inf" or "-inf"; `read_rows` turns it back.
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.exits import Unusable
from lm.files import write_whole

METRICS = "metrics.jsonl"
SESSION_START = 1


class Writer:
    """Append scalars to metrics.jsonl and to an event file that TensorBoard reads."""

    def __init__(self, folder: str | Path):
        self._path = Path(folder) / METRICS
        self._metrics = self._path.open("a")
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000_000}.{os.getpid()}"
        self._events = (Path(folder) / name).open("ab")
        self._event(_bytes(3, b"brain.Event:2"))

    def scalars(self, step: int, values: Mapping[str, float], examples: Mapping[str, Any] | None = None) -> None:
        """Append one row; it is with the operating system when this returns. `examples` (JSON) are named beside it."""
        row = {name: float(value) for name, value in values.items()}
        named = {} if examples is None else {"examples": dict(examples)}
        self._metrics.write(_line({"step": int(step), **row, **named}))
        self._metrics.flush()
        points = [_bytes(1, name.encode()) + _float(2, value) for name, value in row.items()]
        summary = b"".join(_bytes(1, point) for point in points)
        self._event(_integer(2, int(step)) + _bytes(5, summary))

    def truncate(self, step: int) -> None:
        """Drop the rows beyond a step and a last line that a kill cut short."""
        kept = [row for row in _rows(self._path) if row["step"] <= step]
        self._metrics.close()
        write_whole(self._path, map(_line, kept))
        self._metrics = self._path.open("a")
        # TensorBoard forgets what it has read from this step on when a session starts.
        self._event(_integer(2, int(step) + 1) + _bytes(7, _integer(1, SESSION_START)))

    def close(self) -> None:
        """Close both files."""
        self._metrics.close()
        self._events.close()

    def _event(self, body: bytes) -> None:
        data = _tag(1, 1) + struct.pack("<d", time.time()) + body
        length = struct.pack("<Q", len(data))
        self._events.write(length + _masked_crc(length) + data + _masked_crc(data))
        self._events.flush()


def _line(row: Mapping[str, Any]) -> str:
    def written(value: Any) -> Any:
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps({name: written(value) for name, value in row.items()}) + "\n"


def read_rows(path: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.jsonl, their numbers alone, without a last line that was cut short.

    Raises Unusable, naming the line, where any other line is not a row.
    """
    return [{name: value for name, value in row.items() if name != "examples"} for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").split("\n")
    rows = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was cut short
        try:
            row = json.loads(line)
            step, named = int(row.pop("step")), {name: row.pop(name) for name in ("examples",) if name in row}
            rows.append({"step": step, **{name: float(value) for name, value in row.items()}, **named})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise Unusable(f"{path}, line {number}: not a row of metrics: {line[:80]!r}") from None
    return rows


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> bytes:
    # The mask of the TFRecord format: a checksum of data that holds checksums would be weak.
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


# The four kinds of field that an Event needs (protocol buffer wire format).
def _tag(field: int, wire: int) -> bytes:
    return bytes([field << 3 | wire])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _tag(field, 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(value)) + value
