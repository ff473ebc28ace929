"""Families of models in Hugging Face's layout, as data: what their tensors and their settings are called.

A family is one table, read in both directions. To add one, say what its tensors hold (`Tensor`), what its keys of
config.json mean (`Family`), and put it into FAMILIES; tests and the parity study then cover it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple


class Tensor(NamedTuple):
    """A tensor of theirs, {} being the layer, and the parameters of ours that it holds, joined along their outputs."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False  # its rows are outputs, where our columns are
    by_head: bool = False  # joined as head 0 of each, head 1 of each, ...; else one whole after the other


def linear(theirs: str, *ours: str, transposed: bool = True, by_head: bool = False) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a linear layer that holds those of one or several of ours."""
    kernels, biases = (tuple(f"{name}/{leaf}" for name in ours) for leaf in ("kernel", "bias"))
    return (
        Tensor(f"{theirs}.weight", kernels, transposed, by_head),
        Tensor(f"{theirs}.bias", biases, False, by_head),
    )


def norm(theirs: str, ours: str) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a norm."""
    return Tensor(f"{theirs}.weight", (f"{ours}/scale",)), Tensor(f"{theirs}.bias", (f"{ours}/bias",))


def table(theirs: str, ours: str) -> tuple[Tensor]:
    """Return the rows of an embedding."""
    return (Tensor(f"{theirs}.weight", (f"{ours}/table",)),)


@dataclass(frozen=True)
class Family:
    """The layout of one architecture. Tensors whose parameters a configuration lacks are left out.

    `keys` maps keys of config.json to fields of TransformerConfig, `fixed` holds the fields that are the same in all
    models of the family, `only` the values of keys that are computed here, `absent` what a missing key means.
    """

    architecture: str
    model_type: str
    tensors: tuple[Tensor, ...]
    keys: Mapping[str, str]
    fixed: Mapping[str, Any]
    absent: Mapping[str, Any]
    activations: Mapping[str, str]  # ours by theirs
    activation_key: str = "hidden_act"
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    base_key: str = "rope_theta"
    fraction_key: str = "partial_rotary_factor"
    rows_key: str | None = None  # of a learned table of positions, where there is one instead of a rotation
    length_key: str = "max_position_embeddings"
    ignored: frozenset[str] = frozenset()  # keys that change no score
    prefix: str = ""  # of the names of tensors; a file may leave it out
    buffers: str = r"rotary_emb\.inv_freq$"  # names of tensors that hold no parameters

    @property
    def head(self) -> str:
        """The name of the tensor that a tied model does without."""
        return next(tensor.theirs for tensor in self.tensors if tensor.ours == ("head/kernel",))


GELUS = MappingProxyType(
    {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "gelu": "exact_gelu", "relu": "relu"}
)
LAYER = "model.layers.{}."
ATTENTION, FEEDFORWARD = "blocks/attention", "blocks/feedforward"
QKV = tuple(f"{ATTENTION}/{role}" for role in ("query", "key", "value"))

SIZES = {
    "vocab_size": "vocabulary",
    "num_hidden_layers": "depth",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "intermediate_size": "feedforward",
    "tie_word_embeddings": "tied",
}
GROUPED = {**SIZES, "num_key_value_heads": "kv_heads", "head_dim": "head_width"}
ROTARY = {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0}

