"""Measured claims: one JSON file an experiment and a scale in docs/results, and the page that shows them all."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm.exits import UserError
from lm.files import write_whole
from lm.report.pictures import draw, from_json, to_json
from lm.report.svg import standalone
from tasks.task import Claim, Experiment

RULES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
    "highest": max,
    "lowest": min,
}
SPEED = re.compile(r"speed.*|generators|majority|plans")  # names of the results that stand in the table of speed
FEW, MANY = 12, 60  # figures that fit on a line; more than a table should have


def bar(claim: Claim) -> str:
    """Return the bound of a claim as text."""
    return f">= {claim.at_least:g}" if claim.at_least is not None else f"<= {claim.at_most:g}"


def judge(claim: Claim, measured: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
    """Return a claim with what was measured and whether it holds, as the results file has it."""
    if claim.exact:
        measured, seeds = measured[:1], []
    upwards = claim.at_least is not None
    extremes = {"best": "highest" if upwards else "lowest", "worst": "lowest" if upwards else "highest"}
    value = RULES[extremes.get(claim.rule, claim.rule)](measured)
    passed = value >= claim.at_least if claim.at_least is not None else value <= claim.at_most
    said = {name: getattr(claim, name) for name in ("statement", "paper_value", "metric", "rule", "exact")}
    return {
        **said,
        "bar": bar(claim),
        "measured": list(measured),
        "seeds": list(seeds),
        "value": value,
        "passed": passed,
    }


def measure(experiment: Experiment, scale: str, workdir: Path, command: str) -> dict[str, Any]:
    """Run an experiment over its seeds and judge its claims; `command` is what repeats it."""
    claims = [claim for claim in experiment.claims if claim.scale == scale]
    if not claims:
        raise UserError(f"{experiment.name} claims nothing at scale {scale}")
    seeds = [0] if all(claim.exact for claim in claims) else list(experiment.seeds[scale])
    begun = time.monotonic()
    figures = [experiment.run(workdir / str(seed), scale, seed) for seed in seeds]
    seconds = round(time.monotonic() - begun, 1)
    judged = [judge(claim, [float(f[claim.metric]) for f in figures], seeds) for claim in claims]
    head = {"name": experiment.name, "paper": experiment.paper, "scale": scale, "claims": judged}
    everything = {metric: [float(f[metric]) for f in figures] for metric in figures[0]}
    pictures = [to_json(picture) for picture in experiment.pictures(everything)]
    return {**head, "figures": everything, "pictures": pictures, **provenance_of(command), "wall_seconds": seconds}


def publish(experiment: Experiment, scale: str, workdir: Path, docs: Path, command: str) -> bool:
    """Measure an experiment, print its table, write its file and the page; return whether all its claims hold."""
    name = f"{experiment.name}.{scale}"
    shutil.rmtree(workdir / name, ignore_errors=True)
    result = measure(experiment, scale, workdir / name, command)
    print(f"{result['paper']}\n{table(result['claims'])}\n{others(result)}\n")
    save(result, docs)
    return all(claim["passed"] for claim in result["claims"])


def provenance_of(command: str) -> dict[str, Any]:
    """Return where a result comes from, for its file."""
    from lm.report.folder import provenance

    facts = provenance()
    device = facts["devices"]
    hardware = f"{os.cpu_count()} CPU cores" if device["platform"] == "cpu" else f"{device['count']} {device['kind']}"
    kept = {name: facts[name] for name in ("commit", "dirty", "versions", "date")}
    return {"command": command, "hardware": hardware, **kept}


def save(result: Mapping[str, Any], docs: Path) -> None:
    """Write docs/results/NAME.SCALE.json and its pictures beside it, and the page of all results anew."""
    folder = docs / "results"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    write_whole(folder / f"{result['name']}.{result['scale']}.json", text)
    for old in folder.glob(f"{result['name']}.{result['scale']}.*.svg"):
        old.unlink()
    for name, picture in zip(picture_names(result), result["pictures"], strict=True):
        write_whole(folder / name, standalone(draw(from_json(picture))) + "\n")
    write_whole(docs / "RESULTS.md", render(folder))


def picture_names(result: Mapping[str, Any]) -> list[str]:
    """Return the file names of a result's pictures."""
    count = len(result.get("pictures", ()))  # results of earlier versions have none
    return [f"{result['name']}.{result['scale']}.{number + 1}.svg" for number in range(count)]


