"""A round of self-training: the generator's own right programs join its data, and it trains on.

    run_round(generator, generator_folder, workdir, Round(samples=16))

Rejection sampling as of Yuan et al. 2023 (arXiv 2308.01825): distinct programs that give the right answer, for
questions whose answers alone are known. Leaves train.jsonl (as tasks/math/duo.py does, and uses one that is there),
programs/data.jsonl (a TinyGSM set, rows {question, code}), round/ (the run) and self_training.json.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from lm.config import OptimizerConfig, Recipe, TrainConfig
from lm.files import write_rows
from lm.report.folder import RunFolder
from lm.step import EVALUATE, purpose
from lm.train import fit
from tasks.math.duo import Generator, Sampling, grade_all, questions
from tasks.math.graded import Graded, distinct, shares
from tasks.math.verifier import TRAIN


@dataclass(frozen=True)
class Round(Sampling):
    """How the generator trains on, from the weights that it has."""

    problems: int | None = None  # generated ones beside its own programs; None: as many as the generator had
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=1e-3, warmup_steps=20, beta2=0.98, final_fraction=0.01)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=200, batch_size=16))


def run_round(recipe: Recipe, folder: Path, workdir: Path, settings: Round, quiet: bool = False) -> dict[str, Any]:
    """Sample, keep what is right, train on; return the generator's figures before and after."""
    generator = Generator(recipe, folder, settings.steps)
    trained = generator.last
    asked = questions(recipe, settings)[0]
    draws = shares(generator.steps, settings.temperatures, settings.samples)
    with RunFolder(workdir) as mine:
        rows = right_programs(grade_all(generator, settings, asked, draws, workdir / TRAIN))
        write_programs(workdir / "programs" / "data.jsonl", rows)
        data = recipe.data
        problems = data.problems if settings.problems is None else settings.problems
        data = replace(data, problems=problems, programs=(*(data.programs or ()), str(workdir / "programs")))
        continued = Recipe(
            name=f"{recipe.name}_self_trained",
            task=recipe.task,
            data=data,
            model=trained.recipe.model,
            optimizer=settings.optimizer,
            train=settings.train,
            mesh=recipe.mesh,
        )
        run = workdir / "round"
        run.mkdir(exist_ok=True)
        if data.tokenizer is None:
            trained.source.codec.save(run / "codec.json")
        key = purpose(jax.random.key(recipe.train.seed), EVALUATE)
        before = trained.source.evaluate(trained.net, trained.params, key)
        after = fit(continued, run, quiet=quiet, initial=trained.params).evaluation
        figures = {name: result.figures()["metrics"] for name, result in (("before", before), ("after", after))}
        summary = {"questions": len(asked), "programs": len(rows), **figures}
        mine.write_json("self_training.json", summary)
        mine.status("done")
    return summary


def right_programs(rows: Iterable[Graded]) -> list[dict[str, str]]:
    """Return every distinct right program of every question as a row of a TinyGSM set."""
    return [
        {"question": row.question, "code": candidate.program}
        for row in rows
        for candidate in distinct(row.candidates)
        if candidate.right
    ]


def write_programs(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write a TinyGSM set, all of it or nothing."""
    path.parent.mkdir(exist_ok=True)
    write_rows(path, rows)
