"""Laws of the scorers, of reading GSM8K and of the corpus (TinyGSM sheet, section 13, checks 3, 5 and 6)."""

import dataclasses
import doctest
import json
import multiprocessing
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest

from lm.data import Codec, Corpus, read_jsonl
from lm.exits import UserError
from lm.strict import ConfigError
from tasks.math import gsm8k, interpreter, scorers, tinygsm
from tasks.math.data import MathData, build, document, held_out, mix, prompt, training_problems
from tasks.math.grammar import generator
from tasks.math.grammar import problem as problem_module
from tasks.math.grammar.generator import problem
from tasks.math.grammar.words import HELD_OUT_THEMES, themes
from tasks.math.interpreter import run
from tasks.math.recipes import tinygsm_cpu
from tasks.math.scorers import gold_answer, grade, grade_text, last_number
from tasks.math.tinygsm import SPLITS, Asked, TinyGSM, tally

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(
    not GSM8K.is_dir() and os.environ.get("CI") != "true", reason="the GSM8K files are not at ../shared/data/gsm8k"
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,234", 1234), ("A: -18", -18), ("costs $3.50", Fraction("3.5")), ("12 of 30%", 30),
        ("-$7", -7), ("3.", 3), ("no number", None), ("", None),
    ],
)  # fmt: skip
def test_last_number(text, number):
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("x\n#### 1,000", 1000), ("#### $12.5 ", Fraction("12.5")), ("####-3", -3)]
)
def test_gold_answer(text, number):
    assert gold_answer(text) == number


@pytest.mark.parametrize("text", ["12", "#### twelve", "", "#### 1 or 2"])
def test_a_solution_without_an_answer_is_refused(text):
    with pytest.raises(ValueError, match="####"):
        gold_answer(text)


@pytest.mark.parametrize(
    ("completion", "gold", "strict", "lenient"),
    [
        ("def f():\n    return 36 / 4", 9, True, True),
        ("def f():\n    return 36 / 4\nrest 8", 9, True, True),
        ("def f():\n    return 9.0009", 9, True, True),
        ("def f():\n    return 9.002", 9, False, False),
        ("def f():\n    return 8  # 9", 9, False, False),  # a number that was computed is not replaced by another
        ("def f():\n    return x\n# 9", 9, False, True),
        ("def f(:\n    return 9", 9, False, True),
        ("the answer is 9", 9, False, True),
        ("the answer is 8", 9, False, False),
        ("", 9, False, False),
    ],
)
def test_strict_and_lenient(completion, gold, strict, lenient):
    assert grade(completion, gold)[:2] == (strict, lenient)


@pytest.mark.parametrize("module", [problem_module, generator, interpreter, scorers, gsm8k, tinygsm])
def test_the_examples_in_docstrings_are_real(module):
    failed, tried = doctest.testmod(module)
    assert tried > 0 and failed == 0


@needs_gsm8k
def test_scorer_reproduces_the_published_judgements():
    rows = list(read_jsonl(GSM8K / "example_model_solutions.jsonl"))
    models = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
    for model, published in models.items():
        ours = [grade_text(row[model]["solution"], last_number(row["ground_truth"])).strict for row in rows]
        theirs = [row[model]["is_correct"] for row in rows]
        assert sum(theirs) == published
        assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 0.99 * len(rows) == 0.99 * 1319


@needs_gsm8k
def test_gsm8k_loads_and_most_solutions_become_programs_that_give_the_gold_answer():
    train, test = gsm8k.load(GSM8K)
    assert (len(train), len(test)) == (7473, 1319)
    programs = [(q, gsm8k.translate(q.solution)) for q in train[:1000]]
    translated = [(q, program) for q, program in programs if program]
    assert len(translated) > 900
    for q, program in translated:
        assert grade(program, q.answer).strict and "solve" in program and "<<" not in program
    assert sum("\n    result = " in program and program.count("=") > 1 for _, program in translated) > 700


def test_results_become_variables_named_after_what_follows():
    solution = "48/2 = <<48/2=24>>24 clips, 48+24 = <<48+24=72>>72 clips, 72*.5 = $<<72*.5=36>>36.\n#### 36"
    lines = ["def solve():", "clips = 48 / 2", "clips_2 = 48 + clips", "result = clips_2 * 0.5", "return result"]
    assert gsm8k.translate(solution) == "\n    ".join(lines)
    for broken in ("#### 36", solution.replace("#### 36", "#### 37"), solution.replace("48/2=", "48/x=")):
        assert gsm8k.translate(broken) is None


