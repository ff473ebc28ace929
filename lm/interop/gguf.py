"""GGUF files, versions 2 and 3: metadata, tensors as float32, and models of the architecture `llama`.

file = read_gguf("model.gguf")
file.metadata["general.architecture"], file.tensor("token_embd.weight").shape
config, params = load_gguf("model.gguf")

Every length in a file is held against the bytes that are there before anything is made of it; a file that is
damaged or holds what is not read here is Unusable in one line.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from lm.config import Rotary, TransformerConfig
from lm.exits import Unusable, UserError
from lm.interop.families import LLAMA
from lm.interop.ggml import FORMATS, OTHERS, Format, decode_blocks
from lm.interop.layout import nested, parameter_shapes, plan_of
from lm.models.transformer import resolve
from lm.strict import ConfigError
from lm.types import Params

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of the tensors, unless the metadata says otherwise
MOST_AXES = 4
# Metadata types: numbers by their struct code, then text and lists.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class TensorInfo(NamedTuple):
    """Where a tensor lies; `shape` is that of NumPy, the last axis contiguous."""

    shape: tuple[int, ...]
    form: Format
    offset: int
    size: int


@dataclass(frozen=True)
class GGUF:
    """A file read up to its tensors, which are read one by one."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor as float32; Unusable where the file has none of this name."""
        if name not in self.tensors:
            raise Unusable(f"{self.path}: there is no tensor {name}")
        shape, form, offset, size = self.tensors[name]
        data = np.fromfile(self.path, np.uint8, size, offset=offset)
        if len(data) < size:
            raise Unusable(f"{self.path}: tensor {name} ends after {len(data)} of its {size} bytes")
        return decode_blocks(form, data, math.prod(shape)).reshape(shape)

    def value(self, name: str, kind: type, default: Any = None) -> Any:
        """Return a metadata value of this type; Unusable where it is of another, or absent without a default."""
        found = self.metadata.get(name, default)
        if type(found) is not kind and found is not default or found is None:
            shown = "absent" if found is None else repr(found)[:40]
            raise Unusable(f"{self.path}: metadata {name} must be {kind.__name__}, it is {shown}")
        return found


class _Reader:
    """A place in the bytes of a file, moved forward by what is read."""

    def __init__(self, path: Path, data: memoryview):
        self.path, self.data, self.at = path, data, 0

    def fail(self, what: str) -> NoReturn:
        raise Unusable(f"{self.path}: {what} (near byte {self.at})")

    def take(self, size: int, what: str) -> memoryview:
        if size > len(self.data) - self.at:
            self.fail(f"{what} needs {size} bytes, the file has {len(self.data) - self.at} more")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0]

    def text(self, what: str) -> str:
        raw = self.take(self.number("Q", f"the length of {what}"), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is no UTF-8")

    def value(self, kind: int, what: str) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind], what)
        if kind == STRING:
            return self.text(what)
        if kind != ARRAY:
            self.fail(f"{what} has unknown type {kind}")
        return self._array(self.number("I", what), self.number("Q", what), what)

    def _array(self, kind: int, count: int, what: str) -> list[Any]:
        if kind in NUMBERS:
            code = f"<{NUMBERS[kind]}"
            return [row[0] for row in struct.iter_unpack(code, self.take(count * struct.calcsize(code), what))]
        if kind != STRING:
            self.fail(f"{what} is a list of unknown type {kind}")
        if 8 * count > len(self.data) - self.at:  # a text has a length of 8 bytes at least
            self.fail(f"{what} cannot hold {count} texts")
        return [self.text(what) for _ in range(count)]


