"""Seconds from the start of a program to the end of its first training step: with nothing compiled before, and again.

Ours is `scripts/train.py`, its files, checks and checkpoints included; the peer is a plain PyTorch decoder. Programs
start one after the other, each first with an empty folder for what it compiles and then with that folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from lm.exits import Absent
from scripts.peers.comparison import Comparison
from scripts.peers.environments import ENVIRONMENTS, python_of
from scripts.peers.race import ROOT, Side, Worker
from scripts.peers.shapes import TINY
from tasks.task import Claim

RECIPE = "flip_flop_attention_cpu"
FLAGS: Mapping[str, object] = {
    "task.length": TINY.length,
    "model.vocabulary": TINY.vocabulary,
    "model.depth": TINY.depth,
    "model.width": TINY.width,
    "model.heads": TINY.heads,
    "model.bias": False,
    "model.tied": True,
    "model.positions": f"learned:rows={TINY.length}",
    "train.batch_size": TINY.batch,
    "train.log_every": 1,
    "until": 1,
}


def start(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Start ours and the peer, eager and compiled, twice each."""
    torch = python_of("torch", peers)
    compiled = workdir.absolute() / "compiled"
    figures: dict[str, float] = {}
    for turn in ("cold", "cached"):
        figures[f"ours_{turn}"] = ours(workdir / turn, compiled / "ours")
        for name in ("eager", "compiled"):
            said = {"shape": "tiny", "precision": "float32", "compiled": name == "compiled"}
            side = Side("scripts.peers.torch_step", said, torch, {"TORCHINDUCTOR_CACHE_DIR": str(compiled / "torch")})
            with Worker(name, side, len(os.sched_getaffinity(0))) as worker:
                figures[f"{name}_{turn}"] = worker.first_step
        figures[f"{turn}_ratio"] = figures[f"compiled_{turn}"] / figures[f"ours_{turn}"]
    return figures


def ours(workdir: Path, compiled: Path) -> float:
    """Return the seconds until `scripts/train.py` says the loss of its first step."""
    flags = [f"--{name}={value}" for name, value in {**FLAGS, "workdir": workdir}.items()]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(compiled)}
    begun, said = time.perf_counter(), ""
    line = [sys.executable, "scripts/train.py", RECIPE, *flags]
    with subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for said in run.stderr:
            if said.startswith("step 1/"):
                seconds = time.perf_counter() - begun
                run.stderr.read()
                return seconds
    raise Absent(f"{RECIPE} ended before its first step: {said.strip()}")


TORCH = f"{ENVIRONMENTS['torch'].pins[0]} with torch.compile"
FIRST = "From the start of the program to the end of its first step"
START = Comparison(
    "speed_start",
    "Time to the first step",
    (
        Claim("", f"{FIRST}, nothing compiled before: seconds", "ours_cold", at_most=9.0),
        Claim("", f"{FIRST}, with what an earlier start has compiled: seconds", "ours_cached", at_most=5.0),
        Claim("", f"{FIRST}, nothing compiled before, against {TORCH}: ratio", "cold_ratio", at_least=1.0),
        Claim("", f"{FIRST}, with what an earlier start has compiled, against {TORCH}: ratio", "cached_ratio", 1.0),
    ),
    start,
)
