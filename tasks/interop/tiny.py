"""Tiny models of every family in Hugging Face's layout, their weights a function of each tensor's name.

write_tiny("phi3, window", folder)  # config.json and model.safetensors
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

VOCABULARY, LENGTH = 31, 20
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SIZES = {
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    **NO_TOKENS,
}
RMS = {**SIZES, "rms_norm_eps": 1e-5, "hidden_act": "silu", "num_key_value_heads": 2, "tie_word_embeddings": False}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **RMS, "rope_theta": 10_000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MISTRAL = {**LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False}
PHI3 = {**LLAMA, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "head_dim": 8, "sliding_window": None}
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.5], "long_factor": [1.0, 2.0, 4.5]}
PHI = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    **SIZES,
    "hidden_act": "gelu_new",
    "partial_rotary_factor": 0.67,
    "layer_norm_eps": 1e-5,
}
NEOX = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    **SIZES,
    "hidden_act": "gelu",
    "rotary_pct": 0.34,
    "rotary_emb_base": 10_000,
    "use_parallel_residual": True,
}
GPT2 = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_layer": 2,
    "n_embd": 24,
    "n_head": 4,
    "n_positions": 64,
    **NO_TOKENS,
}

# config.json by name: the family, then what is special about this member of it.
TINY: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama": LLAMA,
        "llama, tied": {**LLAMA, "tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1},
        "llama, scaled": {**LLAMA, "rope_theta": 500.0, "rope_scaling": LLAMA3, "head_dim": 10},
        "mistral": MISTRAL,
        "mistral, window": {**MISTRAL, "sliding_window": 5},
        "qwen2": QWEN2,
        "phi": PHI,
        "phi3": {**PHI3, "partial_rotary_factor": 0.75},
        "phi3, window": {**PHI3, "sliding_window": 7},
        "phi3, short": {**PHI3, "head_dim": 6, "rope_scaling": LONG, "original_max_position_embeddings": 48},
        "phi3, long": {**PHI3, "head_dim": 6, "rope_scaling": LONG, "original_max_position_embeddings": 16},
        "gpt_neox": NEOX,
        "gpt_neox, in turn": {**NEOX, "use_parallel_residual": False},
        "gpt2": GPT2,
    }
)


def write_tiny(name: str, folder: Path) -> None:
    """Write config.json and model.safetensors of a tiny model."""
    from safetensors.numpy import save_file

    from lm.interop.config_json import read_config
    from lm.interop.layout import parameter_shapes, plan_of

    family, config = read_config(TINY[name], name)
    shapes = parameter_shapes(config)
    arrays = {theirs: weight(theirs, piece.shape(shapes)) for theirs, piece in plan_of(family, shapes).items()}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(TINY[name]))
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights of a tensor: numbers of 16 bits from its name, such that scores are of the order of one."""
    drawn = np.frombuffer(hashlib.shake_256(name.encode()).digest(2 * int(np.prod(shape))), "<u2").reshape(shape)
    uniform = drawn.astype(np.float32) / 2**15 - 1
    if len(shape) == 2:
        return uniform / 2
    return uniform / 4 + float(name.endswith("weight"))


def tokens(count: int = 2) -> np.ndarray:
    """Return the tokens that tiny models are compared on, [count, LENGTH]."""
    drawn = hashlib.shake_256(b"tokens").digest(count * LENGTH)
    return np.frombuffer(drawn, np.uint8).reshape(count, LENGTH).astype(np.int32) % VOCABULARY
