"""Tiny models of every family here and in `transformers`: scores, greedy texts, exported folders, tokenizers.

Needs the extra `parity`. `reference` asks the other library, `ours` this one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.exits import UserError
from tasks.interop.tiny import TINY, tokens, write_tiny
from tasks.task import Claim, Experiment

NEW = 12  # tokens of a greedy text
NOWHERE = -1  # a stop token that no model takes

TEXTS = (
    "def solution():\n    apples_2 = 3 * (12 + 405)\n    return apples_2  # 1251\n\n",
    "Ann has 12 apples,\tand  Bob (who is 9½) has  none…\r\n   How many?",
    "naïve Ωmega ١٢٣ 中文字 こんにちは e\u0301 🙂👍🏽 x²+Ⅻ a\u00a0b \x1c \x85\u2028end",
    "<|eos|> is no end here, nor is <|bos|><|code|>",
    " ",
    "\n\n    \n",
)


class Told(NamedTuple):
    """What a model says of tokens [B, L]: scores [B, L, V], and the greedy text behind them [B, NEW]."""

    logits: np.ndarray
    text: np.ndarray


def reference(folder: Path, tokens_BL: np.ndarray) -> Told:
    """Return what `transformers` makes of a folder in float32; UserError where it is not installed."""
    transformers = load_transformers()
    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32", output_loading_info=True)
    wrong = {name: found for name, found in report.items() if found}
    if wrong:
        raise UserError(f"transformers does not take the tensors of {folder.name} as they are: {wrong}")
    given = transformers.BatchEncoding({"input_ids": tokens_BL}, tensor_type="pt")
    given["attention_mask"] = given["input_ids"] * 0 + 1
    texts = model.generate(**given, max_new_tokens=NEW, do_sample=False, pad_token_id=0, eos_token_id=None)
    return Told(model(**given).logits.detach().numpy(), texts.numpy()[:, tokens_BL.shape[1] :])


def load_transformers() -> Any:
    """Return the library, made quiet; UserError where it or its PyTorch is not installed."""
    try:
        import transformers
    except ImportError:
        raise UserError("the comparison with transformers needs the extra `parity`") from None
    if not transformers.is_torch_available():
        raise UserError("the comparison with transformers needs PyTorch, which the extra `parity` brings")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def ours(folder: Path, tokens_BL: np.ndarray) -> Told:
    """Return what this library makes of a folder in float32."""
    import jax
    import jax.numpy as jnp

    from lm.decode import sample
    from lm.interop import load_model
    from lm.models import build
    from lm.types import Batch

    config, params = load_model(folder)
    net = build(config)
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    batch = Batch(jnp.asarray(tokens_BL), None, None, positions_BL, {})  # type: ignore[arg-type]
    logits_BLV = jax.jit(lambda params: net.apply(params, batch).logits)(params)
    found = sample(net, params, tokens_BL.tolist(), max_new=NEW, stop=NOWHERE, key=jax.random.key(0))
    return Told(np.asarray(logits_BLV), found.tokens[:, 0])


def compare(name: str, folder: Path) -> dict[str, float]:
    """Return how far a tiny model is from itself in the other library, as it came and exported again."""
    from lm.interop import export_model, load_model

    write_tiny(name, folder / "theirs")
    export_model(*load_model(folder / "theirs"), folder / "again", tokenizer_from=folder / "theirs")
    told, expected = ours(folder / "theirs", tokens()), reference(folder / "theirs", tokens())
    again = reference(folder / "again", tokens())
    return {
        "error": float(np.abs(told.logits - expected.logits).max()),
        "again": float(np.abs(again.logits - expected.logits).max()),
        "texts": float((told.text != expected.text).sum() + (again.text != expected.text).sum()),
    }


def compare_own(folder: Path) -> dict[str, float]:
    """Return how far a model and a codec of ours are from themselves in the other library."""
    import jax

    from lm.config import TransformerConfig
    from lm.data.codec import Codec
    from lm.interop import export_model
    from lm.models import build

    codec = Codec.train(TEXTS, 300)
    config = TransformerConfig(codec.vocabulary, width=24, kv_heads=2, activation="swiglu", initialisation="lecun")
    export_model(config, build(config).init(jax.random.key(0)), folder, tokenizer_from=codec)
    tokenizer = load_transformers().AutoTokenizer.from_pretrained(folder)
    prompt_1L = np.asarray([[codec.bos, *codec.encode(TEXTS[0])]])
    told, expected = ours(folder, prompt_1L), reference(folder, prompt_1L)
    ids = [tokenizer(text).input_ids for text in TEXTS]
    back = tokenizer.decode(expected.text[0], skip_special_tokens=True) == codec.decode(told.text[0])
    return {
        "own_error": float(np.abs(told.logits - expected.logits).max()),
        "own_texts": float((told.text != expected.text).sum() + (not back)),
        "own_tokens": float(sum(a != codec.encode(b) for a, b in zip(ids, TEXTS, strict=True))),
    }


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Compare every tiny model and one of our own; the largest figure of each kind in each family."""
    found = {name: compare(name, workdir / str(i)) for i, name in enumerate(TINY)}
    families = {settings["model_type"] for settings in TINY.values()}
    of = {family: [name for name in TINY if TINY[name]["model_type"] == family] for family in families}
    return {
        **{f"error@{family}": max(found[name]["error"] for name in names) for family, names in of.items()},
        "again": max(each["again"] for each in found.values()),
        "texts": sum(each["texts"] for each in found.values()),
        **compare_own(workdir / "own"),
    }


def _claim(statement: str, metric: str, bar: float) -> Claim:
    return Claim("", statement, metric, at_most=bar, exact=True)


NAMES = {
    "llama": "Llama (grouped heads, tied or not, frequencies scaled as in Llama 3)",
    "mistral": "Mistral (with a window and without)",
    "qwen2": "Qwen2 (biases on queries, keys and values)",
    "phi": "Phi (parallel, one norm, part of each head rotated)",
    "phi3": "Phi-3 (fused projections, a window, LongRoPE below and above its first length)",
    "gpt_neox": "GPT-NeoX (parallel with two norms, and in turn)",
    "gpt2": "GPT-2 (learned positions)",
}
INTEROP = Experiment(
    "interop",
    "Models of Hugging Face, in and out",
    (
        *(
            _claim(f"{said}: largest difference of a score from `transformers`, float32", f"error@{family}", 1e-4)
            for family, said in NAMES.items()
        ),
        _claim("Imported and exported again: largest difference of a score, all in `transformers`", "again", 0.0),
        _claim("Tokens that differ between greedy texts here, there, and there after export", "texts", 0.0),
        _claim("A model of ours, exported: largest difference of a score from `transformers`", "own_error", 1e-4),
        _claim("Tokens of its greedy text that differ from those of `transformers`", "own_texts", 0.0),
        _claim("Texts that its codec, exported, encodes otherwise in AutoTokenizer", "own_tokens", 0.0),
    ),
    run,
)
