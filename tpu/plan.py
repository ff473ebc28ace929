"""Plan a recipe for a topology that is not there: does it fit, how fast can it be at best.

python tpu/plan.py tinygsm_1300m_full --topology v5e:16x16 --mesh fsdp=64,tensor=4

A TPU's plan is compiled by its real compiler (extra `tpu`); that of GPUs, gpu:h100x8, is by a model.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.config import Recipe
from lm.exits import UserError, main_guard
from scripts.cli import parse_recipe

if TYPE_CHECKING:
    from tpu.planning.plans import Plan


@dataclass(frozen=True)
class Options:
    topology: str  # v5e:16x16, v5p:4x4x4,slices=2, gpu:h100x8
    mesh: str | None = None  # fsdp=64,tensor=4: axes that are not named are 1 (default: the recipe's)
    search: bool = False  # try the meshes and remat policies that make sense, and rank them
    compile: int | None = None  # plans to compile: 1, or the 3 best of a search; 0 leaves all to the model
    json: bool = False  # one JSON object a plan


def main(argv: list[str]) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is loaded: it would look for the hardware
    os.environ.pop("XLA_FLAGS", None)  # the TPU compiler ends the process at a flag that only CPUs know
    # What was compiled for devices that are not there cannot be read back, and a cache would try.
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if argv[:1] == ["--table"]:
        from tpu.planning.table import write

        write(argv[1:])
        return
    options, recipe = parse_recipe(Options, argv, "plan.py", __doc__)
    plans = make(options, recipe)
    if options.json:
        print("\n".join(json.dumps(asdict(each)) for each in plans))
    else:
        from tpu.planning.show import shown, table

        print(table(plans) if options.search else shown(plans[0]))


def make(options: Options, recipe: Recipe) -> list[Plan]:
    """Return the plan that is asked for, or all plans of a search."""
    from tpu.planning.chips import parse_topology
    from tpu.planning.plans import parse_mesh, plan
    from tpu.planning.search import search

    topology = parse_topology(options.topology)
    if options.mesh is not None:
        recipe = replace(recipe, mesh=parse_mesh(options.mesh))
    compiles = (3 if options.search else 1) if options.compile is None else options.compile
    if not topology.is_tpu:
        if options.compile:
            raise UserError(f"--compile {options.compile}: there is no compiler for {topology.name}, only the model")
        compiles = 0
    return search(recipe, topology, compiles) if options.search else [plan(recipe, topology, compiles > 0)]


if __name__ == "__main__":
    main_guard(main)
