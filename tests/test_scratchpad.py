"""Laws of groups in attention and of the tasks with scratchpads (Abbe et al. 2024)."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ALiBi, Learned, MLPConfig, ReaderConfig, RNNConfig, Rotary, TransformerConfig
from lm.models import blocked_attention, build, causal_attention, plain_attention
from lm.models.attention import attention_weights
from lm.strict import ConfigError
from lm.types import Batch

B, L, V = 2, 10, 23
SMALL = TransformerConfig(vocabulary=V, depth=2, width=16, heads=4, unroll=False)
MODELS = {
    "learned": replace(SMALL, positions=Learned(32), norm_place="both"),
    "rotary, grouped": replace(SMALL, positions=Rotary(), kv_heads=2, unroll=True),
    "alibi": replace(SMALL, positions=ALiBi(), window=4),
}
# Row 0 has padding on the left, row 1 two documents; 0 is the question of each, and groups need not be in order.
SEGMENTS = np.array([[0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2]])
GROUPS = np.array([[0, 0, 0, 0, 1, 1, 2, 2, 1, 2], [0, 0, 1, 2, 2, 1, 0, 1, 0, 1]])


def visible(segments_L, groups_L):
    """Return by its definition which tokens each token sees, [L, L]."""
    n = len(groups_L)
    return np.array(
        [
            [j <= i and segments_L[i] == segments_L[j] and groups_L[j] in (0, groups_L[i]) for j in range(n)]
            for i in range(n)
        ]
    )


def some_params(net):
    rng = np.random.default_rng(9)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.5 + 0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        jax.eval_shape(net.init, jax.random.key(0)),
    )


def make_batch(groups=GROUPS, segments=SEGMENTS):
    tokens = np.random.default_rng(2).permutation(V)[: B * L].reshape(B, L)
    positions = np.tile(np.arange(L), (B, 1))
    return jax.tree.map(jnp.asarray, Batch(tokens, tokens, np.ones((B, L)), positions, {}, segments, groups))


@functools.cache
def model(name):
    net = build(MODELS[name])
    return net, some_params(net), jax.jit(lambda params, batch: net.apply(params, batch).logits)


def assert_close(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


# Groups: masks as data in the batch


def test_plain_and_blocked_attention_see_what_groups_define_forward_and_backward():
    length, rng = 150, np.random.default_rng(0)
    q, k, v, w = (rng.standard_normal((B, heads, length, 8)).astype(np.float32) for heads in (4, 2, 2, 4))
    segments = np.sort(rng.integers(0, 3, (B, length)), axis=1)
    groups = rng.integers(0, 4, (B, length))
    how = {"scale": 0.5, "segments_BL": jnp.asarray(segments), "groups_BL": jnp.asarray(groups)}
    seen = attention_weights(q, k, **how) > 0
    allowed = np.stack([visible(s, g) for s, g in zip(segments, groups, strict=True)])
    assert np.array_equal(seen, np.broadcast_to(allowed[:, None], seen.shape))

    def of(attend):
        return jax.jit(jax.value_and_grad(lambda qkv: (attend(*qkv, **how) * w).sum()))((q, k, v))

    # Sums of 150 products of order one in another order: 1e-4 of the largest gradient.
    assert_close(of(blocked_attention), of(plain_attention), 1e-4)
    assert_close(of(causal_attention), of(plain_attention), 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_cached_decoding_with_groups_equals_the_full_pass(name):
    net, params, logits = model(name)
    batch, state, found = make_batch(), net.cache(B, L + 3, groups=True), []
    extend = jax.jit(net.extend)
    for chunk in (slice(0, 4), slice(4, 5), slice(5, 7), slice(7, 10)):
        outputs, state = extend(params, jax.tree.map(lambda x, c=chunk: x[:, c], batch), state)
        found.append(outputs.logits)
    real = SEGMENTS != 0
    assert_close(jnp.concatenate(found, axis=1)[real], logits(params, batch)[real])
    with pytest.raises(ConfigError, match="groups=True"):
        net.extend(params, batch, net.cache(B, L))


@pytest.mark.parametrize("name", MODELS)
def test_one_group_is_none_and_groups_of_their_own_are_texts_that_share_a_question(name):
    _, params, logits = model(name)
    for groups in (np.zeros((B, L), int), np.full((B, L), 3)):
        assert_close(logits(params, make_batch(groups)), logits(params, make_batch(None)))
    ones = np.ones((B, L), int)
    batch = make_batch(np.tile([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], (B, 1)), ones)._replace(
        positions=jnp.tile(jnp.array([0, 1, 2, 3, 4, 5, 6, 3, 4, 5]), (B, 1))
    )
    if MODELS[name].window is None:  # a window counts tokens, those of other groups too
        alone = jax.tree.map(lambda x: jnp.concatenate([x[:, :3], x[:, 7:]], axis=1), batch)._replace(groups=None)
        assert_close(logits(params, batch)[:, 7:], logits(params, alone)[:, 3:])


def test_no_gradient_passes_between_groups():
    net, params, _ = model("learned")
    batch, asked = make_batch(), 9
    table = jax.grad(lambda params: net.apply(params, batch).features[:, asked].std(axis=-1).sum())(params)
    reached = np.abs(table["embedding"]["table"]).sum(axis=-1)[batch.inputs] > 0
    assert np.array_equal(reached, [visible(s, g)[asked] for s, g in zip(SEGMENTS, GROUPS, strict=True)])


@pytest.mark.parametrize("config", [RNNConfig(vocabulary=V), MLPConfig(inputs=L), ReaderConfig(width=8)], ids=str)
def test_models_that_groups_cannot_mask_refuse_them(config):
    net = build(config)
    for run in filter(None, (net.apply, net.extend)):
        with pytest.raises(ConfigError, match="groups"):
            run({}, make_batch(), None)
