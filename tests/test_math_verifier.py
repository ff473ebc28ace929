"""Laws of the verifier: its objective and start, what rules of choice are worth, no question shared, the duo whole."""

import json
import shutil
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.candidates import auroc, calibration, majority_vote, pass_at_k, sigmoid, vote_at_k
from lm.config import TrainConfig, TransformerConfig
from lm.data import Codec, Document, pack, read_jsonl
from lm.decode import sample
from lm.evaluate import bootstrap
from lm.exits import UserError
from lm.losses import token_values, verifier
from lm.models import build
from lm.strict import ConfigError, override
from lm.train import fit
from lm.transforms import value_row
from lm.types import Batch, Outputs
from tasks.formal.flip_flop.language import flip_flop_cpu
from tasks.math.duo import Duo, Sampling, questions, run_duo
from tasks.math.graded import Candidate, Graded, Question, distinct, keep, kept, read_graded, shares
from tasks.math.interpreter import Outcome
from tasks.math.recipes import tinygsm_cpu
from tasks.math.scorers import Grade
from tasks.math.selection import Judged, selection
from tasks.math.self_training import Round, run_round
from tasks.math.verifier import documents, judge, labelled, score, verifier_recipe
from tasks.math.written import write

CONFIG = TransformerConfig(vocabulary=40, depth=2, width=16, heads=2)
TOKENS_BL = jnp.array([[1, 7, 3, 9, 9], [1, 30, 3, 2, 0]])


def batch_of(tokens_BL, **info):
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    return Batch(tokens_BL, jnp.roll(tokens_BL, -1, axis=1), jnp.ones(tokens_BL.shape), positions_BL, info)


# The objective and the start


def test_the_objective_is_what_its_formula_says():
    logits_BLV = jnp.array([[[9.0, 9.0, 7.0], [1.0, 2.0, 0.5], [0.0, -1.0, -2.0], [3.0, 3.0, 9.0], [0.0, 0.0, 1.0]]])
    batch = batch_of(jnp.array([[1, 1, 0, 1, 0]]), labels=jnp.array([[0.0, 1.0, 1.0, 0.0, 0.0]]))
    batch = batch._replace(
        targets=jnp.array([[1, 0, 1, 1, 0]]),
        weights=jnp.array([[0.0, 0.5, 2.0, 0.0, 1.0]]),
        positions=jnp.array([[0, 1, 2, 0, 1]]),  # two documents, the first right and the second wrong
    )
    worse = -np.log(1 + np.exp(1.0))  # the target's log-likelihood where the other token is better by 1
    values = [7.0, 0.5 + worse, -2.0 + 2 * worse, 9.0, 1.0 - np.log(2)]
    np.testing.assert_allclose(token_values(logits_BLV, batch)[0], values, rtol=1e-6)
    loss, metrics = verifier(lambda *_: Outputs(logits_BLV), None, batch, None, auxiliary=0.25)
    judged = [-np.log(sigmoid(values[1])), -np.log(sigmoid(values[2])), -np.log(1 - sigmoid(values[4]))]
    value = (0.5 * judged[0] + 2 * judged[1] + judged[2]) / 3.5
    assert float(loss) == pytest.approx(value - 0.25 * 2.5 * worse / 3.5, rel=1e-6)
    assert float(metrics["loss"].value) == pytest.approx(float(loss))
    assert float(metrics["value_loss"].value) == pytest.approx(value, rel=1e-6)
    assert float(metrics["accuracy"].value) == 0


@pytest.mark.parametrize("model", [CONFIG, override(CONFIG, {"tied": False, "bias": True})])
def test_a_verifier_begins_as_its_generator(model):
    generator, judging = build(model), build(override(model, {"vocabulary": 41}))
    params = generator.init(jax.random.key(0))
    started = value_row(params)
    wanted = jax.eval_shape(judging.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, started) == jax.tree.map(jnp.shape, wanted)
    batch = batch_of(TOKENS_BL)
    logits_BLV = judging.apply(started, batch).logits
    np.testing.assert_array_equal(logits_BLV[..., -1], 0)
    np.testing.assert_allclose(logits_BLV[..., :-1], generator.apply(params, batch).logits, atol=1e-6)
    likelihood_BLV = jax.nn.log_softmax(generator.apply(params, batch).logits)
    said = [likelihood_BLV[0, i, TOKENS_BL[0, i + 1]] for i in (2, 3)]
    assert score(judging, started, [([1, 7, 3], [9, 9])])[0] == pytest.approx(float(sum(said)), abs=1e-5)


