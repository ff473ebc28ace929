"""Generator and verifier as a duo: sample programs, grade them, train a verifier on the grades, choose by it.

    run_duo(generator, generator_folder, workdir, Duo(steps=(300, 400)))

Liu et al. 2023, arXiv 2312.09241, section 4. Every stage leaves a file or a run folder in `workdir`, complete or
absent; one that is there is used again if it was made from the same inputs, and refused if not:

    train.jsonl, held_out.jsonl    graded samples; the verifier is trained on the one and stopped by the other
    test.jsonl                     graded samples to choose from, and what greedy decoding says
    verifier/                      the verifier's run
    summary.json, report.html      every rule over the number of candidates, AUROC, calibration
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm.checkpoint import MANIFEST
from lm.config import OptimizerConfig, Recipe, TrainConfig
from lm.files import write_rows
from lm.report.folder import RunFolder
from lm.report.html import write_report
from lm.report.writer import METRICS, read_rows
from lm.strict import ConfigError, require_positive
from lm.train import fit
from lm.trained import Trained, load
from lm.transforms import value_row
from tasks.math import gsm8k
from tasks.math.data import held_out
from tasks.math.graded import Draw, Graded, Question, keep, read_graded, sample_graded, shares
from tasks.math.selection import best, selection
from tasks.math.tinygsm import TinyGSM
from tasks.math.verifier import HELD_OUT, TRAIN, examples, judge, verifier_recipe

TEST = "test.jsonl"


@dataclass(frozen=True)
class Sampling:
    """What is sampled: `samples` programs a question, in equal shares from checkpoints and temperatures.

    The questions are none that the generator is tested on: new ones of its own kind, or GSM8K's training set.
    """

    questions: int = 1000  # to train the verifier on, or to learn from
    samples: int = 16  # programs a question
    temperatures: tuple[float, ...] = (0.5, 0.7, 0.8)
    steps: tuple[int, ...] = ()  # of the generator's checkpoints, the one that is used last; () the newest
    longest: int = 160  # tokens of a program
    gsm8k: str | None = None  # folder with train.jsonl and test.jsonl
    seed: int = 0

    def __post_init__(self):
        for name in ("questions", "samples", "longest"):
            require_positive(name, getattr(self, name))
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ConfigError(f"temperatures must be positive numbers, at least one, got {self.temperatures}")


@dataclass(frozen=True)
class Duo(Sampling):
    """How a verifier is trained and tested. It is evaluated on held-out questions at every save, and the best kept."""

    held_out: int = 150  # questions
    test: int = 300  # questions
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=3e-4, warmup_steps=20, beta2=0.98, final_fraction=0.01)
    )
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=300, batch_size=16, save_every=100))

    def __post_init__(self):
        super().__post_init__()
        for name in ("held_out", "test"):
            require_positive(name, getattr(self, name))


class Generator:
    """A trained run that writes programs, at any of its checkpoints."""

    def __init__(self, recipe: Recipe, folder: Path, steps: Sequence[int] = ()):
        if not isinstance(recipe.task, TinyGSM):
            raise ConfigError(f"the generator must be a run of tinygsm, {folder} holds one of {recipe.task.name}")
        self.recipe, self.folder = recipe, folder
        self.last = load(recipe, folder, steps[-1] if steps else None)
        self.steps = tuple(steps) or (self.last.step,)

    def at(self, step: int) -> Trained:
        """Return a checkpoint; those of one model share the net, and with it what was compiled."""
        if step == self.last.step:
            return self.last
        found = load(self.recipe, self.folder, step)
        return found._replace(net=self.last.net) if found.recipe.model == self.last.recipe.model else found

    def digests(self, draws: Sequence[Draw]) -> list[str]:
        """Return what tells the weights behind draws from all others."""
        manifests = (self.folder / "checkpoints" / str(draw.step) / MANIFEST for draw in draws)
        return [hashlib.sha256(manifest.read_bytes()).hexdigest() for manifest in manifests]


def questions(recipe: Recipe, sampling: Sampling, further: int = 0, test: int = 0) -> list[list[Question]]:
    """Return the questions to sample for, `further` ones to hold out and `test` ones; no two lists share one."""
    wanted = sampling.questions + further
    if sampling.gsm8k is not None:
        pool, tested = ([Question(q.question, q.answer) for q in items] for items in gsm8k.load(sampling.gsm8k))
    else:
        own = recipe.task.test_count
        spare = wanted // 4 + 10  # questions of one step come twice at times
        (made,) = held_out(recipe.data, recipe.task.settings, own + wanted + spare, ["in_distribution"]).values()
        asked = [Question(p.question, p.answer) for p in made]
        tested, pool = asked[:own], asked[own:]
    texts = {q.text for q in tested}
    pool = list({q.text: q for q in pool if q.text not in texts}.values())
    for name, count, there in (("questions and held_out together", wanted, len(pool)), ("test", test, len(tested))):
        if count > there:
            raise ConfigError(f"{name} must be at most {there}, got {count}")
    return [pool[: sampling.questions], pool[sampling.questions : wanted], tested[:test]]


def grade_all(
    generator: Generator, sampling: Sampling, asked: Sequence[Question], draws: Sequence[Draw], path: Path
) -> list[Graded]:
    """Return graded samples of the draws for all questions, sampled into a file unless it is there."""
    inputs = {
        "questions": hashlib.sha256(repr(asked).encode()).hexdigest(),
        "draws": draws,
        "weights": generator.digests(draws),
        "longest": sampling.longest,
        "seed": sampling.seed,
    }

    def make() -> Iterator[dict[str, Any]]:
        rows = sample_graded(generator.at, asked, draws, sampling.longest, sampling.seed)
        return (row.record() for row in rows)

    keep(path, inputs, make)
    return read_graded(path)


def run_duo(recipe: Recipe, folder: Path, workdir: Path, duo: Duo, quiet: bool = False) -> dict[str, Any]:
    """Take a trained generator through all stages and return the summary."""
    generator = Generator(recipe, folder, duo.steps)
    train, held, test = questions(recipe, duo, duo.held_out, duo.test)
    mixed = shares(generator.steps, duo.temperatures, duo.samples)
    own = shares(generator.steps[-1:], duo.temperatures, duo.samples)
    with RunFolder(workdir) as mine:
        for name, asked in ((TRAIN, train), (HELD_OUT, held)):
            mine.status("running", stage=name)
            grade_all(generator, duo, asked, mixed, workdir / name)
        mine.status("running", stage=TEST)
        tested = grade_all(generator, duo, test, [*own, Draw(generator.steps[-1], 0.0, 1)], workdir / TEST)
        mine.status("running", stage="verifier")
        judging = verifier_recipe(generator.last.recipe, workdir, duo.optimizer, duo.train)
        begun = value_row(generator.last.params)
        summary = fit(judging, workdir / "verifier", quiet=quiet, initial=begun).summary
        verifier = load(judging, workdir / "verifier", best_step(workdir / "verifier"))
        scored = judge(verifier.net, verifier.params, tested)
        found = selection(scored)
        found.metrics["likelihood"] = best(judge(verifier.net, begun, tested))  # of the generator: before training
        summary |= {"recipe": judging.name, "step": verifier.step, **found.figures()}
        mine.stamp({"duo": asdict(duo), "generator": {"recipe": recipe.name, "steps": generator.steps}})
        mine.write_json("summary.json", summary)
        write_rows(mine.path("samples.jsonl"), examples(tested, scored))
        mine.status("done", step=verifier.step)
        write_report(workdir)
    return summary


def best_step(folder: Path) -> int:
    """Return the step of a verifier's run that ranked the held-out candidates best."""
    rows = [row for row in read_rows(folder / METRICS) if "test/auroc" in row]
    return int(max(rows, key=lambda row: row["test/auroc"])["step"])