@needs_gsm8k
def test_the_mixture_drops_what_the_test_asks_and_says_so():
    rows, facts = mix(MathData(problems=50, gsm8k=str(GSM8K), gsm8k_repeats=1), TinyGSM().settings, set())
    rows = list(rows)
    assert facts["gsm8k_train"] == 7473 and facts["contaminated_gsm8k_removed"] == 5
    assert len(rows) == 50 + facts["gsm8k_translated"] - 5 and facts["gsm8k_translated"] > 0.9 * 7473
    asked = rows[10].question
    left = list(mix(MathData(problems=50), TinyGSM().settings, set(), published=[re.sub(r"\d+", "7", asked)])[0])
    assert asked in {row.question for row in rows[:50]} - {row.question for row in left}


@pytest.mark.parametrize("content", [None, '{"question": "q", "anwser": "#### 1"}', '{"question": "q", "answer": "1"}'])
def test_a_bad_gsm8k_folder_is_one_clear_sentence(tmp_path, content):
    for name in gsm8k.FILES if content else ():
        (tmp_path / name).write_text(content + "\n")
    with pytest.raises(UserError, match=r"found: nothing|no field 'answer'; did you mean anwser|jsonl:1: .*####"):
        gsm8k.load(tmp_path)


DATA = MathData(problems=300, length=192, vocabulary=600)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(DATA, TinyGSM().settings, set(), tmp_path_factory.mktemp("corpus"))


def test_training_and_test_share_no_question_and_no_new_skeleton():
    settings = TinyGSM().settings
    splits = held_out(DATA, settings, 40)
    test = {p.question for problems in splits.values() for p in problems}
    assert all(p.new_skeleton is (split == "new_skeleton") for split, problems in splits.items() for p in problems)
    stream = training_problems(DATA, settings, test | {problem(0, 0, **settings).question})
    first = [next(stream) for _ in range(300)]
    assert not any(p.new_skeleton or p.question in test for p in first)
    assert problem(0, 0, **settings) not in first


def test_worker_processes_make_the_same_problems_in_the_same_order():
    settings = TinyGSM().settings
    alone, together = (training_problems(DATA, settings, set(), workers) for workers in (1, 2))
    assert [next(alone) for _ in range(2500)] == [next(together) for _ in range(2500)]
    together.close()
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_each_split_holds_what_it_is_named_for_and_training_holds_none_of_it():
    settings = TinyGSM(grammar="full", max_steps=5).settings
    splits = held_out(DATA, settings, 25, SPLITS)
    flags = {"in_distribution": (False, False), "new_skeleton": (True, False), "new_theme": (False, True)}
    for split, problems in splits.items():
        assert len({p.question for p in problems}) == 25
        assert all(p.steps in ((6, 7) if split == "deeper" else (1, 2, 3, 4, 5)) for p in problems), split
        assert all((p.new_skeleton, p.new_theme) == flags[split] for p in problems if split in flags), split
        assert all(p.distractor for p in problems if split == "distractor")
    held = {word for things in (themes()[theme] for theme in HELD_OUT_THEMES) for pair in things for word in pair}
    stream = training_problems(DATA, settings, set())
    first = [next(stream) for _ in range(400)]
    assert not any(p.new_theme or p.new_skeleton or held & set(re.findall(r"[a-z-]+", p.question)) for p in first)
    assert all(held & set(re.findall(r"[a-z-]+", p.question)) for p in splits["new_theme"])


def graded_as(asked, completions):
    return [(text, grade(text, a.answer)) for a, text in zip(asked, completions, strict=True)]


def test_published_sets_are_examined_and_sets_of_programs_join_the_corpus(tmp_path):
    (tmp_path / "svamp").mkdir()
    rows = [{"Body": "Ann has 3 cats.", "Question": "How many?", "Answer": 3.0, "Equation": "3"}]
    (tmp_path / "svamp" / "SVAMP.json").write_text(json.dumps(rows))
    task = TinyGSM(test_count=2, splits=("in_distribution",), tests=(f"svamp={tmp_path / 'svamp'}",))
    asked = task._questions(DATA)
    assert [a.split for a in asked] == ["in_distribution"] * 2 + ["svamp"] and asked[-1].answer == 3
    graded = tally(asked, graded_as(asked, ["?", "?", "def f():\n    return 3"])).metrics
    assert graded["svamp_strict"].value == 1 and graded["execution_accuracy"].value == 0
    code = (
        'def simple_math_problem() -> int:\n    """\n    Six and one?\n    """\n    result = 6 + 1\n    return result\n'
    )
    (tmp_path / "programs").mkdir()
    stored = [{"question": "Six and one?", "code": code}, {"question": asked[0].question, "code": code}]
    (tmp_path / "programs" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stored))
    data = dataclasses.replace(DATA, problems=0, programs=(str(tmp_path / "programs"),))
    rows, facts = mix(data, task.settings, {asked[0].question})
    (row,) = rows
    assert row.question == "Six and one?" and '"""' not in row.solution and run(row.solution).value == 7
    assert facts["programs"] == 1 and facts["generated"] == 0


