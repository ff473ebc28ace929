"""Files that are written whole: a reader, or a kill at any moment, sees the old file or the new one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | Iterable[str], errors: str = "strict") -> None:
    """Write a file at once, as UTF-8, from one text or from texts that come one by one.

    `errors` says what becomes of half a surrogate pair, as in `open`.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", errors=errors) as file:
        file.writelines([content] if isinstance(content, str) else content)
    temporary.replace(path)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of JSON Lines at once."""
    write_whole(path, (json.dumps(row) + "\n" for row in rows))
