"""Laws of groups in attention and of the tasks with scratchpads (Abbe et al. 2024)."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close

from lm.config import ALiBi, Learned, MLPConfig, ReaderConfig, RNNConfig, Rotary, TransformerConfig
from lm.models import blocked_attention, build, causal_attention, plain_attention
from lm.models.attention import attention_weights
from lm.strict import ConfigError
from lm.types import Batch
from tasks.formal.scratchpad import inductive
from tasks.formal.scratchpad.cycles import Cycles
from tasks.formal.scratchpad.globality import cycle_degree, information
from tasks.formal.scratchpad.inductive import ARROW, ASK, BEGIN, BLANK, END, FIRST, NEXT, PLUS, ZERO, induce, write
from tasks.formal.scratchpad.shifted_addition import ShiftedAddition
from tasks.formal.scratchpad.spaced_addition import SpacedAddition
from tasks.formal.scratchpad.spaced_parity import SpacedParity
from tasks.mixture import TaskMixture

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
    cached = () if net.reader is None else (net.reader({}),)
    for run in (functools.partial(net.apply, {}), *cached):
        with pytest.raises(ConfigError, match="groups"):
            run(make_batch(), None)


# The inductive form of a text


def texts(task, size, count, seed=0):
    """Return a batch of test examples, and each one's whole text, its question, and its asked tokens, as lists."""
    keys = jax.random.split(jax.random.key(seed), count)
    batch = jax.tree.map(np.asarray, jax.jit(jax.vmap(task.sample_test, (0, None)))(keys, size))
    whole = [[*row, last] for row, last in zip(batch.inputs.tolist(), batch.targets[:, -1].tolist(), strict=True)]
    questions = [text[:begin] for text, begin in zip(whole, batch.info["begin"].tolist(), strict=True)]
    answers = [row[asked].tolist() for row, asked in zip(batch.targets, batch.weights > 0, strict=True)]
    return batch, whole, questions, answers


def test_three_states_by_hand():
    question, states = jnp.array([31, 32, BEGIN]), jnp.array([[21, NEXT], [22, NEXT], [23, END]])
    example = write(question, 3, states, jnp.array([2, 2, 2]), 13, True)
    tokens = [31, 32, BEGIN, 21, NEXT, 21, NEXT, 22, NEXT, 22, NEXT, 23, END]
    assert example.inputs.tolist() == tokens and example.targets.tolist() == [*tokens[1:], 0]
    assert example.groups.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert example.positions.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6, 3, 4, 5, 6]
    assert example.weights.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0]
    shorter = write(question, 2, states, jnp.array([2, 1, 0]), 6, True)
    assert shorter.inputs.tolist() == [31, 32, 21, NEXT, 21, NEXT] and shorter.targets[-1] == 22
    assert shorter.positions.tolist() == [0, 1, 2, 3, 2, 3] and shorter.weights.tolist() == [0, 1, 1, 0, 0, 1]


STATES = {
    "cycles": (Cycles(shortest=2, longest=4, names=9), 4),
    "spaced_parity": (SpacedParity(width=8, longest_train=3, longest_test=6), 5),
    "spaced_addition": (SpacedAddition(width=4, longest_train=2, longest_test=3), 3),
    "shifted_addition": (ShiftedAddition(longest_train=2, longest_test=3), 3),
}
each_scratchpad = pytest.mark.parametrize("name", STATES)


@each_scratchpad
def test_without_copies_and_masks_the_inductive_text_is_the_full_one(name):
    task, size = STATES[name]
    batch, whole, questions, answers = texts(task, size, 8)
    _, full, _, full_answers = texts(replace(task, scratchpad="full"), size, 8)
    joint = ARROW if name == "cycles" else NEXT  # the way of the paper is joined by arrows
    for row, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        ends = [0, *(i + 1 for i, token in enumerate(answer) if token == NEXT), len(answer)]
        states = [answer[start:stop] for start, stop in itertools.pairwise(ends)]
        steps = [states[0], *(before + after for before, after in itertools.pairwise(states))]
        text, places = question + sum(steps, []), [range(len(question))]
        places += [range(len(question), len(question) + len(step)) for step in steps]
        assert len(states) == size + (name == "cycles") and whole[row][: len(text)] == text
        assert batch.positions[row, : len(text)].tolist() == list(itertools.chain(*places))[: batch.positions.shape[1]]
        swapped = [joint if token == NEXT else token for token in answer]
        assert full[row][: len(question) + len(swapped)] == question + swapped == question + full_answers[row]


