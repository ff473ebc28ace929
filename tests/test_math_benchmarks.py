"""Laws of the published sets: every declaration reads its format, says what is wrong, and grades."""

import json
import os
from pathlib import Path

import pytest

from lm.exits import UserError
from tasks.math.benchmarks import DATA_SETS, decontaminate, grade_item, number, read, split_program
from tasks.math.interpreter import run

DATA = Path(__file__).parents[2] / "shared" / "data"
# Set: folder and rows of the real copy.
REAL = {
    "gsm8k_train": ("gsm8k", 7473), "gsm8k_test": ("gsm8k", 1319), "mawps": ("mawps", 1920), "addsub": ("mawps", 395),
    "multiarith": ("mawps", 600), "singleeq": ("mawps", 508), "singleop": ("mawps", 562),
    "aqua_dev": ("aqua_rat", 254), "aqua_test": ("aqua_rat", 254),
}  # fmt: skip
SYMBOLIC = {"id": 0, "instance": 3, "question": "How many?", "answer": "2+5=7\n#### 7", "original_id": 9, "canary": "c"}
MATH = {"problem": "Halve $1$.", "level": "Level 1", "type": "Algebra", "solution": r"So \boxed{\frac{1}{2}}."}
CODE = (
    'def simple_math_problem() -> int:\n    """\n    How many\n    are 3?\n    """\n    result = 3\n    return result\n'
)
# Set: file, a record as published, question, answer, and a completion that is right and one that is wrong.
PUBLISHED = {
    "svamp": ("SVAMP.json", [{"ID": "chal-1", "Body": "Each has 5. ", "Question": "How many?", "Equation": "( 5.0 )",
                              "Answer": 5.0, "Type": "Addition"}], "Each has 5. How many?", 5, "so 5", "so 6"),
    "gsm_hard": ("gsmhardv2.jsonl", {"input": "Sum?", "code": "def solution():\n    return 1.5e6", "target": 1.5e6},
                 "Sum?", 1_500_000, "def f():\n    return 3e6 / 2", "def f():\n    return 3"),
    "gsm_symbolic": ("GSM_symbolic.jsonl", SYMBOLIC, "How many?", 7, "7", "8"),
    "gsm_symbolic_p1": ("p1/test.jsonl", SYMBOLIC, "How many?", 7, "7", "-7"),
    "gsm_symbolic_p2": ("GSM_p2.jsonl", SYMBOLIC, "How many?", 7, "7", ""),
    "math": ("test.jsonl", MATH | {"answer": "1,200"}, "Halve $1$.", "1,200", r"\boxed{1200}", "1200"),
    "math_train": ("train/algebra/1.json", MATH, "Halve $1$.", r"\frac{1}{2}", r"\boxed{\dfrac{1}{2}}", r"\boxed{2}"),
    "math_test": ("test/algebra/1.json", MATH, "Halve $1$.", r"\frac{1}{2}", r"\boxed{1}, \boxed{ \frac{1}{2} }", ""),
    "aqua_test": ("test.json", {"question": "Which?", "options": ["A)1", "B)a C"], "rationale": "B", "correct": "B"},
                  "Which?", "B", "Not A: the answer is (B).", "A Belgian"),
    "tinygsm": ("part.jsonl", {"question": "How many are 3?", "code": CODE}, "How many are 3?", None, None, None),
}  # fmt: skip


def write(folder, name, record):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1 if name.endswith("1.json") else None) + "\n")
    return path


@pytest.mark.parametrize("name", REAL)
@pytest.mark.skipif(not DATA.is_dir() and os.environ.get("CI") != "true", reason="no data sets at ../shared/data")
def test_real_copies_are_read_to_the_last_row(name):
    folder, rows = REAL[name]
    items = list(read(name, DATA / folder))
    assert len(items) == rows and all(item.question and item.answer is not None for item in items)
    if name.startswith("gsm8k"):
        assert all(grade_item(item, item.solution).lenient for item in items)
    if name.startswith("aqua"):
        assert {len(item.choices) for item in items} == {5}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_set_is_read_as_it_was_published_and_graded(name, tmp_path):
    file, record, question, answer, right, wrong = PUBLISHED[name]
    write(tmp_path, file, record)
    (item,) = read(name, tmp_path)
    assert (item.question, item.answer) == (question, answer)
    assert not {"question", "Body", "problem"} & set(item.origin)
    if answer is not None:
        assert grade_item(item, right).lenient
        assert not grade_item(item, wrong).lenient


