"""Laws of the word-problem generator (TinyGSM sheet, section 13, checks 3, 4 and 6)."""

import dataclasses
import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest

from tasks.math.grammar.generator import draw, problem, tell
from tasks.math.grammar.grammars import grammar_of
from tasks.math.grammar.problem import Term
from tasks.math.grammar.style import Style, in_words
from tasks.math.interpreter import run

COUNT = 3000


SETTINGS = {"small": {}, "full": {"grammar": "full", "steps": (1, 8), "distractor": 0.35}}


@pytest.fixture(scope="module", params=SETTINGS)
def grammar(request):
    return request.param


@pytest.fixture(scope="module")
def problems(grammar):
    return [problem(0, index, **SETTINGS[grammar]) for index in range(COUNT)]


def test_every_program_executes_to_the_recorded_answer_and_the_text_agrees(problems):
    for p in problems:
        outcome = run(p.code)
        assert outcome.status == "ok" and abs(Fraction(outcome.value) - p.answer) < Fraction(1, 1000), p
        *steps, last = p.text.split("\n")
        assert last.startswith("#### ") and Fraction(last[5:]) == p.answer
        for expression, result in re.findall(r"<<(.*?)=(.*?)>>", "\n".join(steps)):
            value = run(f"def check():\n    return {expression}").value
            assert value == pytest.approx(float(result), abs=1e-9), p


def test_values_are_exact_amounts(problems):
    """Every intermediate value is a non-negative integer, or now and then an amount with two decimals."""
    values = [Fraction(v) for p in problems for v in re.findall(r"=([^=]*?)>>", p.text)]
    assert all(v >= 0 and (v * 100).denominator == 1 for v in values)
    assert 0 < sum(v.denominator > 1 for v in values) < 0.1 * len(values)
    assert max(values) < 10_000


def test_a_question_about_a_difference_names_the_larger_one_first(problems):
    asked = [p for p in problems if p.kinds[-1] == "difference" and not {"packing", "pieces", "baking"} & set(p.kinds)]
    phrasings = (
        r"does (\w+) have than (\w+)|is (\w+) ahead of (\w+)|difference between (\w+) and (\w+) in|"
        r"(\w+) has more than (\w+)\."
    )
    backwards = r"more than (\w+) does (\w+) own|does (\w+) need to catch up with (\w+)"
    for p in asked:
        found, order = re.search(phrasings, p.question), 1
        if found is None:
            found, order = re.search(backwards, p.question), -1
        first, second = [part.lower() for part in found.groups() if part][::order]
        assert f"result = {first} - {second}" in p.code, p
    assert len(asked) > 40


def test_the_grammar_is_wide_and_every_phrasing_is_told(problems, grammar):
    steps = (*grammar_of(grammar).given, *grammar_of(grammar).steps)
    assert len({step.kind for step in steps}) == len(steps) >= (28 if grammar == "small" else 75)
    extra = 0 if grammar == "small" else 5 * COUNT
    problems = problems + [problem(1, index, **SETTINGS[grammar]) for index in range(extra)]
    told = {part.strip() for p in problems for part in re.findall(r"[a-z ]+\.\d+", p.skeleton)}
    for step in steps:
        phrasings = len(step.sentences) + len(step.questions)
        assert phrasings >= (2 if grammar == "small" else 6), step.kind
        missing = {f"{step.kind}.{i}" for i in range(phrasings)} - told
        assert len(missing) <= (1 if extra else 0), missing  # "together" and "before" are only told alone
    counts = Counter(p.steps for p in problems)
    assert set(counts) == set(range(1, 5 if grammar == "small" else 9)) and min(counts.values()) > COUNT / 80


