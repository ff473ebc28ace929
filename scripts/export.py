"""Write the plain model of a run as a run folder of its own: settled weights, no transforms, no growth.

Kernels trained in several copies are collapsed, tied layers written out, averaged weights taken where a run keeps them.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import UserError, main_guard
from scripts.cli import parse


@dataclass(frozen=True)
class Options:
    workdir: Path  # run folder
    out: Path  # new folder, in the form of a run that evaluate.py and sample.py read


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "export.py", __doc__)
    import jax
    import jax.numpy as jnp

    from lm.checkpoint import Checkpoints
    from lm.report.folder import OWN_FILES, RunFolder
    from lm.strict import to_json
    from lm.train import prepare
    from lm.trained import load
    from scripts.runs import read_recipe

    if options.out.resolve().is_relative_to(options.workdir.resolve()):
        raise UserError(f"--out {options.out} lies in the run folder itself; name another folder")
    trained = load(read_recipe(options.workdir), options.workdir)
    train = dataclasses.replace(trained.recipe.train, ema=None)
    recipe = dataclasses.replace(trained.recipe, transforms=(), growth=None, train=train)
    with RunFolder(options.out, "never") as folder:
        shutil.copytree(options.workdir, options.out, ignore=shutil.ignore_patterns(*OWN_FILES), dirs_exist_ok=True)
        state = prepare(recipe, options.out).init()._replace(step=jnp.int32(trained.step), params=trained.params)
        folder.write_recipe(to_json(recipe))
        folder.stamp({"exported_from": str(options.workdir), "step": trained.step})
        checkpoints = Checkpoints(options.out / "checkpoints")
        checkpoints.save(trained.step, state, to_json(recipe))
        checkpoints.close()
        folder.status("done", step=trained.step)
    count = sum(x.size for x in jax.tree.leaves(trained.params))
    print(f"{count:,} parameters of step {trained.step} in {options.out}")


if __name__ == "__main__":
    main_guard(main)