def test_every_set_is_tested():
    assert set(REAL) | set(PUBLISHED) == set(DATA_SETS)


@pytest.mark.parametrize(("written", "value"), [("$1,200 ", 1200), ("-0.5", -0.5), (3, 3), (2.5e9, 2_500_000_000)])
def test_numbers_are_read_as_they_are_written(written, value):
    assert number("n")({"n": written}) == value


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("svamp", "other.txt", "", "svamp: .* must hold SVAMP.json or test.json .found: other.txt"),
        ("svmap", "x", "", "no data set 'svmap'; did you mean svamp"),
        ("svamp", "SVAMP.json", '[{"Body": "b", "Question": "q", "Equation": "e", "Answr": 1}]',
         "SVAMP.json: record 1: no field 'Answer'; did you mean Answr.* .fields: 'Body', 'Question'"),
        ("svamp", "SVAMP.json", '[{"a": 1},', "SVAMP.json: not JSON"),
        ("svamp", "SVAMP.json", "[3]", "record 1: a JSON object is needed, not int"),
        ("mawps", "mawps_full_cv.jsonl", '\n{"question": "q", "equation_prefix": "e", "answer": "x"}',
         "mawps_full_cv.jsonl:2: field 'answer' is 'x', not a number"),
        ("addsub", "addsub.jsonl", '{"input": "q", "target": true}', "addsub.jsonl:1: field 'target' is bool"),
        ("aqua_dev", "dev.json", '{"question": "q", "options": ["A)1"], "rationale": "r", "correct": "B"}',
         "dev.json:1: field 'correct' is 'B', none of the options"),
        ("math", "test.jsonl", '{"problem": "q", "solution": "no box {"}', r"test.jsonl:1: .*no \\boxed"),
        ("tinygsm", "a.parquet", "not parquet", "a.parquet: not a readable parquet file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_one_sentence(name, file, content, said, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=said):
        list(read(name, tmp_path))


def test_parquet_folders_are_read_and_their_rows_named(tmp_path):
    import pyarrow
    from pyarrow.parquet import write_table

    (tmp_path / "data").mkdir()
    for part in range(2):
        columns = {"question": [f"What is {part}?"] * 2, "code": [CODE, CODE if part == 0 else None]}
        write_table(pyarrow.table(columns), tmp_path / "data" / f"train-{part}.parquet")
    items = read("tinygsm", tmp_path)
    assert [next(items).question for _ in range(3)] == ["What is 0?", "What is 0?", "What is 1?"]
    with pytest.raises(UserError, match="train-1.parquet: row 2: field 'code' is NoneType, not text"):
        next(items)


def test_a_program_runs_once_its_question_is_taken_out():
    question, program = split_program(CODE)
    assert question == "How many are 3?" and run(program).value == 3
    assert split_program(program) == (None, program)


def test_a_report_on_contamination_says_what_was_removed_and_why(tmp_path):
    words = "a farmer sells {} eggs at the market and {} hens at home every day of the week"
    rows = [words.format(3, 4), "How many legs have 4 cows?", words.format("", "") + " but Sunday"]
    for name, lines in {"train": rows, "test": [words.format(9, 9)]}.items():
        records = [json.dumps({"question": text, "answer": "#### 1"}) + "\n" for text in lines]
        (tmp_path / f"{name}.jsonl").write_text("".join(records))
    test = list(read("gsm8k_test", tmp_path))
    kept, report = decontaminate(read("gsm8k_train", tmp_path), [("other", test[:0]), ("gsm8k", test)])
    assert [item.question for item in kept] == [rows[1]]
    assert (report["read"], report["kept"], report["tests"]["other"]["removed"]) == (3, 1, 0)
    assert report["tests"]["gsm8k"]["removed"] == 2
    assert report["tests"]["gsm8k"]["examples"][0]["test"] == words.format(9, 9)
