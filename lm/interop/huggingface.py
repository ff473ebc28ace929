"""Folders of Hugging Face read: config.json, and safetensors in one file or in shards.

Nothing is allocated before the headers of all files have been compared with what config.json asks for, and no pickle
is ever opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.config import TransformerConfig
from lm.exits import Unusable, UserError
from lm.interop.config_json import read_config
from lm.interop.families import Family
from lm.interop.layout import Piece, nested, parameter_shapes, plan_of, split
from lm.strict import require_choice
from lm.types import Params

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
DTYPES = ("float32", "bfloat16")
LARGEST_JSON = 1 << 26  # bytes


class Stored(NamedTuple):
    """A tensor in a file: the file, its name there, and what the header says of it."""

    file: Any
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        return self.file.get_tensor(self.name)


def load_folder(folder: Path, dtype: str = "float32") -> tuple[TransformerConfig, Params]:
    """Return the configuration of a folder and its parameters as NumPy arrays of `dtype`."""
    require_choice("dtype", dtype, DTYPES)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    family, config = read_config(read_json(folder / CONFIG), str(folder / CONFIG))
    stored = open_tensors(folder, family)
    if config.depth > len(stored):
        raise Unusable(f"{folder / CONFIG} asks for {config.depth} layers, the files hold {len(stored)} tensors")
    shapes = parameter_shapes(config)
    plan = plan_of(family, shapes)
    # Files of tied models may hold the head too; it must be what it is tied to.
    copy = stored.pop(family.head, None) if config.tied else None
    _check(plan, stored, shapes, f"{folder}, a {family.architecture}")
    leaves = {path: np.empty(shape, np.dtype(dtype)) for path, shape in shapes.items()}
    for name, piece in plan.items():
        targets = piece.of(leaves)
        parts = split(piece.tensor, stored[name].read(), [target.shape[-1] for target in targets], config.heads)
        for target, part in zip(targets, parts, strict=True):
            target[...] = part
    if copy is not None and not np.array_equal(copy.read().astype(dtype), leaves["embedding/table"]):
        raise Unusable(f"{folder}: {family.head} differs from the embedding that config.json ties it to")
    return config, nested(leaves)


def _check(plan: Mapping[str, Piece], stored: Mapping[str, Stored], shapes: Mapping[str, Any], what: str) -> None:
    """Raise Unusable where the files do not hold exactly the tensors of the plan."""
    missing, extra = set(plan) - set(stored), set(stored) - set(plan)
    for names, verdict in ((missing, "is missing"), (extra, "is none that its config.json asks for")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise Unusable(f"{what}: tensor {min(names)}{more} {verdict}")
    for name, piece in plan.items():
        if stored[name].shape != piece.shape(shapes):
            found, asked = list(stored[name].shape), list(piece.shape(shapes))
            raise Unusable(f"{what}: tensor {name} is {found} where config.json asks for {asked}")
        if stored[name].dtype not in ("F32", "F16", "BF16"):
            raise Unusable(f"{what}: tensor {name} holds {stored[name].dtype}; F32, F16 and BF16 can be read")


def open_tensors(folder: Path, family: Family) -> dict[str, Stored]:
    """Return every parameter in a folder's files by its full name, from their headers alone."""
    from safetensors import SafetensorError, safe_open

    stored: dict[str, Stored] = {}
    buffers = re.compile(family.buffers)
    for path in _files(folder):
        try:
            file = safe_open(path, framework="numpy")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except (SafetensorError, OSError) as error:
            raise Unusable(f"{path} cannot be read: {error}") from None
        for name, part in slices.items():
            full = name if name.startswith(family.prefix) or name == family.head else family.prefix + name
            if full in stored:
                raise Unusable(f"{path} holds tensor {name} a second time")
            if not buffers.search(name):
                stored[full] = Stored(file, name, tuple(part.get_shape()), part.get_dtype())
    return stored


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE]
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        why = f"; {pickled[0]} is a pickle, which is never opened: save the model as safetensors" if pickled else ""
        raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}{why}")
    index = read_json(folder / INDEX)
    names = index["weight_map"] if isinstance(index, dict) and "weight_map" in index else None
    if not (isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values())):
        raise Unusable(f"{folder / INDEX} has no weight_map from tensors to files")
    paths = [folder / name for name in sorted(set(names.values()))]
    for path in paths:
        if path.parent != folder or path.suffix != ".safetensors" or not path.is_file():
            raise Unusable(f"{folder / INDEX} names {path.name}, which is no safetensors file in that folder")
    return paths


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; UserError where it is not there, Unusable where it is damaged."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}")
    if path.stat().st_size > LARGEST_JSON:
        raise Unusable(f"{path} has {path.stat().st_size} bytes, more than any {path.name}")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Unusable(f"{path} is not valid JSON: {error}") from None
