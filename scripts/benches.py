"""What scripts/bench.py measures: each bench returns figures that its claims name, as ratios within one run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tasks.task import Claim

CLAIMS: Mapping[str, tuple[Claim, ...]] = {
    "data": (
        Claim("", "Flip-flop strings drawn inside the step: share of a step of flip_flop_cpu", "share", at_most=0.05),
        Claim("", "The same, steps a second with data drawn in the step", "steps_per_second", at_least=0.0),
    ),
    "population": (
        Claim("", "8 seeds as one program against 8 runs: wall time, start and compilation in", "start", at_least=1.0),
        Claim("", "The same in steady state, steps alone", "steady", at_least=1.0),
        Claim("", "Largest difference of a weight between a member and its single run", "difference", at_most=1e-6),
    ),
    "imports": (
        Claim("", "Seconds to import lm, above the interpreter's own start", "lm", at_most=0.2),
        Claim("", "Seconds to import tasks", "tasks", at_most=0.2),
    ),
}


def seconds(*calls: Callable[[], Any], rounds: int = 7) -> list[float]:
    """Return the median seconds of each call; the calls take turns, so that a noisy neighbour meets all alike."""
    import jax

    times: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds + 1):
        for call, kept in zip(calls, times, strict=True):
            begun = time.perf_counter()
            jax.block_until_ready(call())
            if round_:  # the first round compiles
                kept.append(time.perf_counter() - begun)
    return [median(kept) for kept in times]


def data(steps: int = 20) -> dict[str, float]:
    """Time steps that draw their batch against the drawing alone, on the flip-flop recipe."""
    import jax

    from lm.train import build_net, init_state, make_step, parts_of, repeat
    from tasks.registry import RECIPES

    recipe = RECIPES["flip_flop_cpu"]()
    net, source = build_net(recipe), recipe.task.source(recipe, Path())
    objective, optimizer, _ = parts_of(recipe)
    state = init_state(net, optimizer, jax.random.key(0))
    run = jax.jit(repeat(make_step(net, objective, optimizer, source.draw)))

    def only(state: Any, batch: Any) -> Any:
        drawn = source.draw(state.key, state.step)
        used = sum(x.sum() for x in jax.tree.leaves(drawn))
        return state._replace(step=state.step + 1), {"used": used}

    draw = jax.jit(repeat(only))
    whole, alone = seconds(lambda: run(state, None, steps), lambda: draw(state, None, steps))
    return {"share": alone / whole, "steps_per_second": steps / whole}


def population(members: int = 8, steps: int = 200) -> dict[str, float]:
    """Time a sweep over seeds against single runs of the same recipe, whole commands and steps alone."""
    common = ["flip_flop_attention_cpu", f"--train.steps={steps}"]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        _run("scripts/sweep.py", *common, "--seeds", str(members), "--workdir", f"{folder}/sweep")
        together = time.perf_counter() - begun
        begun = time.perf_counter()
        for seed in range(members):
            _run("scripts/train.py", *common, f"--train.seed={seed}", "--workdir", f"{folder}/{seed}")
        apart = time.perf_counter() - begun
    return {"start": apart / together, **_steady(members)}


def _steady(members: int, steps: int = 20) -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    from lm.sweep import over_members
    from lm.train import build_net, init_state, make_step, parts_of, repeat
    from tasks.registry import RECIPES

    recipe = RECIPES["flip_flop_attention_cpu"]()
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=200))
    net, source = build_net(recipe), recipe.task.source(recipe, Path())
    objective, optimizer, _ = parts_of(recipe)
    run = repeat(make_step(net, objective, optimizer, source.draw))
    states = [init_state(net, optimizer, jax.random.key(seed)) for seed in range(members)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    one, all_ = jax.jit(run), jax.jit(lambda s: over_members(lambda each: run(each, None, steps), s))
    apart, together = seconds(lambda: [one(s, None, steps) for s in states], lambda: all_(stacked), rounds=5)
    pairs = zip(jax.tree.leaves(all_(stacked)[0].params), _stack([one(s, None, steps) for s in states]), strict=True)
    return {"steady": apart / together, "difference": max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)}


def _stack(results: Sequence[Any]) -> list[Any]:
    import jax
    import jax.numpy as jnp

    return jax.tree.leaves(jax.tree.map(lambda *x: jnp.stack(x), *[state.params for state, _ in results]))


def imports() -> dict[str, float]:
    """Time imports in fresh interpreters, above the start of one."""

    def start(code: str) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - begun)
        return median(times)

    bare = start("pass")
    return {name: start(f"import {name}") - bare for name in ("lm", "tasks")}


def _run(*command: str) -> None:
    subprocess.run([sys.executable, *command, "--quiet"], check=True, capture_output=True)


BENCHES: Mapping[str, Callable[[], dict[str, float]]] = {"data": data, "population": population, "imports": imports}
