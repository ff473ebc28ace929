"""What a verifier gains over greedy decoding, over chance and over a vote, and what a round of self-training does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lm.config import Recipe, TrainConfig
from lm.strict import override
from lm.train import fit
from tasks.math.duo import Duo, Generator, questions, run_duo
from tasks.math.graded import Draw, sample_graded
from tasks.math.recipes import tinygsm_cpu
from tasks.math.self_training import Round, run_round
from tasks.task import Claim, Experiment

PAPER = "TinyGSM (Liu et al. 2023)"
FIRST, EVERY = 250, 25  # steps of the generator after which it is looked at
ENOUGH = 0.5  # greedy accuracy at which it stops
LONGEST = 96  # tokens of a program
LOOKS = 150  # questions that this is measured on; the verifier trains on them later


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train a generator until half of its greedy programs are right, then a verifier; let it learn from its samples."""
    settings = {"train.seed": seed, "data.seed": seed, "data.problems": 16_000, "task.test_count": 300}
    recipe = override(tinygsm_cpu(), settings | {"train.save_every": EVERY, "train.keep": 2})
    folder = workdir / "generator"
    steps = early(recipe, folder, Duo())
    duo = Duo(
        temperatures=(0.8,),
        steps=steps,
        longest=LONGEST,
        held_out=100,
        seed=seed,
        train=TrainConfig(steps=200, batch_size=16, save_every=50, seed=seed),
    )
    summary = run_duo(recipe, folder, workdir / "duo", duo, quiet=True)
    figures = {name: rate["value"] for name, rate in summary["metrics"].items()}
    for name in ("gain_over_majority", "gain_over_greedy"):
        figures |= {f"{name}_{end}": summary["metrics"][name][end] for end in ("low", "high")}
    curve = summary["slices"]["candidates"]
    figures |= {
        f"{rule}@{count}": curve[count][rule]["value"] for count in ("4", "8") for rule in ("verifier", "oracle")
    }
    figures["between"] = float(figures["random"] <= figures["verifier"] <= figures["oracle"])

    train = TrainConfig(steps=150, batch_size=16, seed=seed)
    round_ = Round(temperatures=(0.8,), steps=steps, longest=LONGEST, seed=seed, problems=0, train=train)
    learned = run_round(recipe, folder, workdir / "duo", round_, quiet=True)
    for when in ("before", "after"):
        figures[f"self_training_{when}"] = learned[when]["execution_accuracy"]["value"]
        figures[f"self_training_new_skeleton_{when}"] = learned[when]["new_skeleton_accuracy"]["value"]
    return figures | {"generator_step": steps[-1], "verifier_step": summary["step"], "programs": learned["programs"]}


def early(recipe: Recipe, folder: Path, duo: Duo) -> tuple[int, int]:
    """Train until half of the greedy programs are right and return the last two checkpoints."""
    asked = questions(recipe, duo)[0][:LOOKS]
    for step in range(FIRST, recipe.train.steps + 1, EVERY):
        fit(recipe, folder, until=step, quiet=True)
        generator = Generator(recipe, folder)
        rows = sample_graded(generator.at, asked, [Draw(step, 0.0, 1)], duo.longest, duo.seed)
        if sum(row.candidates[0].right for row in rows) >= ENOUGH * LOOKS:
            break
    return step - EVERY, step


TINYGSM_VERIFIER = Experiment(
    name="tinygsm_verifier",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "The generator is an early checkpoint: greedy accuracy of at least 40 % on 300 held-out problems",
            "greedy",
            at_least=0.40,
            rule="worst",
        ),
        Claim(PAPER, "and of at most 75 %", "greedy", at_most=0.75, rule="worst"),
        Claim(
            PAPER,
            "The verifier's choice among 16 programs sampled at temperature 0.8 beats greedy decoding: points gained",
            "gain_over_greedy",
            at_least=0.05,
            paper_value="(125M on GSM8K, 48 samples: 63.1 to 68.9)",
        ),
        Claim(PAPER, "It beats a random one of the 16: points gained", "gain_over_random", at_least=0.08),
        Claim(PAPER, "Area under the ROC curve of its scores over all candidates", "auroc", at_least=0.75),
        Claim(
            PAPER,
            "Its accuracy lies between that of a random program and that of the best one (pass@1 and pass@16)",
            "between",
            at_least=1.0,
            rule="worst",
        ),
    ),
    run=run,
)
