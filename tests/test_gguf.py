"""GGUF: every format against a scalar reference, a small file in and out, and files with faults."""

import math
import struct

import jax
import numpy as np
import pytest

from lm.config import Rotary, TransformerConfig
from lm.decode import sample
from lm.exits import Unusable, UserError
from lm.interop import load_codec
from lm.interop.ggml import FORMATS, decode_blocks
from lm.interop.gguf import load_gguf, read_gguf
from lm.models import build
from lm.types import Batch

F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 3, 8, 12, 14, 30
BLOCKS = 40
PARAMETERS = 134_515_008  # of SmolLM2-135M


def half(data, at):
    return struct.unpack_from("<e", data, at)[0]


def signed(byte):
    return byte - 256 if byte > 127 else byte


def nibble(data, start, i):
    """The i-th of 32 numbers in 16 bytes: the low halves come first."""
    return data[start + i % 16] >> 4 * (i // 16) & 15


def q4_k(data, i):
    part, lane = i // 32, i % 32
    scales = data[4:16]
    if part < 4:
        scale, least = scales[part] & 63, scales[part + 4] & 63
    else:
        scale = scales[part + 4] & 15 | (scales[part - 4] >> 6) << 4
        least = scales[part + 4] >> 4 | (scales[part] >> 6) << 4
    q = data[16 + 32 * (part // 2) + lane] >> 4 * (part % 2) & 15
    return half(data, 0) * scale * q - half(data, 2) * least


def q6_k(data, i):
    side, rest = divmod(i, 128)
    quarter, lane = divmod(rest, 32)
    low = data[64 * side + 32 * (quarter % 2) + lane] >> 4 * (quarter // 2) & 15
    high = data[128 + 32 * side + lane] >> 2 * quarter & 3
    return half(data, 208) * signed(data[192 + i // 16]) * ((low | high << 4) - 32)


# Format: the i-th weight of one block, written down from its definition one number at a time.
REFERENCE = {
    F32: lambda data, i: struct.unpack("<f", data)[0],
    F16: lambda data, i: half(data, 0),
    BF16: lambda data, i: struct.unpack("<f", b"\0\0" + data)[0],
    Q4_0: lambda data, i: half(data, 0) * (nibble(data, 2, i) - 8),
    Q4_1: lambda data, i: half(data, 0) * nibble(data, 4, i) + half(data, 2),
    Q8_0: lambda data, i: half(data, 0) * signed(data[2 + i]),
    Q4_K: q4_k,
    Q6_K: q6_k,
}
HALVES = {F16: (0,), Q4_0: (0,), Q4_1: (0, 2), Q8_0: (0,), Q4_K: (0, 2), Q6_K: (208,)}  # where scales stand


def random_blocks(kind, seed=0):
    """Random bytes, with finite scales where the format has some."""
    form, rng = FORMATS[kind], np.random.default_rng(seed)
    data = rng.integers(0, 256, (BLOCKS, form.size), dtype=np.uint8)
    if kind in (F32, BF16):
        data[:, -1] = 0x3F
    for at in HALVES.get(kind, ()):
        data[:, at : at + 2] = rng.normal(size=(BLOCKS, 1)).astype("<f2").view(np.uint8)
    return data


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: FORMATS[kind].name)
def test_formats_follow_their_definition(kind):
    form, data = FORMATS[kind], random_blocks(kind)
    expected = [REFERENCE[kind](bytes(block), i) for block in data for i in range(form.weights)]
    found = decode_blocks(form, data.reshape(-1), len(expected))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: FORMATS[kind].name)
def test_formats_equal_those_of_the_gguf_package(kind):
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    form, data, theirs = FORMATS[kind], random_blocks(kind, seed=1), gguf.GGMLQuantizationType(kind)
    assert (theirs.name, *gguf.GGML_QUANT_SIZES[theirs]) == form[:3]
    expected = gguf.dequantize(data.reshape(1, -1), theirs).ravel()
    np.testing.assert_array_equal(decode_blocks(form, data.reshape(-1), expected.size), expected)


# The small model that is written and read back: every matrix divides into blocks of 32.
CONFIG = TransformerConfig(
    vocabulary=40, depth=2, width=64, heads=4, kv_heads=2, head_width=16, feedforward=96, activation="swiglu",
    norm_epsilon=1e-5, positions=Rotary(base=100_000.0),
)  # fmt: skip
METADATA = {
    "general.architecture": (8, "llama"),
    "llama.block_count": (4, 2),
    "llama.embedding_length": (4, 64),
    "llama.feed_forward_length": (4, 96),
    "llama.attention.head_count": (4, 4),
    "llama.attention.head_count_kv": (4, 2),
    "llama.attention.layer_norm_rms_epsilon": (6, 1e-5),
    "llama.rope.freq_base": (6, 100_000.0),
    "some.texts": (9, (8, ["a", "é"])),
    "some.numbers": (9, (5, [-1, 7])),
    "some.flag": (7, True),
}
BLOCK = {
    "attn_norm": "attention_norm/scale", "attn_q": "attention/query/kernel", "attn_k": "attention/key/kernel",
    "attn_v": "attention/value/kernel", "attn_output": "attention/output/kernel",
    "ffn_norm": "feedforward_norm/scale", "ffn_gate": "feedforward/gate/kernel", "ffn_up": "feedforward/up/kernel",
    "ffn_down": "feedforward/down/kernel",
}  # fmt: skip
SHAPES = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "ffn_gate": (96, 64),
          "ffn_up": (96, 64), "ffn_down": (64, 96), "attn_norm": (64,), "ffn_norm": (64,)}  # fmt: skip
NUMBERS = {4: "I", 5: "i", 6: "f", 7: "?", 10: "Q"}


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(kind, value):
    if kind == 8:
        return text(value)
    if kind == 9:
        return struct.pack("<IQ", value[0], len(value[1])) + b"".join(packed(value[0], v) for v in value[1])
    return struct.pack(f"<{NUMBERS[kind]}", value)


def tensors(tied=True, seed=0):
    """The tensors of a model by name as (kind, array of NumPy's shape): matrices in Q8_0, the rest in F32."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (40, 64), "output_norm": (64,)} | ({} if tied else {"output": (40, 64)})
    shapes |= {f"blk.{i}.{name}": shape for i in range(2) for name, shape in SHAPES.items()}
    return {
        f"{name}.weight": (F32 if len(shape) == 1 else Q8_0, quantised(rng.normal(size=shape)))
        for name, shape in shapes.items()
    }


def quantised(array):
    """Round to whole numbers below 128, so that Q8_0 with a scale of 1/64 holds them exactly."""
    return np.clip(np.round(array * 32), -127, 127) / 64


def encoded(kind, array):
    if kind == F32:
        return array.astype("<f4").tobytes()
    q = np.round(array * 64).astype(np.int8).reshape(-1, 32)
    scales = np.full((len(q), 1), 1 / 64, "<f2").view(np.uint8)
    return np.concatenate([scales, q.view(np.uint8)], axis=1).tobytes()


def write(path, values=METADATA, stored=None, version=3, alignment=32):
    """Write a GGUF file from metadata and tensors, and return the path."""
    stored = tensors() if stored is None else stored
    if alignment != 32:
        values = values | {"general.alignment": (4, alignment)}
    head = b"GGUF" + struct.pack("<IQQ", version, len(stored), len(values))
    head += b"".join(
        text(name) + struct.pack("<I", kind) + packed(kind, value) for name, (kind, value) in values.items()
    )
    body = b""
    for name, (kind, array) in stored.items():
        head += text(name) + struct.pack("<I", array.ndim)
        head += struct.pack(f"<{array.ndim}QIQ", *array.shape[::-1], kind, len(body))
        body += encoded(kind, array)
        body += bytes(-len(body) % alignment)
    path.write_bytes(head + bytes(-len(head) % alignment) + body)
    return path


def interleaved(weight, heads):
    """Order the rows of each head as such files do: the pair (i, i + R) becomes (2 i, 2 i + 1)."""
    return np.stack([head[j // 2 + (j % 2) * 8] for head in weight.reshape(heads, 16, 64) for j in range(16)])


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [32, 64])
def test_a_file_reads_as_it_was_written(tmp_path, version, alignment):
    stored = tensors()
    file = read_gguf(write(tmp_path / "model.gguf", stored=stored, version=version, alignment=alignment))
    for name, (kind, value) in METADATA.items():
        expected = value[1] if kind == 9 else np.float32(value).item() if kind == 6 else value
        assert file.metadata[name] == expected
    assert file.tensors.keys() == stored.keys()
    for name, (_, array) in stored.items():
        np.testing.assert_array_equal(file.tensor(name), array)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_has_its_blocks_stacked_and_its_rotations_undone(tmp_path, tied):
    stored = tensors(tied)
    rotated = dict(stored)
    for name, (kind, array) in stored.items():
        if "attn_q" in name or "attn_k" in name:
            rotated[name] = kind, interleaved(array, len(array) // 16)
    config, params = load_gguf(write(tmp_path / "model.gguf", stored=rotated))
    assert config == TransformerConfig(**vars(CONFIG) | {"tied": tied})
    for name, path in BLOCK.items():
        leaf = params["blocks"]
        for part in path.split("/"):
            leaf = leaf[part]
        for i in range(2):
            np.testing.assert_array_equal(leaf[i], stored[f"blk.{i}.{name}.weight"][1].T)
    np.testing.assert_array_equal(params["embedding"]["table"], stored["token_embd.weight"][1])
    np.testing.assert_array_equal(params["final_norm"]["scale"], stored["output_norm.weight"][1])
    assert ("head" in params) is not tied
    if not tied:
        np.testing.assert_array_equal(params["head"]["kernel"], stored["output.weight"][1].T)


def changed(at, new):
    return lambda data: data[:at] + new + data[at + len(new) :]


def replaced(old, new):
    return lambda data: data.replace(old, new, 1)


def retyped(name, old, new):
    """Another number behind a name."""
    return replaced(text(name) + struct.pack("<I", old), text(name) + struct.pack("<I", new))


def embedding(width=64, rows=40, kind=Q8_0, offset=0):
    """Another place for the first tensor."""
    return replaced(struct.pack("<QQIQ", 64, 40, Q8_0, 0), struct.pack("<QQIQ", width, rows, kind, offset))


TEXTS = struct.pack("<IIQ", 9, 8, 2)  # of the list some.texts: a list, of texts, two
# Fault: what is done to the bytes, and what the one line must say.
FAULTS = {
    "empty": (lambda data: b"", "is empty"),
    "foreign": (lambda data: b"PK\3\4" + data[4:], "no GGUF file"),
    "old": (changed(4, struct.pack("<I", 1)), "version 1"),
    "big-endian": (changed(4, struct.pack(">I", 3)), "big-endian"),
    "header cut": (lambda data: data[:20], "the header needs 8 bytes"),
    "metadata cut": (lambda data: data[:60], "needs"),
    "weights cut": (lambda data: data[:-100], "ends at byte"),
    "too many tensors": (changed(8, struct.pack("<Q", 1 << 60)), "has 0 axes"),
    "too many values": (changed(16, struct.pack("<Q", 1 << 60)), "needs"),
    "long text": (replaced(text("llama"), struct.pack("<Q", 1 << 62) + b"llama"), "needs 4611686018427387904 bytes"),
    "no UTF-8": (replaced(b"llama", b"\xff\xff\xff\xff\xff"), "no UTF-8"),
    "long list": (replaced(TEXTS, struct.pack("<IIQ", 9, 8, 1 << 60)), "cannot hold"),
    "list in a list": (replaced(TEXTS, struct.pack("<IIQ", 9, 9, 2)), "list of unknown type 9"),
    "unknown value": (retyped("some.flag", 7, 99), "unknown type 99"),
    "value twice": (replaced(text("llama.block_count"), text("llama.rope.freq_base")), "stands twice"),
    "many axes": (retyped("output_norm.weight", 1, 9), "has 9 axes"),
    "unsupported": (embedding(kind=10), "token_embd.weight has type Q2_K"),
    "no blocks": (embedding(width=63), "does not divide into blocks of 32"),
    "huge": (embedding(rows=1 << 50), "ends at byte"),
    "crooked": (embedding(offset=8), "no multiple of 32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(tmp_path, fault):
    damage, expected = FAULTS[fault]
    path = write(tmp_path / "model.gguf")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(Unusable, match=expected) as raised:
        read_gguf(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.slow
def test_no_cut_is_anything_but_unusable(tmp_path):
    path = write(tmp_path / "model.gguf")
    whole = path.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(0, len(whole) - 32, 37):
        cut.write_bytes(whole[:size])
        with pytest.raises(Unusable):
            read_gguf(cut)


def test_a_file_that_is_not_there_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no GGUF file"):
        read_gguf(tmp_path / "none.gguf")


def without(stored, name):
    return {key: value for key, value in stored.items() if key != name}


# What no model is made of: changed metadata, changed tensors, and what the one line must say.
UNREAD = {
    "architecture": ({"general.architecture": (8, "mamba")}, None, "architecture mamba"),
    "no width": ({"llama.embedding_length": (8, "wide")}, None, "llama.embedding_length must be int"),
    "rope scaling": ({"llama.rope.scaling.type": (8, "yarn")}, None, "llama.rope.scaling.type is yarn"),
    "experts": ({"llama.expert_count": (4, 8)}, None, "llama.expert_count is 8"),
    "blocks": ({"llama.block_count": (4, 1 << 31)}, None, "2147483648 blocks and 20 tensors"),
    "heads": ({"llama.attention.head_count": (4, 0)}, None, "makes no model"),
    "other width": ({"llama.feed_forward_length": (4, 128)}, None, r"ffn_down.weight has shape \(64, 96\)"),
    "missing": ({}, lambda stored: without(stored, "blk.1.ffn_up.weight"), "tensor blk.1.ffn_up.weight is missing"),
    "extra": ({}, lambda stored: stored | {"rope_freqs.weight": (F32, np.ones(8))}, "rope_freqs.weight is not read"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_what_is_no_llama_is_refused(tmp_path, case):
    values, change, expected = UNREAD[case]
    stored = tensors() if change is None else change(tensors())
    with pytest.raises(Unusable, match=expected):
        load_gguf(write(tmp_path / "model.gguf", values=METADATA | values, stored=stored))


def test_smollm2_has_the_published_size(smollm2):
    file = read_gguf(smollm2)
    assert sum(math.prod(info.shape) for info in file.tensors.values()) == PARAMETERS
    assert {info.form.name for info in file.tensors.values()} == {"F32", "Q8_0", "Q4_1"}


@pytest.mark.slow
def test_smollm2_has_the_scores_of_transformers(smollm2):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    for package in ("torch", "gguf", "accelerate"):
        pytest.importorskip(package, reason=f"the package {package} is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype="float32")
    ours, (config, params) = load_codec(smollm2), load_gguf(smollm2)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS
    net = build(config)
    prompt = ours.encode("Natalia sold clips to 48 of her friends in April, and then half as many in May.")
    ids = np.array([prompt])
    batch = Batch(ids, ids, np.ones(ids.shape), np.arange(ids.shape[1])[None], {}, None)
    expected = theirs(theirs.dummy_inputs["input_ids"].new_tensor(ids)).logits.detach().numpy()
    # Scores of up to 33; one float32 step at that size is 4e-6.
    np.testing.assert_allclose(net.apply(params, batch).logits, expected, atol=1e-3)
    tokens = theirs.generate(theirs.dummy_inputs["input_ids"].new_tensor(ids), max_new_tokens=8, do_sample=False)
    found = sample(net, params, [prompt], max_new=8, stop=ours.eos, key=jax.random.key(0))
    assert (
        found.tokens[0, 0, : found.lengths[0, 0]].tolist() == tokens[0, len(prompt) :].tolist()[: found.lengths[0, 0]]
    )
