"""A peer: a plain PyTorch decoder with fused attention, written as nanoGPT is, and its training step.

Settings: shape, precision (float32; bfloat16: autocast), compiled (torch.compile).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (its usual name)

from scripts.peers.serve import cores, serve, settings, versions
from scripts.peers.shapes import BETAS, CLIP, LEARNING_RATE, SHAPES, WALK, WEIGHT_DECAY, Shape


class Block(nn.Module):
    """Attention and a feed-forward net, each behind a norm and around a residual stream."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads, width = shape.heads, shape.width
        self.norm_attention = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm_feedforward = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        q, k, v = (z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (q, k, v))
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(read.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_feedforward(x))))


class Decoder(nn.Module):
    """A decoder with learned positions and a tied head."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.length, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_stream = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.depth) ** 0.5 if into_stream else 0.02)

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embedding(inputs) + self.positions.weight[: inputs.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.norm(x), self.embedding.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def main(shape: Shape, precision: str, compiled: bool) -> None:
    """Build the model and its optimizer and serve."""
    torch.set_num_threads(cores())
    torch.manual_seed(0)
    model = Decoder(shape)
    decayed = [p for p in model.parameters() if p.dim() == 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
    loss_of = torch.compile(model) if compiled else model
    losses: list[float] = []

    def step() -> int:
        moves = torch.randint(0, WALK, (shape.batch, shape.length + 1))
        moves[:, 0] = torch.randint(0, shape.vocabulary, (shape.batch,))
        tokens = moves.cumsum(1) % shape.vocabulary
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        return 1

    serve(step, lambda: {"losses": losses[:16], "versions": versions("torch")})


if __name__ == "__main__":
    given = settings()
    main(SHAPES[given["shape"]], given["precision"], given["compiled"])
