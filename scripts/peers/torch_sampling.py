"""What peers in PyTorch that sample share: threads, prompts, a batch after the other.

serve_batches("litgpt", lambda prompts: ...)      # takes prompts [batch, prompt], samples a batch
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from scripts.peers.serve import cores, serve, versions
from scripts.peers.shapes import SAMPLING


def serve_batches(library: str, sample: Callable[[torch.Tensor], Any]) -> None:
    """Serve batches of random prompts; `library` is said beside PyTorch."""
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    prompts = torch.randint(0, SAMPLING.vocabulary, (SAMPLING.batch, SAMPLING.prompt))

    @torch.inference_mode()
    def step() -> int:
        sample(prompts)
        return 1

    serve(step, lambda: {"versions": versions("torch", library)})
