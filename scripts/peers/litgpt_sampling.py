"""A peer: litgpt's model with its cache of keys and values, in a plain loop over a batch.

Settings: precision (of the whole model).
"""

from __future__ import annotations

import torch
from litgpt.config import Config
from litgpt.model import GPT

from scripts.peers.serve import settings
from scripts.peers.shapes import SAMPLING, Sampling
from scripts.peers.torch_sampling import serve_batches


def model_of(s: Sampling, precision: str) -> GPT:
    """Return the decoder with an empty cache."""
    kinds = {"norm_class_name": "LayerNorm", "mlp_class_name": "GptNeoxMLP", "rotary_percentage": 1.0}
    config = Config(
        name="sampling",
        block_size=s.prompt + s.new,
        vocab_size=s.vocabulary,
        padded_vocab_size=s.vocabulary,
        n_layer=s.depth,
        n_head=s.heads,
        n_embd=s.width,
        intermediate_size=4 * s.width,
        parallel_residual=False,
        bias=False,
        **kinds,
    )
    model = GPT(config).to(getattr(torch, precision)).eval()
    model.set_kv_cache(batch_size=s.batch, max_seq_length=s.prompt + s.new, dtype=getattr(torch, precision))
    return model


def main(precision: str) -> None:
    """Build the model and serve batches."""
    s, model = SAMPLING, model_of(SAMPLING, precision)

    def sample(prompts: torch.Tensor) -> None:
        tokens, read = prompts, torch.arange(s.prompt)
        for _ in range(s.new):
            end = int(read[-1]) + 1
            logits = model(tokens, read, input_pos_maxp1=end)[:, -1]
            tokens = torch.multinomial(torch.softmax(logits.float(), dim=-1), 1)
            read = torch.tensor([end])

    serve_batches("litgpt", sample)


if __name__ == "__main__":
    main(**settings())
