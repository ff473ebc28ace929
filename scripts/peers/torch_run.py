"""A peer: a whole run in PyTorch, from the start of the process to the figures of a test.

Settings: shape (the fields of one), steps, seed, ignore (of the training strings), tests (percentages of ignores),
count (strings of each test). It learns what a flip-flop automaton holds: inputs 0, 1 and 2, which changes nothing.
"""

from __future__ import annotations

import json

import torch
from torch import nn

from scripts.peers.serve import cores, settings
from scripts.peers.shapes import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Shape
from scripts.peers.torch_step import Decoder


def strings(count: int, length: int, percent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets: at every place the bit written last."""
    bits = torch.randint(0, 2, (count, length))
    written = torch.rand(count, length) >= percent / 100
    written[:, 0] = True
    latest = torch.where(written, torch.arange(length), 0).cummax(dim=1).values
    return torch.where(written, bits, 2), bits.gather(1, latest)


def main(shape: Shape, steps: int, seed: int, ignore: int, tests: list[int], count: int) -> None:
    """Train and test."""
    torch.set_num_threads(cores())
    torch.manual_seed(seed)
    model = Decoder(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    for _ in range(steps):
        loss = model(*strings(shape.batch, shape.length, ignore))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        losses = {percent: model(*strings(count, shape.length, percent)).item() for percent in tests}
    print(json.dumps({"loss": loss.item(), "tests": losses}))


if __name__ == "__main__":
    given = settings()
    main(Shape(**given.pop("shape")), **given)
