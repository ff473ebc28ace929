"""Tokens per second of every generator that draws in the step: on its own, against a plain one, as part of a step.

Batches are those of the task's recipe, many in a dispatch, on one core; sides take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scripts.measure import seconds
from scripts.peers.race import pinned
from scripts.plain_generators import pairs
from tasks.task import Claim, Experiment

RECIPES = (
    *("flip_flop_cpu", "automaton_cpu", "dyck_cpu", "modular_arithmetic_cpu", "group_table_cpu", "sparse_parity_cpu"),
    *("unseen_cpu", "boolean_conjunction_cpu", "graph_search_cpu", "retrieval_cpu", "cycles_cpu", "spaced_parity_cpu"),
    *("spaced_addition_cpu", "addition_cpu", "multiplication_cpu", "copy_cpu", "board_cpu", "sorting_cpu"),
    *("aggregates_cpu", "shapes_resnet_cpu"),
)
LARGE = 1024  # sequences of a batch that is drawn against a plain generator
PLAIN = 32  # sequences that a plain generator makes meanwhile
TOKENS = 1 << 20  # to draw in a dispatch


def drawing(draw: Callable[[Any, Any], Any], key: Any) -> Callable[[int], Any]:
    """Return a program that draws so many batches, uses all that is drawn and keeps none of it."""
    import jax
    import jax.numpy as jnp

    def use(step: Any, total: Any) -> Any:
        return total + sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(draw(key, step)))

    run = jax.jit(lambda count: jax.lax.fori_loop(0, count, use, jnp.float32(0)))
    return lambda count: run(jnp.int32(count))


def in_recipes(seed: int) -> dict[str, float]:
    """Return tokens a second of drawing alone, and its share of a step, for every recipe."""
    import jax
    import jax.numpy as jnp

    from lm.step import init_state, make_step, repeat
    from lm.train import build_net, parts_of
    from tasks import registry

    figures = {}
    for name in RECIPES:
        recipe = registry.RECIPES[name]()
        source, net = recipe.task.source(recipe, Path()), build_net(recipe)[1]
        assert source.draw is not None
        objective, optimizer, _ = parts_of(recipe)
        key = jax.random.key(seed)
        state = jax.jit(lambda key, n=net, o=optimizer: init_state(n, o, key))(key)
        step, draw = jax.jit(repeat(make_step(net, objective, optimizer, source.draw))), drawing(source.draw, key)
        tokens = recipe.train.batch_size * recipe.task.train_length
        batches = max(TOKENS // tokens, 1)
        alone, whole = seconds(
            lambda draw=draw, batches=batches: draw(batches),
            lambda step=step, state=state: step(state, None, jnp.int32(2)),
            rounds=5,
        )
        task = recipe.task.name
        figures[f"{task}/rate"] = tokens * batches / alone
        figures[f"{task}/share"] = (alone / batches) / (whole / 2)
    return figures


def against_plain(seed: int) -> dict[str, float]:
    """Return tokens a second of large batches, of a plain generator, and their ratio, for every task that has one."""
    import jax

    figures = {}
    for name, (task, plain) in pairs().items():
        rng = np.random.default_rng(seed)
        draw = drawing(lambda key, step, t=task: t.draw(jax.random.fold_in(key, step), LARGE), jax.random.key(seed))
        batches = max(TOKENS // (LARGE * task.train_length), 1)
        device, alone = seconds(
            lambda draw=draw, batches=batches: draw(batches),
            lambda plain=plain, rng=rng, task=task: [plain(rng, task) for _ in range(PLAIN)],
            rounds=5,
        )
        figures[f"{name}/device"] = batches * LARGE * task.train_length / device
        figures[f"{name}/plain"] = PLAIN * task.train_length / alone
        figures[f"{name}/ratio"] = figures[f"{name}/device"] / figures[f"{name}/plain"]
    return figures


def generators(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Measure every generator on one core."""
    with pinned(1):
        figures = in_recipes(seed) | against_plain(seed)

    def of(kind: str) -> list[float]:
        return [value for name, value in figures.items() if name.endswith(f"/{kind}")]

    fast = sum(rate >= 1e8 for rate in of("rate"))
    worst = {"least_ratio": min(of("ratio")), "least_rate": min(of("rate")), "largest_share": max(of("share"))}
    return {**worst, "fast": fast, "tasks": len(RECIPES), **figures}


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
            "Tokens per second of the batches of a recipe, one core, of the slowest generator of all",
            "least_rate",
            at_least=1e8,
        ),
        Claim("", "Drawing as a share of a step, of the recipe where it is largest", "largest_share", at_most=0.05),
    ),
    run=generators,
)
