"""Meshes and processes: the same command on one device, on eight, as two processes, and after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from lm.config import (
    KINDS,
    Growth,
    MeshConfig,
    MLPConfig,
    Recipe,
    RNNConfig,
    SharpenedLoss,
    TrainConfig,
    TransformerConfig,
)
from lm.mesh import AXES, arrange, check_layout, make_mesh, parameter_spec, state_shardings
from lm.models import build
from lm.strict import ConfigError, from_json, override
from lm.trained import load
from scripts.runs import read_recipe

ROOT = Path(__file__).resolve().parents[1]
EIGHT = AbstractMesh((1, 2, 2, 1, 2), AXES)
TRAIN = [
    sys.executable, "scripts/train.py", "flip_flop_attention_cpu", "--quiet",
    "--task.length", "16", "--model.depth", "2", "--model.width", "16", "--model.heads", "2",
    "--train.steps", "60", "--train.batch_size", "8", "--train.save_every", "20", "--train.log_every", "20",
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MeshConfig(data=2), "mesh data=2 x fsdp=1 x pipeline=1 x sequence=1 x tensor=1 needs 2 devices, found 1"),
        (MeshConfig(data=-1, fsdp=-1), "at most one -1"),
        (MeshConfig(tensor=0), "must be positive"),
        (MeshConfig(fsdp=2), "needs 2 devices, found 1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(config, said):
    with pytest.raises(ConfigError, match=said):
        make_mesh(config, jax.devices()[:1])


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("params/blocks/attention/query/kernel", (4, 8, 16), P("pipeline", "fsdp", "tensor")),
        ("params/blocks/attention/query/kernel", (3, 8, 16), P(None, "fsdp", "tensor")),  # 3 layers make no 2 stages
        ("params/blocks/attention/query/kernel", (4, 5, 8, 16), P("pipeline", None, "fsdp", "tensor")),  # 5 copies
        ("opt_state/1/mu/blocks/feedforward/down/kernel", (4, 32, 8), P("pipeline", "tensor", "fsdp")),
        ("params/embedding/table", (15, 8), P(None, "fsdp")),  # 15 rows do not split in two
        ("params/blocks/attention_norm/scale", (4, 8), P("pipeline", None)),
        ("params/blocks/attention/temper/tau", (4,), P("pipeline")),
        ("params/head/kernel", (8, 15), P("fsdp", None)),
        ("opt_state/0/count", (), P()),
    ],
)
def test_a_parameter_is_split_by_its_path(path, shape, spec):
    assert parameter_spec(path, shape, EIGHT) == spec


class Chip:
    """A device as far as an arrangement looks at it."""

    platform, device_kind = "cpu", "cpu"

    def __init__(self, id, slice_index):
        self.id, self.slice_index = id, slice_index


def test_only_the_data_axis_crosses_slices():
    chips = [Chip(i, slice_index=i % 2) for i in range(16)]
    array = arrange([4, 2, 1, 1, 2], chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(array)
    assert sorted(chip.id for chip in array.flat) == list(range(16))
    assert np.ptp(slices, axis=(1, 2, 3, 4)).max() == 0
    assert sorted(slices[:, 0, 0, 0, 0]) == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="mesh.data 1 does not split over 2 slices"):
        arrange([1, 16, 1, 1, 1], chips)


TRANSFORMER = TransformerConfig(vocabulary=8, depth=4, width=8, heads=2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train.batch_size": 9}, "batch of 9 does not split over data x fsdp = 2 devices"),
        ({"train.accumulate": 8}, "batch of 1 does not split"),
        ({"model": RNNConfig()}, "mesh.pipeline 2 splits a TransformerConfig alone, got RNNConfig"),
        ({"model.dropout": 0.1}, "mesh.pipeline 2 cannot be combined with model.dropout 0.1"),
        ({"objective": SharpenedLoss()}, "mesh.pipeline 2 cannot be combined with objective sharpened"),
        ({"model.depth": 3}, "model.depth 3 does not split over mesh.pipeline 2"),
        ({"growth": Growth(depths=(1, 4))}, "model.depth 1 does not split over mesh.pipeline 2"),
    ],
)
def test_what_cannot_be_combined_is_one_sentence(values, said):
    recipe = Recipe(task=None, model=TRANSFORMER, train=TrainConfig(batch_size=8))
    check_layout(recipe, EIGHT)
    with pytest.raises(ConfigError, match=said):
        check_layout(override(recipe, values), EIGHT)


def test_recipes_of_before_have_the_new_axes():
    old = '{"kind": "MeshConfig", "data": -1, "fsdp": 2, "tensor": 1}'
    assert from_json(old, KINDS) == MeshConfig(fsdp=2)


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(ConfigError, match="no sharding rule matches parameter params/strange"):
        parameter_spec("params/strange", (4,), EIGHT)


@pytest.mark.parametrize(
    "config",
    [
        TransformerConfig(norm="layer", bias=True, activation="swiglu", tied=False, norm_place="both"),
        RNNConfig(cell="lstm"),
        RNNConfig(cell="gru"),
        MLPConfig(depth=2),
    ],
)
def test_every_parameter_of_every_model_has_a_rule(config):
    abstract = jax.eval_shape(build(config).init, jax.random.key(0))
    shardings = state_shardings(abstract, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert jax.tree.structure(shardings) == jax.tree.structure(abstract)


def run(workdir, *flags, devices=1, launch=(), check=True):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [*launch, *TRAIN, "--workdir", str(workdir), *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-2000:]
    return done


def weights(workdir):
    return jax.device_get(load(read_recipe(workdir), workdir).params)


def largest_difference(a, b):
    return max(float(np.max(np.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    run(folder)
    return weights(folder)


def test_a_killed_run_goes_on_bit_for_bit(straight, tmp_path):
    with subprocess.Popen(
        [*TRAIN, "--workdir", str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 200
        while not (tmp_path / "checkpoints" / "20").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before the kill: give it more steps"
    run(tmp_path)
    assert largest_difference(weights(tmp_path), straight) == 0


# Eight devices add gradients in another order than one; Adam's division by the root of the second moment
# magnifies that rounding while gradients are small.
ACROSS_DEVICES = 2e-4


def test_eight_devices_stop_four_laid_out_otherwise_and_one_go_on(straight, tmp_path):
    run(tmp_path, "--mesh.fsdp", "2", "--mesh.tensor", "2", "--until", "30", devices=8)
    run(tmp_path, "--mesh.pipeline", "2", "--mesh.sequence", "2", "--until", "45", devices=4)
    run(tmp_path)
    assert 0 < largest_difference(weights(tmp_path), straight) < ACROSS_DEVICES


def test_two_processes_equal_one(straight, tmp_path):
    launch = (sys.executable, "tpu/launch.py", "--local", "2", "--")
    done = run(tmp_path, "--mesh.fsdp", "2", devices=2, launch=launch)
    assert done.stdout.count('"recipe"') == 1
    assert largest_difference(weights(tmp_path), straight) < ACROSS_DEVICES


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["--local", "2", "--", "sh", "-c", "exit $JAX_PROCESS_ID"], 1, "process 1 ended with code 1"),
        (["--local", "2", "--", "sh", "-c", "test $JAX_NUM_PROCESSES = 2"], 0, ""),
        (["--local", "2"], 2, "a command behind --"),
        (["--local", "0", "--", "true"], 2, "N of at least 1"),
    ],
)
def test_the_launcher_passes_on_how_its_processes_ended(line, code, said):
    done = subprocess.run([sys.executable, "tpu/launch.py", *line], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stderr
