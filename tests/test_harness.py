"""What harnesses ask for, against direct computation: scores of continuations, of long texts, replies that stop."""

import json
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import TransformerConfig
from lm.exits import UserError
from lm.interop.scoring import TextModel, cut, roll
from lm.models import build
from lm.strict import ConfigError
from lm.types import Batch
from tasks.harness import LOCAL, grade_worked

LETTERS = "abcdefgh .\n"
PAD, BOS, EOS = 0, 1, 2


class Letters:
    """A codec of letters, with one token for two letters: "ab" is another token than "a" and "b" apart."""

    pad, bos, eos = PAD, BOS, EOS
    names = ("", "", "", *LETTERS, "ab", " a")
    vocabulary = len(names)

    def encode(self, text):
        ids = []
        while text:
            name = max((name for name in self.names if name and text.startswith(name)), key=len)
            ids.append(self.names.index(name))
            text = text[len(name) :]
        return ids

    def decode(self, ids):
        return "".join(self.names[int(i)] for i in ids)


@cache
def model(begins=True, max_length=24):
    net = build(TransformerConfig(vocabulary=Letters.vocabulary, depth=2, width=16, heads=2))
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)
    return TextModel(net, params, Letters(), max_length, begins)


@cache
def plain_pass():
    net, params = model().net, model().params

    @jax.jit
    def logprobs(tokens_L):
        batch = Batch(tokens_L[None], None, None, jnp.arange(len(tokens_L))[None], {}, None)
        return jax.nn.log_softmax(net.apply(params, batch).logits[0])

    return logprobs


def logprobs(tokens):
    """Log-probabilities [L, V] of what follows each token; padding stands in the future of all of them."""
    return np.asarray(plain_pass()(jnp.asarray([*tokens, *[PAD] * (32 - len(tokens))])))[: len(tokens)]


def direct(context, continuation):
    """Log-probability and greediness of tokens, one at a time."""
    tokens = [*context, *continuation]
    rows = logprobs(tokens)[len(context) - 1 : -1]
    picked = [row[token] for row, token in zip(rows, continuation, strict=True)]
    return sum(picked), all(row.argmax() == token for row, token in zip(rows, continuation, strict=True))


TEXTS = [
    ("a", "b"),
    ("abc", " defg"),
    ("", "abc."),
    ("h" * 20, "ab"),
    ("abc ", "a"),
    ("h" * 40, "cab"),
    ("b", "g" * 24),
]


@pytest.mark.parametrize("begins", [True, False])
def test_scores_are_those_of_a_plain_pass(begins):
    encode, start = Letters().encode, [BOS] if begins else []
    expected = []
    for context, continuation in TEXTS:
        whole = [*start, *encode(context + continuation)]
        before = len([*start, *encode(context.rstrip())])
        if len(whole) == before:
            whole = whole[:-1] + encode(context) + encode(continuation)
        if before == 0:
            whole, before = [BOS, *whole], 1
        row = whole[-25:]
        asked = len(whole) - before
        expected.append(direct(row[:-asked], row[-asked:]))
    found = model(begins).score(TEXTS)
    np.testing.assert_allclose([s.logprob for s in found], [e[0] for e in expected], rtol=1e-5)
    assert [s.greedy for s in found] == [e[1] for e in expected]


def test_what_greedy_decoding_writes_is_greedy():
    context = "abc"
    written = model().reply([context], max_new=6)[0]
    best, other = model().score([(context, written), (context, written[:-1] + "h")])
    assert written and best.greedy and best.logprob >= other.logprob


def test_tokens_are_cut_where_the_context_ends():
    pairs = [model().pair(*texts) for texts in (("c ", "a"), ("c", " a"), ("", "ab"))]
    encode = Letters().encode
    assert pairs[0] == pairs[1] == ([BOS, *encode("c")], encode(" a"))
    assert pairs[2] == ([BOS], encode("ab"))


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 20])
def test_windows_ask_for_every_token_once_with_all_the_context_there_is(length):
    tokens = list(range(100, 100 + length))
    windows = list(roll(tokens, 99, max_length=8))
    assert [token for window in windows for token in window.continuation] == tokens
    for number, window in enumerate(windows):
        assert window.context and len(window.context) + len(window.continuation) <= 9
        assert number == 0 or len(window.context) + len(window.continuation) == 9
        row = window.context + window.continuation
        assert row == list(range(row[0], row[0] + len(row)))


