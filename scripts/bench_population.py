"""A population of 16 small decoders as one program against processes of their own, and against those of PyTorch.

Whole commands are compared by the processor seconds that they take on one core, start and compilation included: cold
with cold, and of ours also what finds its programs compiled.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.measure import largest_difference, seconds
from scripts.peers.comparison import Comparison
from scripts.peers.environments import python_of
from scripts.peers.race import ROOT, pinned, spread
from scripts.peers.shapes import Shape
from tasks.task import Claim

MEMBERS, STEPS, RUNS = 16, 200, 4  # single processes are alike, so as many stand for all; every other is cold
SHAPES = {
    "d32": Shape(depth=2, width=32, heads=2, length=32, batch=16, vocabulary=3, steps=1),
    "d64": Shape(depth=2, width=64, heads=4, length=64, batch=16, vocabulary=3, steps=1),
}
RECIPE = "flip_flop_attention_cpu"


def population(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Compare whole commands and steps alone, for each shape."""
    torch = python_of("torch", peers)
    figures: dict[str, float] = {}
    for name, shape in SHAPES.items():
        with pinned(1):
            found = whole(shape, (workdir / name).absolute(), torch, RUNS * seed) | steady(shape)
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return figures


def whole(shape: Shape, folder: Path, torch: Path, first: int) -> dict[str, float]:
    """Return what a sweep takes, and single processes of ours and of PyTorch."""
    fields = {
        **{f"model.{name}": getattr(shape, name) for name in ("depth", "width", "heads")},
        "task.length": shape.length,
        "train.batch_size": shape.batch,
        "train.steps": STEPS,
    }
    line = (RECIPE, *(f"--{field}={value}" for field, value in fields.items()))
    taken: dict[str, list[float]] = {}
    for number in range(RUNS):
        compiled, turn = folder / f"compiled{number // 2}", ("cold", "cached")[number % 2]
        train = ("scripts/train.py", *line, f"--train.seed={first + number}", "--workdir", folder / f"run{number}")
        sweep = ("scripts/sweep.py", *line, "--seeds", MEMBERS, "--workdir", folder / f"sweep{number}")
        said = {"shape": shape._asdict(), "steps": STEPS, "seed": first + number, **TESTS}
        taken.setdefault(f"run_{turn}", []).append(spent(compiled / "run", sys.executable, *train))
        taken.setdefault("torch", []).append(spent(compiled, torch, "-m", "scripts.peers.torch_run", json.dumps(said)))
        if number < 2:
            taken[f"sweep_{turn}"] = [spent(compiled / "sweep", sys.executable, *sweep)]
    seconds = {name: spread(each).value for name, each in taken.items()}
    ratios = {
        f"{side}_ratio_{turn}": MEMBERS * seconds[name] / seconds[f"sweep_{turn}"]
        for turn in ("cold", "cached")
        for side, name in (("run", f"run_{turn}"), ("torch", "torch"))
    }
    return {f"{name}_seconds": value for name, value in seconds.items()} | ratios


TESTS = {"ignore": 80, "tests": [10, 80, 98], "count": 512}  # as many strings as a run of ours is examined on


def spent(compiled: Path, *words: object) -> float:
    """Run a command, which keeps compiled programs in a folder, and return the processor seconds that it took."""

    def children() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    compiled.mkdir(parents=True, exist_ok=True)
    before = children()
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
    }
    subprocess.run([*map(str, words)], check=True, capture_output=True, cwd=ROOT, env=env)
    return children() - before


def steady(shape: Shape) -> dict[str, float]:
    """Time the steps of all members as one program and in turn, and compare the weights that they end with."""
    import jax
    import jax.numpy as jnp

    from lm.step import init_state, make_step, repeat
    from lm.sweep import over_members
    from lm.train import build_net, parts_of
    from tasks.registry import RECIPES

    recipe = RECIPES[RECIPE]()
    model = replace(recipe.model, depth=shape.depth, width=shape.width, heads=shape.heads)
    train = replace(recipe.train, batch_size=shape.batch, steps=STEPS)
    recipe = replace(recipe, task=replace(recipe.task, length=shape.length), model=model, train=train)
    net, draw = build_net(recipe)[1], recipe.task.source(recipe, Path()).draw
    objective, optimizer, _ = parts_of(recipe)
    run = repeat(make_step(net, objective, optimizer, draw))
    begin = jax.jit(lambda key: init_state(net, optimizer, key))
    states = [begin(jax.random.key(seed)) for seed in range(MEMBERS)]
    stacked = together(states)
    one, many = jax.jit(run), jax.jit(lambda s, count: over_members(lambda each: run(each, None, count), s))
    loop, mapped = seconds(lambda: [one(s, None, 20) for s in states], lambda: many(stacked, jnp.int32(20)))
    singles = together([one(s, None, STEPS)[0].params for s in states])
    difference = largest_difference(many(stacked, jnp.int32(STEPS))[0].params, singles)
    return {"steady_ratio": loop / mapped, "step_seconds": mapped / 20, "difference": difference}


def together(trees: list[Any]) -> Any:
    """Return trees as one with a leading axis."""
    import jax
    import jax.numpy as jnp

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def claims_of(name: str, shape: Shape) -> tuple[Claim, ...]:
    """Return what is claimed of a shape."""
    what = f"width {shape.width}, length {shape.length}"
    return (
        Claim(
            "",
            f"{MEMBERS} members of {STEPS} steps, {what}, as one sweep against as many processes of ours, start and "
            "compilation in: ratio of processor seconds",
            f"{name}_run_ratio_cold",
            at_least=3.0,
        ),
        Claim("", f"The same against processes of PyTorch, {what}", f"{name}_torch_ratio_cold", at_least=5.0),
        Claim("", f"Steps alone against a loop over compiled steps, {what}", f"{name}_steady_ratio", at_least=1.0),
        Claim(
            "",
            f"Largest difference of a weight between a member and its single run, {what}",
            f"{name}_difference",
            at_most=1e-6,
            rule="worst",
        ),
    )


POPULATION = Comparison(
    "speed_population",
    "Speed: populations",
    tuple(claim for name, shape in SHAPES.items() for claim in claims_of(name, shape)),
    population,
)
