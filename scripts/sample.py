"""Continue a prompt with the newest checkpoint of a run, one candidate a line."""

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
    workdir: Path
    prompt: str  # a question, or tokens as show_task.py writes them
    candidates: int = 1
    temperature: float = 0.0  # 0 takes the likeliest token every time
    top_k: int | None = None
    top_p: float | None = None
    length: int = 160  # most tokens of a candidate
    seed: int = 0


def main(argv: list[str]) -> None:
    options = parse(Options, argv, "sample.py", __doc__)
    if options.candidates > 1 and options.temperature == 0:
        raise UserError("all candidates are equal at temperature 0; give --temperature 0.8, say")
    import jax

    from lm.decode import sample
    from lm.trained import load
    from scripts.runs import read_recipe

    recipe, net, source, params, _ = load(read_recipe(options.workdir), options.workdir)
    codec, task = source.codec, recipe.task
    if codec is None:
        positions_L = task.test_example(jax.random.key(0), 0, task.test_sizes[0]).positions
        if positions_L.tolist() != list(range(len(positions_L))):
            raise UserError(f"{task.name} numbers its positions in its own way, which a prompt cannot say")
    prompts = [source.prompt(options.prompt)]
    found = sample(
        net,
        params,
        prompts,
        max_new=options.length,
        stop=-1 if codec is None else codec.eos,
        key=jax.random.key(options.seed),
        **{name: getattr(options, name) for name in ("candidates", "temperature", "top_k", "top_p")},
    )
    for tokens_L, length in zip(found.tokens[0], found.lengths[0], strict=True):
        tokens = tokens_L[:length].tolist()
        print(task.spell(tokens) if codec is None else codec.decode(t for t in tokens if t < codec.vocabulary))


if __name__ == "__main__":
    main_guard(main)