def test_scores_are_the_values_of_training_whatever_the_padding():
    net = build(CONFIG)
    params = net.init(jax.random.key(1))
    pairs = [([1, 5, 6], [4]), ([1] * 11, [3, 2]), ([1, 5, 6], [4]), ([4, 4], list(range(20))), ([7], [8, 9, 2])]
    documents = [Document([*a, *b], [0.0] * len(a) + [1.0] * len(b)) for a, b in pairs]
    windows = list(pack(documents, 40))
    batch = Batch(**{name: np.stack([window[name] for window in windows]) for name in windows[0]}, info={})
    values_BL = np.asarray(token_values(net.apply(params, batch).logits, batch))
    ends_BL = (batch.weights > 0) & (np.roll(batch.segments, -1, axis=1) != batch.segments)
    assert sorted(score(net, params, pairs)) == pytest.approx(sorted(values_BL[ends_BL]), abs=1e-4)


# What verifiers are trained on


def candidate(program, right, temperature=0.5, value=None):
    return Candidate([*map(ord, program), 2], program, "ok", value, right, 10, temperature)


def test_in_every_question_right_and_wrong_weigh_the_same():
    mixed = [candidate("a", True), candidate("bc", False), candidate("d", False), candidate("a", True)]
    rows = [
        Graded("q", Fraction(1), [1, 3], mixed),
        Graded("all right", Fraction(1), [1, 3], [candidate("a", True), candidate("e", True)]),
        Graded("too long", Fraction(1), [1, 3], [candidate("a", True), candidate("f" * 20, False)]),
    ]
    found = list(documents(rows, length=12))
    assert [d.tokens for d in found] == [[1, 3, 97, 2], [1, 3, 98, 99, 2], [1, 3, 100, 2]]
    assert [d.weights for d in found] == [[0, 0, 1, 1], [0, 0, -0.5, -0.5, -0.5], [0, 0, -0.5, -0.5]]
    assert [c.program for c in distinct(mixed)] == ["a", "bc", "d"]
    window = next(pack(found, 12))
    batch = labelled(Batch(**jax.tree.map(lambda x: x[None], window), info={}))
    asked = batch.weights[0] > 0
    assert batch.weights.sum() == pytest.approx(2 + 2.5) and asked.sum() == 7
    assert batch.info["labels"][0][asked].tolist() == [0, 0, 0, 1, 1, 0, 0] or batch.info["labels"].sum() == 2


def test_shares_are_even_and_whole():
    for steps, temperatures, samples in product([(1,), (1, 2)], [(0.5,), (0.5, 0.7, 0.8)], [1, 7, 16]):
        draws = shares(steps, temperatures, samples)
        counts = [draw.count for draw in draws]
        assert sum(counts) == samples and max(counts) - min(counts) <= 1 and min(counts) > 0
        assert len({draw[:2] for draw in draws}) == len(draws)


# Rules of choice


def test_perfect_scores_reach_the_oracle_and_equal_ones_chance():
    rng = np.random.default_rng(0)
    for n in range(1, 9):
        rights = [(rng.random(n) < p).tolist() for p in (0.2, 0.5, 0.9)]
        perfect = selection([Judged([0] * n, right, [3.0 * r for r in right]) for right in rights])
        equal = selection([Judged([0] * n, right, [0.7] * n) for right in rights])
        for count, rules in perfect.slices["candidates"].items():
            passed = np.mean([pass_at_k(n, sum(right), int(count)) for right in rights])
            assert rules["verifier"].value == pytest.approx(passed) == rules["oracle"].value
            blind = equal.slices["candidates"][count]["verifier"].value
            assert blind == pytest.approx(np.mean([np.mean(right) for right in rights]))
        assert perfect.metrics["auroc"].value == (1 if 0 < sum(map(sum, rights)) < 3 * n else 0.5)
        assert equal.metrics["auroc"].value == 0.5


