"""The Phi recipe in small: text filters, a quality filter, and general text first against everything mixed all along.

The textbooks lie in openstax_stem, articles in asl_stem_wiki_fs, and GSM8K, whose test no text may hold, in gsm8k.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.config import Recipe
from lm.strict import override
from lm.train import Result, fit
from tasks.stem.text import stem_cpu, stem_phases_cpu, uniform
from tasks.task import Claim, Experiment

PAPER = "Phi-3 and Phi-4 (Abdin et al. 2024)"
FOLDER = Path("../shared/data")  # that holds them


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train on text alone, then with problems in phases and mixed uniformly on the same examples."""
    del scale  # one size
    plain, phased = (_ready(recipe, workdir, seed) for recipe in (stem_cpu(), stem_phases_cpu()))
    mixed = override(phased, {"data.phases": uniform(phased.data.phases)})
    text = fit(plain, workdir / "text", quiet=True)
    phases = fit(phased, workdir / "phases", quiet=True)
    at_once = fit(mixed, workdir / "mixed", quiet=True)
    figures = {
        "bits_per_character": _value(text, "bits_per_character_textbooks"),
        "quality_auroc": phases.source.facts["quality"]["held_out_auroc"],
    }
    for name, result in (("phases", phases), ("mixed", at_once)):
        figures[f"{name}_accuracy"] = _value(result, "execution_accuracy")
        figures[f"{name}_bits_per_character"] = _value(result, "bits_per_character_textbooks")
    figures["phases_gain"] = figures["phases_accuracy"] - figures["mixed_accuracy"]
    figures["phases_cost"] = figures["phases_bits_per_character"] - figures["mixed_bits_per_character"]
    return figures


def _ready(recipe: Recipe, workdir: Path, seed: int) -> Recipe:
    folders: dict[str, Any] = {"textbooks": "openstax_stem", "asl": "asl_stem_wiki_fs", "gsm8k": "gsm8k"}
    values = {f"data.{name}": str(FOLDER / folder) for name, folder in folders.items()}
    values["data.prepared"] = str(workdir / "corpora")
    return override(recipe, values | {"train.seed": seed, "data.seed": seed})


def _value(result: Result, metric: str) -> float:
    assert result.evaluation is not None
    return result.evaluation.metrics[metric].value


PHI = Experiment(
    name="phi",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "A model of about a million parameters on open textbooks: bits per character of held-out sections",
            "bits_per_character",
            at_most=2.6,
            paper_value="(unigram characters: 4.3)",
        ),
        Claim(
            PAPER,
            "A small classifier tells passages of textbooks from exercises and disordered passages, held out: AUROC",
            "quality_auroc",
            at_least=0.9,
        ),
        Claim(
            PAPER,
            "General text first, then filtered text and problems, answers more held-out problems than the same "
            "examples mixed uniformly: points gained",
            "phases_gain",
            at_least=0.005,  # one problem of 200
        ),
    ),
    run=run,
)
