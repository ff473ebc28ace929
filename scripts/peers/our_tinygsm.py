"""Our side: programs sampled for word problems, run by the interpreter and graded.

Settings: run (folder of the generator), questions (file), candidates, temperature, longest, precision, seed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from lm.trained import load
from scripts.peers.serve import serve, settings, versions
from scripts.runs import read_recipe
from tasks.math.graded import Draw, Question, sample_graded


def main(
    run: str, questions: str, candidates: int, temperature: float, longest: int, precision: str, seed: int
) -> None:
    """Load the generator and serve passes over all questions."""
    recipe = read_recipe(Path(run))
    trained = load(replace(recipe, model=replace(recipe.model, products=precision)), Path(run))
    rows = json.loads(Path(questions).read_text(encoding="utf-8"))
    asked = [Question(row["question"], Fraction(row["answer"])) for row in rows]
    draws = [Draw(trained.step, temperature, candidates)]
    shares: list[float] = []

    def step() -> int:
        graded = sample_graded(lambda _: trained, asked, draws, longest, seed=1000 * seed + len(shares))
        right = [candidate.right for each in graded for candidate in each.candidates]
        shares.append(sum(right) / len(right))
        return len(asked)

    serve(step, lambda: {"right": shares, "versions": versions("jax", "flax")})


if __name__ == "__main__":
    main(**settings())
