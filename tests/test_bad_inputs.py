"""Bad inputs: whatever a file or a flag holds, it is read or refused in one sentence, soon and in little memory."""

import ast
import gzip
import json
import resource
import struct
import time
from pathlib import Path

import pytest

from lm.config import KINDS, Recipe, TransformerConfig
from lm.data import read_json, read_jsonl
from lm.exits import Unusable, UserError
from lm.interop.families import LLAMA
from lm.interop.gguf import read_gguf
from lm.interop.huggingface import open_tensors
from lm.interop.tokenizer import load_codec
from lm.strict import ConfigError, from_json, override, to_json
from scripts.runs import read_recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = Recipe(task=None, model=TransformerConfig())
TEXT = to_json(RECIPE)
SOON = 2.0  # seconds, on a busy core


def changed(part, **fields):
    """The recipe's JSON with fields of a part written as they are given, valid JSON or not."""
    data = json.loads(TEXT)
    data[part] |= {name: f"@{name}@" for name in fields}
    text = json.dumps(data)
    for name, raw in fields.items():
        text = text.replace(f'"@{name}@"', raw)
    return text


CONFIGS = {
    "empty": ("", "not valid JSON"),
    "blank": (" \n", "not valid JSON"),
    "another value": ("null", "a JSON object, not NoneType"),
    "list": ("[]", "a JSON object, not list"),
    "nothing in it": ('{"kind": "Recipe"}', "recipe.task is missing"),
    "byte order mark": ("\ufeff" + TEXT, "BOM"),
    "cut": (TEXT[:-9], "not valid JSON"),
    "YAML with a tag": ("!!python/object/apply:os.system ['touch mark']", "not valid JSON"),
    "a class that is none of ours": (TEXT.replace('"TransformerConfig"', '"os.system"'), "unknown kind 'os.system'"),
    "unknown key": (changed("train", stepz="1"), "recipe.train.stepz: no such field; did you mean steps"),
    "key twice": (changed("train", steps='1, "steps": 2'), "'steps' stands twice"),
    "text for a number": (changed("optimizer", learning_rate='"1e-3"'), "learning_rate: '1e-3' is not of type float"),
    "truth for a number": (changed("train", steps="true"), "True is not of type int"),
    "fraction of a step": (changed("train", steps="1.5"), "1.5 is not of type int"),
    "nothing for a number": (changed("train", steps="null"), "None is not of type int"),
    "NaN": (changed("train", ema="NaN"), "NaN is not a number"),
    "infinity": (changed("optimizer", weight_decay="-Infinity"), "-Infinity is not a number"),
    "beyond floats": (changed("optimizer", weight_decay="1e999"), "1e999 is not a number"),
    "5,000 digits": (changed("train", steps="1" * 5000), "4300 digits"),
    "negative": (changed("train", steps="-5"), "train.steps must be positive, got -5"),
    "zero": (changed("train", batch_size="0"), "train.batch_size must be positive, got 0"),
    "ten megabytes": (changed("train", steps=" " * 10_000_000 + "1"), "more than any configuration"),
    "many keys": ("{" + ",".join(f'"k{i}": 1' for i in range(50_000)) + "}", "unknown kind None"),
    "many keys and one twice": (
        "{" + ",".join(f'"k{i}": 1' for i in (*range(50_000), 49_999)) + "}",
        "'k49999' stands",
    ),
    "deep": (changed("train", steps="[" * 300 + "]" * 300), "nested deeper than 64"),
    "deeper": (changed("train", steps="[" * 100_000), "not valid JSON"),
    "configurations in each other": ('{"kind": "Growth", "depths": ' * 200 + "1" + "}" * 200, "nested deeper than 64"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_is_none_is_one_sentence(case, tmp_path):
    text, said = CONFIGS[case]
    (tmp_path / "recipe.json").write_text(text, encoding="utf-8")
    begun = time.process_time()
    with pytest.raises(Unusable, match=said) as error:
        read_recipe(tmp_path)
    assert time.process_time() - begun < SOON
    assert len(str(error.value)) < 400 and "recipe.json" in str(error.value) and list(tmp_path.iterdir())[1:] == []
    with pytest.raises(ConfigError):
        from_json(text, KINDS)


def test_a_recipe_in_another_encoding_is_named(tmp_path):
    for encoded in (
        TEXT.encode("utf-16"),
        b"\xff\xfe\x00",
        TEXT.replace('"name": ""', '"name": "\xe9"').encode("latin-1"),
    ):
        (tmp_path / "recipe.json").write_bytes(encoded)
        with pytest.raises(Unusable, match=r"recipe\.json: 'utf-8' codec"):
            read_recipe(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name_before_anything_is_written(value):
    for path in ("optimizer.weight_decay", "optimizer.beta1", "model.dropout"):
        with pytest.raises(ConfigError, match=rf"{path} must .*{value}"):
            to_json(override(RECIPE, {path: value}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 30, "heads": 4}, "model.width 30 .* multiple of model.heads 4"),
        ({"width": -8}, "model.width must be positive"),
        ({"depth": 0}, "model.depth must be positive"),
        ({"vocabulary": -3}, "model.vocabulary must be positive"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads"),
    ],
)
def test_sizes_that_make_no_model_are_one_sentence(fields, said):
    from lm.models.transformer import resolve

    with pytest.raises(ConfigError, match=said):
        resolve(TransformerConfig(**fields))


# What is no safetensors file: the header, how long it says to be, and how many bytes of tensors follow.
NAME = "model.embed_tokens.weight"
EXTENTS = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
HEADERS = {
    "of no length": (b"", None, 0),
    "giant": ({NAME: EXTENTS}, 1 << 60, 16),
    "longer than the file": ({NAME: EXTENTS}, 5000, 16),
    "no JSON": (b"{nope", None, 16),
    "no UTF-8": (b'{"\xff": 1}', None, 16),
    "nested": (b"[" * 100_000, None, 16),
    "with tensors cut off": ({NAME: EXTENTS}, None, 15),
    "with bytes to spare": ({NAME: EXTENTS}, None, 99),
    "beyond the end": ({NAME: {**EXTENTS, "data_offsets": [0, 1 << 50]}}, None, 16),
    "another shape": ({NAME: {**EXTENTS, "shape": [2, 3]}}, None, 16),
    "beyond all memory": ({NAME: {**EXTENTS, "shape": [1 << 62, 1 << 62]}}, None, 16),
    "negative": ({NAME: {**EXTENTS, "shape": [-2, -2]}}, None, 16),
    "overlapping": ({NAME: EXTENTS, "model.norm.weight": {**EXTENTS, "data_offsets": [8, 24]}}, None, 24),
    "with a hole": ({NAME: {**EXTENTS, "data_offsets": [8, 24]}}, None, 24),
    "of an unknown type": ({NAME: {**EXTENTS, "dtype": "F99"}}, None, 16),
}


def test_every_damaged_header_of_tensors_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    whole = json.dumps({NAME: EXTENTS}).encode()
    whole = struct.pack("<Q", len(whole)) + whole + bytes(16)
    path.write_bytes(whole)
    assert open_tensors(tmp_path, LLAMA)[NAME].shape == (2, 2)
    damaged = {name: whole[:-1][:size] for size in range(0, len(whole) - 1, 7) for name in [f"cut at {size}"]}
    damaged |= {"pickle": b"\x80\x04\x95" + bytes(99), "archive": b"PK\x03\x04" + bytes(99)}
    for name, (header, length, count) in HEADERS.items():
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        damaged[name] = struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(count)
    for name, content in damaged.items():
        path.write_bytes(content)
        with pytest.raises(Unusable, match="model.safetensors cannot be read"):
            open_tensors(tmp_path, LLAMA)
            pytest.fail(name)


def tokenizer_files():
    """Return tokenizer.json, of four tokens, and tokenizer_config.json as dictionaries."""
    from tokenizers import Tokenizer, models

    ids = {token: i for i, token in enumerate(("<eos>", "a", "b", "ab"))}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[("a", "b")]))
    tokenizer.add_special_tokens(["<eos>"])
    return json.loads(tokenizer.to_str()), {"eos_token": "<eos>"}


