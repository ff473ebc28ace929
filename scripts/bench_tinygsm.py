"""Word problems end to end: candidates sampled, executed and graded, by ours and by transformers with the same weights.

Each side runs at both precisions and the faster one counts, in turns on one core; the clock is the processor time, that
of the processes included which execute the peer's programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from lm.files import write_whole
from scripts.measure import command
from scripts.peers.comparison import Comparison
from scripts.peers.environments import ENVIRONMENTS, python_of
from scripts.peers.race import Side, race, ratio
from tasks.task import Claim

# The generator, which solves most problems by then; one serves all repetitions.
TRAINING = ("--train.steps=400", "--data.problems=16000", "--task.test_count=100")
PROBLEMS, ROUNDS, SLICE = 128, 3, 0.0  # a slice is one pass over the problems
SAMPLING = {"candidates": 4, "temperature": 0.8, "longest": 160}
CPU = {"JAX_PLATFORMS": "cpu"}
PRECISIONS = ("float32", "bfloat16")


def tinygsm(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Train a generator unless there is one, and measure both sides with it."""
    torch = python_of("torch", peers)
    folder = workdir.absolute().parent
    run, model, questions = folder / "generator", folder / "model", folder / "questions.json"
    if not questions.exists():
        command("scripts/train.py", "tinygsm_cpu", *TRAINING, "--workdir", run)
        command("scripts/convert.py", "export", "--workdir", run, "--out", model)
        write_whole(questions, json.dumps(problems(run)))
    sides = {}
    for precision in PRECISIONS:
        said: dict[str, Any] = {"questions": str(questions), "precision": precision, "seed": seed, **SAMPLING}
        sides[f"ours_{precision}"] = Side("scripts.peers.our_tinygsm", {"run": str(run), **said}, env=CPU)
        peer = {"model": str(model), **said}
        sides[f"transformers_{precision}"] = Side("scripts.peers.transformers_tinygsm", peer, torch)
    taken = race(sides, 1, SLICE, ROUNDS)
    figures: dict[str, float] = {}
    for name, each in taken.items():
        figures[f"{name}_problems_per_second"] = 1 / min(each.slices("cpu"))
        figures[f"{name}_right"] = mean(each.facts["right"])
        figures[f"{name}_mb"] = each.facts["peak_memory"] / 1e6

    def fastest(side: str) -> str:
        return min((f"{side}_{p}" for p in PRECISIONS), key=lambda name: min(taken[name].slices("cpu")))

    ours, peer_name = fastest("ours"), fastest("transformers")
    figures |= ratio(taken[peer_name], taken[ours]).figures("problems_ratio")
    figures["right_difference"] = abs(figures[f"{ours}_right"] - figures[f"{peer_name}_right"])
    return figures


def problems(run: Path) -> list[dict[str, Any]]:
    """Return test problems, as the generator reads them."""
    from lm.trained import load
    from scripts.runs import read_recipe
    from tasks.math.data import held_out

    recipe = read_recipe(run)
    source = load(recipe, run).source
    assert source.prompt is not None
    asked = held_out(recipe.data, recipe.task.settings, PROBLEMS, ("in_distribution",))["in_distribution"]
    return [{"question": p.question, "answer": str(p.answer), "prompt": list(source.prompt(p.question))} for p in asked]


TINYGSM = Comparison(
    "speed_tinygsm",
    "Word problems sampled, executed and graded",
    (
        Claim(
            "",
            f"{PROBLEMS} problems, {SAMPLING['candidates']} programs each, a decoder of 0.7M parameters, against "
            f"{ENVIRONMENTS['torch'].pins[1]} its programs executed in a process a batch: ratio of problems a second",
            "problems_ratio",
            at_least=3.0,
        ),
        Claim("", "The same: share of right programs, difference", "right_difference", at_most=0.05, rule="worst"),
    ),
    tinygsm,
)
