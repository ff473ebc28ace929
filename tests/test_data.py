"""Laws of the codec and of packing: nothing is lost, nothing is read twice, nothing passes for something else."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lm.data
from lm.data import SPECIALS, Codec, Document, pack
from lm.exits import Unusable, UserError
from lm.strict import ConfigError

TEXTS = [
    f"In 2024 Ada has {n} apples_left and buys {n + 3} more.\n    total = {n} + {n + 3}\n        return total\n"
    for n in range(40)
]


@pytest.fixture(scope="module")
def codec():
    return Codec.train(TEXTS, 300)


odd_text = st.lists(
    st.text(max_size=12)
    | st.sampled_from(
        [*SPECIALS, "\t", "\r\n", "\n\n    ", " " * 13, "__init__", "x_1", "é", "e\u0301", "٣², Ⅷ", "\x00"]
    )
).map("".join)


@given(text=odd_text)
@settings(max_examples=300, deadline=None)
def test_codec_loses_nothing_and_never_reads_a_special_token(codec, text):
    ids = codec.encode(text)
    assert all(len(SPECIALS) <= i < codec.vocabulary for i in ids)
    assert codec.decode(ids) == text
    assert codec.decode([codec.bos, *ids, codec.eos, codec.pad]) == text


@given(number=st.integers(0, 10**12) | st.just(2024))  # a number of the training texts among them
def test_digits_stand_one_by_one(codec, number):
    assert [codec.decode([i]) for i in codec.encode(f"{number}")] == list(str(number))


@pytest.mark.parametrize("text", ["    ", "        ", "\n    ", *"0123456789"])
@pytest.mark.parametrize("trained_on", [["no indentation here"], TEXTS])
def test_indentation_and_digits_are_single_tokens_whatever_the_training_text(text, trained_on):
    assert len(Codec.train(trained_on, 280).encode(text)) == 1


def test_special_ids_stand_in_order():
    assert (Codec.pad, Codec.bos, Codec.eos, Codec.code, Codec.text) == (0, 1, 2, 3, 4)
    assert SPECIALS == ("<|pad|>", "<|bos|>", "<|eos|>", "<|code|>", "<|text|>")


def test_training_is_repeatable_and_the_file_is_the_codec(codec, tmp_path):
    Codec.train(iter(TEXTS), 300).save(tmp_path / "again.json")
    codec.save(tmp_path / "codec.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "codec.json").read_bytes()
    loaded = Codec.load(tmp_path / "codec.json")
    assert codec.vocabulary == loaded.vocabulary == 300
    assert (loaded.digest, loaded.encode_batch(TEXTS)) == (codec.digest, codec.encode_batch(TEXTS))
    assert Codec.train(TEXTS, 299).digest != codec.digest
    assert len(codec.encode(TEXTS[0])) < len(Codec.train(TEXTS, 265).encode(TEXTS[0]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: "",
        lambda data: "[" * 100_000,
        lambda data: json.dumps({**data, "format": 0}),
        lambda data: json.dumps({**data, "pattern": "."}),
        lambda data: json.dumps({"format": data["format"], "pattern": data["pattern"]}),
        lambda data: json.dumps({**data, "merges": data["merges"][1:]}),
        lambda data: json.dumps({**data, "merges": data["merges"] + data["merges"][-1:]}),
        lambda data: json.dumps({**data, "merges": [*data["merges"], "<|bos|> a"]}),
        lambda data: json.dumps({**data, "merges": [7]}),
    ],
)
def test_a_file_that_is_no_codec_is_unusable(codec, tmp_path, damage):
    path = tmp_path / "codec.json"
    codec.save(path)
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(Unusable, match="codec.json"):
        Codec.load(path)


def test_mistakes_with_a_codec_are_named(codec, tmp_path):
    with pytest.raises(UserError, match="no codec file"):
        Codec.load(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match="at least 265"):
        Codec.train(TEXTS, 264)
    with pytest.raises(UnicodeEncodeError):
        codec.encode("a\ud800b")
    with pytest.raises(ValueError, match="token id 300"):
        codec.decode([5, 300])


documents_and_length = st.tuples(
    st.lists(st.integers(2, 40), max_size=30), st.integers(1, 16), st.integers(1, 4)
)  # sizes of documents, length, open windows


def make_documents(sizes):
    """Number all tokens through, so that each is known by its id, and weigh each by a function of its id."""
    borders = np.cumsum([1, *sizes])
    spans = [range(a, b) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    return [Document(list(span), [i / 1024 for i in span]) for span in spans]


@given(documents_and_length)
@settings(max_examples=300, deadline=None)
def test_packing_keeps_every_prediction_exactly_once(case):
    sizes, length, open_windows = case
    documents = make_documents(sizes)
    windows = list(pack(iter(documents), length, open_windows=open_windows))
    found, pieces = [], 0
    for window in windows:
        assert {name: (array.shape, array.dtype.name) for name, array in window.items()} == {
            "inputs": ((length,), "int32"), "targets": ((length,), "int32"), "weights": ((length,), "float32"),
            "positions": ((length,), "int32"), "segments": ((length,), "int32"),
        }  # fmt: skip
        used = np.count_nonzero(window["segments"])
        assert used > 0
        assert all(not array[used:].any() for array in window.values())
        assert set(window["segments"][:used]) == set(range(1, window["segments"].max() + 1))
        assert (np.diff(window["segments"][:used]) >= 0).all()
        for segment in range(1, window["segments"].max() + 1):
            here = window["segments"] == segment
            inputs, targets = window["inputs"][here], window["targets"][here]
            assert (window["positions"][here] == np.arange(here.sum())).all()
            assert (inputs + 1 == targets).all() and (np.diff(inputs) == 1).all()
            found += zip(inputs.tolist(), targets.tolist(), window["weights"][here].tolist(), strict=True)
            pieces += 1
    expected = [(t - 1, t, t / 1024) for d in documents for t in d.tokens[1:]]
    assert sorted(found) == expected
    assert pieces == sum(-(-(size - 1) // length) for size in sizes)


@given(st.lists(st.integers(2, 17), max_size=40))
def test_open_windows_are_filled_before_new_ones_open(sizes):
    windows = list(pack(make_documents(sizes), 16, open_windows=len(sizes) + 1))
    used = sorted(np.count_nonzero(window["segments"]) for window in windows)
    assert len(used) < 2 or used[0] + used[1] > 16


@pytest.mark.parametrize("document", [Document([], []), Document([1], [1.0]), Document([1, 2, 3], [1.0, 1.0])])
def test_a_document_that_predicts_nothing_is_refused(document):
    with pytest.raises(ValueError, match="document 1 has"):
        list(pack([Document([1, 2], [0, 1]), document], 8))


def test_the_surface_is_what_it_lists():
    assert all(hasattr(lm.data, name) for name in dir(lm.data))
    with pytest.raises(AttributeError, match="Codec"):
        _ = lm.data.Codek