def read_gguf(path: Path | str) -> GGUF:
    """Read metadata and the places of all tensors; a file that is not there is a UserError."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no GGUF file at {path}")
    if not path.stat().st_size:
        raise Unusable(f"{path} is empty")
    try:
        reader = _Reader(path, np.memmap(path, np.uint8, "r").data)
    except OSError as error:  # more bytes than this process may map
        raise Unusable(f"{path} has {path.stat().st_size} bytes and cannot be mapped: {error.strerror}") from None
    if bytes(reader.data[:4]) != MAGIC:
        raise Unusable(f"{path} does not begin with {MAGIC.decode()}: it is no GGUF file")
    reader.at = 4
    version = reader.number("I", "the version")
    if version not in VERSIONS:
        kind = "a big-endian file" if version >> 16 else f"version {version}"
        raise Unusable(f"{path} is {kind}; versions {VERSIONS[0]} and {VERSIONS[1]}, little-endian, are read")
    tensor_count, value_count = reader.number("Q", "the header"), reader.number("Q", "the header")
    metadata: dict[str, Any] = {}
    for i in range(value_count):
        name = reader.text(f"the name of metadata {i}")
        if name in metadata:
            reader.fail(f"metadata {name} stands twice")
        metadata[name] = reader.value(reader.number("I", name), f"metadata {name}")
    return GGUF(path, metadata, _tensors(reader, tensor_count, metadata.get("general.alignment", ALIGNMENT)))


def _tensors(reader: _Reader, count: int, alignment: Any) -> dict[str, TensorInfo]:
    if type(alignment) is not int or alignment < 8 or alignment % 8:
        reader.fail(f"metadata general.alignment must be a multiple of 8, it is {alignment}")
    found: dict[str, TensorInfo] = {}
    for i in range(count):
        name = reader.text(f"the name of tensor {i}")
        if name in found:
            reader.fail(f"tensor {name} stands twice")
        axes = reader.number("I", name)
        if not 1 <= axes <= MOST_AXES:
            reader.fail(f"tensor {name} has {axes} axes")
        # The file names the contiguous axis first.
        shape = tuple(reader.number("Q", name) for _ in range(axes))[::-1]
        kind, offset = reader.number("I", name), reader.number("Q", name)
        if kind not in FORMATS:
            known = ", ".join(form.name for form in FORMATS.values())
            raise Unusable(f"{reader.path}: tensor {name} has type {OTHERS.get(kind, kind)}; read are {known}")
        form = FORMATS[kind]
        if shape[-1] % form.weights or 0 in shape:
            reader.fail(f"tensor {name} of shape {shape} does not divide into blocks of {form.weights}")
        if offset % alignment:
            reader.fail(f"tensor {name} is at {offset}, no multiple of {alignment}")
        found[name] = TensorInfo(shape, form, offset, math.prod(shape) // form.weights * form.size)
    start = -(-reader.at // alignment) * alignment
    for name, info in found.items():
        if start + info.offset + info.size > len(reader.data):
            end = start + info.offset + info.size
            reader.fail(f"tensor {name} ends at byte {end}, the file at {len(reader.data)}")
        found[name] = info._replace(offset=start + info.offset)
    return found


# What the tensors of Hugging Face's Llama are called in the architecture llama; {} is the layer.
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.layers.{}.input_layernorm": "blk.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "blk.{}.attn_q",
    "model.layers.{}.self_attn.k_proj": "blk.{}.attn_k",
    "model.layers.{}.self_attn.v_proj": "blk.{}.attn_v",
    "model.layers.{}.self_attn.o_proj": "blk.{}.attn_output",
    "model.layers.{}.post_attention_layernorm": "blk.{}.ffn_norm",
    "model.layers.{}.mlp.gate_proj": "blk.{}.ffn_gate",
    "model.layers.{}.mlp.up_proj": "blk.{}.ffn_up",
    "model.layers.{}.mlp.down_proj": "blk.{}.ffn_down",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def load_gguf(path: Path | str) -> tuple[TransformerConfig, Params]:
    """Read a model of the architecture `llama`: its configuration and its parameters, float32 arrays of NumPy.

    Without a tensor `output.weight` the head is tied. Raises Unusable for other architectures and tensors.
    """
    file = read_gguf(path)
    config = _config(file)
    heads = {"attn_q": config.heads, "attn_k": resolve(config).kv_heads}
    shapes = parameter_shapes(config)
    plan = {
        f"{NAMES[piece.tensor.theirs.removesuffix('.weight')].format(piece.layer)}.weight": piece
        for piece in plan_of(LLAMA, shapes).values()
    }
    for name in sorted(file.tensors.keys() ^ plan.keys()):
        raise Unusable(f"{file.path}: tensor {name} is {'not read here' if name in file.tensors else 'missing'}")
    for name, piece in plan.items():
        found, needed = file.tensors[name].shape, piece.shape(shapes)
        if found != needed:
            raise Unusable(f"{file.path}: tensor {name} has shape {found}, not {needed}")
    leaves = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    for name, piece in plan.items():
        weight, kind = file.tensor(name), name.split(".")[-2]
        weight = _unpermute(weight, heads[kind]) if kind in heads else weight
        for target in piece.of(leaves):
            target[...] = weight.T if piece.tensor.transposed else weight
    return config, nested(leaves)


def _config(file: GGUF) -> TransformerConfig:
    architecture = file.value("general.architecture", str)
    if architecture != "llama":
        raise Unusable(f"{file.path} holds the architecture {architecture}; read is llama")

    def number(name: str, default: int | None = None) -> int:
        return file.value(f"llama.{name}", int, default)

    def real(name: str, default: float | None = None) -> float:
        # 1e-5 is stored as the nearest float32; the shortest decimal that names the same float32 is 1e-5 again.
        return float(str(np.float32(file.value(f"llama.{name}", float, default))))

    width, heads = number("embedding_length"), number("attention.head_count")
    head_width = number("attention.key_length", width // max(heads, 1))
    expected = {"rope.scaling.type": "none", "expert_count": 0, "attention.value_length": head_width}
    for name, plain in (expected | {"rope.dimension_count": head_width}).items():
        found = file.metadata.get(f"llama.{name}", plain)
        if found != plain:
            raise Unusable(f"{file.path}: metadata llama.{name} is {found}; only {plain} is read")
    if number("block_count") > len(file.tensors):
        raise Unusable(f"{file.path} has {number('block_count')} blocks and {len(file.tensors)} tensors")
    config = TransformerConfig(
        vocabulary=file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0,
        depth=number("block_count"),
        width=width,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_width=head_width,
        feedforward=number("feed_forward_length"),
        activation="swiglu",
        norm_epsilon=real("attention.layer_norm_rms_epsilon"),
        tied="output.weight" not in file.tensors,
        positions=Rotary(base=real("rope.freq_base", 10_000.0)),
    )
    try:
        resolve(config)
    except ConfigError as error:
        raise Unusable(f"{file.path} makes no model: {error}") from None
    return config


def _unpermute(weight_FD: np.ndarray, heads: int) -> np.ndarray:
    """Return rows of heads whose rotated pairs are (i, i + R), from the file's pairs (2 i, 2 i + 1)."""
    return weight_FD.reshape(heads, -1, 2, weight_FD.shape[1]).swapaxes(1, 2).reshape(weight_FD.shape)