def test_a_long_text_is_the_sum_of_its_windows():
    texts = ["abc def. " * 8, "", "c"]
    tokens = [Letters().encode(text) for text in texts]
    expected = [sum(direct(*pair)[0] for pair in roll(ids, BOS, 24)) for ids in tokens]
    np.testing.assert_allclose(model().score_whole(texts), expected, rtol=1e-5)


def test_replies_go_on_greedily_and_stop_where_asked():
    contexts = ["abc", "f. e", "h" * 30 + "fed. gh cab" * 2]
    for context, reply in zip(contexts, model().reply(contexts, max_new=8), strict=True):
        tokens = [BOS, *Letters().encode(context)][-16:]
        for _ in range(8):
            best = int(logprobs(tokens)[-1].argmax())
            if best == EOS:
                break
            tokens.append(best)
        prompt = min(16, 1 + len(Letters().encode(context)))
        assert reply == Letters().decode(tokens[prompt:])
        stop = reply[2:4]
        assert model().reply([context], max_new=8, until=[stop, ""]) == [reply[: reply.find(stop)]]
    assert cut("one\ntwo. three", ["t", "\n"]) == "one"
    assert cut("one", ["\n"]) == "one"


def test_impossible_requests_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="continuation of 25 tokens"):
        model().score([("a", "g" * 25)])
    with pytest.raises(ConfigError, match="has no tokens"):
        model().score([("a", "")])
    with pytest.raises(ConfigError, match="max_new must be below max_length 24"):
        model().reply(["a"], max_new=24)


def test_the_harness_gets_its_answers():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm.interop.harness import HarnessModel

    def requests(*arguments):
        return [SimpleNamespace(args=args) for args in arguments]

    harness = HarnessModel(model())
    assert harness.loglikelihood(requests(*TEXTS)) == [tuple(score) for score in model().score(TEXTS)]
    assert harness.loglikelihood_rolling(requests(("abc" * 20,))) == model().score_whole(["abc" * 20])
    settings = [{"until": ["b"], "max_gen_toks": 5, "do_sample": False}, {"until": "c", "max_gen_toks": 4}]
    found = harness.generate_until(requests(("abc", settings[0]), ("h", settings[1]), ("f", settings[0])))
    five, four = (dict(max_new=5, until=["b"]), dict(max_new=4, until=["c"]))
    expected = model().reply(["abc", "f"], **five)
    assert found == [expected[0], *model().reply(["h"], **four), expected[1]]
    with pytest.raises(ConfigError, match="num_beams"):
        harness.generate_until(requests(("abc", {"num_beams": 4})))


PAIRS = [("one", "abc", "g.h"), ("one", "ab", "hh"), ("two", "fed", "def"), ("two", "cab", "ccc")]


@pytest.mark.parametrize("count", [None, 1])
def test_blimp_counts_the_pairs_whose_good_sentence_is_likelier(tmp_path, count):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm.interop.harness import HarnessModel

    rows = [{"uid": uid, "good": good, "bad": bad} for uid, good, bad in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = LOCAL["blimp"](tmp_path, count)
    found = lm_eval.simple_evaluate(model=HarnessModel(model()), tasks=[task], bootstrap_iters=0)["results"]["blimp"]
    asked = PAIRS if count is None else PAIRS[::2]
    scores = [model().score([("", good), ("", bad)]) for _, good, bad in asked]
    assert found["acc,none"] == np.mean([good.logprob > bad.logprob for good, bad in scores])
    with pytest.raises(UserError, match="must hold a .jsonl file"):
        LOCAL["blimp"](tmp_path / "none")


@pytest.mark.parametrize(
    "reply, strict, lenient",
    [("so 7\n#### 7", 1, 1), ("#### 1,007\nthen 7", 0, 1), ("it is 7", 0, 1), ("#### 7\nthen 8", 1, 0), ("none", 0, 0)],
)
def test_worked_solutions_are_graded_both_ways(reply, strict, lenient):
    assert grade_worked({"answer": "3+4=7\n#### 7"}, [reply]) == {"strict": strict, "lenient": lenient}