def table(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return judged claims as a Markdown table."""
    lines = ["| claim | paper | measured | bar | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        each = ", ".join(f"{value:.4g}" for value in claim["measured"])
        seeds = f" ({claim['rule']} of {each})" if len(claim["measured"]) > 1 else ""
        verdict = "holds" if claim["passed"] else "**missed**"
        lines.append(
            row(claim["statement"], claim["paper_value"], f"{claim['value']:.4g}{seeds}", claim["bar"], verdict)
        )
    return "\n".join(lines)


def row(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def others(result: Mapping[str, Any]) -> str:
    """Return the figures that no claim names: as one line, as a table that opens, or where they stand."""
    claimed = {claim["metric"] for claim in result["claims"]}
    named = ("longest/", "trained/")  # these stand in the table of lengths
    rest = {m: each for m, each in result["figures"].items() if m not in claimed and not m.startswith(named)}
    if len(rest) <= FEW:
        shown = ", ".join(f"{metric} {statistics.median(each):.4g}" for metric, each in rest.items())
        return f"Also measured (medians): {shown}." if rest else ""
    if len(rest) > MANY:
        return f"{len(rest)} more figures stand in `results/{result['name']}.{result['scale']}.json`."
    rows = (f"| {m} | {statistics.median(e):.4g} | {min(e):.4g} | {max(e):.4g} |" for m, e in rest.items())
    head = "| figure | median | lowest | highest |\n|---|---|---|---|\n"
    return f"<details><summary>{len(rest)} more figures</summary>\n\n{head}" + "\n".join(rows) + "\n\n</details>"


def own_table(result: Mapping[str, Any]) -> str:
    """Return the table that a result brings with it, {head: cells, rows: cells of each}; "" where there is none."""
    if "table" not in result:
        return ""
    head, cells = result["table"]["head"], result["table"]["rows"]
    lines = (" | ".join(line) for line in (head, ["---"] * len(head), *cells))
    return "".join(f"| {line} |\n" for line in lines)


def lengths(results: Sequence[Mapping[str, Any]]) -> str:
    """Return how far each task is solved under each scheme, from the figures `longest/TASK/SCHEME`; "" without any."""
    rows = []
    for result in results:
        arms: dict[str, list[tuple[float, str]]] = {}
        for metric, each in result["figures"].items():
            if metric.startswith("longest/"):
                _, task, arm = metric.split("/", 2)
                middle, low, high = statistics.median(each), min(each), max(each)
                spread = f" ({low:g} to {high:g})" if low < high else ""
                arms.setdefault(task, []).append((middle, f"{arm.replace('_', ' ')} **{middle:g}**{spread}"))
        for task, found in arms.items():
            reached = " · ".join(said for _, said in sorted(found, key=lambda arm: -arm[0]))
            trained = max(result["figures"][f"trained/{task}"])
            rows.append(f"| {task} | `{result['name']}` | {trained:g} | {reached} |\n")
    about = "The largest size up to which every size examined has 95 % exact match: median (and range) over the seeds."
    head = f"\n## Length generalisation\n\n{about}\n\n| task | experiment | trained to | solved up to |\n"
    return f"{head}|---|---|---|---|\n{''.join(rows)}" if rows else ""


def speed(results: Sequence[Mapping[str, Any]]) -> str:
    """Return every claim about speed, with its peer, its range, and how far the physical limit is; "" without any.

    A statement says `WHAT, against PEER: MEASURE`. Beside a metric `NAME_ratio` the figures may hold its range over
    rounds (`NAME_ratio_low`, `NAME_ratio_high`), the limit (`NAME_floor_UNIT`) and how far off it is (`NAME_gap`).
    """
    rows = []
    for result in results:
        for claim in result["claims"] if SPEED.fullmatch(result["name"]) else ():
            figures, metric = result["figures"], claim["metric"]
            what, _, rest = claim["statement"].partition(" against ")
            peer, _, measure = rest.partition(": ")
            what = f"{what.rstrip(',')}: {measure}" if measure else claim["statement"]
            low = min((*claim["measured"], *figures.get(f"{metric}_low", ())))
            high = max((*claim["measured"], *figures.get(f"{metric}_high", ())))
            spread = f" ({low:.3g} to {high:.3g})" if low < high else ""
            verdict = "holds" if claim["passed"] else "**missed**"
            limit = (limit_of(figures, metric.removesuffix("_ratio"), name) for name in ("floor", "gap"))
            theirs = "; ".join(filter(None, (peer, claim["paper_value"])))
            name = f"`{result['name']}`"
            rows.append(row(name, what, theirs, f"{claim['value']:.3g}{spread}", claim["bar"], verdict, *limit) + "\n")
    about = (
        "Each in one run on one machine: median (and range). The floor is what the machine's products alone would take."
    )
    head = row("bench", "what", "peer", "measured", "bar", "verdict", "floor", "gap")
    return f"\n## Speed\n\n{about}\n\n{head}\n|{'---|' * 8}\n{''.join(rows)}" if rows else ""


def limit_of(figures: Mapping[str, Sequence[float]], name: str, kind: str) -> str:
    """Return the median of a figure NAME_floor or NAME_gap, with the unit that may end its name; "" without one."""
    for metric, each in figures.items():
        if found := re.fullmatch(rf"{re.escape(name)}_{kind}(?:_(\w+))?", metric):
            return f"{statistics.median(each):.3g} {found[1] or ('x' if kind == 'gap' else '')}".rstrip()
    return ""


def render(folder: Path) -> str:
    """Return the page of all the results in a folder."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    passed = [claim["passed"] for result in results for claim in result["claims"]]
    page = f"# Results\n\n{sum(passed)} of {len(passed)} claims hold. "
    page += "`scripts/reproduce.py` and `scripts/bench.py` write this page.\n"
    page += speed(results) + lengths(results)
    for result in results:
        where = f"{result['hardware']}, jax {result['versions']['jax']}, commit {result['commit'][:7]}"
        page += f"\n## {result['paper']}\n\n{table(result['claims'])}\n\n"
        page += "".join(f"{part}\n\n" for part in (others(result), own_table(result).rstrip()) if part)
        for name, picture in zip(picture_names(result), result.get("pictures", ()), strict=True):
            page += f"**{picture['title']}**\n\n![{picture['title']}](results/{name})\n\n"
            page += f"{picture['caption']}\n\n" if picture["caption"] else ""
        page += f"`{result['command']}`: {result['wall_seconds']:.0f} s on {where}, {result['date'][:10]}.\n"
    return page
