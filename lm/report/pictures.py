"""Pictures as data: what was measured and what it is called; `draw` makes a chart of one, a run folder keeps them.

picture = HeatMap("Success", [[0.1, 0.9]], rows=["width 10"], columns=["300", "1,000"], percent=True)
add_pictures("runs/parity", "Population", [picture])
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.exits import Unusable
from lm.files import write_whole
from lm.report.svg import Series, heat_map, line_chart

PICTURES = "pictures.json"


@dataclass(frozen=True)
class HeatMap:
    """A value for every row and column, darker where it is higher; None where nothing was measured.

    Colours reach from `low` to `high`, the largest value where it is None; `percent` writes 0.5 as 50.
    """

    title: str
    values: Sequence[Sequence[float | None]]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    row_label: str = ""
    column_label: str = ""
    low: float = 0.0
    high: float | None = None
    percent: bool = False
    caption: str = ""

    def __post_init__(self):
        widths = {len(row) for row in self.values}
        if len(widths) != 1 or 0 in widths:
            raise ValueError(f"{self.title}: rows of one length, got {sorted(widths)}")
        if len(self.rows) not in (0, len(self.values)) or len(self.columns) not in (0, *widths):
            raise ValueError(f"{self.title}: {len(self.rows)} row and {len(self.columns)} column names do not fit")


@dataclass(frozen=True)
class Lines:
    """Several curves over one axis, or clouds of points where they are not `joined`.

    `shaded` is the range of x that was trained on.
    """

    title: str
    series: Sequence[Series]
    x_label: str
    y_label: str
    log: bool = False
    log_x: bool = False
    percent: bool = False
    joined: bool = True
    shaded: tuple[float, float] | None = None
    caption: str = ""


Picture = HeatMap | Lines
KINDS = {kind.__name__: kind for kind in (HeatMap, Lines)}


def draw(picture: Picture) -> str:
    """Return a picture as SVG text."""
    if isinstance(picture, HeatMap):
        return heat_map(
            picture.values,
            picture.rows,
            picture.columns,
            row_label=picture.row_label,
            column_label=picture.column_label,
            scale=(picture.low, picture.high),
            percent=picture.percent,
            label=picture.title,
        )
    names = ("x_label", "y_label", "log", "log_x", "percent", "joined", "shaded")
    return line_chart(picture.series, **{name: getattr(picture, name) for name in names})


def to_json(picture: Picture) -> dict[str, Any]:
    """Return a picture as JSON; what is not finite becomes null."""
    fields = {field.name: getattr(picture, field.name) for field in dataclasses.fields(picture)}
    return {"kind": type(picture).__name__, **{name: _plain(value) for name, value in fields.items()}}


def from_json(data: Mapping[str, Any]) -> Picture:
    """Return the picture that `to_json` wrote; Unusable where it is none."""
    fields = dict(data)
    kind = KINDS.get(fields.pop("kind", ""))
    try:
        if kind is Lines:
            fields["series"] = tuple(Series(*map(_numbers, row)) for row in fields["series"])
        return kind(**fields)  # type: ignore[misc]  # None is a TypeError too
    except (TypeError, KeyError, ValueError) as error:
        raise Unusable(f"not a picture: {error}") from None


def add_pictures(workdir: str | Path, section: str, pictures: Sequence[Picture]) -> None:
    """Keep pictures in a run folder, in place of those that the section had; `write_report` shows them."""
    path = Path(workdir) / PICTURES
    kept = read_pictures(workdir) | {section: list(pictures)}
    text = json.dumps({name: [to_json(p) for p in found] for name, found in kept.items()}, allow_nan=False)
    write_whole(path, text)


def read_pictures(workdir: str | Path) -> dict[str, list[Picture]]:
    """Return the pictures of a run folder by section, {} where there are none; Unusable where the file is damaged."""
    path = Path(workdir) / PICTURES
    if not path.exists():
        return {}
    try:
        sections = json.loads(path.read_text(encoding="utf-8"))
        return {name: [from_json(p) for p in pictures] for name, pictures in sections.items()}
    except (ValueError, AttributeError, TypeError, Unusable) as error:
        raise Unusable(f"{path} does not hold pictures: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_plain(v) for v in value]
    return float(value) if math.isfinite(value) else None


def _numbers(column: Any) -> Any:
    if column is None or isinstance(column, str):
        return column
    return [math.nan if x is None else x for x in column]
