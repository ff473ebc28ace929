"""Coupled position ids against what else a model may know of positions: strings copied forwards and backwards.

Cho et al. 2024 (arXiv 2405.20671). Every arm is the coupled recipe with another scheme of positions; the same layer,
steps and examples.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType

from tasks.arithmetic.copying import copy_cpu, copy_full, reverse_cpu, reverse_full
from tasks.arithmetic.coupled import ARMS
from tasks.arithmetic.coupling_schemes import PAPER, Studies, Study, compare, pictures
from tasks.task import Claim, Experiment

STUDIES: Studies = MappingProxyType(
    {
        "cpu": (
            Study("copy", copy_cpu, ("coupled", *(name for name in ARMS if name != "index_hints")), "copy "),
            Study("reverse", reverse_cpu, says="reverse "),
        ),
        "full": (
            Study("copy", copy_full, ("coupled",), "copy "),
            Study("reverse", reverse_full, ("coupled",), "reverse "),
        ),
    }
)

COUPLED_COPYING = Experiment(
    name="coupled_copying",
    paper=PAPER,
    claims=(
        *(
            Claim(
                PAPER,
                f"One layer trained to {does} 1-10 digits: exact match at 40 digits",
                f"{task} coupled@40",
                at_least=0.9,
                paper_value="(our estimate: 0.9)",
            )
            for task, does in (("copy", "copy"), ("reverse", "write backwards"))
        ),
        *(
            Claim(
                PAPER,
                f"The same layer {positions}: exact match at 40 copied digits",
                f"copy {name}@40",
                at_most=0.05,
                paper_value="(sums: near 0)",
                rule="worst",
            )
            for name, positions in (
                ("no_positions", "without positions"),
                ("random_start", "with consecutive ids from a random start"),
            )
        ),
    ),
    run=partial(compare, STUDIES),
    pictures=partial(pictures, STUDIES),
)
