"""What the transforms cost in training: a step with majority kernels against one of the plain model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts.measure import seconds
from tasks.task import Claim, Experiment

BATCH, LENGTH, ROUNDS = 32, 256, 3


def overhead(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Time steps of a decoder with three copies of each kernel against those of the plain one, on the same batch."""
    import jax
    import jax.numpy as jnp

    from lm.config import MajorityKernels, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
    from lm.step import init_state, make_step, repeat
    from lm.train import build_net, parts_of
    from lm.types import Batch

    model = TransformerConfig(vocabulary=256, depth=4, width=512, heads=8, dtype="float32")
    plain = Recipe(
        task=None,
        model=model,
        optimizer=OptimizerConfig(weight_decay=0.1),
        train=TrainConfig(batch_size=BATCH),
    )
    tokens_BL = jax.random.randint(jax.random.key(seed), (BATCH, LENGTH), 0, model.vocabulary)
    positions_BL = jnp.broadcast_to(jnp.arange(LENGTH), tokens_BL.shape)
    batch = Batch(tokens_BL, jnp.roll(tokens_BL, -1, 1), jnp.ones(tokens_BL.shape), positions_BL, {})
    batches = jax.tree.map(lambda x: x[None], batch)

    def prepared(recipe: Recipe) -> tuple[Any, Any]:
        net, (objective, optimizer, _) = build_net(recipe)[1], parts_of(recipe)
        state = jax.jit(lambda: init_state(net, optimizer, jax.random.key(seed)))()
        run = jax.jit(repeat(make_step(net, objective, optimizer)), donate_argnums=0)
        return run.lower(state, batches, jnp.int32(1)).compile(), [state]

    def advance(run: Any, held: list[Any]) -> Any:
        held[0], metrics = run(held[0], batches, jnp.int32(1))
        return metrics

    recipes = plain, replace(plain, transforms=(MajorityKernels(factor=3),))
    (plain_run, plain_state), (copies_run, copies_state) = map(prepared, recipes)
    parameters = sum(x.size for x in jax.tree.leaves(plain_state[0].params))
    alone, expanded = seconds(
        lambda: advance(plain_run, plain_state), lambda: advance(copies_run, copies_state), rounds=ROUNDS
    )
    return {
        "overhead": expanded / alone,
        "parameters": parameters,
        "tokens": BATCH * LENGTH,
        "plain_seconds": alone,
        "majority_seconds": expanded,
        "plain_megabytes": peak_megabytes(plain_run),
        "majority_megabytes": peak_megabytes(copies_run),
    }


def peak_megabytes(compiled: Any) -> float:
    """Return what a compiled step holds at once: arguments, results that are not written over them, temporaries."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (held + memory.temp_size_in_bytes) / 1e6


MAJORITY = Experiment(
    name="majority",
    paper="Overhead of majority kernels",
    claims=(
        Claim(
            "",
            "A step of AdamW with three copies of each kernel against one of the plain decoder of 12.7M parameters, "
            "8,192 tokens: ratio of seconds",
            "overhead",
            at_most=1.15,
            paper_value="minimal",
        ),
    ),
    run=overhead,
)
