"""Weights of other libraries, in and out.

config, params = load_model("SmolLM2-135M")  # a folder of Hugging Face, or a .gguf file
logits_BLV = build(config).apply(params, batch).logits
export_model(config, params, "out", tokenizer_from="SmolLM2-135M")  # a folder that `transformers` loads
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm.config import TransformerConfig
from lm.strict import require_choice
from lm.types import Params


def load_model(path: str | Path, dtype: str = "float32") -> tuple[TransformerConfig, Params]:
    """Read a model: its configuration and its parameters as NumPy arrays of `dtype` (float32, bfloat16).

    `path` is a folder with config.json and safetensors, or a .gguf file. Raises UserError where there is nothing to
    read, Unusable where it is damaged or computes something that no configuration here expresses.
    """
    path = Path(path)
    require_choice("dtype", dtype, ("float32", "bfloat16"))
    if path.suffix == ".gguf":
        import jax

        from lm.interop.gguf import load_gguf

        config, params = load_gguf(path)
        return config, jax.tree.map(lambda leaf: leaf.astype(dtype, copy=False), params)
    from lm.interop.huggingface import load_folder

    return load_folder(path, dtype)


def load_codec(path: str | Path) -> Any:
    """Read the tokenizer of a folder with tokenizer.json, or of a .gguf file, with the methods of `lm.data.codec`."""
    from lm.interop.tokenizer import load_codec

    return load_codec(path)


def export_model(config: TransformerConfig, params: Params, folder: str | Path, **settings: Any) -> str:
    """Write a model as a folder that `transformers` loads; see `lm.interop.export`."""
    from lm.interop.export import export_model

    return export_model(config, params, folder, **settings)
