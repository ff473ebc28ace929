"""A peer: MaxText's decoder of the kind of GPT-3 and its own training step, in its own environment.

Settings: shape, precision (of its activations). Its layers are unrolled and keep what they can, the fastest choices
that it offers here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import maxtext
from flax import nnx
from maxtext.trainers.pre_train.train import initialize, train_step
from maxtext.utils import sharding, train_utils

from scripts.peers.serve import serve, settings, versions
from scripts.peers.shapes import BETAS, CLIP, LEARNING_RATE, SHAPES, WALK, WEIGHT_DECAY, Shape


def flags_of(shape: Shape, precision: str, folder: str) -> dict[str, object]:
    """Return the flags that train this shape on CPU."""
    model = {
        "decoder_block": "gpt3",
        "base_emb_dim": shape.width,
        "base_num_query_heads": shape.heads,
        "base_num_kv_heads": shape.heads,
        "head_dim": shape.width // shape.heads,
        "base_mlp_dim": 4 * shape.width,
        "mlp_activations": "['gelu']",
        "base_num_decoder_layers": shape.depth,
        "vocab_size": shape.vocabulary,
        "max_target_length": shape.length,
        "trainable_position_size": shape.length,
        "logits_via_embedding": True,
        "dtype": precision,
        "attention": "dot_product",
        "scan_layers": False,
        "remat_policy": "minimal_with_context",
        "enable_dropout": False,
    }
    optimizer = {
        "opt_type": "adamw",
        "learning_rate": LEARNING_RATE,
        "warmup_steps_fraction": 0.0,
        "learning_rate_final_fraction": 1.0,
        "adam_b1": BETAS[0],
        "adam_b2": BETAS[1],
        "adam_weight_decay": WEIGHT_DECAY,
        "gradient_clipping_threshold": CLIP,
        "per_device_batch_size": shape.batch,
    }
    run = {
        "run_name": "peer",
        "base_output_directory": folder,
        "hardware": "cpu",
        "dataset_type": "synthetic",
        "enable_checkpointing": False,
        "skip_jax_distributed_system": True,
    }
    return {**model, **optimizer, **run}


def draw_of(shape: Shape) -> Any:
    """Return a compiled function from a key to a batch as MaxText has them."""

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        key_first, key_moves = jax.random.split(key)
        first_B1 = jax.random.randint(key_first, (shape.batch, 1), 0, shape.vocabulary)
        moves_BL = jax.random.randint(key_moves, (shape.batch, shape.length), 0, WALK)
        tokens_BT = jnp.concatenate([first_B1, first_B1 + jnp.cumsum(moves_BL, axis=1)], axis=1) % shape.vocabulary
        positions_BL = jnp.broadcast_to(jnp.arange(shape.length), moves_BL.shape)
        batch = {}
        for name, tokens_BL in (("inputs", tokens_BT[:, :-1]), ("targets", tokens_BT[:, 1:])):
            batch[name] = tokens_BL
            batch[f"{name}_position"] = positions_BL
            batch[f"{name}_segmentation"] = jnp.ones_like(positions_BL)
        return batch

    return jax.jit(draw)


def main(shape: Shape, precision: str) -> None:
    """Set up its training as its own program does, and serve."""
    base = Path(maxtext.__file__).parent / "configs" / "base.yml"
    with tempfile.TemporaryDirectory() as folder:
        flags = (f"{name}={value}" for name, value in flags_of(shape, precision, folder).items())
        config, recorder = initialize(["", str(base), *flags])
        key, _, layout, _, mesh, *_, whole = train_utils.setup_train_loop(config, recorder)
        model, state = nnx.split(whole)
        of_params, layout = sharding.maybe_update_params_sharding_with_opt(config, layout)
        train, _ = train_utils.jit_train_and_eval_step(
            config, model, mesh, state, layout, train_step, None, None, of_params
        )
        draw, losses = draw_of(shape), []

        def step() -> int:
            nonlocal state
            state, metrics = train(state, draw(jax.random.fold_in(key, len(losses))))
            losses.append(float(metrics["scalar"]["learning/loss"]))
            return 1

        serve(step, lambda: {"losses": losses[:17], "versions": versions("maxtext", "jax")})


if __name__ == "__main__":
    given = settings()
    main(SHAPES[given["shape"]], given["precision"])
