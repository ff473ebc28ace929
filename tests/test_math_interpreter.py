"""Laws of the interpreter (TinyGSM sheet, section 13, check 2): any text ends soon, the same way, in this process."""

import random
import time

import pytest

from tasks.math.grammar.generator import problem
from tasks.math.interpreter import Outcome, extract, run


def program(body: str) -> str:
    return "def f():\n" + "".join(f"    {line}\n" for line in body.split("\n"))


OUTCOMES = {
    "return 7": ("ok", 7),
    "x = 7\nx += 3\nreturn x / 4": ("ok", 2.5),
    "return -7 // 2 + 7 % 4 - 2**3": ("ok", -9),
    "import math\nreturn math.ceil(2.1) + math.floor(2.9) + math.sqrt(16) + math.gcd(12, 18)": ("ok", 15.0),
    "return int(7.9) + round(2.567, 1) + abs(-3) + float('1.5')": ("ok", 14.1),
    "return min(3, 2) + max([4, 9]) + sum([1, 2, 3]) + len((1, 2))": ("ok", 19),
    "t = 0\nfor i in range(1, 5):\n    t += i\nreturn t": ("ok", 10),
    "t = 1\nwhile t < 50:\n    t = t * 2\nreturn t": ("ok", 64),
    "if 3 > 2 > 1 and not 0:\n    return 1 if 2 == 2.0 else 5\nelse:\n    return 9": ("ok", 1),
    "a = [5, 6, 7]\nreturn a[0] + a[-1] + (8, 9)[1]": ("ok", 21),
    "return sum(a * b for a in [1, 2, 3] for b in range(3) if b)": ("ok", 18),
    "a = b = 4\n'a docstring'\nreturn (a or 1 / 0) + b": ("ok", 8),
    "a = 5\nb = [a for a in range(3)]\nreturn a": ("ok", 5),
    "x: int = 3\nreturn x": ("forbidden", None),
    "__x = 3\nreturn __x": ("forbidden", None),
    "return round(2.5, ndigits=0)": ("forbidden", None),
    "for i in range(3):\n    i\nelse:\n    return 5": ("forbidden", None),
    f"return {'1+' * 150}1": ("forbidden", None),
    f"return {'(' * 31}1{')' * 31}": ("forbidden", None),
    f"return {'1+' * 50}{' ' * 400}1": ("forbidden", None),
    "return open('x')": ("forbidden", None),
    "return __import__('os')": ("forbidden", None),
    "return ().__class__": ("forbidden", None),
    "return f()": ("forbidden", None),
    "while True:\n    print('flood')": ("forbidden", None),
    "a = [1]\na.append(2)\nreturn a": ("forbidden", None),
    "a[0] = 1\nreturn 1": ("forbidden", None),
    "import os\nreturn 1": ("forbidden", None),
    "return lambda: 1": ("forbidden", None),
    "return 2 ** 65": ("forbidden", None),
    "return 1j": ("forbidden", None),
    f"return len('{'x' * 201}')": ("forbidden", None),
    "return sum(1 for a in [1] for b in [1] for c in [1])": ("forbidden", None),
    "return 1 +": ("syntax", None),
    "return '\0'": ("syntax", None),
    "return '\ud800'": ("syntax", None),
    "return x": ("error", None),
    "return 1 / 0": ("error", None),
    "return 1 + 'a'": ("error", None),
    "return [1][3]": ("error", None),
    "return math.sqrt(-1)": ("error", None),
    "return (-8) ** 0.5": ("error", None),
    "return 10**10**10": ("error", None),
    "x = 64\nreturn 10 ** (x * x * x)": ("error", None),
    "return round(1, -10**9)": ("error", None),
    "return [0] * 10**9": ("error", None),
    "return len(range(10**30))": ("error", None),
    "return '%999999999d' % 3": ("error", None),
    "a = [1]\nwhile True:\n    a = a + a": ("error", None),
    "a = 'x'\nwhile True:\n    a += a": ("error", None),
    "a = 3\nwhile True:\n    a = a * a": ("error", None),
    "a = [1]\nfor i in range(900):\n    a = [a, a]\nreturn a == a": ("error", None),
    "range = 3\nreturn range(4)": ("error", None),
    "while True:\n    x = 1": ("timeout", None),
    "return sum(range(10**9))": ("timeout", None),
    "return sum(1 for i in range(10**9))": ("timeout", None),
    "x = 1": ("non_numeric", None),
    "return True": ("non_numeric", None),
    "return '7'": ("non_numeric", None),
    "return float('nan')": ("non_numeric", None),
    "return 1e999": ("non_numeric", None),
}


