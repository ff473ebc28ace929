"""What small transformers find of semiautomata, where it breaks, what mends it, and shortcuts by hand that never do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import ALiBi, Recipe
from lm.evaluate import examine
from lm.report.pictures import Lines
from lm.report.svg import Series
from lm.step import EVALUATE, purpose
from lm.strict import override
from lm.train import Result, fit
from tasks.formal.automata import semiautomata as sa
from tasks.formal.automata.cascades import cascade
from tasks.formal.automata.parts import Hand, follow
from tasks.formal.automata.shortcuts import divide_and_conquer, gridworld
from tasks.formal.automata.simulation import (
    automaton_cpu,
    automaton_lstm_cpu,
    automaton_parity_cpu,
    automaton_scratchpad_cpu,
    automaton_shifted_cpu,
    run,
)
from tasks.task import Claim, Experiment

PAPER = "Transformers Learn Shortcuts to Automata (Liu et al. 2022)"
SHORT, LONG, WORDS = 10, 100, 1000  # lengths of the words that shortcuts are held to, and how many long ones
MOST = 60_000  # short words of one automaton; their length is less where it has many symbols
CASCADES = (
    ("cyclic", 2), ("cyclic", 5), ("cyclic_cube", 2), ("dihedral", 3), ("dihedral", 4), ("quaternion", 8),
    ("symmetric", 3), ("symmetric", 4), ("alternating", 4), ("flip_flop", 4), ("reset", 3),
)  # fmt: skip
ANY = (("gridworld", 4), ("symmetric", 3), ("quaternion", 8), ("abab", 5), ("flip_flop", 2), ("stack", 2))
ONES = (0.1, 0.3, 0.5, 0.7, 0.9)


def every_word(automaton: sa.Semiautomaton, length: int) -> np.ndarray:
    """Return all words of this length, or of the greatest one that keeps them below MOST."""
    while automaton.symbols**length > MOST:
        length -= 1
    return np.array(list(product(range(automaton.symbols), repeat=length)))


def errors(hand: Hand, words_BT: np.ndarray) -> int:
    """Return in how many places a shortcut names another state than the automaton is in."""
    moves_SQ = jnp.asarray(hand.automaton.generators())

    # The weights are an argument: as constants of the program the compiler folds them, and not always rightly.
    @jax.jit
    def wrong(params, words_BT):
        def one(word_T):
            right_T = run(moves_SQ, word_T, hand.automaton.start)
            return jnp.sum(follow(hand._replace(params=params), word_T[None])[0] != right_T)

        return jnp.sum(jax.lax.map(one, words_BT, batch_size=64))

    return int(wrong(hand.params, jnp.asarray(words_BT)))


def shortcuts(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Return the errors of all shortcuts by hand, over every short word and over long ones at random; their sizes."""
    makers: list[tuple[str, str, Callable[[int], Hand]]] = [
        *(("cascade", f"{f} {n}", partial(cascade, sa.make(f, n))) for f, n in CASCADES),
        *(("walk", f"gridworld {n}", partial(gridworld, n)) for n in (4, 9)),
        *(("logarithmic", f"{f} {n}", partial(divide_and_conquer, sa.make(f, n))) for f, n in ANY),
    ]
    found = dict.fromkeys(("cascade_errors", "walk_errors", "logarithmic_errors"), 0.0)
    for kind, name, make in makers:
        short, long = make(SHORT), make(LONG)
        drawn = np.random.default_rng(seed).integers(0, long.automaton.symbols, (WORDS, LONG))
        found[f"{kind}_errors"] += errors(short, every_word(short.automaton, SHORT)) + errors(long, drawn)
        found[f"depth/{kind}/{name}"] = long.config.depth
        found[f"width/{kind}/{name}"] = long.config.width
    return found


def by_ones(name: str, result: Result, recipe: Recipe, shares: Sequence[float] = ONES) -> dict[str, float]:
    """Return the share of states right at each probability of the last symbol, at the length of training."""
    key = purpose(jax.random.key(recipe.train.seed), EVALUATE)
    figures = {}
    for ones in shares:
        task = override(recipe.task, {"ones": ones, "longest": None})
        figures[f"{name}/ones={ones}"] = examine(result.net, result.params, task, key).metrics["token_accuracy"].value
    return figures


