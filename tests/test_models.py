"""Laws of every model with every positional scheme: shapes, causality, isolation, and equal results by every path."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close

from lm.config import (
    ALiBi,
    Learned,
    Llama3Scaling,
    LongRope,
    MLPConfig,
    NoPositions,
    Randomised,
    RelativeBias,
    RNNConfig,
    Rotary,
    Sinusoidal,
    Tempered,
    TransformerConfig,
)
from lm.models import blocked_attention, build, causal_attention, make_scheme, plain_attention
from lm.models.layers import compute_dtype, unrolled
from lm.strict import ConfigError
from lm.types import Batch

B, L, V = 2, 10, 23
# Scanned blocks compile sooner; a law below says that unrolled ones are the same.
SMALL = TransformerConfig(vocabulary=V, depth=2, width=16, heads=4, unroll=False)
T5 = replace(SMALL, head_width=8, activation="geglu", norm_place="both", initialisation="t5", positions=Learned(32))
POST = replace(SMALL, positions=Sinusoidal(), norm="layer", norm_place="post", activation="relu", tied=False)
LONG, SLOW = LongRope((1.0, 1.5), (2.0, 5.0), 8, 32), Llama3Scaling(4.0, 1.0, 4.0, 8)
TWO_NORMS = {"parallel": True, "shared_norm": False, "activation": "exact_gelu", "bias": True, "head_bias": False}
MODELS = {
    "none": replace(SMALL, positions=NoPositions(), activation="reglu"),
    "learned, t5": T5,
    "learned axes": replace(T5, positions=Learned(32, separate=True, axes=2), tempered=Tempered()),
    "sinusoidal, post": replace(POST, tempered=Tempered(4)),
    "rotary, grouped": replace(SMALL, kv_heads=2, activation="swiglu", initialisation="lecun"),
    "rotary part, parallel": replace(SMALL, positions=Rotary(fraction=0.5), parallel=True, bias=True, tied=False),
    "window, long rope": replace(SMALL, positions=Rotary(scaling=LONG), window=2, qkv_bias=True),
    "window, two norms": replace(POST, positions=Rotary(scaling=SLOW), window=2, norm_place="pre", **TWO_NORMS),
    "alibi": replace(SMALL, positions=ALiBi(), heads=3, head_width=4, kv_heads=1),
    "relative": replace(SMALL, positions=RelativeBias(8, 16), kv_heads=2, remat="dots"),
    "random rotary": replace(SMALL, positions=Randomised(Rotary(), 64)),
    "random relative": replace(SMALL, positions=Randomised(RelativeBias(8, 64), 64)),
    "random learned": replace(SMALL, positions=Randomised(Learned(64), 64)),
    "lstm": RNNConfig(vocabulary=V, depth=2, width=8),
    "gru": RNNConfig(vocabulary=V, depth=2, width=8, cell="gru", tied=True),
}
every_model = pytest.mark.parametrize("name", MODELS)


def some_params(net):
    """Return parameters far from any initialisation, so that no law holds because a bias is zero or a scale one."""
    rng = np.random.default_rng(9)

    def some(path, leaf):
        start = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(start + 0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(some, jax.eval_shape(net.init, jax.random.key(0)))


@cache
def model(name):
    """Return the net, its parameters and its compiled scores of (params, batch, key)."""
    net = build(MODELS[name])
    logits = jax.jit(lambda params, batch, key=None: net.apply(params, batch, key).logits)
    return net, some_params(net), logits


def positions_of(name):
    return getattr(MODELS[name], "positions", None)


def make_batch(name, segments, seed=2):
    tokens = np.random.default_rng(seed).permutation(V)[: B * L].reshape(B, L)
    positions = np.tile(np.arange(L), (B, 1))
    if getattr(positions_of(name), "separate", False):
        positions = np.stack([positions, L - positions], axis=-1)
    segments = np.broadcast_to(np.asarray(segments), (B, L))
    return jax.tree.map(jnp.asarray, Batch(tokens, tokens, np.ones((B, L)), positions, {}, segments))


def cut(batch, where):
    return jax.tree.map(lambda leaf: leaf[:, where], batch)


@every_model
def test_scores_are_float32_in_the_shape_of_the_tokens(name):
    net, params, logits = model(name)
    scores = logits(params, make_batch(name, 1))
    assert scores.shape == (B, L, V)
    assert scores.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert bool(jnp.isfinite(scores).all())


@pytest.mark.parametrize("name", ["rotary part, parallel", "lstm"])
def test_eager_scores_without_segments_equal_compiled_ones_with_one(name):
    net, params, logits = model(name)
    batch = make_batch(name, 1)
    assert_close(net.apply(params, batch._replace(segments=None)).logits, logits(params, batch))


@every_model
def test_no_gradient_comes_from_the_future_nor_from_another_segment(name):
    net, params, _ = model(name)
    segments = np.array([[0, 0, 1, 1, 1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2, 3, 3, 3, 3]])
    batch, asked, config = make_batch(name, segments), 5, MODELS[name]
    # No token occurs twice, so the row of the table that belongs to a token says who reads it.
    table = jax.jit(jax.grad(lambda params: net.apply(params, batch).features[:, asked].std(axis=-1).sum()))(params)
    reached = np.abs(table["embedding"]["table"]).sum(axis=-1)[batch.inputs]
    reach = (getattr(config, "window", None) or L) * config.depth - config.depth  # a window back in every layer
    visible = (np.arange(L) <= asked) & (np.arange(L) >= asked - reach) & (segments == segments[:, [asked]])
    assert (reached[~visible] == 0).all()
    assert (reached[visible] > 0).all()


@every_model
def test_a_document_does_not_notice_what_it_is_packed_with(name):
    _, params, logits = model(name)
    half = slice(0, L // 2)
    first, second = cut(make_batch(name, 1, seed=3), half), cut(make_batch(name, 2), half)
    packed = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), first, second)
    alone = make_batch(name, [2] * (L // 2) + [0] * (L - L // 2))
    assert_close(logits(params, packed)[:, L // 2 :], logits(params, alone)[:, half])


@every_model
def test_cached_decoding_equals_the_full_pass(name):
    net, params, logits = model(name)
    # Row 0 has padding on the left, and a second document starts in the middle of row 1.
    batch = make_batch(name, [[0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2]])
    state = net.cache(B, L if isinstance(positions_of(name), Randomised) else L + 3)
    extend, found = jax.jit(net.extend), []
    for chunk in (slice(0, 4), slice(4, 5), slice(5, 6), slice(6, 10)):
        outputs, state = extend(params, cut(batch, chunk), state)
        found.append(outputs.logits)
    real = batch.segments != 0
    assert int(state.index) == L
    assert_close(jnp.concatenate(found, axis=1)[real], logits(params, batch)[real])


def test_a_cache_taken_back_forgets_what_it_saw():
    net, params, logits = model("rotary, grouped")
    batch, seen = make_batch("rotary, grouped", 1), make_batch("rotary, grouped", 1, seed=3)
    extend = jax.jit(net.extend)
    _, state = extend(params, cut(seen, slice(0, 4)), net.cache(B, L))
    _, state = extend(params, cut(batch, slice(0, 4)), state._replace(index=jnp.zeros((), jnp.int32)))
    _, state = extend(params, cut(seen, slice(4, 8)), state)
    outputs, _ = extend(params, cut(batch, slice(4, 8)), state._replace(index=jnp.full((), 4, jnp.int32)))
    assert_close(outputs.logits, logits(params, batch)[:, 4:8])


@pytest.mark.parametrize("name", ["learned, t5", "relative"])
def test_unrolled_blocks_equal_scanned_ones_forward_and_backward(name):
    batch = make_batch(name, 1)
    results = []
    for unroll in (True, False):
        net = build(replace(MODELS[name], unroll=unroll))
        loss = jax.jit(jax.value_and_grad(lambda params, net=net: jnp.square(net.apply(params, batch).logits).mean()))
        results.append(loss(some_params(net)))
    assert_close(*results)


@pytest.mark.parametrize(("kv_heads", "window"), [(4, None), (2, 40), (1, 100)])
@pytest.mark.parametrize(("masked", "biased"), [(False, False), (True, False), (True, True)])
def test_blocked_attention_equals_plain_attention_forward_and_backward(kv_heads, window, masked, biased):
    length, rng = 150, np.random.default_rng(0)
    q, k, v, w = (rng.standard_normal((B, heads, length, 8)).astype(np.float32) for heads in (4, kv_heads, kv_heads, 4))
    slopes = make_scheme(ALiBi(), width=32, heads=4, head_width=8)
    positions = jnp.tile(jnp.arange(length), (B, 1))
    segments = jnp.asarray(np.sort(rng.integers(0, 4, (B, length)), axis=1)) if masked else None

    def of(attend, block=None):
        def bias(queries, keys):
            return slopes.bias({}, positions[:, queries], positions[:, keys])

        sizes = {"window": window} if block is None else {"window": window, "block": block}
        return jax.jit(
            jax.value_and_grad(
                lambda qkv: (
                    attend(*qkv, scale=0.5, segments_BL=segments, bias=bias if biased else None, **sizes) * w
                ).sum()
            )
        )((q, k, v))

    # Sums of 150 products of order one in another order: 1e-4 of the largest gradient.
    assert_close(of(blocked_attention, 64), of(plain_attention), 1e-4)


def test_long_attention_on_cpu_never_holds_all_its_scores():
    q = jnp.zeros((1, 2, 256, 8))
    for attend, held in ((causal_attention, False), (plain_attention, True)):
        program = str(jax.make_jaxpr(lambda q, attend=attend: attend(q, q, q, scale=1.0))(q))
        assert ("256,256" in program) is held


def numpy_t5(params, tokens, positions, config):
    """Write the model of position_coupling.md, section 2, as its equations: one row of tokens to scores."""

    def rms(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["embedding"]["table"][tokens] + p["positions"]["table"][positions]
    for n in range(config.depth):
        b = jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"])
        h = rms(x, b["attention_norm"]["scale"])
        mixed = []
        for i in range(config.heads):
            part = slice(8 * i, 8 * i + 8)
            q, k, v = (h @ b["attention"][role]["kernel"][:, part] for role in ("query", "key", "value"))
            scores = np.where(np.tri(len(tokens)) > 0, q @ k.T, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v)
        y = np.concatenate(mixed, -1) @ b["attention"]["output"]["kernel"]
        x = rms(x + y, b["attention_post_norm"]["scale"])
        h, ff = rms(x, b["feedforward_norm"]["scale"]), b["feedforward"]
        y = gelu(h @ ff["gate"]["kernel"]) * (h @ ff["up"]["kernel"]) @ ff["down"]["kernel"]
        x = rms(x + y, b["feedforward_post_norm"]["scale"])
    return rms(x, p["final_norm"]["scale"]) @ p["embedding"]["table"].T / np.sqrt(config.width)


def test_the_t5_model_is_its_equations():
    _, params, logits = model("learned, t5")
    batch = make_batch("learned, t5", 1)
    batch = batch._replace(positions=batch.positions[::-1] * 3 % 7)
    for row in range(B):
        expected = numpy_t5(params, batch.inputs[row], batch.positions[row], T5)
        assert_close(logits(params, batch)[row], expected)


def numpy_rnn(params, tokens, cell):
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = p["embedding"]["table"][tokens]
    for n in range(2):
        b = jax.tree.map(lambda leaf, n=n: leaf[n], p["blocks"])
        h = c = np.zeros(8)
        outs = []
        for xt in x:
            a = xt @ b["input"]["kernel"] + b["input"]["bias"]
            r = h @ b["recurrent"]["kernel"]
            if cell == "lstm":
                i, f, g, o = np.split(a + r, 4)
                c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            else:
                (ar, az, an), (rr, rz, rn) = np.split(a, 3), np.split(r + b["recurrent"]["bias"], 3)
                z = sigmoid(az + rz)
                h = z * h + (1 - z) * np.tanh(an + sigmoid(ar + rr) * rn)
            outs.append(h)
        x = np.stack(outs)
    return x @ p["head"]["kernel"] + p["head"]["bias"] if cell == "lstm" else x @ p["embedding"]["table"].T


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_models_are_their_equations(cell):
    _, params, logits = model(cell)
    batch = make_batch(cell, 1)
    assert_close(logits(params, batch)[1], numpy_rnn(params, batch.inputs[1], cell))


def test_the_perceptron_is_its_equations():
    config = MLPConfig(inputs=2, outputs=5, vocabulary=7, embedding=6, width=4, depth=2, bias=False)
    net = build(config)
    params = some_params(net)
    inputs = np.array([[1, 2], [6, 0], [3, 3]])
    a, b = params["embedding"]["table"]
    x = np.concatenate([a[inputs[:, 0]], b[inputs[:, 1]]], axis=1)
    for kernel in (params["input"]["kernel"], *params["blocks"]["hidden"]["kernel"]):
        x = np.maximum(x @ kernel, 0)
    outputs = net.apply(params, Batch(jnp.asarray(inputs), None, None, None, {}))
    assert_close(outputs.logits, (x @ params["head"]["kernel"])[:, None])


def test_a_perceptron_reads_numbers_and_may_have_no_further_layer():
    net = build(MLPConfig(inputs=3, outputs=2, vocabulary=None, width=4, depth=0))
    params = net.init(jax.random.key(0))
    assert set(params) == {"input", "head"}
    assert net.apply(params, Batch(jnp.ones((5, 3)), None, None, None, {})).logits.shape == (5, 1, 2)


@pytest.mark.parametrize("name", ["none", "rotary, grouped", "alibi", "relative"])
def test_only_differences_of_positions_matter(name):
    _, params, logits = model(name)
    batch = make_batch(name, 1)
    moved = batch._replace(positions=batch.positions + 5)
    spread = batch._replace(positions=batch.positions * 3)
    # Angles of larger positions are rounded more coarsely.
    assert_close(logits(params, moved), logits(params, batch), 1e-4)
    assert bool(jnp.allclose(logits(params, spread), logits(params, batch), atol=1e-3)) is (name == "none")


@pytest.mark.parametrize("name", ["random rotary", "sinusoidal, post", "lstm"])
def test_a_key_turns_on_what_is_random(name):
    config = MODELS[name] if name == "random rotary" else replace(MODELS[name], dropout=0.5)
    net = build(config)
    params, batch = some_params(net), make_batch(name, 1)
    logits = jax.jit(lambda key=None: net.apply(params, batch, key).logits)
    one, again, other = (logits(jax.random.key(seed)) for seed in (1, 1, 2))
    assert_close(one, again)
    assert float(jnp.abs(one - other).max()) > 1e-4
    assert_close(logits(), logits())


def test_precision_and_unrolling_follow_the_device(monkeypatch):
    assert (compute_dtype("auto"), unrolled(8), unrolled(9)) == ("float32", True, False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert (compute_dtype("auto"), compute_dtype("float32"), unrolled(2)) == ("bfloat16", "float32", False)


@pytest.mark.parametrize("name", ["rotary, grouped", "lstm"])
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32(name):
    _, params, logits = model(name)
    net, batch = build(replace(MODELS[name], dtype="bfloat16")), make_batch(name, 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(some_params(net))} == {jnp.dtype("float32")}
    outputs = jax.jit(net.apply)(params, batch)
    assert outputs.features.dtype == jnp.bfloat16
    exact, rounded = logits(params, batch), outputs.logits
    # Eight bits of mantissa through two layers.
    assert rounded.dtype == jnp.float32
    assert float(jnp.abs(rounded - exact).max()) < 0.05 * float(jnp.abs(exact).max())


SPREADS = {"scaled": (0.02, 0.02, 0.01), "t5": (1, 1 / 64, 1 / 8), "lecun": (1 / 8, 1 / 8, 1 / 8)}


@pytest.mark.parametrize("name", SPREADS)
def test_initialisations_have_the_spread_they_name(name):
    net = build(TransformerConfig(vocabulary=512, depth=2, width=64, heads=1, initialisation=name))
    params = net.init(jax.random.key(0))
    weights = params["blocks"]["attention"]
    found = [params["embedding"]["table"].std(), weights["query"]["kernel"].std(), weights["output"]["kernel"].std()]
    # Thousands of draws: three standard errors are about 4 %.
    np.testing.assert_allclose(found, SPREADS[name], rtol=0.04)
    kernels = weights["key"]["kernel"]
    assert not (kernels[0] == kernels[1]).all()


BAD = {
    "model.width 16 is not a multiple of model.heads 3": replace(SMALL, heads=3),
    "model.heads 4 is not a multiple of model.kv_heads 3": replace(SMALL, kv_heads=3),
    "model.depth must be positive, got 0": replace(SMALL, depth=0),
    "model.kv_heads must be positive, got 0": replace(SMALL, kv_heads=0),
    "did you mean swiglu": replace(SMALL, activation="swigl"),
    "model.norm must be one of rms, layer": replace(SMALL, norm="batch"),
    "model.norm_place must be one of": replace(SMALL, norm_place="middle"),
    "model.initialisation must be one of": replace(SMALL, initialisation="zeros"),
    "model.dtype must be one of": replace(SMALL, dtype="float16"),
    "model.dropout must lie in": replace(SMALL, dropout=1.0),
    "rotary positions need an even number": replace(SMALL, width=12),
    "positions.fraction must lie in": replace(SMALL, positions=Rotary(fraction=0.0)),
    "even model.width": replace(SMALL, width=15, heads=3, positions=Sinusoidal()),
    "positions.rows must be positive": replace(SMALL, positions=Learned(0)),
    "positions.buckets must lie between": replace(SMALL, positions=RelativeBias(64, 8)),
    "positions.inner.rows 32 is less than": replace(SMALL, positions=Randomised(Learned(32), 64)),
    "model.positions must be one of": replace(SMALL, positions="rotary"),
    "model.cell must be one of lstm, gru": RNNConfig(cell="rnn"),
    "model.width must be positive": RNNConfig(width=-1),
    "model.depth must not be negative": MLPConfig(depth=-1),
    "model.activation must be one of relu, gelu": MLPConfig(activation="swiglu"),
    "model must be one of TransformerConfig": Rotary(),
}


@pytest.mark.parametrize("message", BAD)
def test_a_configuration_that_makes_no_model_is_refused_in_one_sentence(message):
    with pytest.raises(ConfigError) as caught:
        build(BAD[message])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_that_do_not_fit_the_scheme_are_refused():
    net, params, _ = model("rotary, grouped")
    with pytest.raises(ConfigError, match="takes one axis"):
        net.apply(params, make_batch("learned axes", 1))
    net, params, _ = model("learned axes")
    with pytest.raises(ConfigError, match="positions.axes is 2, the data has 1"):
        net.apply(params, make_batch("none", 1))
    net, params, _ = model("random rotary")
    with pytest.raises(ConfigError, match="positions.longest 64 is less than the 65 slots"):
        net.extend(params, make_batch("random rotary", 1), net.cache(B, 65))
