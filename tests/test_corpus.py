"""Laws of what lies on disk: a corpus is a pure function of the step, damage is seen, bad lines are named."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from lm.data import Collision, Corpus, Document, build_corpus, pack, read_jsonl, remove_contaminated
from lm.exits import Unusable, UserError
from lm.strict import ConfigError

LENGTH, BATCH = 32, 7
FIELDS = ("inputs", "targets", "weights", "positions", "segments")


def documents(count=300):
    """Number all tokens through, so that no two windows are alike."""
    borders = np.cumsum(1 + np.random.default_rng(0).integers(2, 50, count))
    return [
        Document(range(a, b), [float(i % 2) for i in range(a, b)]) for a, b in zip(borders, borders[1:], strict=False)
    ]


SPLITS = {"train": documents, "test": lambda: documents(20)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora") / "numbers"
    build_corpus(folder, "numbers", SPLITS, LENGTH, {"seed": 0, "steps": (1, 4)})
    return folder


@pytest.fixture
def copy(built, tmp_path):
    return shutil.copytree(built, tmp_path / "numbers")


def rows(batch):
    """Return each window of a batch as bytes."""
    return [
        b"".join(array.tobytes() for array in arrays)
        for arrays in zip(*(getattr(batch, f) for f in FIELDS), strict=True)
    ]


def order(corpus, epochs):
    """Return the windows of some epochs in order, cut into epochs."""
    windows = [row for step in range(-(-epochs * corpus.size // BATCH)) for row in rows(corpus.at(step))]
    return [windows[e * corpus.size : (e + 1) * corpus.size] for e in range(epochs)]


@pytest.mark.parametrize("split", SPLITS)
def test_every_epoch_holds_every_window_once_in_its_own_order(built, split):
    corpus = Corpus(built, split, BATCH, seed=0)
    expected = sorted(b"".join(w[f].tobytes() for f in FIELDS) for w in pack(SPLITS[split](), LENGTH))
    epochs = order(corpus, 3)
    assert corpus.size == len(expected) == corpus.facts["splits"][split]["windows"]
    assert corpus.size % BATCH, "the border of an epoch must fall within a batch"
    for epoch in epochs:
        assert sorted(epoch) == expected
    assert len({tuple(epoch) for epoch in [*epochs, expected]}) == 4
    neighbour = order(Corpus(built, split, BATCH, seed=1), 2)
    assert not {tuple(epoch) for epoch in epochs} & {tuple(epoch) for epoch in neighbour}


def test_a_batch_is_a_function_of_the_step(built):
    corpus, again = (Corpus(built, "train", BATCH, seed=3) for _ in range(2))
    forward = [rows(corpus.at(step)) for step in range(60)]
    assert [rows(again.at(step)) for step in reversed(range(60))] == forward[::-1]
    windows = {number: row for step in range(60) for number, row in zip(corpus.ids(step), forward[step], strict=True)}
    assert all([windows[number] for number in corpus.ids(step)] == forward[step] for step in range(60))
    assert len(set(windows.values())) == len(windows) == corpus.size
    batch = corpus.at(np.int32(5))
    assert rows(batch) == forward[5]
    assert {f: (getattr(batch, f).shape, getattr(batch, f).dtype.name) for f in FIELDS} == {
        f: ((BATCH, LENGTH), "float32" if f == "weights" else "int32") for f in FIELDS
    }
    assert batch.info == {}
    batch.inputs[:] = 0
    assert rows(corpus.at(5)) == forward[5]


def test_a_complete_corpus_is_kept_and_another_one_is_refused(built, copy, tmp_path):
    def never():
        raise AssertionError("the documents of a complete corpus are not needed")

    build_corpus(copy, "numbers", dict.fromkeys(SPLITS, never), LENGTH, {"seed": 0, "steps": [1, 4]})
    with pytest.raises(UserError, match="another corpus .facts .*'seed': 0.*'seed': 1"):
        build_corpus(copy, "numbers", SPLITS, LENGTH, {"seed": 1, "steps": (1, 4)})
    with pytest.raises(UserError, match="another corpus .length 32 there, 16 asked"):
        build_corpus(copy, "numbers", SPLITS, 16, {"seed": 0, "steps": (1, 4)})
    with pytest.raises(UserError, match="another corpus .splits"):
        build_corpus(copy, "numbers", {"train": documents}, LENGTH, {"seed": 0, "steps": (1, 4)})
    build_corpus(tmp_path / "twin", "numbers", SPLITS, LENGTH, {"seed": 0, "steps": (1, 4)})
    assert (tmp_path / "twin" / "facts.json").read_bytes() == (built / "facts.json").read_bytes()
    assert {path.name for path in built.iterdir()} == {"facts.json", "numbers"}


def test_of_two_builds_at_once_the_first_stays(tmp_path):
    def slow():
        build_corpus(tmp_path / "numbers", "numbers", {"train": documents}, LENGTH, {})
        return documents()

    build_corpus(tmp_path / "numbers", "numbers", {"train": slow}, LENGTH, {})
    assert [path.name for path in tmp_path.iterdir()] == ["numbers"]
    Corpus(tmp_path / "numbers", "train", BATCH, seed=0)


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield from documents(50)
        raise KeyboardInterrupt

    for splits, error in (({"train": broken}, KeyboardInterrupt), ({"train": list}, UserError)):
        with pytest.raises(error):
            build_corpus(tmp_path / "numbers", "numbers", splits, LENGTH, {})
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_every_damaged_file_is_named(copy, damage):
    Corpus(copy, "train", BATCH, seed=0)
    names = [*Corpus(copy, "train", BATCH, seed=0).facts["files"], "facts.json"]
    assert sum("array_record" in name for name in names) == 2
    for name in names:
        path = copy / name
        content = path.read_bytes()
        if damage == "remove":
            path.unlink()
        else:
            middle = len(content) // 2
            kept = content[:middle] if damage == "truncate" else content[:middle] + bytes([content[middle] ^ 128])
            path.write_bytes(kept + content[middle + 1 :] if damage == "flip" else kept)
        split = "test" if "-test." in name else "train"
        with pytest.raises(Unusable, match=path.name):
            Corpus(copy, split, BATCH, seed=0)
        if "array_record" in name:
            Corpus(copy, "train" if split == "test" else "test", BATCH, seed=0)
        path.write_bytes(content)


def test_mistakes_with_a_corpus_are_named(built, tmp_path):
    for error, sentence, arguments in (
        (UserError, "no split 'tset'; did you mean test", (built, "tset", BATCH, 0)),
        (UserError, "no corpus at", (tmp_path / "absent", "train", BATCH, 0)),
        (Unusable, "facts.json", (tmp_path, "train", BATCH, 0)),
        (ConfigError, "batch_size", (built, "train", 0, 0)),
        (ConfigError, "seed", (built, "train", BATCH, -1)),
    ):
        with pytest.raises(error, match=sentence):
            Corpus(*arguments)
    with pytest.raises(ConfigError, match="name of a corpus"):
        build_corpus(tmp_path / "new", "../up", SPLITS, LENGTH, {})


def test_tensorflow_stays_out(tmp_path):
    program = (
        "import sys\nfrom lm.data import Corpus, Document, build_corpus\n"
        "build_corpus(sys.argv[1], 'small', {'train': lambda: [Document([1, 2, 3], [0, 1, 1])]}, 4, {})\n"
        "assert Corpus(sys.argv[1], 'train', 2, 0).at(9).inputs.tolist() == [[1, 2, 0, 0]] * 2\n"
        "assert 'tensorflow' not in sys.modules and 'tensorflow_datasets' in sys.modules\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


BAD_LINES = {
    "not JSON: Expecting value": b'{"a": }',
    "not JSON: Unterminated string": b'{"a": "cut',
    "not JSON: Extra data": b'{"a": "1"} {}',
    "not UTF-8 at byte 8": b'{"a": "\xff"}',
    "a JSON object is needed, not list": b"[1]",
    "NaN is not a JSON number": b'{"a": "1", "b": NaN}',
    "-Infinity is not a JSON number": b'{"a": "1", "b": [-Infinity]}',
    "1e999 is beyond the range": b'{"a": "1", "b": 1e999}',
    "key 'a' stands twice": b'{"a": "1", "a": "2"}',
    "nested deeper than 64": b'{"a": "1", "b": ' + b"[" * 65 + b"]" * 65 + b"}",
    "nested deeper": b'{"a": ' * 100_000,
    r"5000 characters. does not fit in 64 bits": b'{"a": "1", "b": ' + b"1" * 5000 + b"}",
    r"does not fit in 64 bits": b'{"a": "1", "b": 9223372036854775808}',
    "lone surrogate in 'x": b'{"a": "x\\ud800"}',
    "lone surrogate": b'{"a": "1", "\\udfff": 2}',
    "longer than 16777216 bytes": b'{"a": "' + b"x" * (1 << 25) + b'"}',
    "no field 'a'; did you mean aa": b'{"aa": "1"}',
    "field 'a' is int, not text": b'{"a": 1}',
}


@pytest.mark.parametrize("sentence", BAD_LINES)
def test_a_bad_line_is_named_or_skipped(tmp_path, sentence):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": "good"}\n\n' + BAD_LINES[sentence] + b'\n{"a": "last"}')
    with pytest.raises(UserError, match=f"rows.jsonl:3: .*{sentence}"):
        list(read_jsonl(path, texts=("a",)))
    refused = []
    assert list(read_jsonl(path, texts=("a",), on_bad=refused.append)) == [{"a": "good"}, {"a": "last"}]
    assert len(refused) == 1
    assert len(refused[0]) < 300 + len(str(path))


def test_odd_but_good_lines_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}\r\n \t\r\n\n{"n": [9223372036854775807, -9223372036854775808, 1.5, null]}'
    )
    assert list(read_jsonl(path)) == [{"a": "\U0001f600"}, {"n": [2**63 - 1, -(2**63), 1.5, None]}]
    path.write_bytes(b"")
    assert list(read_jsonl(path)) == []
    for missing in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            list(read_jsonl(missing))


QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?"
)


def test_planted_copies_are_removed_and_reported():
    planted = {
        "other digits": QUESTION.replace("48", "1,250"),
        "other case and punctuation": QUESTION.upper().replace(",", " --").replace("?", "!"),
        "inside another text": f"A story of mine. {QUESTION} And so on.",
        "thirteen words": "clips to 7 of her friends in April, and then she sold half as",
        "the last thirteen words": " ".join(QUESTION.split()[-13:]),
        "whole short test": "How many, 3 or 4?",
    }
    clean = {
        "twelve words": "clips to 7 of her friends in April, and then she sold half",
        "a word changed in every thirteen": QUESTION.replace("friends", "cousins")
        .replace("half", "twice")
        .replace("did", "will"),
        "holds a short test": "They asked how many or",
        "nothing but digits": "12 + 3 = 15",
    }
    tests = ["Something else entirely.", QUESTION, "how many or", "1 + 1"]
    items = [*planted.items(), *clean.items()]
    kept, collisions = remove_contaminated(items, tests, text=lambda item: item[1])
    assert kept == list(clean.items())
    assert [(c.item, c.test) for c in collisions] == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 2)]
    assert collisions[3] == Collision(3, 1, "clips to of her friends in april and then she sold half as")
    assert len(remove_contaminated(clean.values(), tests, n=12)[1]) == 1
