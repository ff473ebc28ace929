"""Laws of sampling and of choosing among candidates, against loops without a cache and against enumeration."""

from fractions import Fraction
from functools import cache
from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm import decode
from lm.candidates import best_at_k, best_score, majority_vote, pass_at_k, weighted_vote
from lm.config import ALiBi, MLPConfig, RNNConfig, Tempered, TransformerConfig
from lm.decode import bucket, choose, draw, generate, pad_left, place_of, sample, sample_batches, stretches, truncate
from lm.models import build
from lm.models.cache import _put
from lm.strict import ConfigError
from lm.types import Batch

V, STOP, PAD, MAX_NEW = 13, 3, 0, 9
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 4, 5], [7], [4, 12, 6], [9, 9, 9, 9, 9], [11, 5]]
MODELS = {
    "rotary": TransformerConfig(vocabulary=V, depth=2, width=16, heads=2, kv_heads=1),
    "alibi": TransformerConfig(
        vocabulary=V, depth=2, width=16, heads=2, positions=ALiBi(), tied=False, tempered=Tempered()
    ),
    "lstm": RNNConfig(vocabulary=V, width=16),
}


@cache
def model(name):
    """Return a net with sharp, varied preferences, so that rows stop at different times."""
    net = build(MODELS[name])
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    return net, jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@cache
def full_pass(name):
    net, params = model(name)

    @jax.jit
    def logits(tokens_L):
        length = len(tokens_L)
        batch = Batch(tokens_L[None], None, None, jnp.arange(length)[None], {}, None)
        return net.apply(params, batch).logits[0]

    # Padding on the right is in the future of every token asked about.
    return lambda tokens: np.asarray(logits(jnp.asarray(tokens + [PAD] * (24 - len(tokens)))))[: len(tokens)]


def greedy(name, prompt):
    """Return (tokens, log-probability, finished) by a loop over full passes."""
    tokens, total = list(prompt), 0.0
    for _ in range(MAX_NEW):
        logprobs = jax.nn.log_softmax(full_pass(name)(tokens)[-1])
        best = int(jnp.argmax(logprobs))
        total += float(logprobs[best])
        if best == STOP:
            return tokens[len(prompt) :], total, True
        tokens.append(best)
    return tokens[len(prompt) :], total, False


def settings(**changes):
    return {"max_new": MAX_NEW, "stop": STOP, "key": jax.random.key(7), **changes}


@pytest.mark.parametrize("name", MODELS)
def test_greedy_sampling_equals_a_loop_without_a_cache(name):
    found = sample(*model(name), PROMPTS, **settings(batch_size=2))
    assert found.tokens.shape == (len(PROMPTS), 1, MAX_NEW)
    for row, prompt in enumerate(PROMPTS):
        tokens, logprob, finished = greedy(name, prompt)
        assert found.tokens[row, 0].tolist() == tokens + [PAD] * (MAX_NEW - len(tokens))
        assert found.lengths[row, 0] == len(tokens)
        assert found.finished[row, 0] == finished
        # A sum of up to nine log-probabilities of order one.
        np.testing.assert_allclose(found.logprobs[row, 0], logprob, rtol=1e-4, atol=1e-4)


def test_some_rows_stop_early_and_some_run_out_of_budget():
    finished = np.concatenate([sample(*model(name), PROMPTS, **settings(batch_size=2)).finished for name in MODELS])
    assert finished.any()
    assert not finished.all()


def test_a_candidate_depends_on_its_key_and_place_but_not_on_its_batch():
    net, params = model("rotary")
    drawn = settings(temperature=1.0, candidates=3)
    together = sample(net, params, PROMPTS, **drawn)
    in_pairs = sample(net, params, PROMPTS, **drawn, batch_size=2)
    assert (together.tokens == in_pairs.tokens).all()
    np.testing.assert_allclose(together.logprobs, in_pairs.logprobs, rtol=1e-5, atol=1e-5)
    assert len({tuple(row) for row in together.tokens.reshape(-1, MAX_NEW).tolist()}) > len(PROMPTS)
    other = sample(net, params, PROMPTS, **{**drawn, "key": jax.random.key(8)})
    assert (other.tokens != together.tokens).any()


def test_candidates_carry_the_models_own_log_probability():
    found = sample(*model("rotary"), PROMPTS[:2], **settings(temperature=2.0, candidates=3, batch_size=2))
    for row, prompt in enumerate(PROMPTS[:2]):
        for c in range(3):
            new = found.tokens[row, c, : found.lengths[row, c]].tolist() + [STOP] * int(found.finished[row, c])
            logprobs = jax.nn.log_softmax(full_pass("rotary")(prompt + new))[len(prompt) - 1 : -1]
            expected = sum(float(logprobs[i, token]) for i, token in enumerate(new))
            np.testing.assert_allclose(found.logprobs[row, c], expected, rtol=1e-4, atol=1e-4)


