"""Laws of attention by platform: which form is chosen, and that every form is the plain one forward and backward."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice
from trees import assert_close

from lm.config import KINDS, ALiBi, MeshConfig, Randomised, RelativeBias, Tempered, TransformerConfig
from lm.mesh import make_mesh, platform, under
from lm.models import build, causal_attention, fused, plain_attention
from lm.models.attention import attention_form
from lm.models.fused import cudnn_attention, splash_attention
from lm.models.layers import compute_dtype, unrolled
from lm.strict import ConfigError, from_json, to_json
from lm.types import Batch


def mesh_of(kind, platform):
    """Return the abstract mesh of one device that need not be there."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return mesh.abstract_mesh.update(abstract_device=AbstractDevice(kind, None, platform))


def test_what_is_left_to_the_platform_follows_the_mesh_that_is_compiled_for():
    with jax.sharding.use_abstract_mesh(mesh_of("TPU v5 lite", "tpu")):
        assert (platform(), compute_dtype("auto"), unrolled(2)) == ("tpu", "bfloat16", False)
        here = make_mesh(MeshConfig(), jax.devices()[:1])
        assert under(here, platform)() == "cpu"
    traced = []
    jax.jit(under(here, lambda: traced.append(jax.sharding.get_abstract_mesh())))()
    assert (traced, platform()) == ([here.abstract_mesh], "cpu")


@pytest.mark.parametrize(
    ("kind", "platform", "form"),
    [
        ("TPU v3", "tpu", "plain"),
        ("TPU v4", "tpu", "splash"),
        ("TPU v5 lite", "tpu", "splash"),
        ("TPU v5", "tpu", "splash"),
        ("TPU v6 lite", "tpu", "splash"),
        ("Tesla T4", "gpu", "plain"),
        ("Tesla V100-SXM2-16GB", "gpu", "plain"),
        ("AMD Instinct MI300X", "gpu", "plain"),
        ("NVIDIA A100-SXM4-40GB", "gpu", "cudnn"),
        ("NVIDIA GeForce RTX 4090", "gpu", "cudnn"),
        ("NVIDIA H100 80GB HBM3", "gpu", "cudnn"),
        ("NVIDIA L4", "gpu", "cudnn"),
    ],
)
def test_a_device_without_kernels_attends_plainly(kind, platform, form):
    with jax.sharding.use_abstract_mesh(mesh_of(kind, platform)):
        assert attention_form("auto") == form


B, H, V = 2, 4, 23


def draw(length, width, kv_heads, dtype=np.float32):
    """Return queries, keys, values, weights of a sum, and the segments of packed documents with padding behind."""
    rng = np.random.default_rng(0)
    q, k, v, w = (rng.standard_normal((B, n, length, width)).astype(dtype) for n in (H, kv_heads, kv_heads, H))
    segments = np.sort(rng.integers(1, 4, (B, length)), axis=1)
    segments[0, -9:] = 0
    return (q, k, v), w, jnp.asarray(segments)


def value_and_gradients(attend, qkv, w, **how):
    def loss(qkv):
        return jnp.sum(attend(*qkv, scale=0.3, **how) * w)

    return jax.jit(lambda qkv: (attend(*qkv, scale=0.3, **how), jax.grad(loss)(qkv)))(qkv)


@pytest.mark.parametrize(
    ("length", "width", "kv_heads", "window", "packed"),
    [(128, 8, 4, None, False), (256, 16, 2, None, True), (128, 8, 1, 50, True), (256, 8, 2, 1, False)],
)
def test_splash_attention_is_plain_attention_forward_and_backward(length, width, kv_heads, window, packed):
    qkv, w, segments = draw(length, width, kv_heads)
    how = {"window": window, "segments_BL": segments if packed else None}
    splash = value_and_gradients(partial(splash_attention, interpret=True), qkv, w, **how)
    # Sums of up to 256 products of order one in another order.
    assert_close(splash, value_and_gradients(plain_attention, qkv, w, **how), 1e-4)


PLAIN = TransformerConfig(vocabulary=V, depth=2, width=32, heads=4, kv_heads=2, attention="plain", unroll=False)


