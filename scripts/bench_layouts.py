"""Every layout of the devices against one device: losses, gradients and weights, and what each of them sends.

    figures = on_eight_devices()["data=2 x fsdp=4"]     # {"loss", "gradient", "weights": errors, "sent": [...]}

The collectives of a layout are [kind, axes, count, bytes], all those of a kind along the same axes together.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import (
    ALiBi,
    Learned,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RelativeBias,
    RNNConfig,
    TransformerConfig,
)  # fmt: skip
from tasks.task import Claim, Experiment

DEVICES, BATCH, LENGTH, VOCABULARY = 8, 16, 16, 64
MEMBERS = "eight members"
TOLERANCE = 1e-5  # float32 adds up in another order; errors are relative to the largest number of all arrays

SIZES: Mapping[str, Any] = {"vocabulary": VOCABULARY, "depth": 4, "width": 32, "heads": 4, "unroll": False}
MODELS: Mapping[str, ModelConfig] = {
    "rotary": TransformerConfig(**SIZES, kv_heads=2),
    "learned": TransformerConfig(
        **SIZES, positions=Learned(LENGTH), norm="layer", bias=True, tied=False, parallel=True, remat="full"
    ),
    "alibi": TransformerConfig(**SIZES, positions=ALiBi(), kv_heads=2, window=5, activation="swiglu"),
    "relative": TransformerConfig(**SIZES, positions=RelativeBias(8, 16), norm_place="both", kv_heads=2),
    "lstm": RNNConfig(vocabulary=VOCABULARY, depth=2, width=32, cell="lstm"),
}


class Layout(NamedTuple):
    """Sizes of the axes of a mesh, and the model that is laid out so."""

    sizes: Mapping[str, int]
    model: str = "rotary"

    @property
    def name(self) -> str:
        return " x ".join(f"{axis}={size}" for axis, size in self.sizes.items())

    @property
    def mesh(self) -> MeshConfig:
        return MeshConfig(**{"data": 1, **self.sizes})


LAYOUTS = (
    Layout({"data": 8}),
    Layout({"fsdp": 8}),
    Layout({"tensor": 2}),
    Layout({"sequence": 4}),
    Layout({"pipeline": 4}),
    Layout({"data": 2, "fsdp": 4}),
    Layout({"data": 4, "tensor": 2}, "relative"),
    Layout({"fsdp": 4, "tensor": 2}),
    Layout({"data": 2, "fsdp": 2, "tensor": 2}, "learned"),
    Layout({"data": 4, "sequence": 2}),
    Layout({"fsdp": 4, "sequence": 2}),
    Layout({"sequence": 4, "tensor": 2}, "alibi"),
    Layout({"data": 2, "fsdp": 2, "sequence": 2}, "relative"),
    Layout({"data": 2, "pipeline": 4}),
    Layout({"fsdp": 2, "pipeline": 4}, "relative"),
    Layout({"pipeline": 4, "tensor": 2}, "alibi"),
    Layout({"data": 2, "sequence": 2, "pipeline": 2}, "learned"),
    Layout({"fsdp": 2, "sequence": 2, "pipeline": 2}, "alibi"),
    Layout({"fsdp": 4, "data": 2}, "lstm"),
)


def draw_batch() -> Any:
    """Return a batch of packed segments, the first of which is padding, and groups."""
    import numpy as np

    from lm.types import Example

    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, VOCABULARY, (BATCH, LENGTH + 1), dtype=np.int32)
    segments_BL = np.sort(rng.integers(0, 3, (BATCH, LENGTH), dtype=np.int32))
    positions_BL = np.arange(LENGTH, dtype=np.int32) - np.argmax(segments_BL[:, :, None] == segments_BL[:, None], 2)
    groups_BL = rng.integers(0, 3, (BATCH, LENGTH), dtype=np.int32)
    weights_BL = rng.random((BATCH, LENGTH), dtype=np.float32)
    positions_BL = positions_BL.astype(np.int32)
    return Example(tokens_BT[:, :-1], tokens_BT[:, 1:], weights_BL, positions_BL, {}, segments_BL, groups_BL)


def two_steps(model: ModelConfig, config: MeshConfig, devices: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """Return losses, first gradient and weights of two steps of Adam on so many devices, and what a step sends."""
    import jax

    from lm.collectives import collectives, totals
    from lm.losses import next_token
    from lm.mesh import make_mesh, put_batch, state_shardings, under
    from lm.models import build
    from lm.optim import make_optimizer
    from lm.step import init_state, make_step

    # A large epsilon: without it the first steps of Adam are the signs of a gradient, which rounding may turn.
    rates = OptimizerConfig(clip=None, epsilon=1e-3)
    net, optimizer = build(model), make_optimizer(rates, lambda step: 1e-2)
    mesh, batch = make_mesh(config, jax.devices()[:devices]), draw_batch()
    batch = put_batch(batch if isinstance(model, TransformerConfig) else batch._replace(groups=None), mesh)

    def begin() -> Any:
        return init_state(net, optimizer, jax.random.key(0))

    shardings = state_shardings(jax.eval_shape(begin), mesh)
    state = jax.jit(under(mesh, begin), out_shardings=shardings)()
    step = jax.jit(under(mesh, make_step(net, next_token, optimizer)), out_shardings=(shardings, None))
    compiled = step.lower(state, batch).compile()
    first, metrics = compiled(state, batch)
    second, later = compiled(first, batch)
    moments = [leaf for path, leaf in jax.tree.leaves_with_path(first.opt_state) if ".mu" in jax.tree_util.keystr(path)]
    found = {
        "loss": [float(each["loss"].value) for each in (metrics, later)],
        "gradient": [moment / (1 - rates.beta1) for moment in jax.device_get(moments)],
        "weights": jax.device_get(second.params),
    }
    sent = totals(collectives(compiled.as_text(), dict(mesh.shape)))
    return found, [[kind, list(axes), *sums] for (kind, axes), sums in sorted(sent.items())]


def members_apart() -> dict[str, float]:
    """Return the errors of a population over eight devices, one member each, against the same on one device."""
    from lm.config import Recipe, TrainConfig
    from lm.sweep import run_sweep
    from tasks.registry import TASKS

    task, model = TASKS["flip_flop"](length=8), TransformerConfig(vocabulary=5, depth=1, width=8, heads=2)
    meshes = MeshConfig(data=8), MeshConfig(data=1, fsdp=8)  # members are spread over the data axis alone
    recipes = [Recipe(task, model, train=TrainConfig(steps=4, batch_size=4), mesh=mesh) for mesh in meshes]
    grid = {"optimizer.learning_rate": [1e-2, 1e-3]}
    apart, alone = (run_sweep(recipe, grid, range(4)).members for recipe in recipes)
    return {
        "loss": relative_error(*([member.losses for member in each] for each in (apart, alone))),
        "weights": relative_error(*([member.state.params for member in each] for each in (apart, alone))),
    }


def relative_error(a: Any, b: Any) -> float:
    """Return the largest difference of two trees over the largest number of the second."""
    import jax
    import numpy as np

    from scripts.measure import largest_difference

    return largest_difference(a, b) / max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(b))


def compare_layouts() -> dict[str, dict[str, Any]]:
    """Return by layout its errors against one device and what it sends; needs eight devices."""
    whole = {name: two_steps(model, MeshConfig(data=1), 1)[0] for name, model in MODELS.items()}
    figures: dict[str, dict[str, Any]] = {}
    for layout in LAYOUTS:
        devices = 1
        for size in layout.sizes.values():
            devices *= size
        found, sent = two_steps(MODELS[layout.model], layout.mesh, devices)
        expected = whole[layout.model]
        errors = {part: relative_error(found[part], expected[part]) for part in found}
        figures[layout.name] = errors | {"sent": sent}
    return figures | {MEMBERS: members_apart()}


def on_eight_devices() -> dict[str, dict[str, Any]]:
    """Return the figures of every layout, measured by a process with eight devices."""
    code = "import json; from scripts.bench_layouts import compare_layouts; print(json.dumps(compare_layouts()))"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(DEVICES)}
    root = Path(__file__).resolve().parents[1]
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def layouts(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Return by layout the largest of its errors."""
    figures = on_eight_devices()
    return {name: max(value for part, value in found.items() if part != "sent") for name, found in figures.items()}


LAYOUTS_BENCH = Experiment(
    "layouts",
    "Layouts of devices against one",
    tuple(
        Claim(
            "",
            f"{layout.name}, a {'model with ' * (layout.model != 'lstm')}{layout.model} "
            "on so many CPU devices: largest relative error of losses, gradients and weights in two steps",
            layout.name,
            at_most=TOLERANCE,
            exact=True,
        )
        for layout in LAYOUTS
    )
    + (
        Claim(
            "",
            "A population of eight over eight devices against one: largest relative error of losses and weights",
            MEMBERS,
            at_most=TOLERANCE,
            exact=True,
        ),
    ),
    layouts,
    seeds={"cpu": (0,), "full": (0,)},
)
