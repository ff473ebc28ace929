"""Look inside a trained transformer: what each head is worth, what can be read off each layer, where attention goes.

The pictures go into the report of the run: python scripts/look.py --workdir runs/flip_flop_attention_cpu
"""

from __future__ import annotations

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
    size: int | None = None  # of the test examples; the largest that training saw where none is given
    examples: int = 256
    maps: int = 8  # attention maps shown, of the heads that are worth most


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "look.py", __doc__)
    import jax

    from lm.look import look
    from lm.report.html import write_report
    from lm.report.pictures import add_pictures
    from lm.step import EVALUATE, purpose
    from lm.trained import load
    from scripts.runs import batch_of, read_recipe

    recipe = read_recipe(options.workdir)
    if type(recipe.model).__name__ != "TransformerConfig":
        raise UserError(
            f"{options.workdir} holds a {type(recipe.model).__name__}; only transformers have heads to look at"
        )
    if options.examples < 8 or options.maps < 0:
        raise UserError(f"--examples must be at least 8 and --maps at least 0, got {options.examples}, {options.maps}")
    recipe, _, source, params, step = load(recipe, options.workdir)
    key = purpose(jax.random.key(recipe.train.seed), EVALUATE)
    batch, spell = batch_of(recipe, source, key, options.size, options.examples)
    found, pictures = look(recipe.model, params, batch, key, spell, options.maps)
    print(f"step {step}: {found.accuracy:.1%} of the asked tokens right; lost without each head, points of 100:")
    for number, (lost_H, probe) in enumerate(zip(found.lost_NH, found.probes[1:], strict=True)):
        heads = " ".join(f"{100 * lost:6.2f}" for lost in lost_H)
        print(f"layer {number + 1}: {heads}   probe {probe.accuracy:.1%} (shuffled {probe.shuffled:.1%})")
    add_pictures(options.workdir, "Inside", pictures)
    print(f"report: {write_report(options.workdir)}")


if __name__ == "__main__":
    main_guard(main)