def test_a_long_text_is_written_in_stretches_that_change_nothing():
    net, params = model("rotary")
    assert stretches(0) == []
    assert stretches(9) == [(0, 9)]
    assert stretches(69) == [(0, 64), (64, 5)]
    assert stretches(511) == [(0, 256), (256, 255)]
    found = sample(net, params, PROMPTS[:2], **settings(max_new=70, stop=V, temperature=2.0, candidates=2))
    for row, prompt in enumerate(PROMPTS[:2]):
        tokens_CL = np.concatenate([np.tile(prompt, (2, 1)), found.tokens[row]], axis=1)
        positions_CL = np.tile(np.arange(tokens_CL.shape[1]), (2, 1))
        logprobs = jax.nn.log_softmax(net.apply(params, Batch(tokens_CL, None, None, positions_CL, {})).logits)
        each = np.take_along_axis(np.asarray(logprobs[:, len(prompt) - 1 : -1]), found.tokens[row][..., None], axis=-1)
        np.testing.assert_allclose(found.logprobs[row], each.sum(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_cache_in_parts_that_copies_share_equals_the_full_pass(name):
    net, params = model(name)
    rng, (rows, copies, length) = np.random.default_rng(5), (2, 3, 10)
    seen, new = rng.integers(0, V, (rows, 4)), rng.integers(0, V, (rows * copies, length - 4))
    tokens = np.concatenate([np.repeat(seen, copies, axis=0), new], axis=1)
    segments = np.tile([0, 0, *[1] * (length - 2)], (rows * copies, 1))
    positions = np.maximum(np.cumsum(segments, axis=1) - 1, 0)
    batch = jax.tree.map(jnp.asarray, Batch(tokens, tokens, np.zeros(tokens.shape), positions, {}, segments))
    read, found = jax.jit(net.reader(params)), []
    _, state = read(jax.tree.map(lambda leaf: leaf[::copies, :4], batch), net.cache(rows, length, room=0))
    state = net.grow(state, 2, copies)
    for start, stop, room in ((4, 5, 0), (5, 6, 3), (6, 9, 1), (9, 10, 0)):
        outputs, state = read(jax.tree.map(lambda leaf, where=slice(start, stop): leaf[:, where], batch), state)
        state = net.grow(state, room) if room else state
        found.append(outputs.logits)
    assert int(state.index) == length
    for row in range(rows * copies):
        expected = full_pass(name)(tokens[row, 2:].tolist())[2:]
        np.testing.assert_allclose(jnp.concatenate(found, axis=1)[row], expected, rtol=1e-4, atol=1e-4)


def test_temperature_near_zero_and_one_token_left_are_greedy():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((50, V)), jnp.float32)
    keys, best = jax.random.split(jax.random.key(0), 50), jnp.argmax(logits, axis=-1)
    for temperature, top_k, top_p in ((None, None, None), (1e-4, None, None), (5.0, 1, None), (5.0, None, 1e-6)):
        assert (choose(logits, keys, temperature, top_k, top_p) == best).all()


def test_draws_follow_the_probabilities_that_truncation_leaves():
    probabilities = np.array([0.4, 0.3, 0.2, 0.07, 0.03])
    logits = jnp.log(jnp.asarray(probabilities))[None]
    table = {
        (None, None): [0.4, 0.3, 0.2, 0.07, 0.03],
        (2, None): [4 / 7, 3 / 7, 0, 0, 0],
        (None, 0.75): [4 / 9, 3 / 9, 2 / 9, 0, 0],
        (4, 0.71): [0.4 / 0.7, 0.3 / 0.7, 0, 0, 0],
        (99, 1.0): [0.4, 0.3, 0.2, 0.07, 0.03],
    }
    for (top_k, top_p), left in table.items():
        np.testing.assert_allclose(jax.nn.softmax(truncate(logits, top_k, top_p))[0], left, atol=1e-6)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = choose(jnp.tile(logits, (20_000, 1)), keys, 1.0, None, 0.75)
    # Three standard errors of a share of 20,000 draws.
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 20_000, table[None, 0.75], atol=0.011)
    assert (np.asarray(drawn) < 3).all()


def test_a_draw_is_from_the_blocks_as_from_the_whole():
    rng = np.random.default_rng(2)
    for size in (1, 2, 17, 100):
        logits_V = np.where(rng.random(size) < 0.3, -np.inf, 3 * rng.standard_normal(size))
        logits_V[0] = 1.0
        drawn = draw(jnp.tile(logits_V, (20_000, 1)), jax.random.split(jax.random.key(size), 20_000))
        shares_V = np.bincount(drawn, minlength=size) / 20_000
        probabilities_V = np.asarray(jax.nn.softmax(logits_V))
        # Five standard errors of each share; what has no probability is never drawn.
        assert (np.abs(shares_V - probabilities_V) <= 5 * np.sqrt(probabilities_V / 20_000)).all()


def test_a_number_never_falls_on_a_weight_of_zero():
    weights = jnp.array([0.0, 2.0, 0.0, 0.0, 2.0, 0.0])
    numbers = jnp.array([0.0, 0.25, 0.499, 0.5, 0.75, 1 - 2**-23])
    assert place_of(jnp.tile(weights, (6, 1)), numbers).tolist() == [1, 1, 1, 4, 4, 4]