LLAMA_FRAME = (
    *table("model.embed_tokens", "embedding"),
    *norm(LAYER + "input_layernorm", "blocks/attention_norm"),
    *linear(LAYER + "self_attn.o_proj", f"{ATTENTION}/output"),
    *norm(LAYER + "post_attention_layernorm", "blocks/feedforward_norm"),
    *linear(LAYER + "mlp.down_proj", f"{FEEDFORWARD}/down"),
    *norm("model.norm", "final_norm"),
    *linear("lm_head", "head"),
)
LLAMA = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    tensors=(
        *LLAMA_FRAME,
        *(t for role, ours in zip("qkv", QKV, strict=True) for t in linear(f"{LAYER}self_attn.{role}_proj", ours)),
        *linear(LAYER + "mlp.gate_proj", f"{FEEDFORWARD}/gate"),
        *linear(LAYER + "mlp.up_proj", f"{FEEDFORWARD}/up"),
    ),
    keys={**GROUPED, "rms_norm_eps": "norm_epsilon"},
    fixed={"norm": "rms"},
    absent={**ROTARY, "num_key_value_heads": None, "head_dim": None, "tie_word_embeddings": False},
    activations={"silu": "swiglu", "gelu_pytorch_tanh": "geglu"},
    only={"attention_bias": (False,), "mlp_bias": (False,), "partial_rotary_factor": (1.0,)},
)
MISTRAL = replace(
    LLAMA,
    architecture="MistralForCausalLM",
    model_type="mistral",
    keys={**LLAMA.keys, "sliding_window": "window"},
    absent={**LLAMA.absent, "sliding_window": 4096},
    only={"partial_rotary_factor": (1.0,)},
)
QWEN2 = replace(
    LLAMA,
    architecture="Qwen2ForCausalLM",
    model_type="qwen2",
    fixed={**LLAMA.fixed, "qkv_bias": True},
    only={"use_sliding_window": (False,), "partial_rotary_factor": (1.0,)},
    ignored=frozenset({"sliding_window", "max_window_layers"}),  # of use_sliding_window
)
PHI3 = replace(
    LLAMA,
    architecture="Phi3ForCausalLM",
    model_type="phi3",
    tensors=(
        *LLAMA_FRAME,
        *linear(LAYER + "self_attn.qkv_proj", *QKV),
        *linear(LAYER + "mlp.gate_up_proj", f"{FEEDFORWARD}/gate", f"{FEEDFORWARD}/up"),
    ),
    keys={**LLAMA.keys, "sliding_window": "window", "resid_pdrop": "dropout", "embd_pdrop": "embedding_dropout"},
    absent={**LLAMA.absent, "sliding_window": None, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    only={"attention_bias": (False,), "mlp_bias": (False,)},
    ignored=frozenset({"original_max_position_embeddings"}),  # read with the scaling that needs it
)
PHI = Family(
    architecture="PhiForCausalLM",
    model_type="phi",
    tensors=(
        *table("model.embed_tokens", "embedding"),
        *norm(LAYER + "input_layernorm", "blocks/attention_norm"),
        *(t for role, ours in zip("qkv", QKV, strict=True) for t in linear(f"{LAYER}self_attn.{role}_proj", ours)),
        *linear(LAYER + "self_attn.dense", f"{ATTENTION}/output"),
        *linear(LAYER + "mlp.fc1", f"{FEEDFORWARD}/up"),
        *linear(LAYER + "mlp.fc2", f"{FEEDFORWARD}/down"),
        *norm("model.final_layernorm", "final_norm"),
        *linear("lm_head", "head"),
    ),
    keys={**GROUPED, "layer_norm_eps": "norm_epsilon", "resid_pdrop": "dropout", "embd_pdrop": "embedding_dropout"},
    fixed={"norm": "layer", "bias": True, "parallel": True},
    absent={
        **LLAMA.absent,
        "partial_rotary_factor": 0.5,
        "layer_norm_eps": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
    },
    activations=GELUS,
    only={"qk_layernorm": (False,), "tie_word_embeddings": (False,)},
)
GPT_NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    tensors=(
        *table("gpt_neox.embed_in", "embedding"),
        *norm("gpt_neox.layers.{}.input_layernorm", "blocks/attention_norm"),
        *linear("gpt_neox.layers.{}.attention.query_key_value", *QKV, by_head=True),
        *linear("gpt_neox.layers.{}.attention.dense", f"{ATTENTION}/output"),
        *norm("gpt_neox.layers.{}.post_attention_layernorm", "blocks/feedforward_norm"),
        *linear("gpt_neox.layers.{}.mlp.dense_h_to_4h", f"{FEEDFORWARD}/up"),
        *linear("gpt_neox.layers.{}.mlp.dense_4h_to_h", f"{FEEDFORWARD}/down"),
        *norm("gpt_neox.final_layer_norm", "final_norm"),
        *linear("embed_out", "head"),
    ),
    keys={
        **SIZES,
        "layer_norm_eps": "norm_epsilon",
        "use_parallel_residual": "parallel",
        "hidden_dropout": "dropout",
    },
    fixed={"norm": "layer", "bias": True, "head_bias": False, "shared_norm": False},
    absent={
        "rotary_emb_base": 10_000.0,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "hidden_dropout": 0.0,
    },
    activations=GELUS,
    only={"attention_bias": (True,)},
    base_key="rotary_emb_base",
    fraction_key="rotary_pct",
    ignored=frozenset({"classifier_dropout", "partial_rotary_factor"}),
    buffers=r"rotary_emb\.inv_freq$|\battention\.(masked_)?bias$",
)
GPT2 = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    tensors=(
        *table("transformer.wte", "embedding"),
        *table("transformer.wpe", "positions"),
        *norm("transformer.h.{}.ln_1", "blocks/attention_norm"),
        *linear("transformer.h.{}.attn.c_attn", *QKV, transposed=False),
        *linear("transformer.h.{}.attn.c_proj", f"{ATTENTION}/output", transposed=False),
        *norm("transformer.h.{}.ln_2", "blocks/feedforward_norm"),
        *linear("transformer.h.{}.mlp.c_fc", f"{FEEDFORWARD}/up", transposed=False),
        *linear("transformer.h.{}.mlp.c_proj", f"{FEEDFORWARD}/down", transposed=False),
        *norm("transformer.ln_f", "final_norm"),
        *linear("lm_head", "head"),
    ),
    keys={
        "vocab_size": "vocabulary",
        "n_layer": "depth",
        "n_embd": "width",
        "n_head": "heads",
        "n_inner": "feedforward",
        "tie_word_embeddings": "tied",
        "layer_norm_epsilon": "norm_epsilon",
        "resid_pdrop": "dropout",
        "embd_pdrop": "embedding_dropout",
    },
    fixed={"norm": "layer", "bias": True, "head_bias": False},
    absent={
        "n_inner": None,
        "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
    },
    activations=GELUS,
    activation_key="activation_function",
    only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    rows_key="n_positions",
    length_key="n_positions",
    ignored=frozenset({"n_ctx", "attn_pdrop", "reorder_and_upcast_attn", "summary_type", "summary_use_proj"})
    | {"summary_activation", "summary_first_dropout", "summary_proj_to_labels"},
    prefix="transformer.",
    buffers=r"\battn\.(masked_)?bias$",
)

# The first that expresses a model of ours is the one that it is exported as.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.model_type: family for family in (LLAMA, QWEN2, MISTRAL, PHI3, PHI, GPT_NEOX, GPT2)}
)
