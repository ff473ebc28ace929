"""A strict reader of JSON Lines: what it yields can be trusted, what it refuses is named by file and line.

for row in read_jsonl(path, texts=("question", "answer")): ...      # the first bad line stops
read_jsonl(path, on_bad=refused.append)                             # bad lines are skipped and kept count of
read_jsonl(path, make=parse)                                        # what the function returns, or refuses
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from lm.exits import UserError
from lm.strict import nearest

LONGEST_LINE = 1 << 24  # bytes
LARGEST_FILE = 1 << 28  # bytes of a file that is read whole
DEEPEST = 64  # levels of nesting
LARGEST_INTEGER = 2**63
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")


def read_jsonl(
    path: Path | str,
    *,
    texts: Sequence[str] = (),
    make: Callable[[dict[str, Any]], Any] = dict,
    on_bad: Callable[[str], Any] | None = None,
) -> Iterator[Any]:
    """Yield what `make` makes of the object of each line that is not blank; without it the object.

    Windows line ends and a byte order mark are accepted. Refused with one sentence that starts with FILE:LINE:
    what is not UTF-8 or not a JSON object, NaN and infinities, repeated keys, deep nesting, integers beyond 64
    bits, lone surrogates, lines over 16 MiB, a missing or non-text field of `texts`, a ValueError of `make`.
    The sentence is raised as a UserError, or goes to `on_bad` and the line is skipped.
    """
    with _open(path) as file:
        for number, line in enumerate(_lines(file), start=1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
            try:
                record = _parse(line)
                require_texts(record, texts)
                made = make(record)
            except ValueError as error:
                sentence = f"{path}:{number}: {error}"
                if on_bad is None:
                    raise UserError(sentence) from None
                on_bad(sentence)
            else:
                yield made


def _open(path: Path | str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines, of one that is too long only so much as shows it."""
    while line := file.readline(LONGEST_LINE + 1):
        rest = line
        while len(rest) > LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(LONGEST_LINE + 1)
        yield line


def read_json(path: Path | str) -> Any:
    """Return the one value of a file of JSON, as strictly as `read_jsonl`; the sentence starts with FILE."""
    with _open(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LARGEST_FILE:
            raise UserError(f"{path} has {size} bytes; a file of one JSON value may have {LARGEST_FILE}")
        try:
            return _value(file.read().removeprefix(BYTE_ORDER_MARK))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None


def require_texts(record: dict[str, Any], texts: Sequence[str]) -> None:
    """Raise ValueError, with the fields found, unless the record has text in each of these fields."""
    for name in texts:
        if name not in record:
            raise ValueError(f"no field {name!r}{nearest(name, record)} (fields: {', '.join(map(ascii, record))})")
        if not isinstance(record[name], str):
            raise ValueError(f"field {name!r} is {type(record[name]).__name__}, not text")


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ValueError(f"the line is longer than {LONGEST_LINE} bytes")
    record = _value(line)
    if not isinstance(record, dict):
        raise ValueError(f"a JSON object is needed, not {type(record).__name__}")
    return record


def _value(content: bytes) -> Any:
    try:
        value = json.loads(
            content.rstrip().decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    _check(value, depth=1)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {repeated!a} stands twice")
    return record


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _integer(digits: str) -> int:
    # The length comes first: Python refuses to convert thousands of digits, and is slow before that.
    if len(digits) > 20 or not -LARGEST_INTEGER <= int(digits) < LARGEST_INTEGER:
        raise ValueError(f"integer {digits[:12]}... ({len(digits)} characters) does not fit in 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"number {digits[:24]} is beyond the range of a float")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if isinstance(value, str):
        if SURROGATE.search(value):
            raise ValueError(f"lone surrogate in {value[:24]!a}")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check(name, depth)
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