def test_the_next_batch_is_under_way_while_one_is_handed_out(monkeypatch):
    net, params = model("rotary")
    said, begin = [], decode._generate
    monkeypatch.setattr(decode, "_generate", lambda *args, **how: said.append("begun") or begin(*args, **how))
    places = []
    for rows, found in sample_batches(net, params, PROMPTS, **settings(batch_size=4, candidates=2)):
        assert found.tokens.shape == (len(rows), 2, MAX_NEW)
        said.append("handed out")
        places += rows.tolist()
    assert said == ["begun", "begun", "handed out", "begun", "handed out", "handed out"]
    assert places == sorted(range(len(PROMPTS)), key=lambda place: len(PROMPTS[place]))


def test_a_slot_of_a_cache_is_written_in_any_type_and_nothing_else():
    for dtype in (jnp.float32, jnp.bfloat16):
        old = jnp.arange(24, dtype=dtype).reshape(1, 2, 3, 4) / 7
        found = jax.jit(_put)(old, jnp.full((1, 2, 1, 4), -1 / 3, dtype), (0, 0, 1, 0))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, old.at[:, :, 1].set(-1 / 3))


def test_lengths_fall_into_few_buckets():
    sizes = [bucket(n) for n in range(1, 1000)]
    assert all(size >= n for n, size in enumerate(sizes, start=1))
    assert sorted(set(sizes)) == [8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    tokens, segments = pad_left([[1, 2, 3], [4] * 9], pad=7)
    assert tokens.tolist() == [[7] * 9 + [1, 2, 3], [7] * 3 + [4] * 9]
    assert segments.tolist() == [[0] * 9 + [1] * 3, [0] * 3 + [1] * 9]


def test_generate_is_one_program_that_ends_with_its_last_row():
    net, params = model("rotary")
    calls = []

    def counted(params):
        def read(batch, cache):
            jax.debug.callback(lambda: calls.append(batch.inputs.shape[1]))
            return net.extend(params, batch, cache)

        return read

    tokens, segments = pad_left(PROMPTS[1:2], PAD)
    stop = greedy("rotary", PROMPTS[1])[0][2]
    keys = jax.random.split(jax.random.key(0), 1)
    run = jax.jit(
        lambda keys: generate(net._replace(reader=counted), params, tokens, segments, keys, stop=stop, max_new=50)
    )
    found = run(keys)
    jax.effects_barrier()
    # The prefill, then one call a token after the first: the stop token itself is never fed back.
    assert calls == [8] + [1] * int(found.lengths[0, 0])


BAD = {
    "prompt 1 is empty": {"prompts": [[1], []]},
    "there are no prompts": {"prompts": []},
    "max_new must be positive": {"max_new": 0},
    "candidates must be positive": {"candidates": 0},
    "temperature must be 0": {"temperature": -1.0},
    "top_k must be positive": {"temperature": 1.0, "top_k": 0},
    "top_p must lie in": {"temperature": 1.0, "top_p": 1.5},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_out_of_range_are_refused_in_one_sentence(message):
    net, params = model("rotary")
    changes = {"prompts": PROMPTS, **BAD[message]}
    with pytest.raises(ConfigError, match=message):
        sample(net, params, changes.pop("prompts"), **settings(**changes))


def test_a_model_without_a_cache_is_refused():
    with pytest.raises(ConfigError, match="no cached decoding"):
        sample(build(MLPConfig()), {}, PROMPTS, **settings())


def test_pass_at_k_counts_the_subsets_that_hold_a_correct_sample():
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))
    with pytest.raises(ConfigError, match="k must lie between 1 and the number of samples 3, got 4"):
        pass_at_k(3, 1, 4)


def test_best_at_k_counts_the_subsets_whose_best_score_is_correct():
    correct, scores = [True, False, True, False, False], [0.1, 0.9, 0.5, 0.5, 0.3]
    for k in range(1, 6):
        chances = []
        # Every order of the samples stands for one way to break ties.
        for order in permutations(range(5)):
            wins = [correct[max(subset, key=lambda i: scores[i])] for subset in combinations(order, k)]
            chances.append(sum(wins) / len(wins))
        assert best_at_k(correct, scores, k) == pytest.approx(np.mean(chances))
        assert best_at_k(correct, [float(right) for right in correct], k) == pytest.approx(pass_at_k(5, 2, k))


def test_votes_go_to_numbers_and_ties_to_the_first_seen():
    assert majority_vote([3, Fraction(1, 2), 0.5, None, "x"]) == Fraction(1, 2)
    assert majority_vote([2.0004, 7, 2, 7, 2]) == 2.0004
    assert majority_vote([5, 4, 4, 5]) == 5
    assert majority_vote([None, "4", float("nan"), float("inf"), True]) is None
    assert majority_vote([10**400, 10**400, 1]) == 10**400
    assert weighted_vote([1, 2, 2], [5.0, 0.0, 0.1]) == 2
    assert weighted_vote([1, 2, 2], [800.0, -800.0, -1.0]) == 1
    assert best_score(["a", "b", "c"], [0.1, 0.7, 0.7]) == "b"
