"""Laws of the loss in chunks: the plain one forward and backward, on one device and on eight, in less memory."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import KINDS, NextTokenLoss, TransformerConfig
from lm.losses import make_objective, next_token
from lm.strict import ConfigError, from_json, to_json
from lm.types import Batch, Outputs

B, L, D, V = 4, 24, 8, 50


def problem(length=L, vocabulary=V, bias=False, dtype=jnp.float32):
    """Return a linear head as a net, its parameters and a batch in which some rows are not asked."""
    rng = np.random.default_rng(0)
    params = {"features": rng.standard_normal((B, length, D)), "head": rng.standard_normal((D, vocabulary))}
    if bias:
        params["bias"] = rng.standard_normal(vocabulary)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    targets = jnp.asarray(rng.integers(0, vocabulary, (B, length)))
    weights = jnp.asarray(rng.choice([0.0, 0.5, 1.0], (B, length)), jnp.float32)
    batch = Batch(targets, targets, weights, jnp.tile(jnp.arange(length), (B, 1)), {})

    def apply(params, batch, key):
        return Outputs(params["features"].astype(dtype), params["head"], params.get("bias"))

    return apply, params, batch


def graded(chunks, apply, params, batch):
    loss = partial(next_token, apply, batch=batch, key=None, chunks=chunks)
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize(("length", "chunks"), [(L, 4), (L, L), (21, 4)])
def test_chunks_change_neither_loss_nor_accuracy_nor_gradient(bias, dtype, tolerance, length, chunks):
    case = problem(length, bias=bias, dtype=dtype)
    (loss, metrics), gradient = graded(chunks, *case)
    (plain_loss, plain_metrics), plain_gradient = graded(1, *case)
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-5)
    for name in plain_metrics:
        np.testing.assert_allclose(metrics[name], plain_metrics[name], rtol=1e-5)
    # Of the largest of each gradient: a bfloat16 has eight bits.
    for name, expected in plain_gradient.items():
        np.testing.assert_allclose(gradient[name], expected, atol=tolerance * float(jnp.abs(expected).max()))


def test_a_large_vocabulary_is_chunked_by_itself_and_no_logits_of_all_rows_are_held():
    apply, params, batch = problem(vocabulary=8192)

    def program(chunks):
        loss = partial(next_token, apply, batch=batch, key=None, chunks=chunks)
        compiled = jax.jit(jax.grad(lambda params: loss(params)[0])).lower(params).compile()
        return str(jax.make_jaxpr(jax.grad(lambda params: loss(params)[0]))(params)), compiled.memory_analysis()

    by_rule, plain = program(None), program(1)
    assert by_rule[0] == program(8)[0]  # on CPU
    assert (f"{B},{L},8192" in by_rule[0], f"{B},{L},8192" in plain[0]) == (False, True)
    saved = plain[1].temp_size_in_bytes - by_rule[1].temp_size_in_bytes
    assert saved > 0.5 * 4 * B * L * 8192
    apply, params, batch = problem(vocabulary=8191)
    assert program(None)[0] == program(1)[0]


def test_the_number_of_chunks_is_a_field_of_the_objective():
    objective = NextTokenLoss(chunks=2)
    assert from_json(to_json(objective), KINDS) == objective
    apply, params, batch = problem()
    loss = make_objective(objective, TransformerConfig())
    assert f"{B},{L // 2},{V}" in str(jax.make_jaxpr(lambda p: loss(apply, p, batch, None)[0])(params))
    with pytest.raises(ConfigError, match="objective.chunks must be positive, got 0"):
        NextTokenLoss(chunks=0)


SPREAD = """
import jax, numpy as np
from functools import partial
from jax.sharding import NamedSharding, PartitionSpec as P
from lm.collectives import collectives
from lm.config import MeshConfig
from lm.mesh import make_mesh, under
from tests.test_chunked_loss import graded, problem

apply, params, batch = problem()
mesh = make_mesh(MeshConfig(data=1, fsdp=2, sequence=2, tensor=2))
rows, head = (NamedSharding(mesh, P("fsdp", "sequence")), NamedSharding(mesh, P("fsdp", "tensor")))
spread = {"features": jax.device_put(params["features"], rows), "head": jax.device_put(params["head"], head)}
step = jax.jit(under(mesh, partial(graded, 4, apply)), out_shardings=(None, {"features": rows, "head": head}))
found, plain = step(spread, jax.device_put(batch, NamedSharding(mesh, P("fsdp")))), graded(1, apply, params, batch)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, plain)
sent = collectives(step.lower(spread, batch).compile().as_text(), dict(mesh.shape))
for kind, axes, size, count in sent:
    print(kind, "x".join(axes), size, count)
"""


def test_the_head_is_gathered_once_and_its_gradient_summed_once():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": "."}
    run = [sys.executable, "-c", SPREAD]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sent = [tuple(line.split()) for line in done.stdout.splitlines()]
    half = str(4 * D * V // 2)  # what tensor leaves of the head
    assert [each for each in sent if each[2] == half] == [
        ("all-gather", "fsdp", half, "1"),
        ("all-reduce", "fsdpxsequence", half, "1"),
    ]
    assert {axes for _, axes, _, count in sent if count != "1"} == {"tensor"}
