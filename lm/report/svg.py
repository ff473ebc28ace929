"""Charts as SVG text: lines with axes, intervals as whiskers, bars. No script, no font, nothing to load.

    line_chart([Series("loss", steps, losses)], x_label="step", y_label="loss", log=True)

Colours are CSS variables with a fallback, so a chart follows the page around it and also stands alone.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 30, 44
PAGE = "var(--page,#fbfcfb)"
INK, SOFT, GRID, SHADE = "var(--ink,#1c211f)", "var(--soft,#66706b)", "var(--line,#dfe4e1)", "var(--shade,#eef3f0)"
COLOURS = tuple(
    f"var(--s{i},{fallback})"
    for i, fallback in enumerate(
        ("#2c7a55", "#b4642d", "#4a68a8", "#8a4f8f", "#7a7a2c", "#2b8a9c", "#c04f72", "#7b5b3a", "#5a6570", "#96a83c")
    )
)
MOST_POINTS = 600
MOST_NUMBERS = 16  # columns of a heat map whose cells show their values


class Series(NamedTuple):
    """A line of a chart; with `low` and `high` every point carries a whisker."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class Scale(NamedTuple):
    """A map from values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    shaded: tuple[float, float] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    log_x: bool = False,
    joined: bool = True,
) -> str:
    """Return a chart of several lines over one axis.

    Values that are not finite are left out. `log` makes the y axis logarithmic and leaves out what is not
    positive, and so does `log_x` for x; `shaded` marks a range of x as the one trained on, `percent` writes 0.5 as
    50 %. Each of `marks` is a place on the x axis and what begins there. Points are not `joined` in a cloud.
    """
    series = [_thin(_drawable(s, log, log_x)) for s in series]
    xs = [x for s in series for x in s.x] + list(shaded or ())
    ys = [y for s in series for part in (s.y, s.low or (), s.high or ()) for y in part]
    if not ys:
        return _svg(_text(WIDTH / 2, HEIGHT / 2, "no finite values", "middle"), y_label)
    x_ticks, x_scale = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log_x, snug=joined)
    if not log_x and all(x.is_integer() for s in series for x in s.x):
        x_ticks = [tick for tick in x_ticks if tick.is_integer()]
    low, high = y_range or (min(ys), max(ys))
    y_ticks, y_scale = _axis(low, high, HEIGHT - BOTTOM, TOP, log, snug=y_range is not None)

    parts = []
    if shaded:
        left, right = x_scale(shaded[0]), x_scale(shaded[1])
        width = max(right - left, 2)
        parts.append(
            f'<rect x="{left:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - BOTTOM - TOP}" {_fill(SHADE)}/>'
        )
        parts.append(_text(left + 5, HEIGHT - BOTTOM - 7, "trained on"))
    for place, name in marks:
        if x_scale.low <= place <= x_scale.high:
            parts.append(_line(x_scale(place), TOP, x_scale(place), HEIGHT - BOTTOM, SOFT, dashed=True))
            parts.append(_text(x_scale(place) + 4, TOP + 9, name))
    for tick in y_ticks:
        parts.append(_line(LEFT, y_scale(tick), WIDTH - RIGHT, y_scale(tick), GRID))
        parts.append(_text(LEFT - 8, y_scale(tick) + 4, f"{100 * tick:g} %" if percent else _short(tick), "end"))
    parts.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, SOFT))
    for tick in x_ticks:
        parts.append(_line(x_scale(tick), HEIGHT - BOTTOM, x_scale(tick), HEIGHT - BOTTOM + 4, SOFT))
        parts.append(_text(x_scale(tick), HEIGHT - BOTTOM + 17, _short(tick), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle", SOFT))
    for index, s in enumerate(series):
        parts += _draw(s, COLOURS[index % len(COLOURS)], x_scale, y_scale, joined)
    if len(series) > 1:  # the legend stands where the name of the axis would
        parts.append(_text(4, HEIGHT - 8, f"↑ {y_label}"))
    legend, above = _legend([s.name for s in series], y_label)
    return _svg("".join(parts + legend), f"{y_label} over {x_label}", above=above)


def bar_chart(labels: Sequence[str], values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> str:
    """Return horizontal bars from 0 to 100 %, each with its interval as a whisker."""
    left, row = 165, 26
    scale = Scale(0.0, 1.0, left, WIDTH - 70, False)
    parts = []
    for index, (label, value, low, high) in enumerate(zip(labels, values, lows, highs, strict=True)):
        y = 8 + row * index
        parts.append(f'<rect x="{left}" y="{y}" width="{scale(1) - left:.1f}" height="14" {_fill(SHADE)}/>')
        parts.append(f'<rect x="{left}" y="{y}" width="{scale(value) - left:.1f}" height="14" {_fill(COLOURS[0])}/>')
        parts.append(_line(scale(low), y + 7, scale(high), y + 7, INK))
        parts += [_line(scale(end), y + 3, scale(end), y + 11, INK) for end in (low, high)]
        parts.append(_text(left - 8, y + 11, label if len(label) <= 22 else f"{label[:21]}…", "end"))
        parts.append(_text(WIDTH, y + 11, f"{100 * value:.1f} %", "end", INK))
    return _svg("".join(parts), "share right with interval", height=8 + row * len(labels))


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    row_label: str = "",
    column_label: str = "",
    scale: tuple[float, float | None] = (0.0, None),
    percent: bool = False,
    label: str = "",
) -> str:
    """Return a grid of cells, darker where the value is higher, with the value in each where there is room.

    Colours reach over `scale`, whose upper end is the largest value where it is None; a cell of None stays empty.
    """
    count, across = len(values), len(values[0])
    top = 24 if row_label else 6
    low = scale[0]
    high = max((v for row in values for v in row if v is not None), default=low) if scale[1] is None else scale[1]
    left = min(max((7 * len(name) for name in (*rows, row_label)), default=0) + 14, 180)
    width = (WIDTH - RIGHT - left) / across
    height = min(max(width, 18.0), 26.0) if rows else width
    parts = []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if value is not None and math.isfinite(value):
                share = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
                corner = (left + j * width, top + i * height)
                named = [names[k] for names, k in ((rows, i), (columns, j)) if names]
                said = (
                    "" if across > MOST_NUMBERS else f"{100 * value:.3g}" if percent else _short(float(f"{value:.3g}"))
                )
                parts.append(_cell(corner, (width, height), share, said, f"{', '.join(named)}: {value:.6g}"))
    bottom = top + count * height
    for i, name in enumerate(rows):
        shown = name if len(name) <= 24 else f"{name[:23]}…"
        parts.append(_text(left - 8, top + (i + 0.5) * height + 4, shown, "end"))
    longest = max((len(name) for name in columns), default=1)
    every = max(1, math.ceil((7 * longest + 6) / width))
    for j in range(0, len(columns), every):
        parts.append(_text(left + (j + 0.5) * width, bottom + 16, columns[j], "middle"))
    parts.append(_text((left + WIDTH - RIGHT) / 2, bottom + (34 if columns else 16), column_label, "middle", SOFT))
    parts.append(_text(left - 8, 16, row_label, "end"))
    return _svg("".join(parts), label, height=bottom + (44 if columns else 24))


def standalone(svg: str) -> str:
    """Return a chart as the text of an .svg file."""
    named = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return named.replace('style="font', f'style="background:{PAGE};font', 1)  # readable on a dark page too


def ticks(low: float, high: float, count: int = 7) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def _axis(low: float, high: float, start: float, end: float, log: bool, snug: bool) -> tuple[list[float], Scale]:
    """Return the ticks and the scale of an axis; one that is not snug reaches a little beyond the values."""
    if log:
        low, high = low / 1.1, high * 1.1
        factors = (1, 2, 5) if high / low < 100 else (1,)
        exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [f * 10.0**e for e in exponents for f in factors if low <= f * 10.0**e <= high]
        return marks[:: len(marks) // 8 + 1], Scale(low, high, start, end, True)
    if high - low < 1e-12 * max(abs(low), abs(high), 1e-300):
        reach = abs(low) / 2 or 0.5
        low, high = low - reach, high + reach
    elif not snug:
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    return ticks(low, high), Scale(low, high, start, end, False)


def _drawable(s: Series, log: bool, log_x: bool) -> Series:
    """Keep the points that have a place on the axes."""
    pairs = enumerate(zip(s.x, s.y, strict=True))
    kept = [i for i, (x, y) in pairs if math.isfinite(y) and (y > 0 or not log) and (x > 0 or not log_x)]
    columns = [None if column is None else [float(column[i]) for i in kept] for column in s[1:]]
    return Series(s.name, columns[0] or [], columns[1] or [], columns[2], columns[3])


def _thin(s: Series) -> Series:
    """Keep the lowest and the highest point of each stretch of a long line, so that no spike is lost."""
    if len(s.x) <= MOST_POINTS or s.low is not None:
        return s
    stretch = math.ceil(2 * len(s.x) / MOST_POINTS)
    kept = []
    for start in range(0, len(s.x), stretch):
        indices = range(start, min(start + stretch, len(s.x)))
        kept += sorted({min(indices, key=s.y.__getitem__), max(indices, key=s.y.__getitem__)})
    return Series(s.name, [s.x[i] for i in kept], [s.y[i] for i in kept])


def _draw(s: Series, colour: str, x_scale: Scale, y_scale: Scale, joined: bool) -> list[str]:
    points = [(x_scale(x), y_scale(y)) for x, y in zip(s.x, s.y, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = f'<polyline points="{path}" style="fill:none;stroke:{colour};stroke-width:1.6;stroke-linejoin:round"/>'
    parts = [line] if joined else []
    if s.low is not None and s.high is not None:
        for (x, _), low, high in zip(points, s.low, s.high, strict=True):
            parts.append(_line(x, y_scale(low), x, y_scale(high), colour))
            parts += [_line(x - 3, y_scale(end), x + 3, y_scale(end), colour) for end in (low, high)]
    if len(points) <= 40 or not joined:
        for (x, y), at, value in zip(points, s.x, s.y, strict=True):
            title = html.escape(f"{s.name}: {value:.6g} at {at:g}")
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" {_fill(colour)}><title>{title}</title></circle>')
    return parts


def _legend(names: Sequence[str], y_label: str) -> tuple[list[str], float]:
    """Return the names with their colours in as many rows as they need, and the height of all rows but one."""
    if len(names) == 1:
        return [_text(LEFT, 16, y_label, colour=INK, weight=600)], 0
    places, x, row = [], LEFT, 0
    for name in names:
        width = 33 + 7 * len(name)
        if x > LEFT and x + width > WIDTH:
            x, row = LEFT, row + 1
        places.append((x, row))
        x += width
    parts, above = [], 16 * row
    for index, (name, (x, row)) in enumerate(zip(names, places, strict=True)):
        y, colour = 8 + 16 * row - above, COLOURS[index % len(COLOURS)]
        parts.append(f'<rect x="{x}" y="{y}" width="10" height="10" rx="2" {_fill(colour)}/>')
        parts.append(_text(x + 15, y + 9, name, colour=INK))
    return parts, above


def _svg(body: str, label: str, height: float = HEIGHT, above: float = 0) -> str:
    return (
        f'<svg viewBox="0 {-above:g} {WIDTH} {height + above:g}" role="img" aria-label="{html.escape(label)}" '
        f'style="font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums">{body}</svg>'
    )


def _cell(corner: tuple[float, float], size: tuple[float, float], share: float, said: str, title: str) -> str:
    """Return a cell of a heat map, as dark as its share of the scale, with its number where that has room."""
    (x, y), (width, height) = corner, size
    shown = len(said) * 7 + 4 <= width and height >= 14
    if share < 0.004 and not shown:
        return ""  # as pale as the page; a map of attention has thousands of these
    cell = (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.6, 0.4):.1f}" height="{max(height - 0.6, 0.4):.1f}" '
        f'style="fill:{COLOURS[0]};fill-opacity:{0.04 + 0.96 * share:.2f}"><title>{html.escape(title)}</title></rect>'
    )
    return cell + _text(x + width / 2, y + height / 2 + 4, said, "middle", INK if share < 0.55 else PAGE) * shown


def _fill(colour: str) -> str:
    return f'style="fill:{colour}"'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dashed: bool = False) -> str:
    style = f"stroke:{colour}{';stroke-dasharray:3 3' if dashed else ''}"
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = SOFT, weight: int = 400) -> str:
    style = f"fill:{colour};font-weight:{weight}"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{style}">{html.escape(text)}</text>'


def _short(value: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if name == 'k' else unit):g}{name}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"  # 3.5e-4 has room beside the axis, 0.00035 has not
    return f"{value:g}"