def test_the_number_of_a_step_leaves_its_scores_unchanged():
    net = build(replace(SMALL, vocabulary=40, positions=Learned(32)))
    params, logits = some_params(net), jax.jit(lambda params, batch: net.apply(params, batch).logits)
    question, rng = jnp.array([31, 32, 33, BEGIN]), np.random.default_rng(0)

    def scores(states):
        batch = jax.tree.map(lambda x: x[None], write(question, 4, jnp.asarray(states), jnp.full(4, 3), 24, True))
        rows = np.flatnonzero(batch.groups[0] == np.max(batch.groups[0]))
        return logits(params, batch)[0, rows], logits(params, batch)[0, rows - 6]

    states = rng.integers(FIRST, 40, (4, 3))
    late, _ = scores(states)
    _, early = scores(np.concatenate([states[1:], states[:1]]))
    assert late.shape == early.shape == (5, 40)
    np.testing.assert_allclose(late, early, atol=1e-6)


@pytest.mark.parametrize("positions", [Learned(64), Rotary()], ids=str)
def test_writing_with_a_truncated_context_is_the_masked_long_form(positions):
    net = build(replace(SMALL, vocabulary=8, positions=positions))  # marks alone, so that states end
    params = jax.tree.map(lambda x: 2 * x, net.init(jax.random.key(3)))
    shown, states, width = np.array([6, 4, 6, 5, 3, 6, 6, 5]), 5, 4
    questions = np.random.default_rng(1).integers(0, 8, (8, 6))
    found = jax.jit(lambda params, q, n: induce(net, params, q, n, states, width))(params, questions, shown)
    assert np.any(found.lengths[:, 0] != found.lengths[:, 1]) and np.all(found.lengths[:, 0] > 0)
    length = 6 + (2 * states - 1) * width
    batch = jax.vmap(lambda q, n, s, w: write(q, n, s, w, length, True))(
        jnp.asarray(questions), jnp.asarray(shown), found.tokens, found.lengths
    )
    best = jnp.argmax(net.apply(params, batch).logits, axis=-1)
    asked = np.asarray(batch.weights) > 0
    assert np.array_equal(asked.sum(axis=1), found.lengths.sum(axis=1)) and np.array_equal(
        np.asarray(best)[asked], np.asarray(batch.targets)[asked]
    )


def test_a_mixture_of_texts_with_and_without_groups_pads_both():
    task = SpacedParity(width=8, longest_train=3, longest_test=6)
    mixture = TaskMixture((("inductive", task), ("full", replace(task, scratchpad="full"))))
    batch = jax.jit(lambda key: mixture.draw(key, 40))(jax.random.key(0))
    without = np.asarray(batch.info["part"]) == 1
    assert batch.groups.shape == batch.inputs.shape and np.all(batch.groups[without] == 0)
    assert np.all(batch.groups[~without].max(axis=1) > 0) and without.any()


# Cycles: checks 1 and 6 of the sheet


