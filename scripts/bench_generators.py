"""Tokens per second of every generator that draws in the step: on its own, against a plain one, as part of a step.

Every task has a process of its own, on one core. Batches are those of its recipe, many in a dispatch; sides take turns,
and processor time counts. Tokens of images are pixels.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scripts.measure import seconds
from scripts.peers.race import ROOT, pinned
from scripts.plain_generators import pairs
from tasks.task import Claim, Experiment

RECIPES = (
    *("flip_flop_cpu", "automaton_cpu", "dyck_cpu", "sparse_parity_cpu", "unseen_cpu", "boolean_conjunction_cpu"),
    *("graph_search_cpu", "retrieval_cpu", "cycles_cpu", "spaced_parity_cpu", "spaced_addition_cpu", "addition_cpu"),
    *("multiplication_cpu", "copy_cpu", "board_cpu", "sorting_cpu", "aggregates_cpu", "shapes_resnet_cpu"),
)
CONSTANT = ("modular_arithmetic_cpu", "group_table_cpu")  # every batch is the whole table: there is nothing to draw
LARGE = 1024  # sequences of a batch that is drawn against a plain generator
PLAIN = 32  # sequences that a plain generator makes meanwhile
TOKENS = 1 << 19  # to draw in a dispatch
ROUNDS = 3


def drawing(draw: Callable[[Any, Any], Any], key: Any) -> Callable[[int], Any]:
    """Return a program that draws so many batches, uses all that is drawn and keeps none of it."""
    import jax
    import jax.numpy as jnp

    from lm.keys import fast

    def use(step: Any, total: Any) -> Any:
        return total + sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(draw(fast(key), step)))

    run = jax.jit(lambda count: jax.lax.fori_loop(0, count, use, jnp.float32(0)))
    return lambda count: run(jnp.int32(count))


def tokens_of(draw: Callable[[Any, Any], Any], key: Any) -> int:
    """Return how many tokens, vectors or pixels a batch has."""
    import jax
    import jax.numpy as jnp

    inputs = jax.eval_shape(draw, key, 0).inputs
    return math.prod(inputs.shape[:-1] if jnp.issubdtype(inputs.dtype, jnp.floating) else inputs.shape)


def in_recipe(name: str, seed: int) -> dict[str, float]:
    """Return tokens a second of drawing a recipe's batches alone, and its share of a step."""
    import jax
    import jax.numpy as jnp

    from lm.step import init_state, make_step, repeat
    from lm.train import build_net, parts_of
    from tasks import registry

    recipe = registry.RECIPES[name]()
    draw, net = recipe.task.source(recipe, Path()).draw, build_net(recipe)[1]
    assert draw is not None
    objective, optimizer, _ = parts_of(recipe)
    key = jax.random.key(seed)
    state = jax.jit(lambda key: init_state(net, optimizer, key))(key)
    step, alone = jax.jit(repeat(make_step(net, objective, optimizer, draw))), drawing(draw, key)
    tokens = tokens_of(draw, key)
    batches = max(TOKENS // tokens, 1)
    drawn, whole = seconds(
        lambda: alone(batches), lambda: step(state, None, jnp.int32(2)), rounds=ROUNDS, clock=time.process_time
    )
    return {"rate": tokens * batches / drawn, "share": (drawn / batches) / (whole / 2)}


def against_plain(name: str, seed: int) -> dict[str, float]:
    """Return tokens a second of large batches, of a plain generator, and their ratio."""
    import jax

    task, plain = pairs()[name]
    rng, key = np.random.default_rng(seed), jax.random.key(seed)

    def draw(key: Any, step: Any) -> Any:
        return task.draw(jax.random.fold_in(key, step), LARGE)

    tokens, alone = tokens_of(draw, key), drawing(draw, key)
    batches = max(TOKENS // tokens, 1)
    device, host = seconds(
        lambda: alone(batches), lambda: [plain(rng, task) for _ in range(PLAIN)], rounds=ROUNDS, clock=time.process_time
    )
    rates = {"device": batches * tokens / device, "plain": PLAIN * tokens / LARGE / host}
    return rates | {"ratio": rates["device"] / rates["plain"]}


def measured(name: str, seed: int) -> dict[str, float]:
    """Return the figures of one generator."""
    return in_recipe(name, seed) | (against_plain(name, seed) if name in pairs() else {})


def generators(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Measure every generator, each in a process of its own on the same core."""
    figures: dict[str, float] = {}
    with pinned(1):
        for name in (*RECIPES, *CONSTANT):
            line = [sys.executable, "-m", "scripts.bench_generators", name, str(seed)]
            said = subprocess.run(line, check=True, stdout=subprocess.PIPE, cwd=ROOT, text=True).stdout
            figures |= {f"{name}/{figure}": value for figure, value in json.loads(said).items()}

    def of(kind: str) -> list[float]:
        return [figures[f"{name}/{kind}"] for name in RECIPES if f"{name}/{kind}" in figures]

    worst = {"least_ratio": min(of("ratio")), "least_rate": min(of("rate")), "largest_share": max(of("share"))}
    return {**worst, "fast": sum(rate >= 1e8 for rate in of("rate")), "tasks": len(RECIPES), **figures}


GENERATORS = Experiment(
    name="generators",
    paper="Generators on the device",
    claims=(
        Claim(
            "",
            "Tokens per second of a batch drawn on the device against a plain NumPy generator of the same sequences, "
            "one core: ratio of the task that gains least",
            "least_ratio",
            at_least=10.0,
        ),
        Claim(
            "",
            f"Tokens per second of the batches of a recipe, one core, of the slowest of {len(RECIPES)} generators; "
            f"{len(CONSTANT)} more hand out a table, the same in every step",
            "least_rate",
            at_least=1e8,
        ),
        Claim("", "Drawing as a share of a step, of the recipe where it is largest", "largest_share", at_most=0.05),
    ),
    run=generators,
)

if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
