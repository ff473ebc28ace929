"""Sampling against other programs: 64 prompts of 64 tokens, 128 new ones each, a decoder of 10.7M parameters.

Each side runs at both precisions and the faster one counts, in turns on one core; the clock is the processor time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scripts.peers.comparison import Comparison
from scripts.peers.environments import ENVIRONMENTS, python_of
from scripts.peers.memory import BYTES
from scripts.peers.products import FLOPS
from scripts.peers.race import Side, Taken, race, ratio
from scripts.peers.shapes import SAMPLING
from tasks.task import Claim

ROUNDS, SLICE = 3, 0.0  # a slice is one batch
CPU = {"JAX_PLATFORMS": "cpu"}
PRECISIONS = {"float32": 4, "bfloat16": 2}  # bytes of a number
PEERS = {"transformers": "torch", "litgpt": "litgpt"}  # -> environment
BARS = {"transformers": 1.7, "litgpt": 1.5}


def decoding(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Measure every side at every precision, and what the machine's products and memory allow."""
    sides = {
        f"ours_{precision}": Side("scripts.peers.our_sampling", {"precision": precision}, env=CPU)
        for precision in PRECISIONS
    }
    for peer, environment in PEERS.items():
        python = python_of(environment, peers)
        for precision in PRECISIONS:
            sides[f"{peer}_{precision}"] = Side(f"scripts.peers.{peer}_sampling", {"precision": precision}, python)
    taken, floor = race(sides, 1, SLICE, ROUNDS), floors()
    figures: dict[str, float] = {}
    for name, each in taken.items():
        seconds = min(each.slices("cpu"))
        figures[f"{name}_tokens_per_second"] = SAMPLING.batch * SAMPLING.new / seconds
        figures[f"{name}_mb"] = each.facts["peak_memory"] / 1e6
        figures[f"{name}_first_batch"] = each.facts["first_step"]
    for precision, least in floor.items():
        mine = taken[f"ours_{precision}"]
        seconds = min(mine.slices("cpu"))
        figures[f"{precision}_compile"] = mine.facts["first"] - min(mine.slices("wall"))
        figures[f"{precision}_floor"] = least
        figures[f"{precision}_gap"] = seconds / least
    for peer in PEERS:
        figures |= ratio(taken[f"{peer}_float32"], taken["ours_float32"]).figures(f"{peer}_float32_ratio")
        figures |= ratio(fastest(peer, taken), fastest("ours", taken)).figures(f"{peer}_ratio")
    return figures


def fastest(side: str, taken: Mapping[str, Taken]) -> Taken:
    """Return what a side took at the precision where it takes least."""
    return min((taken[f"{side}_{precision}"] for precision in PRECISIONS), key=lambda each: min(each.slices("cpu")))


def floors() -> dict[str, float]:
    """Return the least seconds by precision: all products at the machine's best, then all caches read once."""
    sides = {
        precision: Side("scripts.peers.products", {"library": "jax", "precision": precision}, env=CPU)
        for precision in PRECISIONS
    }
    taken = race({**sides, "memory": Side("scripts.peers.memory", {})}, 1, 1.0, 3)
    best = {name: min(each.slices("cpu")) for name, each in taken.items()}
    return {
        precision: SAMPLING.flops / FLOPS * best[precision] + SAMPLING.cached * size / BYTES * best["memory"]
        for precision, size in PRECISIONS.items()
    }


def pinned(peer: str) -> str:
    """Return a peer with its version."""
    return next(pin for pin in ENVIRONMENTS[PEERS[peer]].pins if pin.startswith(peer))


DECODING = Comparison(
    "speed_decoding",
    "Sampling against other programs",
    tuple(
        Claim(
            "",
            f"64 prompts of 64 tokens, 128 new tokens each, 10.7M parameters, against {pinned(peer)}, each side at its "
            "faster precision: ratio of processor time",
            f"{peer}_ratio",
            at_least=bar,
        )
        for peer, bar in BARS.items()
    ),
    decoding,
)