def by_length(name: str, result: Result) -> dict[str, float]:
    """Return the share of states right at each length examined."""
    assert result.evaluation is not None
    slices = result.evaluation.slices["symbols"]
    return {f"{name}/symbols={size}": rates["token_accuracy"].value for size, rates in slices.items()}


def remedies() -> dict[str, Recipe]:
    """Return what is trained on parity of 20 bits and examined up to 80."""
    parity = automaton_parity_cpu()
    learned = replace(parity, task=replace(parity.task, longest=80))
    return {
        "learned": learned,
        "shifted": automaton_shifted_cpu(),
        "alibi": replace(learned, model=replace(learned.model, positions=ALiBi())),
        "scratchpad": automaton_scratchpad_cpu(),
        "lstm": automaton_lstm_cpu(),
    }


def run_study(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train on a walk, and on parity in five ways."""
    walk = override(automaton_cpu(), {"train.seed": seed})
    figures = by_ones("walk", fit(walk, workdir / "walk", quiet=True), walk, (0.5, 0.9))
    for name, recipe in remedies().items():
        recipe = override(recipe, {"train.seed": seed})
        result = fit(recipe, workdir / name, quiet=True)
        figures |= by_ones(name, result, recipe) | by_length(name, result)
    figures["parity_drop"] = figures["learned/ones=0.5"] - figures["learned/ones=0.9"]
    figures["lstm_lowest"] = min(value for metric, value in figures.items() if metric.startswith("lstm/"))
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return accuracy on parity against the share of ones and against length, medians over seeds."""

    def curves(axis: str) -> list[Series]:
        found = []
        for name in remedies():
            prefix = f"{name}/{axis}="
            points = sorted(
                (float(m.removeprefix(prefix)), median(v)) for m, v in figures.items() if m.startswith(prefix)
            )
            found.append(Series(name, *zip(*points, strict=True)))
        return found

    asked = "states right"
    return [
        Lines("Parity of 20 bits by the share of ones", curves("ones"), "probability of a one", asked, percent=True),
        Lines("Parity beyond the 20 bits of training", curves("symbols"), "symbols", asked, percent=True),
    ]


AUTOMATA = Experiment(
    name="automata",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Two layers follow a walk between walls (4 places, 32 symbols): share of states right",
            "walk/ones=0.5",
            at_least=0.999,
            paper_value="(Grid_4 at 100 symbols: 100 %)",
            rule="worst",
        ),
        Claim(PAPER, "One layer finds the parity of 20 bits: share of states right", "learned/ones=0.5", at_least=0.99),
        Claim(
            PAPER,
            "What it found is brittle: points lost where 90 % of the bits are ones",
            "parity_drop",
            at_least=0.05,
        ),
        Claim(
            PAPER,
            "A scratchpad and attention to the last few tokens carry parity from 20 to 80 bits: share of states right",
            "scratchpad/symbols=80",
            at_least=0.99,
        ),
        Claim(
            PAPER,
            "An LSTM keeps parity to 80 bits and at any share of ones: lowest share of states right",
            "lstm_lowest",
            at_least=0.99,
        ),
    ),
    run=run_study,
    pictures=pictures,
)

AUTOMATA_SHORTCUTS = Experiment(
    name="automata_shortcuts",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Eleven solvable automata of permutations and resets in a layer a cyclic factor by hand: errors over every "
            "short word and 1,000 words of 100",
            "cascade_errors",
            at_most=0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Walks between 4 and 9 places in two layers by hand: errors over every word of 10 symbols and 1,000 of 100",
            "walk_errors",
            at_most=0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Any automaton in ceil(log2(T + 1)) layers by hand: errors over every short word and 1,000 words of 100, "
            "six automata",
            "logarithmic_errors",
            at_most=0,
            exact=True,
        ),
    ),
    run=shortcuts,
)