@pytest.mark.parametrize("body", OUTCOMES, ids=lambda body: repr(body)[:40])
def test_programs_end_as_they_should(body):
    start = time.perf_counter()
    status, value = run(program(body))
    assert time.perf_counter() - start < 1.0
    expected_status, expected = OUTCOMES[body]
    assert status == expected_status
    assert value == (pytest.approx(expected) if expected is not None else None)


WHOLE_SOURCES = {
    "": "forbidden",
    "return 1": "forbidden",
    "import math\ndef f():\n    return 1": "ok",
    "def f(x=1):\n    return 1": "forbidden",
    "def f(*a):\n    return 1": "forbidden",
    "@f\ndef f():\n    return 1": "forbidden",
    "def f():\n    return 1\nf()": "forbidden",
    "class A:\n    x = 1": "forbidden",
    "async def f():\n    return 1": "forbidden",
    "def f():\n  def g():\n    return 1\n  return 2": "forbidden",
    "def f():\n" + "".join(" " * i + "if 1:\n" for i in range(1, 60)) + " " * 60 + "return 1": "ok",
    "def f():\n    return 1" + " " * 5000: "forbidden",
}


@pytest.mark.parametrize("source", WHOLE_SOURCES, ids=lambda source: repr(source)[:40])
def test_only_one_plain_function_runs(source):
    assert run(source).status == WHOLE_SOURCES[source]


NESTS = (
    "(", "[", "{", "f(", "{a:", "(lambda:", "-", "~", "not ", "lambda:", "1**", "1+", "1<", "a.", "1 if 1 else ",
    "await ", "f'{",
)  # fmt: skip


@pytest.mark.parametrize("nest", NESTS)
@pytest.mark.parametrize("count", [20, 60, 300, 2000])
def test_deep_nesting_neither_crashes_nor_stalls(nest, count):
    start = time.perf_counter()
    for tail in ("1", "1" + ")" * count, "1" + "]" * count):
        assert run(program(f"return {nest * count}{tail}")).status in (
            "syntax",
            "forbidden",
            "ok",
            "error",
            "non_numeric",
        )
    assert time.perf_counter() - start < 1.0


def test_a_thousand_mutated_programs_end_soon_and_repeat_exactly():
    rng = random.Random(0)
    pieces = [
        *"()[]{}+-*/%=<>:.,'\"\\\n\t #0129",
        "**",
        "while 1:",
        "for i in range(9):",
        "    ",
        "é",
        "\x00",
        "\ud800",
    ]
    for index in range(1000):
        source = list(problem(0, index).code)
        for _ in range(rng.randint(1, 6)):
            source.insert(rng.randrange(len(source) + 1), rng.choice(pieces))
        text = "".join(source)
        start = time.perf_counter()
        first = run(text)
        assert time.perf_counter() - start < 1.0
        assert repr(first) == repr(run(text))


def test_fuel_is_the_only_clock():
    body = "t = 0\nfor i in range(100):\n    t += i\nreturn t"
    assert run(program(body), fuel=1000) == Outcome("ok", 4950)
    assert run(program(body), fuel=100) == Outcome("timeout")


@pytest.mark.parametrize(
    ("completion", "cut"),
    [
        ("def f():\n    return 1\nprint(2)", "def f():\n    return 1"),
        ("def f():\n    x = 1\n\n    return x\n\nAnd so on\n    more", "def f():\n    x = 1\n\n    return x\n"),
        ("import math\ndef f():\n\treturn 1", "import math\ndef f():\n\treturn 1"),
        ("no program\nat all", "no program\nat all"),
        ("", ""),
    ],
)
def test_a_completion_is_cut_after_its_function(completion, cut):
    assert extract(completion) == cut