def test_votes_of_subsets_are_counted_or_estimated():
    answers, right = [7, 8, 7, 8, 9, None], [False, True, False, True, False, False]
    for k in range(1, 7):
        subsets = list(combinations(range(6), k))
        won = [majority_vote([answers[i] for i in subset]) == 8 for subset in subsets]
        assert vote_at_k(answers, right, k) == pytest.approx(np.mean(won))
    assert vote_at_k(answers, right, 6, [0.0, 5.0, 0.0, 5.0, 0.0, 0.0]) == 1
    many = [1] * 6 + [2] * 6
    assert abs(vote_at_k(many, [True] * 6 + [False] * 6, 5) - 0.5) < 0.25
    with pytest.raises(ConfigError, match="k must lie between"):
        vote_at_k(answers, right, 7)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(1)
    right, scores = rng.random(30) < 0.4, rng.integers(0, 6, 30)
    pairs = [(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    assert auroc(right.tolist(), scores.tolist()) == pytest.approx(np.mean(pairs))
    assert auroc([True, True], [0.1, 0.2]) == 0.5


def test_calibration_is_the_distance_of_what_is_said_from_what_is_so():
    logit = np.log([0.92 / 0.08, 0.12 / 0.88]).tolist()
    error, bins = calibration([True, True, False, False], [logit[0], logit[0], logit[0], logit[1]])
    assert [(b.middle, b.size, b.correct) for b in bins] == [(0.15, 1, 0), (0.95, 3, 2)]
    assert [b.probability for b in bins] == pytest.approx([0.12, 0.92])
    assert error == pytest.approx((0.12 + 3 * abs(2 / 3 - 0.92)) / 4)
    assert calibration([True], [800.0])[0] == 0


def test_the_bootstrap_interval_is_that_of_a_mean():
    values = np.arange(400) % 4 / 3.0
    found = bootstrap(lambda rows: float(values[rows].mean()), 400)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(0.5) and found.count == 400
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found == bootstrap(lambda rows: float(values[rows].mean()), 400)


# Questions, files, the duo

GENERATOR = override(
    tinygsm_cpu(),
    {
        "train.steps": 4, "train.save_every": 2, "train.batch_size": 2, "train.steps_per_dispatch": 2,
        "model.depth": 1, "model.width": 16, "model.heads": 2, "model.vocabulary": 304,
        "data.problems": 60, "data.vocabulary": 300, "data.length": 384,
        "task.test_count": 5, "task.max_steps": 1, "task.distractor": 0.0,
    },
)  # fmt: skip
SAMPLING = {"questions": 6, "samples": 4, "temperatures": (0.5, 0.8), "steps": (2, 4), "longest": 16}
DUO = Duo(**SAMPLING, held_out=3, test=4, train=TrainConfig(steps=4, batch_size=2, save_every=2, steps_per_dispatch=2))


def test_no_question_is_shared(tmp_path):
    row = {"question": "Ann has {i} pens and buys 3. How many?", "answer": "#### 5"}
    for name, numbers in (("train", [1, 2, 2, 3, 4, 9]), ("test", [9, 10])):
        lines = [json.dumps({**row, "question": row["question"].format(i=i)}) + "\n" for i in numbers]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    for sampling, further, tested in ((Sampling(questions=300), 50, 5), (Sampling(2, gsm8k=str(tmp_path)), 2, 2)):
        lists = questions(GENERATOR, sampling, further, tested)
        assert [len(each) for each in lists] == [sampling.questions, further, tested]
        texts = [q.text for each in lists for q in each]
        assert len(set(texts)) == len(texts)
        assert questions(GENERATOR, sampling)[0] == lists[0], "what is held out changes nothing"
    own = {a.question for a in GENERATOR.task._questions(GENERATOR.data)}
    assert not own & {q.text for q in questions(GENERATOR, Sampling(questions=300))[0]}
    with pytest.raises(ConfigError, match="questions and held_out together must be at most 4, got 5"):
        questions(GENERATOR, Sampling(5, gsm8k=str(tmp_path)))
    with pytest.raises(ConfigError, match="test must be at most 5, got 6"):
        questions(GENERATOR, Sampling(1), test=6)


def test_every_question_gets_its_own_texts():
    net = build(override(CONFIG, {"vocabulary": 310}))
    params, codec = net.init(jax.random.key(0)), Codec.train(["a few words, to learn from"], 300)
    prompts = [[1, 7, 7, 9], [1], [1, 5], *([1, i] for i in range(10, 80))]
    settings = {"max_new": 6, "key": jax.random.key(2), "temperature": 1.0, "candidates": 2}
    found = sample(net, params, prompts, stop=codec.eos, **settings)
    texts = dict(write(net, params, codec, prompts, **settings))
    assert sorted(texts) == list(range(len(prompts)))
    for place, written in texts.items():
        for c, (tokens, text) in enumerate(written):
            told = [t for t in found.tokens[place, c, : found.lengths[place, c]].tolist() if t < codec.vocabulary]
            assert tokens == told + [codec.eos] * int(found.finished[place, c])
            assert text == codec.decode(told)


def test_a_stage_is_kept_for_its_inputs_and_refused_for_others(tmp_path):
    path = tmp_path / "stage.jsonl"
    keep(path, {"seed": 1, "draws": [(1, 0.5)]}, lambda: [{"x": 1}, {"x": 2}])
    keep(path, {"seed": 1, "draws": [(1, 0.5)]}, lambda: pytest.fail("made again"))
    assert kept(path) == [{"x": 1}, {"x": 2}]
    with pytest.raises(UserError, match=r"stage.jsonl was made from other inputs \(seed was 1, now 2\)"):
        keep(path, {"seed": 2, "draws": [(1, 0.5)]}, list)


def test_settings_without_sense_are_refused():
    for wrong in (lambda: Duo(samples=0), lambda: Duo(held_out=0), lambda: Duo(temperatures=()), lambda: Duo(test=-1)):
        with pytest.raises(ConfigError, match="samples|held_out|temperatures|test"):
            wrong()
    with pytest.raises(ConfigError, match="temperatures must be positive"):
        Round(temperatures=(0.0,))
    with pytest.raises(ConfigError, match="must be a run of tinygsm, x holds one of flip_flop"):
        run_duo(flip_flop_cpu(), Path("x"), Path("y"), DUO)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folders of a generator and of its duo; the sum of a program's letters decides whether it is right."""
    folder = tmp_path_factory.mktemp("duo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.math.graded.grade", by_letters)
        fit(GENERATOR, folder / "generator", quiet=True)
        run_duo(GENERATOR, folder / "generator", folder / "duo", DUO, quiet=True)
        yield folder / "generator", folder / "duo"


def by_letters(program, answer):
    return Grade(sum(map(ord, program)) % 2 == 0, False, Outcome("ok", len(program) % 5))


def files_of(folder):
    names = ("train.jsonl", "held_out.jsonl", "test.jsonl", "samples.jsonl")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_duo_runs_whole_and_reports(whole):
    _, folder = whole
    summary = json.loads((folder / "summary.json").read_text())
    assert {"verifier", "majority", "weighted_vote", "random", "oracle", "greedy", "auroc"} < set(summary["metrics"])
    assert {"gain_over_greedy", "gain_over_majority", "gain_over_random", "likelihood"} < set(summary["metrics"])
    assert list(summary["slices"]["candidates"]) == ["1", "2", "4"] and summary["step"] in (2, 4)
    report = (folder / "report.html").read_text()
    assert "by candidates over candidates" in report and "Results by probability" in report
    test = read_graded(folder / "test.jsonl")
    assert [sum(c.temperature == 0 for c in q.candidates) for q in test] == [1] * 4
    assert all(len(q.candidates) == 5 and {c.step for c in q.candidates} == {4} for q in test)
    train = read_graded(folder / "train.jsonl")
    assert {(c.step, c.temperature) for c in train[0].candidates} == set(product((2, 4), (0.5, 0.8)))
    assert not {q.question for q in train} & {q.question for q in read_graded(folder / "held_out.jsonl") + test}
    assert all(c.right == by_letters(c.program, None).strict for q in train for c in q.candidates)
    chosen = list(read_jsonl(folder / "samples.jsonl"))
    assert np.mean([example["right"] for example in chosen]) == pytest.approx(summary["metrics"]["verifier"]["value"])


def test_the_same_command_goes_on_from_wherever_it_was_cut_off(whole, tmp_path, monkeypatch):
    generator, folder = whole
    resumed = tmp_path / "duo"
    shutil.copytree(folder, resumed)
    (resumed / "test.jsonl").unlink()
    shutil.rmtree(resumed / "verifier" / "checkpoints" / "4")
    run_duo(GENERATOR, generator, resumed, DUO, quiet=True)
    assert files_of(resumed) == files_of(folder)
    figures = [json.loads((each / "summary.json").read_text()) for each in (folder, resumed)]
    assert figures[0]["metrics"] == figures[1]["metrics"] and figures[0]["loss"] == figures[1]["loss"]
    with pytest.raises(UserError, match="train.jsonl was made from other inputs"):
        run_duo(GENERATOR, generator, resumed, override(DUO, {"seed": 1}), quiet=True)


def test_a_round_adds_right_programs_alone(whole):
    generator, folder = whole
    settings = Round(**SAMPLING, problems=0, train=TrainConfig(steps=2, batch_size=2))
    before = (folder / "train.jsonl").stat().st_mtime_ns
    summary = run_round(GENERATOR, generator, folder, settings, quiet=True)
    assert (folder / "train.jsonl").stat().st_mtime_ns == before
    rows = list(read_jsonl(folder / "programs" / "data.jsonl"))
    right = {(q.question, c.program) for q in read_graded(folder / "train.jsonl") for c in q.candidates if c.right}
    assert {(row["question"], row["code"]) for row in rows} == right and len(rows) == len(right) == summary["programs"]
    own = json.loads((generator / "summary.json").read_text())["metrics"]
    assert summary["before"] == own and set(summary["after"]) == set(own)
    assert json.loads((folder / "round" / "stamp.json").read_text())["mixture"]["programs"] == len(right)


def test_a_greedy_candidate_is_no_choice():
    judged = judge(build(CONFIG), build(CONFIG).init(jax.random.key(0)), [
        Graded("q", Fraction(1), [1, 3], [candidate("!", True, 0.0), candidate("#", False, value=4)])
    ])  # fmt: skip
    assert judged[0].right == [False] and judged[0].answers == [4] and judged[0].greedy is True
    assert Question("q", Fraction(1)) == ("q", 1) and verifier_recipe(GENERATOR, "x", DUO.optimizer, DUO.train).model
