"""An id a column and an id a row against consecutive ids: boards of mines larger than those of training.

Cho et al. 2024 (arXiv 2405.20671).
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from tasks.arithmetic.board import board_cpu, board_full
from tasks.arithmetic.coupling_schemes import PAPER, Studies, Study, compare, pictures
from tasks.task import Claim, Experiment

STUDIES: Studies = MappingProxyType(
    {
        "cpu": (Study("board", board_cpu, ("coupled", "random_start"), "board "),),
        "full": (Study("board", board_full, ("coupled",), "board "),),
    }
)

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
    run=partial(compare, STUDIES),
    pictures=partial(pictures, STUDIES),
)