def make_batch(length):
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, V, (B, length)))
    _, _, segments = draw(length, 8, 4)
    return Batch(tokens, tokens, jnp.ones((B, length)), jnp.tile(jnp.arange(length), (B, 1)), {}, segments)


@pytest.mark.parametrize("changes", [{}, {"window": 40, "tempered": Tempered(64), "initialisation": "t5"}])
def test_a_model_by_splash_attention_is_the_plain_model(changes, monkeypatch):
    monkeypatch.setattr(fused, "splash_attention", partial(splash_attention, interpret=True))
    config, batch, results = replace(PLAIN, **changes), make_batch(128), []
    params = build(config).init(jax.random.key(0))
    for form in ("plain", "splash"):
        apply = build(replace(config, attention=form)).apply
        results.append(jax.jit(jax.value_and_grad(lambda p, f=apply: jnp.square(f(p, batch).logits).mean()))(params))
    assert_close(*results, 1e-5)


LONG = replace(PLAIN, attention="auto")
KERNELS = {"tpu": "tpu_custom_call", "cuda": "__cudnn$fmha"}
CHOICES = [
    # platform, model, length, forward kernels
    ("tpu", LONG, 128, True),
    ("tpu", replace(LONG, window=40, dtype="float32"), 256, True),
    ("tpu", LONG, 130, False),
    ("tpu", replace(LONG, positions=ALiBi()), 128, False),
    ("tpu", replace(LONG, positions=Randomised(RelativeBias(), 128)), 128, False),
    ("tpu", replace(LONG, attention="plain"), 128, False),
    ("cuda", LONG, 128, True),
    ("cuda", replace(LONG, window=40), 130, True),
    ("cuda", LONG, 131, False),
    ("cuda", replace(LONG, dtype="float32"), 128, False),
    ("cuda", replace(LONG, positions=ALiBi()), 128, False),
    ("cuda", replace(LONG, head_width=256), 128, False),
]


@pytest.mark.parametrize(("target", "config", "length", "expected"), CHOICES)
def test_the_platform_that_is_compiled_for_decides_and_what_its_kernel_does_not_take_is_plain(
    target, config, length, expected, monkeypatch
):
    # Without a GPU, JAX knows no version of cuDNN; the text that it would compile does not depend on it.
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    with jax.sharding.use_abstract_mesh(mesh_of(target, {"cuda": "gpu"}.get(target, target))):
        net = build(config)
        params, batch = jax.eval_shape(net.init, jax.random.key(0)), make_batch(length)
        step = jax.jit(jax.grad(lambda params: net.apply(params, batch).logits.mean()))
        text = step.trace(params).lower(lowering_platforms=(target,)).as_text()
    assert (KERNELS[target] in text) is expected


@pytest.mark.parametrize(("kv_heads", "window", "packed"), [(4, None, False), (2, 50, True), (1, 1, True)])
def test_what_cudnn_is_asked_for_is_plain_attention_forward_and_backward(kv_heads, window, packed, monkeypatch):
    qkv, w, segments = draw(130, 8, kv_heads)
    how = {"window": window, "segments_BL": segments if packed else None}
    ask = jax.nn.dot_product_attention  # without a GPU, XLA answers the same question
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *qkv, **s: ask(*qkv, **s | {"implementation": "xla"}))
    found = value_and_gradients(cudnn_attention, qkv, w, **how)
    assert_close(found, value_and_gradients(plain_attention, qkv, w, **how), 1e-4)


def test_groups_and_attention_weights_are_the_plain_forms():
    (q, k, v), _, segments = draw(128, 8, 4)
    plain = plain_attention(q, k, v, scale=0.3, groups_BL=segments)
    assert_close(causal_attention(q, k, v, scale=0.3, groups_BL=segments, form="splash"), plain, 1e-6)
    net, batch = build(replace(PLAIN, attention="splash")), make_batch(130)
    assert net.apply(net.init(jax.random.key(0)), batch, attention=True).attention.shape == (2, B, 4, 130, 130)