def edges_of(task, question):
    """Return the edges and the two nodes asked of."""
    body = question[: question.index(ASK) - 1]
    step = 4 if task.edges == "arrows" else 2
    edges = {body[i]: body[i + step // 2] for i in range(0, len(body), step)}
    return edges, question[question.index(ASK) - 1], question[question.index(ASK) + 1]


@pytest.mark.parametrize("edges", ["pairs", "arrows"])
@pytest.mark.parametrize("nodes", [None, 6])
def test_cycles_are_as_long_as_asked_and_the_label_is_right(edges, nodes):
    task = Cycles(shortest=2, longest=4, names=30, edges=edges, nodes=nodes)
    for size in (2, 3, 4):
        _, _, questions, answers = texts(task, size, 200)
        labels = []
        for question, answer in zip(questions, answers, strict=True):
            after, first, second = edges_of(task, question)
            assert len(after) == len(set(after.values())) == (nodes or 2 * size) and set(after) == set(after.values())
            way = [first]
            while way[-1] != second and (len(way) == 1 or way[-1] != first):
                way.append(after[way[-1]])
            label = int(way[-1] == second)
            whole = [first]
            while after[whole[-1]] != first:
                whole.append(after[whole[-1]])
            assert len(whole) == (len(after) if label else size) and len(way) == size + 1
            assert answer[::2] == [*way, ZERO + label] and answer[-3:] == [inductive.THEN, ZERO + label, END]
            labels.append(label)
        assert abs(np.mean(labels) - 0.5) < 4 * (0.25 / 200) ** 0.5


def test_what_sees_the_multiset_of_tokens_alone_has_no_better_than_chance():
    task, names = Cycles(scratchpad="none"), jnp.arange(FIRST, FIRST + 6)
    for bits in jax.random.bits(jax.random.key(0), (5, 6)):
        examples = [task.write(names, bits, label, 3, 3) for label in (0, 1)]
        seen = [np.sort(example.inputs[: int(example.info["begin"])]) for example in examples]
        assert np.array_equal(*seen) and examples[0].targets[15] != examples[1].targets[15]


def test_less_than_half_of_the_edges_says_nothing_about_the_cycles():
    """The degree counts tokens: those of n whole edges, exactly, where the paper shows that it is at least n."""
    tokens = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert information(tokens, tokens[:, 0] ^ tokens[:, 1]) == 1 and information(tokens, tokens[:, 1]) == 1
    assert information(tokens[:, :1], tokens[:, 0] ^ tokens[:, 1]) == 0
    for size in (2, 3):
        found = cycle_degree(size)
        assert found.degree == len(found.places) == 2 * size
        assert all(place ^ 1 in found.places for place in found.places)


# Spaced parity and addition: check 5


def test_texts_of_bits_read_back_as_their_parity():
    task = SpacedParity(width=12, longest_train=3, longest_test=12)
    for size in (1, 6, 12):
        _, _, questions, answers = texts(task, size, 30)
        _, _, _, plain = texts(replace(task, scratchpad="none"), size, 30)
        for question, answer, label in zip(questions, answers, plain, strict=True):
            bits = [(place, token - ZERO) for place, token in enumerate(question[:-1]) if token != BLANK]
            assert len(bits) == size
            states = [answer[i : i + 4] for i in range(0, len(answer), 4)]
            parity = np.cumsum([bit for _, bit in bits]) % 2
            expected = [[FIRST + at, ZERO + bit, ZERO + p] for (at, bit), p in zip(bits, parity, strict=True)]
            assert [state[:3] for state in states] == expected and label == [ZERO + parity[-1], END]
            assert [state[3] for state in states] == [NEXT] * (size - 1) + [END]


def test_texts_of_digits_read_back_as_their_sum():
    task = SpacedAddition(width=6, longest_train=3, longest_test=6)
    for size in (1, 4, 6):
        _, _, questions, answers = texts(task, size, 30)
        _, _, _, plain = texts(replace(task, scratchpad="none"), size, 30)
        for question, answer, digits in zip(questions, answers, plain, strict=True):
            middle = question.index(PLUS)
            a, b = (
                int("".join(str(token - ZERO) for token in part if token != BLANK))
                for part in (question[:middle], question[middle + 1 : -1])
            )
            states = [answer[i : i + 7] for i in range(0, len(answer), 7)]
            assert len(states) == size and [state[6] for state in states] == [NEXT] * (size - 1) + [END]
            for at, digit, other_at, other, *_ in states:
                assert question[at - FIRST] == digit and question[other_at - FIRST] == other
            read = [int("".join(str(s[i] - ZERO) for s in states[::-1])) for i in (1, 3, 5)]
            assert read == [a, b, (a + b) % 10**size] and states[-1][4] - ZERO == (a + b) // 10**size
            assert str(a + b).zfill(size + 1) == "".join(str(token - ZERO) for token in digits[-2::-1])


def test_operands_turn_and_the_sum_takes_the_place_of_the_letters():
    task = ShiftedAddition(longest_train=3, longest_test=5)
    for size in (1, 2, 5):
        _, _, questions, answers = texts(task, size, 20)
        for question, answer in zip(questions, answers, strict=True):
            width = 3 * size + 4
            rows = [question, *(answer[i : i + width] for i in range(0, len(answer), width))]
            assert len(rows) == size + 1 and [row[-1] for row in rows] == [BEGIN, *[NEXT] * (size - 1), END]
            operands = [(row[:size], row[size + 1 : 2 * size + 1]) for row in rows]
            for step, operand in itertools.product(range(size + 1), (0, 1)):
                turned, first = operands[step][operand], operands[0][operand]
                assert turned == first[size - step :] + first[: size - step]
            letters = question[2 * size + 3 : -1]
            a, b = (int("".join(str(token - ZERO) for token in part)) for part in operands[0])
            for step, row in enumerate(rows):
                assert row[size] == PLUS and row[2 * size + 1] == inductive.EQUALS
                digits = [token - ZERO for token in (row[2 * size + 2], *row[2 * size + 3 :][:step])]
                low = a % 10**step + b % 10**step
                assert digits == [low // 10**step, *([int(c) for c in str(low % 10**step).zfill(step)] if step else [])]
                assert row[2 * size + 3 + step : -1] == letters[: size - step]


@pytest.mark.parametrize(
    "make, field",
    [
        (lambda: ShiftedAddition(scratchpad="none"), "task.scratchpad"),
        (lambda: ShiftedAddition(longest_train=27), "task.longest_train"),
        (lambda: Cycles(scratchpad="path"), "task.scratchpad"),
        (lambda: Cycles(edges="pair"), "task.edges"),
        (lambda: Cycles(longest=4), "task.names must be at least 8"),
        (lambda: Cycles(shortest=1), "task.shortest"),
        (lambda: Cycles(nodes=6, tested=(5,)), "task.tested"),
        (lambda: SpacedParity(longest_test=21), "task.longest_test"),
        (lambda: SpacedAddition(longest_train=0), "task.longest_train"),
    ],
)
def test_impossible_scratchpads_are_refused_by_name(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
