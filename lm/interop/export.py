"""Models written as folders that `transformers` loads: config.json, safetensors, the tokenizer's files.

family = export_model(config, params, "out", tokenizer_from="SmolLM2-135M")
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import ModelConfig, TransformerConfig
from lm.data.codec import Codec
from lm.exits import UserError
from lm.interop.config_json import choose_family, write_config
from lm.interop.huggingface import CONFIG, DTYPES, INDEX, SINGLE, read_json
from lm.interop.layout import Piece, flat, join, parameter_shapes, plan_of
from lm.strict import ConfigError, require_choice
from lm.types import Params

SHARD_BYTES = 4 << 30
CARRIED_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
LENGTH = "max_position_embeddings"
LONGEST = 2048  # tokens, where nothing says how long a text may be


def export_model(
    config: ModelConfig,
    params: Params,
    folder: str | Path,
    family: str | None = None,
    dtype: str = "float32",
    tokenizer_from: Any = None,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Write a model as a folder, all of it or nothing, and return the family that it became.

    `tokenizer_from` is a folder whose tokenizer, ids of special tokens and longest text go along, or a codec. Without
    a family it is that of this folder, or else the first, that expresses the model. Raises UserError where the folder
    to write has something in it, or where no family expresses the model.
    """
    folder = Path(folder)
    require_choice("dtype", dtype, DTYPES)
    if not isinstance(config, TransformerConfig):
        raise UserError(f"no export: this model is no transformer but a {type(config).__name__}")
    source = read_json(Path(tokenizer_from) / CONFIG) if isinstance(tokenizer_from, str | Path) else {}
    chosen = choose_family(config, family, source.get("model_type"))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty; name a new folder")
    leaves, shapes = {path: np.asarray(leaf) for path, leaf in flat(params).items()}, parameter_shapes(config)
    _check_shapes({path: leaf.shape for path, leaf in leaves.items()}, shapes)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    ids = _write_tokenizer(tokenizer_from, source, partial)
    length = source.get(LENGTH) or LONGEST
    _write_json(partial / CONFIG, {**write_config(chosen, config, length), **ids, "torch_dtype": dtype})
    _write_tensors(partial, plan_of(chosen, shapes), leaves, config.heads, np.dtype(dtype), shard_bytes)
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)
    return chosen.model_type


def _check_shapes(found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    wrong = [path for path in {*found, *asked} if found.get(path) != asked.get(path)]
    if wrong:
        path = min(wrong)
        raise ConfigError(f"parameter {path} has shape {found.get(path)}, the configuration asks for {asked.get(path)}")


def _write_tokenizer(origin: Any, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write the tokenizer's files and return the ids of its special tokens."""
    if isinstance(origin, str | Path):
        for name in CARRIED_FILES:
            if (Path(origin) / name).is_file():
                shutil.copyfile(Path(origin) / name, folder / name)
    elif origin is not None:
        return _write_codec(origin, folder)
    return {key: settings.get(key) for key in TOKEN_IDS}


def _write_codec(codec: Any, folder: Path) -> dict[str, Any]:
    from tokenizers import Tokenizer

    ids, written = {"bos": codec.bos, "eos": codec.eos, "pad": codec.pad}, codec.tokenizer_json()
    (folder / "tokenizer.json").write_text(written, encoding="utf-8")
    name_of = Tokenizer.from_str(written).id_to_token
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Text never spells a special token of our own codec; in a chat of other models it does.
        "split_special_tokens": isinstance(codec, Codec),
        **{f"{role}_token": name_of(i) for role, i in ids.items()},
    }
    _write_json(folder / "tokenizer_config.json", settings)
    return {f"{role}_token_id": i for role, i in ids.items()}


def _write_tensors(
    folder: Path,
    plan: Mapping[str, Piece],
    leaves: Mapping[str, np.ndarray],
    heads: int,
    dtype: np.dtype,
    shard_bytes: int,
) -> None:
    from safetensors.numpy import save_file

    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    sizes = {name: dtype.itemsize * int(np.prod(piece.shape(shapes))) for name, piece in plan.items()}
    shards: list[list[str]] = [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[each] for each in shards[-1]) + size > shard_bytes:
            shards.append([])
        shards[-1].append(name)
    files = (
        [SINGLE] if len(shards) == 1 else [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in _from_one(shards)]
    )
    for file, names in zip(files, shards, strict=True):
        pieces = {name: (plan[name].tensor, plan[name].of(leaves)) for name in names}
        arrays = {name: np.ascontiguousarray(join(*piece, heads), dtype) for name, piece in pieces.items()}
        save_file(arrays, folder / file, metadata={"format": "pt"})  # without it `transformers` refuses the file
    if len(shards) > 1:
        places = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        _write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places})


def _from_one(items: list[Any]) -> range:
    return range(1, len(items) + 1)


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
