"""Growth and majority kernels together, as a user runs them: killed, moved to another mesh, collapsed, examined."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.measure import command, killed, largest_difference
from tasks.task import Claim, Experiment

RECIPE = "tinygsm_grown_cpu"
MESH = ("--mesh.fsdp", 2, "--mesh.tensor", 2)
MOVED = 400  # the first growth of 2000 steps is at 333, so the run moves behind it
SHORT = 12  # steps over which rounding stays small; growths at 2 and 6


def growth(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train the recipe through a kill and two moves, export it, and examine run and export; check short runs too."""
    train = ("scripts/train.py", RECIPE, f"--train.seed={seed}", f"--data.seed={seed}")
    run, plain = workdir / "run", workdir / "plain"
    whole = (*train, "--train.save_every=50", "--workdir", run)
    kills = killed(random.Random(seed), [sys.executable, *map(str, whole)], times=2)
    command(*whole[:-2], *MESH, "--until", MOVED, *whole[-2:], devices=8)
    command(*whole)
    command("scripts/export.py", "--workdir", run, "--out", plain)
    examined, exported = (evaluation(folder) for folder in (run, plain))
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {
        "kills": kills,
        "execution_accuracy": exported["metrics"]["execution_accuracy"]["value"],
        "new_skeleton_accuracy": exported["metrics"]["new_skeleton_accuracy"]["value"],
        "export_agrees": float(examined == exported),
        "compute": summary["flops"] / summary["flops_full_depth"],
        "moved_difference": moved(workdir, train),
    }


def moved(workdir: Path, train: tuple[object, ...]) -> float:
    """Return the largest difference of a weight between a run that moves across both growths and one that stays."""
    few = ("--data.problems=200", "--task.test_count=4", f"--train.steps={SHORT}")
    here, there = workdir / "here", workdir / "there"
    command(*train, *few, "--workdir", here)
    command(*train, *few, "--until", 2, "--workdir", there)
    command(*train, *few, *MESH, "--until", 8, "--workdir", there, devices=8)
    command(*train, *few, "--workdir", there)
    return largest_difference(weights(here), weights(there))


def weights(folder: Path) -> Any:
    """Return the settled weights of a run."""
    import jax

    from lm.trained import load
    from scripts.runs import read_recipe

    return jax.device_get(load(read_recipe(folder), folder).params)


def evaluation(folder: Path) -> dict[str, Any]:
    """Return what evaluate.py prints of a run."""
    done = subprocess.run(
        [sys.executable, "scripts/evaluate.py", "--workdir", str(folder)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


GROWTH = Experiment(
    "growth",
    "Growth and majority kernels together",
    (
        Claim(
            "",
            "A decoder grown from 1 to 3 layers with 3 copies of each kernel, killed twice with -9, moved to 8 devices "
            "and back, collapsed: held-out problems solved",
            "execution_accuracy",
            at_least=0.90,
        ),
        Claim("", "The same on problems of skeletons never trained on", "new_skeleton_accuracy", at_least=0.60),
        Claim("", "The exported plain model has the figures of the run", "export_agrees", 1.0, rule="worst"),
        Claim("", "Operations against training at full depth", "compute", at_most=0.80, rule="worst"),
        Claim(
            "",
            f"{SHORT} steps across two growths, moved to 8 devices and back: largest difference of a weight",
            "moved_difference",
            at_most=1e-5,
            rule="worst",
        ),
    ),
    growth,
)
