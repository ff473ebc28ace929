"""What scripts/bench.py measures: speed as ratios within one run, and what faults and other machines change.

Each is an experiment whose seeds are repetitions.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench_decode import DECODING
from scripts.bench_generators import GENERATORS
from scripts.bench_growth import GROWTH
from scripts.bench_layouts import LAYOUTS_BENCH
from scripts.bench_population import POPULATION
from scripts.bench_save import SAVE
from scripts.bench_start import START
from scripts.bench_step import CORES, JAX_FASTEST, STEP, STEP_JAX
from scripts.bench_tinygsm import TINYGSM
from scripts.bench_transforms import MAJORITY
from scripts.measure import command, killed, largest_difference
from tasks.task import Claim, Experiment

RECIPE = "flip_flop_attention_cpu"


def imports(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Time imports in fresh interpreters, above the start of one."""

    def start(code: str) -> float:
        return median(_python(code) for _ in range(5))

    bare = start("pass")
    return {f"import_{name}": start(f"import {name}") - bare for name in ("lm", "tasks")}


def _python(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def faults(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Compare the final weights of an uninterrupted run with those of one killed, one moved and one split."""
    import jax

    from lm.trained import load
    from scripts.runs import read_recipe

    def weights(name: str) -> Any:
        return jax.device_get(load(read_recipe(workdir / name), workdir / name).params)

    def train(name: str, steps: int, *more: object) -> tuple[object, ...]:
        numbers = (f"--train.steps={steps}", f"--train.seed={seed}", "--train.save_every=25")
        return ("scripts/train.py", RECIPE, *numbers, *more, "--workdir", workdir / name)

    command(*train("straight", LONG))
    kills = killed(random.Random(seed), [sys.executable, *map(str, train("killed", LONG))])
    command(*train("killed", LONG))
    command(*train("short", SHORT))
    command(*train("moved", SHORT, "--mesh.fsdp", 2, "--mesh.tensor", 2, "--until", SHORT // 2), devices=8)
    command(*train("moved", SHORT))
    launch = (sys.executable, "tpu/launch.py", "--local", "2", "--")
    command(*train("split", SHORT, "--mesh.fsdp", 2), launch=launch)
    short = weights("short")
    return {
        "kills": kills,
        "killed_difference": largest_difference(weights("killed"), weights("straight")),
        "moved_difference": largest_difference(weights("moved"), short),
        "split_difference": largest_difference(weights("split"), short),
    }


LONG, SHORT = 200, 20  # steps; rounding differs across devices and grows tenfold every 40 steps or so
SPEED = (
    Claim("", "Seconds to import lm, above the interpreter's own start", "import_lm", at_most=0.2),
    Claim("", "Seconds to import tasks, likewise", "import_tasks", at_most=0.2),
)
FAULTS = (
    Claim(
        "",
        f"Killed with -9 three times in {LONG} steps and resumed: largest difference of a weight",
        "killed_difference",
        at_most=0.0,
        rule="worst",
    ),
    Claim(
        "",
        f"Half of {SHORT} steps on 8 devices, half on one: largest difference of a weight from one device",
        "moved_difference",
        at_most=1e-5,
        rule="worst",
    ),
    Claim(
        "",
        f"{SHORT} steps as two processes with gloo: largest difference of a weight from one process",
        "split_difference",
        at_most=1e-5,
        rule="worst",
    ),
)
BENCHES = {
    "speed": Experiment("speed", "Speed", SPEED, imports),
    "faults": Experiment("faults", "Faults and other machines", FAULTS, faults),
    "majority": MAJORITY,
    "growth": GROWTH,
    "generators": GENERATORS,
    "layouts": LAYOUTS_BENCH,
    "speed_population": POPULATION,
    "speed_decoding": DECODING,
    "speed_save": SAVE,
    "speed_start": START,
    "speed_step": STEP,
    "speed_step_cores": CORES,
    "speed_step_jax": STEP_JAX,
    "speed_step_jax_fastest": JAX_FASTEST,
    "speed_tinygsm": TINYGSM,
}
