"""A training step against other programs: three decoders, each side at each precision, in turns on the same cores.

The clock is the processor time of a process on one core; another bench has the seconds on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from lm.exits import Absent
from scripts.peers.comparison import Comparison
from scripts.peers.environments import ENVIRONMENTS, python_of
from scripts.peers.products import FLOPS
from scripts.peers.race import Side, Taken, race, ratio
from scripts.peers.shapes import SHAPES
from tasks.task import Claim

ROUNDS, FEWER_ROUNDS = 3, 2
SLICE = {"tiny": 1.0, "small256": 3.0, "small50k": 6.0}  # seconds
CPU = {"JAX_PLATFORMS": "cpu"}
PRECISIONS = ("float32", "bfloat16")
BARS = {
    "float32": {"tiny": 1.5, "small256": 1.9, "small50k": 2.4},
    "bfloat16": {"tiny": 1.05, "small256": 1.05, "small50k": 1.2},
}


def ours(shape: str, precision: str) -> Side:
    """Return our side."""
    return Side("scripts.peers.our_step", {"shape": shape, "precision": precision}, env=CPU)


def step(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Measure every shape at every precision against PyTorch, eager and compiled, and against products alone."""
    torch = python_of("torch", peers)
    figures: dict[str, float] = {}
    for precision in PRECISIONS:
        ceiling = ceilings(torch, precision)
        figures |= {f"{library}_{precision}_gflops": rate / 1e9 for library, rate in ceiling.items()}
        for shape in SHAPES:
            taken = race(sides_of(shape, precision, torch), 1, SLICE[shape], ROUNDS)
            name = f"{shape}_{precision}"
            figures |= compared(name, taken) | gap(name, taken["ours"], ceiling["jax"])
    return figures


