"""A peer: `generate` of transformers, with a model of its own of the same sizes.

Settings: precision (of the whole model).
"""

from __future__ import annotations

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from scripts.peers.serve import settings
from scripts.peers.shapes import SAMPLING, Sampling
from scripts.peers.torch_sampling import serve_batches


def model_of(s: Sampling, precision: str) -> GPTNeoXForCausalLM:
    """Return the decoder: of those with rotary positions and a plain feed-forward net, the fastest that it has."""
    sizes = {"hidden_size": s.width, "num_hidden_layers": s.depth, "num_attention_heads": s.heads}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = GPTNeoXConfig(
        vocab_size=s.vocabulary,
        intermediate_size=4 * s.width,
        max_position_embeddings=s.prompt + s.new,
        use_parallel_residual=False,
        tie_word_embeddings=True,
        **sizes,
        **ids,
    )
    return GPTNeoXForCausalLM(config).to(getattr(torch, precision)).eval()


def main(precision: str) -> None:
    """Build the model and serve batches."""
    s, model = SAMPLING, model_of(SAMPLING, precision)
    options = {"max_new_tokens": s.new, "min_new_tokens": s.new, "do_sample": True, "top_k": 0}

    def sample(prompts: torch.Tensor) -> None:
        found = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)
        assert found.shape == (s.batch, s.prompt + s.new)

    serve_batches("transformers", sample)


if __name__ == "__main__":
    main(**settings())
