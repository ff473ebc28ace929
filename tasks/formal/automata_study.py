"""What small transformers find of semiautomata, where it breaks, and shortcuts by hand that never do."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lm.evaluate import examine
from lm.strict import override
from lm.train import EVALUATE, fit, purpose
from tasks.formal import semiautomata as sa
from tasks.formal.automata import automaton_cpu, automaton_parity_cpu, automaton_scratchpad_cpu, run
from tasks.formal.automata_constructions import SHORTCUTS, Hand, divide_and_conquer, follow
from tasks.task import Claim, Experiment

PAPER = "Transformers Learn Shortcuts to Automata (Liu et al. 2022)"
SHORT, LONG, WORDS = 10, 100, 1000  # lengths of the words that shortcuts are held to, and how many long ones
MOST = 60_000  # short words of one automaton; their length is less where it has many symbols
BY_HAND = (("counter", 2), ("counter", 5), ("memory", 2), ("dihedral", 4), ("gridworld", 4), ("gridworld", 9))
ANY = (sa.gridworld(4), sa.symmetric(3), sa.quaternion(), sa.abab(), sa.flip_flop(2), sa.stack(2))


def every_word(automaton: sa.Semiautomaton, length: int) -> np.ndarray:
    """Return all words of this length, or of the greatest one that keeps them below MOST."""
    while automaton.symbols**length > MOST:
        length -= 1
    return np.array(list(product(range(automaton.symbols), repeat=length)))


def errors(hand: Hand, words_BT: np.ndarray) -> int:
    """Return in how many places a shortcut names another state than the automaton is in."""
    moves_SQ = jnp.asarray(hand.automaton.generators())
    right_BT = jax.jit(jax.vmap(lambda word_T: run(moves_SQ, word_T, hand.automaton.start)))(jnp.asarray(words_BT))
    return int(jnp.sum(jax.jit(lambda words: follow(hand, words))(jnp.asarray(words_BT)) != right_BT))


def shortcuts(seed: int) -> dict[str, float]:
    """Return the errors of all shortcuts by hand, over every short word and over long ones at random."""
    found = {"constant_depth_errors": 0.0, "logarithmic_depth_errors": 0.0}
    makers = [(name, lambda n, f=SHORTCUTS[name], o=order: f(o, n)) for name, order in BY_HAND]
    makers += [("any", lambda n, a=automaton: divide_and_conquer(a, n)) for automaton in ANY]
    for name, make in makers:
        short, long = make(SHORT), make(LONG)
        drawn = np.random.default_rng(seed).integers(0, long.automaton.symbols, (WORDS, LONG))
        which = "logarithmic_depth_errors" if name == "any" else "constant_depth_errors"
        found[which] += errors(short, every_word(short.automaton, SHORT)) + errors(long, drawn)
    return found


def run_study(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train on a walk, on parity and on parity with a scratchpad; check the shortcuts by hand."""
    figures = {}
    for name, recipe in (("walk", automaton_cpu()), ("parity", automaton_parity_cpu())):
        recipe = override(recipe, {"train.seed": seed})
        result = fit(recipe, workdir / name, quiet=True)
        key = purpose(jax.random.key(seed), EVALUATE)
        for ones in (0.5, 0.9):
            found = examine(result.net, result.params, override(recipe.task, {"ones": ones}), key)
            figures[f"{name}_at_{ones}"] = found.metrics["token_accuracy"].value
    figures["parity_drop"] = figures["parity_at_0.5"] - figures["parity_at_0.9"]
    pad = override(automaton_scratchpad_cpu(), {"train.seed": seed})
    evaluation = fit(pad, workdir / "scratchpad", quiet=True).evaluation
    assert evaluation is not None
    for size, rates in evaluation.slices["symbols"].items():
        figures[f"scratchpad_at_{size}_symbols"] = rates["exact_match"].value
    return figures | shortcuts(seed)


AUTOMATA = Experiment(
    name="automata",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Two layers follow a walk between walls (4 places, 32 symbols): share of states right",
            "walk_at_0.5",
            at_least=0.999,
            paper_value="(Grid_4 at 100 symbols: 100 %)",
            rule="worst",
        ),
        Claim(PAPER, "One layer finds the parity of 20 bits: share of states right", "parity_at_0.5", at_least=0.99),
        Claim(
            PAPER,
            "What it found is brittle: points lost where 90 % of the bits are ones",
            "parity_drop",
            at_least=0.05,
        ),
        Claim(
            PAPER,
            "Counters, a memory, a dihedral group and walks between walls in one or two layers by hand: errors over "
            "every word of 10 symbols and 1,000 words of 100",
            "constant_depth_errors",
            at_most=0,
            exact=True,
        ),
        Claim(
            PAPER,
            "Any automaton in ceil(log2(T + 1)) layers by hand: errors over every short word and 1,000 words of 100, "
            "six automata",
            "logarithmic_depth_errors",
            at_most=0,
            exact=True,
        ),
    ),
    run=run_study,
)