def step_on_cores(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Measure the same by the clock on the wall, on two cores."""
    torch = python_of("torch", peers)
    figures: dict[str, float] = {}
    for precision, shape in product(PRECISIONS, SHAPES):
        taken = race(sides_of(shape, precision, torch), 2, SLICE[shape], ROUNDS)
        best = taken[faster(taken, "wall")]
        figures |= ratio(best, taken["ours"], "wall").figures(f"{shape}_{precision}_ratio")
    return figures


def sides_of(shape: str, precision: str, torch: Path) -> dict[str, Side]:
    """Return our side and PyTorch's, eager and compiled."""
    said = {"shape": shape, "precision": precision}
    return {
        "ours": ours(shape, precision),
        "eager": Side("scripts.peers.torch_step", {**said, "compiled": False}, torch),
        "compiled": Side("scripts.peers.torch_step", {**said, "compiled": True}, torch),
    }


def step_jax(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Measure every shape in float32 against nanodo's model and against MaxText."""
    peers_of = in_jax(peers)
    figures: dict[str, float] = {}
    for shape in SHAPES:
        sides = {"ours": ours(shape, "float32"), **{peer: of(shape, "float32") for peer, of in peers_of.items()}}
        taken = race(sides, 1, SLICE[shape], ROUNDS)
        for peer in peers_of:
            figures |= compared(f"{shape}_{peer}", {side: taken[side] for side in ("ours", peer)})
    return figures


def step_jax_fastest(workdir: Path, scale: str, seed: int, peers: Path) -> Mapping[str, float]:
    """Measure ours with products of bfloat16 against nanodo's model and MaxText, at either precision."""
    figures: dict[str, float] = {}
    for shape, (peer, of) in product(SHAPES, in_jax(peers).items()):  # a peer at a time: they hold gigabytes
        sides = {"ours": ours(shape, "bfloat16"), **{precision: of(shape, precision) for precision in PRECISIONS}}
        figures |= compared(f"{shape}_{peer}", race(sides, 1, SLICE[shape], FEWER_ROUNDS))
    return figures


def in_jax(peers: Path) -> dict[str, Callable[[str, str], Side]]:
    """Return makers of the sides of nanodo and MaxText, by shape and precision."""
    checkout = (peers / "nanodo").absolute()
    if not (checkout / "nanodo" / "model.py").is_file():
        raise Absent(f"peer nanodo is not in {checkout}: clone the repository google-deepmind/nanodo there")
    maxtext = python_of("maxtext", peers)

    def nanodo_of(shape: str, precision: str) -> Side:
        said = {"shape": shape, "precision": precision, "checkout": str(checkout)}
        return Side("scripts.peers.nanodo_step", said, env=CPU)

    def maxtext_of(shape: str, precision: str) -> Side:
        return Side("scripts.peers.maxtext_step", {"shape": shape, "precision": precision}, maxtext, CPU)

    return {"nanodo": nanodo_of, "maxtext": maxtext_of}


def faster(taken: Mapping[str, Taken], clock: str = "cpu") -> str:
    """Return the peer whose steps take the least time."""
    peers = [name for name in taken if name != "ours"]
    return min(peers, key=lambda name: ratio(taken[name], taken["ours"], clock).value)


def compared(name: str, taken: Mapping[str, Taken]) -> dict[str, float]:
    """Return figures of ours against the faster peer: time, memory and loss; and how each side fared."""
    best, mine = taken[faster(taken)], taken["ours"]
    figures = ratio(best, mine).figures(f"{name}_ratio")
    figures[f"{name}_memory"] = mine.facts["peak_memory"] / best.facts["peak_memory"]
    figures[f"{name}_loss"] = abs(difference(mine.facts["losses"], best.facts["losses"]))
    for side, each in taken.items():
        figures[f"{name}_{side}_ms"] = 1e3 * min(each.slices("cpu"))
        figures[f"{name}_{side}_mb"] = each.facts["peak_memory"] / 1e6
        figures[f"{name}_{side}_first_step"] = each.facts["first_step"]
    return figures


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Return by how much the losses behind the first step differ in the mean, of as many as both took, at most 8."""
    steps = min(len(a), len(b), 9)
    return mean(a[1:steps]) - mean(b[1:steps])


def ceilings(torch: Path, precision: str) -> dict[str, float]:
    """Return the operations a second of large matrix products on one core, by library."""
    pythons: Mapping[str, Mapping[str, Any]] = {"jax": {}, "torch": {"python": torch}}
    sides = {
        library: Side("scripts.peers.products", {"library": library, "precision": precision}, env=CPU, **python)
        for library, python in pythons.items()
    }
    return {library: FLOPS / min(each.slices("cpu")) for library, each in race(sides, 1, 1.0, 5).items()}


def gap(name: str, mine: Taken, ceiling: float) -> dict[str, float]:
    """Return the milliseconds that the step's products take at the ceiling, and the step in multiples of them."""
    floor = mine.facts["flops"] / ceiling
    return {f"{name}_floor_ms": 1e3 * floor, f"{name}_gap": min(mine.slices("cpu")) / floor}


def claims(job: str, peer: str, name: str, at_least: float, alike: bool = True) -> tuple[Claim, ...]:
    """Return what is claimed of a job against a peer; losses are compared where both begin and step alike."""
    about = f"{job}, against {peer}"
    cost = (
        Claim("", f"Training step, {about}: ratio of processor time", f"{name}_ratio", at_least=at_least),
        Claim("", f"Peak memory, {about}: ratio", f"{name}_memory", at_most=1.0),
    )
    statement = f"Mean loss of the steps behind the first, {about}: difference"
    loss = Claim("", statement, f"{name}_loss", at_most=0.05, rule="worst")
    return (*cost, loss) if alike else cost


TORCH, MAXTEXT = (ENVIRONMENTS[name].pins[0] for name in ("torch", "maxtext"))
FUSED = f"{TORCH} with fused attention, eager or compiled, the faster"
STEP = Comparison(
    "speed_step",
    "Training step against PyTorch",
    tuple(c for p in PRECISIONS for s in SHAPES for c in claims(f"{s}, {p}", FUSED, f"{s}_{p}", BARS[p][s])),
    step,
)
CORES = Comparison(
    "speed_step_cores",
    "Training step against PyTorch on two cores",
    tuple(
        Claim(
            "", f"Training step on two cores, {s}, {p}, against {FUSED}: ratio of seconds", f"{s}_{p}_ratio", BARS[p][s]
        )
        for p, s in product(PRECISIONS, SHAPES)
    ),
    step_on_cores,
)
STEP_JAX = Comparison(
    "speed_step_jax",
    "Training step against programs in JAX",
    (
        *(c for s in SHAPES for c in claims(f"{s}, float32", "nanodo's model in our loop", f"{s}_nanodo", 2.0)),
        *(c for s in SHAPES for c in claims(f"{s}, float32", MAXTEXT, f"{s}_maxtext", 2.0, alike=False)),
    ),
    step_jax,
)
JAX_FASTEST = Comparison(
    "speed_step_jax_fastest",
    "Training step against programs in JAX, each side at its faster precision",
    tuple(
        claim
        for shape, (peer, name) in product(SHAPES, {"nanodo": "nanodo's model in our loop", "maxtext": MAXTEXT}.items())
        for claim in claims(f"{shape}, each at its faster precision", name, f"{shape}_{peer}", 2.0, alike=False)
    ),
    step_jax_fastest,
)