def test_the_corpus_is_found_again_and_spells_whole_documents(built, monkeypatch):
    assert built.facts["documents"] == 300
    batch = Corpus(built.folder, "train", batch_size=2, seed=0).at(0)
    inputs_L, segments_L, weights_L = batch.inputs[0], batch.segments[0], batch.weights[0]
    first = inputs_L[segments_L == 1].tolist()
    mark = first.index(Codec.code)
    assert first[0] == Codec.bos and built.codec.decode(first[:mark]).endswith("?")
    assert run(built.codec.decode(first[mark:])).status == "ok"
    weights = weights_L[segments_L == 1]
    assert weights[: mark - 1] == pytest.approx(0.5) and weights[mark - 1] == 0 and (weights[mark:] == 1).all()
    assert batch.targets[0][segments_L == 1][-1] == Codec.eos
    monkeypatch.setattr("tasks.math.data.mix", lambda *_: pytest.fail("the corpus was built again"))
    again = build(DATA, TinyGSM().settings, set(), built.folder.parent)
    assert again.facts == built.facts


def test_programs_and_texts_take_turns_under_their_own_marks():
    data = dataclasses.replace(DATA, problems=6, solutions=("program", "text", "number"))
    rows = list(mix(data, TinyGSM().settings, set())[0])
    assert [row.is_program for row in rows] == [True, False, False] * 2
    codec = Codec.train([row.question for row in rows], 300)
    marks = [document(codec, row, 0.1).tokens[len(codec.encode(row.question)) + 1] for row in rows]
    assert marks == [codec.code, codec.text, codec.text] * 2
    assert rows[0].solution.startswith("def ") and "####" in rows[1].solution and rows[2].solution.isdigit()


def test_perfect_and_spoiled_answers_are_counted_where_they_belong(built):
    problems = [problem(7, index) for index in range(40)]
    asked = [Asked(p.question, p.answer, "new_skeleton" if p.new_skeleton else "in_distribution", p) for p in problems]
    asked.append(Asked("How many?", Fraction(3), "gsm8k"))
    prompts = [built.codec.decode(prompt(built.codec, a.question, True)) for a in asked]
    assert prompts == [a.question for a in asked]
    perfect = tally(asked, graded_as(asked, [*(p.code for p in problems), "def f():\n    return 3"]))
    assert all(rate.value == 1 for rate in perfect.metrics.values())
    assert set(perfect.slices) == {"split", "steps", "distractor", "kind"} and all(e["right"] for e in perfect.examples)
    off = [*(p.code.replace("return result", "return result + 1") for p in problems), "it is 3"]
    spoiled = tally(asked, graded_as(asked, off))
    figures = {name: rate.value for name, rate in spoiled.metrics.items()}
    assert figures["execution_accuracy"] == figures["lenient_accuracy"] == figures["new_skeleton_accuracy"] == 0
    assert figures["executable"] == 1 and (figures["gsm8k_strict"], figures["gsm8k_lenient"]) == (0, 1)
    assert sum(rate["execution_accuracy"].count for rate in spoiled.slices["steps"].values()) == sum(
        not p.new_skeleton for p in problems
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda: MathData(problems=0),
        lambda: MathData(solutions=("prose",)),
        lambda: MathData(solutions=()),
        lambda: TinyGSM(min_steps=3, max_steps=2),
        lambda: TinyGSM(distractor=1.5),
        lambda: TinyGSM(grammar="large"),
        lambda: TinyGSM(splits=("new_theme",)),
        lambda: TinyGSM(splits=("deeper",), max_steps=8),
        lambda: TinyGSM(tests=("swamp=here",)),
        lambda: TinyGSM().source(dataclasses.replace(tinygsm_cpu(), data=None), Path(".")),
        lambda: TinyGSM().source(dataclasses.replace(tinygsm_cpu(), data=MathData(vocabulary=4096)), Path(".")),
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(ConfigError, match=r"data|task|model"):
        change()