def put(path, value):
    """Change one value, behind a path of keys, in a dictionary."""

    def change(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", b"", "no tokenizer that can be read"),
        ("tokenizer.json", b"[" * 100_000, "no tokenizer that can be read"),
        ("tokenizer.json", b"\xff", "no tokenizer that can be read"),
        ("tokenizer.json", put(("model", "vocab", "b"), 1), "4 tokens 3 different ids"),
        ("tokenizer.json", put(("model", "vocab", "b"), 1 << 31), "the largest 2147483648"),
        ("tokenizer.json", put(("model", "vocab", "b"), -1), "no tokenizer that can be read"),
        ("tokenizer.json", put(("model", "merges"), [["a", "z"]]), "no tokenizer that can be read"),
        ("tokenizer.json", put(("model", "merges"), [["a"] * 9] * 100_000), "no tokenizer that can be read"),
        ("tokenizer_config.json", b"[]", "no tokenizer that can be read"),
        ("tokenizer_config.json", put(("eos_token",), 3), "eos_token must be a text, it is 3"),
        ("tokenizer_config.json", put(("eos_token",), {"content": [1]}), r"eos_token must be a text, it is \[1\]"),
        ("tokenizer_config.json", put(("eos_token",), {}), "no tokenizer that can be read"),
        ("tokenizer_config.json", put(("eos_token",), "<end>"), "'<end>', which it does not have"),
    ],
)
def test_a_tokenizer_that_is_none_is_refused_and_a_text_spells_no_special_token(name, content, said, tmp_path):
    files = dict(zip(("tokenizer.json", "tokenizer_config.json"), tokenizer_files(), strict=True))
    for each, data in files.items():
        (tmp_path / each).write_text(json.dumps(data))
    assert load_codec(tmp_path).encode("ab<eos>ab") == [3, 3]  # never 0; what no token spells is left out
    if not isinstance(content, bytes):
        content(files[name])
        content = json.dumps(files[name]).encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unusable, match=said):
        load_codec(tmp_path)


