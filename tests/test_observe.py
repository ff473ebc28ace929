"""Looking into a transformer: what is seen is what is computed, and what is put in its place is what goes on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ALiBi, Rotary, TransformerConfig
from lm.models import build
from lm.observe import Edit, edited, observe, without
from lm.probe import linear_probe
from lm.strict import ConfigError
from lm.types import Batch

CONFIGS = {
    "grouped": TransformerConfig(vocabulary=11, depth=3, width=16, heads=4, kv_heads=2),
    "scanned": TransformerConfig(vocabulary=11, depth=3, width=16, heads=4, unroll=False, positions=ALiBi()),
    "parallel": TransformerConfig(vocabulary=11, depth=2, width=16, heads=2, parallel=True, norm="layer", window=3),
    "after": TransformerConfig(vocabulary=11, depth=2, width=16, heads=2, norm_place="post", positions=Rotary()),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def made(config, seed=0):
    params = build(config).init(jax.random.key(0))
    params = jax.tree.map(lambda x: x * 5, params)  # far from the start, where nothing matters
    tokens = jax.random.randint(jax.random.key(seed), (2, 8), 0, 11)
    segments = jnp.array([[1] * 8, [1] * 5 + [2] * 3])
    positions = jnp.broadcast_to(jnp.arange(8), (2, 8))
    return params, Batch(tokens, tokens, jnp.ones((2, 8)), positions, {}, segments)


@each_config
def test_what_is_seen_is_what_is_computed(config):
    params, batch = made(config)
    seen = observe(config, params, batch, r"(weights|heads|value|stream|embedding|final_norm)$")
    weights = seen["blocks/attention/weights"]
    assert weights.shape == (config.depth, 2, config.heads, 8, 8)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    assert not jnp.triu(weights, 1).any() and not weights[:, 1, :, 5:, :5].any()
    value = seen["blocks/attention/value"].reshape(config.depth, 2, 8, config.kv_heads or config.heads, -1)
    value = jnp.repeat(value, config.heads // value.shape[3], axis=3)
    heads = jnp.einsum("nbhqs,nbshd->nbqhd", weights, value).reshape(config.depth, 2, 8, -1)
    np.testing.assert_allclose(heads, seen["blocks/attention/heads"], atol=1e-4)
    last = seen["blocks/stream"][-1] if config.norm_place == "post" else seen["final_norm"]
    outputs = build(config).apply(params, batch)
    np.testing.assert_allclose(last, outputs.features, atol=1e-5)


@each_config
def test_a_stream_from_another_text_gives_that_texts_outputs_and_a_head_is_cut_by_its_rows(config):
    params, batch = made(config)
    other = batch._replace(inputs=made(config, seed=1)[1].inputs)
    plain = build(config).apply
    np.testing.assert_array_equal(edited(config, params, batch, {}).logits, plain(params, batch).logits)
    stream = observe(config, params, other, "stream$")["blocks/stream"]
    taken = Edit(without(stream.shape, {0: 1}), stream)
    np.testing.assert_allclose(
        edited(config, params, batch, {"blocks/stream": taken}).logits, plain(params, other).logits, atol=1e-5
    )
    width = config.width // config.heads
    heads = (config.depth, 2, 8, config.width)
    cut = Edit(without(heads, {0: 1, 3: range(width, 2 * width)}), jnp.zeros(()))
    rows = jnp.arange(width, 2 * width)
    kernel = params["blocks"]["attention"]["output"]["kernel"]
    trimmed = jax.tree.map(lambda x: x, params)
    trimmed["blocks"]["attention"]["output"]["kernel"] = kernel.at[1, rows].set(0)
    found = edited(config, params, batch, {"blocks/attention/heads": cut}).logits
    np.testing.assert_allclose(found, plain(trimmed, batch).logits, atol=1e-5)
    assert jnp.abs(found - plain(params, batch).logits).max() > 1e-2


def test_where_an_edit_holds_is_data():
    config = CONFIGS["grouped"]
    params, batch = made(config)
    programs = []

    @jax.jit
    def run(layer):
        programs.append(1)
        where = (jnp.arange(3) == layer)[:, None, None, None]
        return edited(config, params, batch, {"blocks/feedforward": Edit(where, jnp.zeros(()))}).logits

    results = [run(layer) for layer in range(3)]
    assert len(programs) == 1 and all(jnp.abs(a - b).max() > 1e-3 for a, b in zip(results, results[1:], strict=False))


def test_wrong_names_are_one_line_with_the_nearest():
    config = CONFIGS["grouped"]
    params, batch = made(config)
    with pytest.raises(ConfigError, match="no activation matches 'heds'"):
        observe(config, params, batch, "heds")
    with pytest.raises(ConfigError, match="did you mean blocks/attention/heads"):
        edited(config, params, batch, {"blocks/attention/head": Edit(jnp.ones((), bool), jnp.zeros(()))})
    with pytest.raises(ConfigError, match="to edit"):
        edited(config, params, batch, {"blocks/attention/weights": Edit(jnp.ones((), bool), jnp.zeros(()))})


def test_parameters_know_nothing_of_being_looked_at():
    config = dataclasses.replace(CONFIGS["grouped"], depth=1)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(build(config).init(jax.random.key(0)))]
    assert not [path for path in paths if "heads" in path or "stream" in path]


def test_a_probe_reads_what_is_linear_and_its_controls_read_nothing():
    key = jax.random.key(0)
    labels = jax.random.randint(key, (600,), 0, 4)
    noise = jax.random.normal(jax.random.key(1), (600, 20))
    features = noise.at[:, :4].add(6 * jax.nn.one_hot(labels, 4))
    found = linear_probe(features, labels, jax.random.key(2))
    assert found.accuracy > 0.97 and found.shuffled < 0.4 and found.majority < 0.4
    assert linear_probe(noise, labels, jax.random.key(2)).accuracy < 0.4
    product = (features[:, 0] > 3) ^ (noise[:, 10] > 0)  # no linear map reads a product
    assert linear_probe(noise[:, 10:], product.astype(int), jax.random.key(2)).accuracy < 0.9
    with pytest.raises(ConfigError, match="leaves nothing"):
        linear_probe(features[:2], labels[:2], key)
