"""Plans as text: one for a reader, many as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tpu.planning.chips import GIB
from tpu.planning.plans import Plan

STATE = ("parameters", "optimizer", "average", "gradients")
HEAD = [
    "recipe", "topology", "mesh", "batch", "remat", "fits", "GiB a device", "step s", "MFU bound", "compile s",
]  # fmt: skip
BUFFERS = ("arguments", "outputs", "aliased", "temporaries", "code")


def shown(plan: Plan) -> str:
    """Return a plan as lines of text."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    memory, limit = plan.memory, plan.memory["limit"]
    yield f"{plan.recipe} on {plan.topology}, {plan.devices} devices as {mesh_of(plan)}"
    yield f"batch {plan.batch_size} in {plan.accumulate}, {plan.tokens:,} tokens a step, remat {plan.remat}"
    verdict = "fits" if plan.fits else "does not fit"
    by = "the compiler" if plan.compiled else "the model"
    yield f"{verdict}: needs {_gib(memory['needed'])} of {_gib(limit)} GiB a device, by {by}"
    yield "  state        " + _parts(memory, STATE)
    yield "  by the model " + _parts(memory, ("activations", "workspace"))
    if plan.compiled and plan.fits:
        yield "  compiled     " + _parts(memory, BUFFERS)
    if plan.note:
        yield f"  {plan.note}"
    flops = plan.flops
    moved = "" if plan.bytes is None else f", {plan.bytes / 1e9:.1f} GB to and from memory"
    yield f"a device and step: {flops['model'] / 1e12:.2f} TFLOP as written, {flops['step'] / 1e12:.2f} in all{moved}"
    for each in plan.collectives:
        axes = ", ".join(each["axes"])
        yield f"  {each['kind']} over {axes}: {each['count']} times, {each['bytes'] / 1e9:.3f} GB"
    said = ", ".join(f"{kind} {seconds:.4f}" for kind, seconds in plan.seconds.items())
    yield f"seconds at least: {said}"
    speed = plan.tokens / plan.bound
    yield f"bound: {plan.bound:.4f} s a step, {speed:,.0f} tokens/s, MFU {plan.mfu_bound:.1%}"
    if plan.compile_seconds is not None:
        yield f"compiled in {plan.compile_seconds:.0f} s"


def table(plans: Sequence[Plan]) -> str:
    """Return plans as a Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEAD, ["---"] * len(HEAD), *map(row, plans)))


def row(plan: Plan) -> list[str]:
    """Return the cells of a plan under HEAD."""
    return [
        plan.recipe,
        plan.topology,
        mesh_of(plan),
        f"{plan.batch_size} in {plan.accumulate}",
        plan.remat,
        "yes" if plan.fits else "**no**",
        f"{_gib(plan.memory['needed'])} of {_gib(plan.memory['limit'])}",
        f"{plan.bound:.3f}" if plan.fits else "",
        f"{plan.mfu_bound:.0%}" if plan.fits else "",
        "by the model" if plan.compile_seconds is None else f"{plan.compile_seconds:.0f}",
    ]


def mesh_of(plan: Plan) -> str:
    """Return a mesh as it is spelled."""
    return ",".join(f"{axis}={size}" for axis, size in plan.mesh.items()) or "one device"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _parts(memory: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {_gib(memory[name])}" for name in names if memory.get(name))