def test_giant_files_are_read_or_refused_within_little_memory(tmp_path):
    giants = {name: tmp_path / name for name in ("rows.jsonl", "value.json", "tokenizer.json", "model.gguf")}
    for path in giants.values():  # half a gigabyte of zeros that takes no place on the disk
        path.write_bytes(b"GGUF\x03\0\0\0" if path.suffix == ".gguf" else b'{"a": "1"}\n')
        with path.open("r+b") as file:
            file.truncate(1 << 29)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with giants["rows.jsonl"].open("ab") as file:
        file.write(b'\n{"a": "2"}\n')
    refused = []
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 27), hard))
    try:
        assert list(read_jsonl(giants["rows.jsonl"], on_bad=refused.append)) == [{"a": "1"}, {"a": "2"}]
        with pytest.raises(UserError, match=r"value\.json has 536870912 bytes"):
            read_json(giants["value.json"])
        with pytest.raises(Unusable, match=r"tokenizer\.json has 536870912 bytes, more than any"):
            load_codec(tmp_path)
        with pytest.raises(Unusable, match=r"model\.gguf has 536870912 bytes and cannot be mapped: Cannot allocate"):
            read_gguf(giants["model.gguf"])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert len(refused) == 1 and "rows.jsonl:2: the line is longer than 16777216 bytes" in refused[0]


def test_compressed_rows_are_never_unpacked(tmp_path):
    for read in (lambda path: list(read_jsonl(path)), read_json):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(gzip.compress(bytes(1 << 24)))  # sixteen megabytes in sixteen kilobytes
        with pytest.raises(UserError, match="not UTF-8 at byte 2"):
            read(path)


def test_rows_cut_anywhere_are_read_up_to_the_cut(tmp_path):
    rows = [{"question": "é" * n, "answer": str(n)} for n in range(3)]
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows).encode()
    path = tmp_path / "rows.jsonl"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused = []
        read = list(read_jsonl(path, on_bad=refused.append))
        assert read == rows[: len(read)] and len(refused) <= 1
        assert len(read) + len(refused) == len([line for line in whole[:size].split(b"\n") if line.strip()])


ARCHIVES = {"tarfile", "zipfile", "gzip", "bz2", "lzma"}


def test_no_archive_is_ever_opened():
    for path in (path for room in ("lm", "tasks", "scripts", "tpu") for path in (ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert not ARCHIVES & {name.split(".")[0] for name in names}, path
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not {"np.load", "numpy.load", "shutil.unpack_archive"} & called, path
