"""An id a column and an id a row against consecutive ids: boards of mines larger than those of training.

Cho et al. 2024 (arXiv 2405.20671).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lm.report.pictures import Lines
from tasks.arithmetic.board import board_cpu, board_full
from tasks.arithmetic.coupled import arm
from tasks.lengths import accuracy_picture, by_length
from tasks.task import Claim, Experiment

PAPER = "Position coupling (Cho et al. 2024)"
CPU_ARMS = ("coupled", "random_start")


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Train every arm, at full scale the coupled one; return exact match by side."""
    figures: dict[str, float] = {}
    for name in CPU_ARMS if scale == "cpu" else ("coupled",):
        recipe = arm(board_cpu() if scale == "cpu" else board_full(), name)
        figures |= by_length(recipe, workdir, seed, "board", name, "board ")
    return figures


def pictures(figures: Mapping[str, Sequence[float]]) -> list[Lines]:
    """Return exact match by side."""
    ranges = (make().task.train_sizes for make in (board_cpu, board_full))
    trained = next(sides for sides in ranges if sides[1] == figures["trained/board"][0])
    return [
        accuracy_picture(
            figures,
            [name for name in CPU_ARMS if f"longest/board/{name}" in figures],
            title="Exact match on boards larger than those of training",
            size_name="side",
            trained=trained,
            prefix="board ",
        )
    ]


COUPLED_BOARDS = Experiment(
    name="coupled_boards",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "Two layers trained on boards of 3-5 a side: exact match on squares of 5",
            "board coupled@5",
            at_least=0.95,
            paper_value="(our bar)",
        ),
        Claim(
            PAPER,
            "The same at 1.4 times the side: exact match on squares of 7",
            "board coupled@7",
            at_least=0.5,
            paper_value="0.98 with 4 layers trained on 5-9 a side (our bar at this size)",
        ),
        Claim(
            PAPER,
            "With consecutive ids from a random start: exact match on squares of 7",
            "board random_start@7",
            at_most=0.05,
            paper_value="(our bar)",
            rule="worst",
        ),
        Claim(
            PAPER,
            "Four layers of width 512 trained on boards of 5-9 a side: exact match on squares of 12",
            "board coupled@12",
            at_least=0.98,
            paper_value="above 0.98",
            scale="full",
        ),
    ),
    run=run,
    pictures=pictures,
)
