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

from tasks.math.generator import draw, problem, tell
from tasks.math.interpreter import run
from tasks.math.problem import Term
from tasks.math.steps import GIVEN, STEPS

COUNT = 3000


@pytest.fixture(scope="module")
def problems():
    return [problem(0, index) for index in range(COUNT)]


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
    asked = [p for p in problems if p.kinds[-1] == "difference" and "packing" not in p.kinds]
    for p in asked:
        name = re.search(r"does (\w+) have than (\w+)|is (\w+) ahead of (\w+)", p.question)
        first, second = (part.lower() for part in name.groups() if part)
        assert f"result = {first} - {second}" in p.code
    assert len(asked) > 50


def test_the_grammar_is_wide_and_every_phrasing_is_told(problems):
    assert len(STEPS) >= 12 and len({step.kind for step in (*GIVEN, *STEPS)}) == len(GIVEN) + len(STEPS)
    told = {part for p in problems for part in re.findall(r"[a-z ]+\.\d+", p.skeleton)}
    for step in (*GIVEN, *STEPS):
        phrasings = len(step.sentences) + len(step.questions)
        assert phrasings >= 2, step.kind
        missing = {f"{step.kind}.{i}" for i in range(phrasings)} - {part.strip() for part in told}
        assert not missing, missing
    counts = Counter(p.steps for p in problems)
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > COUNT / 20


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
        assert dataclasses.replace(p, question="", distractor="") == dataclasses.replace(plain, question="")
    assert with_distractor > 300


def test_changing_a_number_changes_question_program_and_answer_together():
    for index in range(300):
        plan = draw(random.Random(index), (1, 4), 0.3)
        first = plan.choices[0]
        changed = dataclasses.replace(first, numbers=(first.numbers[0] + 120, *first.numbers[1:]))
        old, new = tell(plan), tell(dataclasses.replace(plan, choices=(changed, *plan.choices[1:])))
        assert old.question != new.question and old.code != new.code and old.skeleton == new.skeleton
        assert run(new.code).value == pytest.approx(float(new.answer), abs=1e-3)


def digest(seed: int) -> str:
    rows = [problem(seed, index) for index in range(300)]
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