def test_the_full_grammar_is_worded_in_many_ways_and_asks_the_same(problems, grammar):
    """Numbers as words, units in full, merged and reordered facts, early questions: the program does not change."""
    full = grammar_of("full")
    assert len(full.names) >= 150 and len(full.themes) == 15
    assert len({thing for things in full.themes.values() for thing in things}) >= 200
    if grammar == "small":
        return
    questions = [p.question for p in problems]
    share = {
        "words": sum(bool(re.search(r"\b(two|three|five|seven|twelve|twenty-\w+)\b", q)) for q in questions),
        "units": sum(" dollars" in q or " percent" in q for q in questions),
        "asked first": sum("?" in q[:-1] and q.index("?") < q.index(".") for q in questions if "." in q),
    }
    assert all(COUNT * 0.03 < count < COUNT * 0.6 for count in share.values()), share
    for index in range(300):
        plan = draw(random.Random(index), (1, 6), 0.0, full)
        plain = tell(dataclasses.replace(plan, grammar=dataclasses.replace(full, style=Style())))
        varied = tell(plan)
        assert dataclasses.replace(varied, question="") == dataclasses.replace(plain, question="")
        spoken = {n: in_words(n) for n in range(2, 100)}
        numbers = [
            sorted(
                Counter(
                    spoken.get(int(w), w) if w.isdecimal() else w
                    for w in words
                    if w.isdecimal() or w in spoken.values()
                )
            )
            for words in (re.findall(r"[a-z]+-[a-z]+|[a-z]+|\d+", p.question.lower()) for p in (plain, varied))
        ]
        assert numbers[0] == numbers[1], (plain.question, varied.question)


def test_a_distractor_changes_the_question_alone():
    assert not any(problem(3, index, distractor=0.0).distractor for index in range(100))
    with_distractor = 0
    for index in range(400):
        plain, p = problem(3, index, distractor=0.0), problem(3, index, distractor=1.0)
        with_distractor += bool(p.distractor)
        remark = f"{p.distractor} " if p.distractor else ""
        before, after = p.question.split(remark, 1) if remark else ("", p.question)
        assert before + after == plain.question
        assert not remark or not re.search(r"\b(he|she)\b", re.split(r"[.?]", after)[0], re.IGNORECASE)
        same = {"question": "", "theme": "", "distractor": ""}
        assert dataclasses.replace(p, **same) == dataclasses.replace(plain, **same)
    assert with_distractor > 300


def test_changing_a_number_changes_question_program_and_answer_together():
    for index in range(300):
        plan = draw(random.Random(index), (1, 4), 0.3, grammar_of("small"))
        first = plan.choices[0]
        changed = dataclasses.replace(first, numbers=(first.numbers[0] + 120, *first.numbers[1:]))
        old, new = tell(plan), tell(dataclasses.replace(plan, choices=(changed, *plan.choices[1:])))
        assert old.question != new.question and old.code != new.code and old.skeleton == new.skeleton
        assert run(new.code).value == pytest.approx(float(new.answer), abs=1e-3)


def digest(seed: int) -> str:
    rows = [problem(seed, index, **settings) for index in range(150) for settings in SETTINGS.values()]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def test_the_same_seed_is_byte_identical_in_another_process_and_another_seed_is_not():
    program = "import sys; sys.path[:0] = ['.', 'tests']; import test_math_generator as t; print(t.digest(5))"
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    other = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(5) != digest(6)


def test_splits_go_by_skeleton_and_never_share_one(problems):
    new = {p.skeleton for p in problems if p.new_skeleton}
    old = {p.skeleton for p in problems if not p.new_skeleton}
    assert not new & old and 0.07 < len(new) / len(new | old) < 0.13
    assert all(not re.search(r"\d\d|[A-Z]", skeleton) for skeleton in new | old)  # no number and no name


@pytest.mark.parametrize(
    ("build", "code"),
    [
        (lambda a, b, c: a - (b - c), "a - (b - c)"),
        (lambda a, b, c: (a + b) * c, "(a + b) * c"),
        (lambda a, b, c: a + b * c, "a + b * c"),
        (lambda a, b, c: a / (b * c), "a / (b * c)"),
        (lambda a, b, c: a * b / c, "a * b / c"),
    ],
)
def test_terms_write_parentheses_where_they_matter(build, code):
    numbers = [Term.named(name, Term.literal(n)) for name, n in zip("abc", (20, 6, 3), strict=True)]
    term = build(*numbers)
    assert term.code == code
    program = f"def f():\n    a = 20\n    b = 6\n    c = 3\n    return {code} - ({term.digits})"
    assert run(program).value == 0
    assert float(term.value) == pytest.approx(run(program.replace(f" - ({term.digits})", "")).value)
