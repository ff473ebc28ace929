"""report.html: one self-contained page that says what a run did, from nothing but its run folder.

Works for a run that is not finished: what has no file yet has no section.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from lm.exits import Unusable
from lm.files import write_whole
from lm.report.folder import read_status
from lm.report.pictures import Picture, draw, read_pictures
from lm.report.style import STYLE
from lm.report.svg import Series, bar_chart, line_chart
from lm.report.writer import METRICS, read_rows

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
EXAMPLES_SHOWN = 6  # of each kind, right and wrong
ROWS_SHOWN = 24  # a longer table starts folded
FIRST_PLOTS = ("loss", "learning_rate")


def write_report(workdir: str | Path) -> Path:
    """Write report.html into a run folder and return its path; raises Unusable where a file there is not JSON."""
    folder = Path(workdir)
    recipe, stamp, summary = (_read_json(folder / f"{name}.json") for name in ("recipe", "stamp", "summary"))
    status = read_status(folder)
    title = summary.get("recipe") or recipe.get("name") or folder.resolve().name
    sections = [
        _header(title, summary, status, stamp),
        _headline(summary),
        _section("Training", _curves(read_rows(folder / METRICS), summary.get("stages", []))),
        _slices(summary),
        *(_section(name, _pictures(pictures)) for name, pictures in read_pictures(folder).items()),
        _section("Examples", _examples(_read_samples(folder / "samples.jsonl"))),
        _section("Parameters", _parameters(summary.get("parameter_table", []))),
        _section("Configuration", _pairs(_flatten(recipe))),
        _section("Provenance", _pairs(_flatten({k: v for k, v in stamp.items() if k != "earlier"}))),
        _section("Earlier starts", _earlier(stamp.get("earlier", []))),
    ]
    path = folder / "report.html"
    write_whole(path, page(title, "".join(sections)), errors="replace")  # text of a task may hold half a surrogate pair
    return path


def page(title: str, body: str) -> str:
    """Return a whole HTML page around a body; it loads nothing from anywhere."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n<footer>Written from the files of the run folder.</footer></main></body></html>\n"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], numeric: Iterable[int] = ()) -> str:
    """Return an HTML table of escaped cells; the columns named in `numeric` are set to the right."""
    right = set(numeric)

    def cells(tag: str, values: Iterable[Any]) -> str:
        marks = ((' class="n"' if i in right else "", value) for i, value in enumerate(values))
        return "<tr>" + "".join(f"<{tag}{mark}>{escape(str(value))}</{tag}>" for mark, value in marks) + "</tr>"

    body = "\n".join(cells("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{cells("th", head)}</thead>\n<tbody>{body}</tbody></table></div>'


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Unusable(f"{path} is not valid JSON: {error}") from None


def _read_samples(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline was cut short
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise Unusable(f"{path} is not valid JSON: {error}") from None


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


def _header(title: str, summary: Mapping[str, Any], status: Mapping[str, Any], stamp: Mapping[str, Any]) -> str:
    state = str(status.get("state", "unknown"))
    bad = " bad" if state in ("failed", "diverged", "unusable", "lost") else ""
    facts = [f'<span class="state{bad}">{escape(state)}</span>']
    if "error" in status:
        facts.append(escape(str(status["error"])))
    if stamp.get("date"):
        facts.append(f"started {escape(str(stamp['date']))}")
    if stamp.get("commit"):
        facts.append(f"commit {escape(stamp['commit'][:10])}{' with local changes' if stamp.get('dirty') else ''}")
    return f"<header><h1>{escape(title)}</h1><p>{' &middot; '.join(facts)}</p></header>\n"


def _headline(summary: Mapping[str, Any]) -> str:
    tiles = (
        f'<div class="tile{" first" if i == 0 else ""}"><span>{escape(_words(name))}</span>'
        f"<b>{escape(_cells(rate)[0])}</b><span>95 % interval {escape(_cells(rate)[1])}</span>"
        f"<span>{rate['count']:,} counted</span></div>"
        for i, (name, rate) in enumerate(summary.get("metrics", {}).items())
    )
    facts = {}
    if summary:
        facts = {
            "step": f"{summary['step']:,}",
            "training loss": "none" if summary["loss"] is None else f"{summary['loss']:.4g}",
            "parameters": f"{summary['parameters']:,}",
            "wall time": _duration(summary["wall_seconds"]),
            f"{summary.get('unit', 'tokens')} a second": f"{summary['tokens_per_second']:,.0f}",
        }
        if "flops" in summary:  # runs of earlier versions have none
            facts["operations"] = f"{summary['flops']:.3g}"
        if "flops_full_depth" in summary:
            facts["against full depth"] = _percent(summary["flops"] / max(summary["flops_full_depth"], 1))
    items = (f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<div class="tiles">{"".join(tiles)}</div><dl class="facts">{"".join(items)}</dl>\n' if summary else ""


def _curves(rows: list[dict[str, float]], stages: list[dict[str, Any]]) -> str:
    """Return one chart a metric that was measured more than once, with the growths of the model marked.

    Names that differ only in what stands before the slash share a chart.
    """
    marks = [(stage["start"], f"depth {stage['depth']}") for stage in stages]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split("/")[-1], []).append(name)
    order = sorted(groups, key=lambda g: (FIRST_PLOTS.index(g) if g in FIRST_PLOTS else len(FIRST_PLOTS), g))
    charts = []
    for group in order:
        series = []
        for name in groups[group]:
            points = [(row["step"], row[name]) for row in rows if name in row]
            series.append(Series(_words(name), [x for x, _ in points], [y for _, y in points]))
        if max(len(s.x) for s in series) < 2:
            continue
        values = [y for s in series for y in s.y if y > 0]
        log = "loss" in group and bool(values) and max(values) > 10 * min(values)
        label = _words(group if len(series) > 1 else groups[group][0])
        charts.append(line_chart(series, x_label="step", y_label=label, log=log, marks=marks))
    return f'<div class="plots">{"".join(charts)}</div>\n' if charts else ""


def _pictures(pictures: Iterable[Picture]) -> str:
    captions = ((p, f"<figcaption>{escape(p.caption)}</figcaption>" if p.caption else "") for p in pictures)
    figures = (f"<figure><h3>{escape(p.title)}</h3>{draw(p)}{caption}</figure>" for p, caption in captions)
    return f'<div class="plots">{"".join(figures)}</div>\n'


def _slices(summary: Mapping[str, Any]) -> str:
    sections = []
    for slicing, parts in summary.get("slices", {}).items():
        metrics = list(dict.fromkeys(metric for rates in parts.values() for metric in rates))
        charts = _slice_charts(slicing, metrics, parts, summary.get("trained", {}).get(slicing))
        head = [slicing, "examples", *(column for metric in metrics for column in (_words(metric), "95 % interval"))]
        rows = [
            # the fewest are the examples themselves, where another metric counts their tokens
            [part, f"{min(rate['count'] for rate in rates.values()):,}"]
            + [cell for m in metrics for cell in (_cells(rates[m]) if m in rates else ("", ""))]
            for part, rates in parts.items()
        ]
        listing = table(head, rows, numeric=range(1, len(head)))
        body = f'<div class="plots">{"".join(charts)}</div>\n{_folded(listing, len(rows))}'
        sections.append(_section(f"Results by {slicing}", body))
    return "".join(sections)


def _slice_charts(slicing: str, metrics: list[str], parts: Mapping[str, Any], trained: list[float] | None) -> list[str]:
    """Return charts with a line a metric, one for each unit, where the parts are numbers, else bars, a chart a metric.

    Bars are for proportions; means stand in the table alone.
    """
    columns = {m: {part: rates[m] for part, rates in parts.items() if m in rates} for m in metrics}
    units = {m: next(iter(rates.values())).get("unit", "") for m, rates in columns.items()}
    if not (all(_is_number(part) for part in parts) and len(parts) > 2):
        bars = {
            m: bar_chart(list(rates), *([r[name] for r in rates.values()] for name in ("value", "low", "high")))
            for m, rates in columns.items()
            if not units[m]
        }
        return [f"<div><h3>{escape(_words(m))}</h3>{bar}</div>" for m, bar in bars.items()]
    charts, shaded = [], None if trained is None else (trained[0], trained[1])
    for unit in dict.fromkeys(units.values()):
        series = []
        for m, rates in columns.items():
            if units[m] == unit:
                points = sorted((float(part), rate["value"], rate["low"], rate["high"]) for part, rate in rates.items())
                series.append(Series(_words(m), *map(list, zip(*points, strict=True))))
        label = series[0].name if len(series) == 1 else unit or f"by {slicing}"
        lows = [low for s in series for low in s.low or ()]
        wide = min(lows) > 0 and max(lows) > 10 * min(lows)
        scale: dict[str, Any] = {"log": wide} if unit else {"y_range": (0.0, 1.0), "percent": True}
        charts.append(line_chart(series, x_label=slicing, y_label=label, shaded=shaded, **scale))
    return charts


def _examples(samples: list[dict[str, Any]]) -> str:
    parts = []
    for right in (True, False):
        chosen = [sample for sample in samples if bool(sample.get("right")) is right]
        if chosen:
            # Evenly from the list, which runs from the small sizes to the large ones.
            count = min(len(chosen), EXAMPLES_SHOWN)
            shown = [chosen[i * len(chosen) // count] for i in range(count)]
            title = f"{'Right' if right else 'Wrong'} ({len(shown)} of {len(chosen)} kept)"
            cards = "".join(_card(sample, right) for sample in shown)
            parts.append(f'<h3>{title}</h3><div class="examples">{cards}</div>\n')
    return "".join(parts)


def _card(sample: Mapping[str, Any], right: bool) -> str:
    first = ("question", "target", "prediction")
    names = [name for name in first if name in sample] + [n for n in sample if n not in (*first, "right")]
    items = (
        f"<dt>{escape(_words(name))}</dt><dd><pre>{escape(_plain(sample[name]))}</pre></dd>"
        for name in names
        if sample[name] is not None
    )
    return f'<div class="example{"" if right else " wrong"}"><dl>{"".join(items)}</dl></div>'


def _parameters(rows: list[list[Any]]) -> str:
    if not rows:
        return ""
    total = sum(count for *_, count in rows)
    cells = [[path, " × ".join(map(str, shape)) or "scalar", f"{n:,}", _percent(n / total)] for path, shape, n in rows]
    cells.append(["total", "", f"{total:,}", ""])
    return _folded(table(["parameter", "shape", "numbers", "share"], cells, numeric=(1, 2, 3)), len(rows))


def _earlier(starts: list[dict[str, Any]]) -> str:
    rows = [[s["date"], (s["commit"] or "")[:10], "yes" if s["dirty"] else "no", " ".join(s["argv"])] for s in starts]
    return table(["date", "commit", "local changes", "command"], rows) if rows else ""


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(_plain(value))}</code></td></tr>\n"
        for name, value in values.items()
    )
    body = f'<div class="scroll"><table class="pairs"><tbody>{rows}</tbody></table></div>'
    return _folded(body, len(values)) if values else ""


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return {dotted path: leaf}; the kind of a configuration stands at its own path."""
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        if name == "kind":
            flat |= {path: inner} if path else {}
        else:
            flat |= _flatten(inner, f"{path}.{name}" if path else name)
    return flat


def _folded(body: str, rows: int) -> str:
    return f"<details><summary>show the table</summary>{body}</details>" if rows > ROWS_SHOWN else body


def _cells(rate: Mapping[str, Any]) -> tuple[str, str]:
    """Return a rate and its interval as a reader sees them: a proportion in percent, a mean with its unit."""
    if rate.get("unit"):
        return f"{rate['value']:.4g} {rate['unit']}", f"{rate['low']:.4g} – {rate['high']:.4g}"
    return _percent(rate["value"]), f"{100 * rate['low']:.1f} – {_percent(rate['high'])}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
