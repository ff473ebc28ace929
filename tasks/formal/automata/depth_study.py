"""How many layers an automaton takes to learn: populations over automata and depths (Liu et al. 2023, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from lm.config import Recipe
from lm.report.pictures import HeatMap
from lm.strict import override
from lm.sweep import run_sweep
from tasks.formal.automata.simulation import Automaton, automaton_cpu, automaton_full
from tasks.task import Claim, Experiment

PAPER = "Transformers Learn Shortcuts to Automata (Liu et al. 2022)"
EASY = (("cyclic", 2), ("flip_flop", 2), ("gridworld", 4))
SOLVABLE = (("dihedral", 3), ("quaternion", 8), ("alternating", 4))
HARD = (("alternating", 5), ("symmetric", 5))  # their groups are not solvable
TABLES = {
    "cpu": ((*EASY, *SOLVABLE, *HARD), (1, 2, 3)),
    "full": (
        (
            *EASY, ("gridworld", 9), ("cyclic", 3), ("cyclic_cube", 2), ("dihedral", 4), ("quaternion", 8),
            ("alternating", 4), ("symmetric", 4), *HARD, ("abab", 5), ("adder", 2), ("reset", 3), ("stack", 4),
        ),
        (1, 2, 3, 4, 6, 8, 12, 16),
    ),
}  # fmt: skip


def automaton_table_cpu() -> Recipe:
    """Width 64 on words of 20 symbols, 1,000 steps: a cell of the table at a laptop's size.

    Liu et al. 2023. python scripts/reproduce.py automata_depth; one cell: python scripts/train.py automaton_table_cpu
    """
    walk = automaton_cpu()
    return replace(
        walk,
        name="automaton_table_cpu",
        task=Automaton(length=20),
        model=replace(walk.model, initialisation="scaled"),
        train=replace(walk.train, steps=1000),
    )


def cell(family: str, order: int, layers: int) -> str:
    """Return the name of a cell's figure."""
    return f"right/{family} {order}/layers={layers}"


def run_study(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every automaton at every depth."""
    base = {"cpu": automaton_table_cpu, "full": automaton_full}[scale]()
    automata, depths = TABLES[scale]
    figures = {}
    for family, order in automata:
        task = replace(base.task, family=family, order=order)
        recipe = override(base, {"task": task, "model.vocabulary": task.vocabulary})
        for member in run_sweep(recipe, {"model.depth": depths}, [seed], workdir).members:
            name = cell(family, order, member.values["model.depth"])
            figures[name] = member.evaluation.metrics["token_accuracy"].value
    for layers in depths:
        easy, hard = ([figures[cell(*named, layers)] for named in kind] for kind in (EASY, HARD))
        figures[f"margin/layers={layers}"] = min(easy) - max(hard)
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[HeatMap]:
    """Return the table of depth and automaton, the median and the best over seeds."""
    automata, depths = next(
        table for table in TABLES.values() if all(cell(*named, n) in figures for named in table[0] for n in table[1])
    )
    rows = [f"{family} {order}" for family, order in automata]
    return [
        HeatMap(
            f"States right, {name} of the seeds",
            [[rule(figures[cell(*named, layers)]) for layers in depths] for named in automata],
            rows,
            [str(layers) for layers in depths],
            row_label="automaton",
            column_label="layers",
            high=1.0,
            percent=True,
        )
        for name, rule in (("median", median), ("best", max))
    ]


def claims() -> tuple[Claim, ...]:
    """Return the order that the table has at every size, and the bars of full size."""
    lowest = "A_5 and S_5 are below parity, flip-flop and walk with {} layers: least of these less most of those"
    full = [
        (f"{family} {order} is learned by 6 layers, best of the seeds", cell(family, order, 6))
        for family, order in (("gridworld", 9), ("cyclic", 2), ("dihedral", 4), ("quaternion", 8))
    ]
    full += [(f"{family} 5 is learned by 16 layers, best of the seeds", cell(family, 5, 16)) for family, _ in HARD]
    return (
        *(Claim(PAPER, lowest.format(n), f"margin/layers={n}", at_least=0.0) for n in TABLES["cpu"][1]),
        *(Claim(PAPER, statement, metric, at_least=0.99, rule="best", scale="full") for statement, metric in full),
    )


AUTOMATA_DEPTH = Experiment(
    name="automata_depth",
    paper=PAPER,
    claims=claims(),
    run=run_study,
    seeds={"cpu": (0, 1, 2), "full": (0, 1, 2, 3, 4)},
    pictures=pictures,
)