SPREAD = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.sharding import NamedSharding, PartitionSpec as P
from lm.config import MeshConfig
from lm.mesh import make_mesh, under
from lm.models.attention import plain_attention
from lm.models.fused import cudnn_attention, splash_attention

mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
rng = np.random.default_rng(0)
q, k, v = (jnp.asarray(rng.standard_normal((4, n, 128, 8)), jnp.float32) for n in (4, 2, 2))
segments = jnp.asarray(np.sort(rng.integers(1, 4, (4, 128)), axis=1))
splash = partial(splash_attention, interpret=True)
for batch in (4, 3):
    def loss(attend, qkv):
        return jnp.sin(attend(*qkv, scale=0.3, segments_BL=segments[:batch])).sum()
    qkv = jax.device_put((q[:batch], k[:batch], v[:batch]), NamedSharding(mesh, P()))
    found = jax.jit(under(mesh, jax.value_and_grad(partial(loss, splash))))(qkv)
    plain = jax.jit(jax.value_and_grad(partial(loss, plain_attention)))(qkv)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, plain)
    whole = jax.jit(under(mesh, partial(splash, scale=0.3))).lower(*qkv).compile().as_text()
    print(batch, "f32[1,2,128,8]" in whole, "f32[3,2,128,8]" in whole)
"""


def test_a_kernel_runs_on_each_devices_part_of_batch_and_heads():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": "."}
    run = [sys.executable, "-c", SPREAD]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # A batch of 3 does not divide: each device has all of it, and its part of the heads.
    assert done.stdout.split() == ["4", "True", "False", "3", "False", "True"]


def residual_bytes(config, batch):
    """Return how many bytes a pass through the model keeps for the way back."""
    net = build(config)
    params = jax.eval_shape(net.init, jax.random.key(0))
    back = jax.eval_shape(lambda params: jax.vjp(lambda p: net.apply(p, batch).logits, params)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(back))


def test_each_policy_keeps_what_it_names_and_changes_no_gradient():
    batch, tokens = make_batch(128), B * 128
    held = {name: residual_bytes(replace(PLAIN, remat=name), batch) for name in ("none", "dots", "attention", "full")}
    attended, projected = 32, 32 + 2 * 16 + 32 + 128  # numbers a token and layer: query, key, value, output, up
    layer = 4 * PLAIN.depth * tokens
    assert held["attention"] - held["full"] == layer * attended
    assert held["dots"] - held["full"] == layer * (projected + attended)
    assert held["none"] - held["dots"] > 4 * PLAIN.depth * B * H * 128 * 128  # all scores, and more

    def gradient(name):
        net = build(replace(PLAIN, remat=name))
        return jax.jit(jax.grad(lambda p: jnp.square(net.apply(p, batch).logits).mean()))(params)

    params = build(PLAIN).init(jax.random.key(0))
    for name in ("dots", "attention", "full"):
        assert_close(gradient(name), gradient("none"), 1e-6)


def test_splash_attention_that_is_kept_is_not_computed_again():
    with jax.sharding.use_abstract_mesh(mesh_of("TPU v5 lite", "tpu")):
        for name, kernels in (("none", 3), ("dots", 3), ("attention", 3), ("full", 4)):  # forward, dq, dkv
            net = build(replace(LONG, remat=name))
            params, batch = jax.eval_shape(net.init, jax.random.key(0)), make_batch(128)
            step = jax.jit(jax.grad(lambda params, net=net, batch=batch: net.apply(params, batch).logits.mean()))
            text = step.trace(params).lower(lowering_platforms=("tpu",)).as_text()
            assert text.count("tpu_custom_call") == kernels


def test_recipes_from_before_there_were_policies_still_load():
    for old, new in ((True, "full"), (False, "none")):
        text = to_json(PLAIN).replace('"remat": "none"', f'"remat": {str(old).lower()}')
        assert from_json(text, KINDS) == replace(PLAIN, remat=old) == replace(PLAIN, remat=new)
    with pytest.raises(ConfigError, match="model.remat must be one of none, dots, attention, full, got 'dot'"):
        build(replace(PLAIN, remat="dot"))
