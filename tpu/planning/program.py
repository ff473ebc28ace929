"""What a compiled TPU program does in one step, read from its text: operations, memory traffic, the compiler's cycles.

`cost_analysis()` counts the body of a loop once, and its time is a negative mark as soon as there is one; the text
knows all that is needed.

    work = work_of(compiled.as_text())
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lm.collectives import COMPUTATION, arrays_of, bytes_of, executions

INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = (.*?[\])}]) ([\w-]+)\((.*)$")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
CALLED = re.compile(r"\bcalls=%?([\w.-]+)")
LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
WINDOW = re.compile(r"\bwindow=\{([^}]*)\}")
CONTRACTED = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
UNKNOWN = 2**62  # the largest number stands where there is no estimate
# Instructions that move nothing by themselves.
STILL = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier", "add-dependency",
}  # fmt: skip
SLICES = ("dynamic-slice", "slice", "gather")


class Work(NamedTuple):
    """One step on one device. Cycles leave out the network, and kernels (Pallas), which the compiler does not see."""

    flops: float  # of matrix products and convolutions
    bytes: float  # read from and written to the device's memory
    cycles: float  # the compiler's estimate
    kernels: int  # calls of kernels


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    shape: str
    opcode: str
    operands: list[str]
    line: str
    root: bool


Program = Mapping[str, Mapping[str, Instruction]]


def read_program(text: str) -> Program:
    """Return the instructions of every computation by name."""
    program: dict[str, dict[str, Instruction]] = {}
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            here = program[header[2]] = {}
        elif found := INSTRUCTION.match(line):
            root, name, shape, opcode, rest = found.groups()
            operands = re.findall(r"%([\w.-]+)", rest[: rest.find(")")])
            here[name] = Instruction(name, shape, opcode, operands, line, bool(root))
    return program


def work_of(text: str) -> Work:
    """Return what one run of a compiled program does; a loop without a known end counts once."""
    program, runs = read_program(text), executions(text)
    flops = moved = cycles = kernels = 0.0
    for name, body in program.items():
        times = runs.get(name, 0)
        estimates = [int(found[1]) for each in body.values() if (found := CYCLES.search(each.line))]
        cycles += times * sum(estimate for estimate in estimates if estimate < UNKNOWN)
        for each in body.values() if times else ():
            flops += times * _flops(each, body)
            kernels += times * ('custom_call_target="tpu_custom_call"' in each.line)
    fused = {found[1] for body in program.values() for each in body.values() if (found := CALLED.search(each.line))}
    for name in program.keys() - fused:
        moved += runs.get(name, 0) * sum(_moved(each, program[name], program) for each in program[name].values())
    return Work(flops, moved, cycles, int(kernels))


def _flops(each: Instruction, body: Mapping[str, Instruction]) -> float:
    """Return the operations of a matrix product, which a TPU writes as a convolution, in whatever layout."""
    if each.opcode not in ("convolution", "dot") or any(operand not in body for operand in each.operands):
        return 0.0
    left, right = (_dimensions(body[operand].shape) for operand in each.operands[:2])
    if each.opcode == "dot":
        contracted = CONTRACTED.search(each.line)
        summed = [left[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * math.prod(_dimensions(each.shape) + summed)
    labels, window = LABELS.search(each.line), WINDOW.search(each.line)
    assert labels is not None, f"a convolution without labels: {each.line}"
    fields = dict(field.split("=") for field in window[1].split()) if window else {}
    result, total = _dimensions(each.shape), 1
    for axis in filter(str.isdigit, labels[1]):
        sizes = left[labels[1].index(axis)], right[labels[2].index(axis)], result[labels[3].index(axis)]
        total *= _met(*sizes, **{name: values.split("x")[int(axis)] for name, values in fields.items()})
    return 2.0 * total * math.prod(result[labels[3].index(name)] for name in "bf") * right[labels[2].index("i")]


def _met(length: int, size: int, made: int, /, stride: str = "1", pad: str = "0_0", **dilation: str) -> int:
    """Return how often an element of the window meets one of the input, not padding, along one axis of a convolution.

    A TPU writes the axes of a matrix product as windows of which all but one place lie in the padding.
    """
    apart, within = int(dilation.get("lhs_dilate", 1)), int(dilation.get("rhs_dilate", 1))
    places = np.arange(made)[:, None] * int(stride) + np.arange(size) * within - int(pad.split("_")[0])
    return int(np.sum((places >= 0) & (places <= (length - 1) * apart) & (places % apart == 0)))


def _moved(each: Instruction, body: Mapping[str, Instruction], program: Program) -> float:
    """Return the bytes that an instruction reads from and writes to memory; a slice moves only itself."""
    if each.opcode in STILL or each.opcode.endswith(("-done", "-update")):
        return 0.0
    if each.opcode.endswith("-start"):
        arrays = [array for array in arrays_of(each.shape) if array.sizes]
        return min((array.bytes for array in arrays), default=0.0) * sum(array.in_memory for array in arrays)
    if each.opcode in SLICES:
        return 2 * _bytes(each.shape)
    read = [_bytes(body[operand].shape) if operand in body else 0.0 for operand in each.operands]
    written = _bytes(each.shape)
    if each.opcode == "dynamic-update-slice":
        return 2 * read[1]
    called = CALLED.search(each.line)
    if each.opcode == "fusion" and called and called[1] in program:
        inside = program[called[1]]
        read = [min(size, _read_inside(inside, number, program)) for number, size in enumerate(read)]
        written = min(written, _written_inside(inside, program))
    return sum(read) + written


def _read_inside(body: Mapping[str, Instruction], number: int, program: Program) -> float:
    """Return how much a fused computation reads of an operand: all of it, or the slices that it takes."""
    name = next((i.name for i in body.values() if i.opcode == "parameter" and f" parameter({number})" in i.line), None)
    return 0.0 if name is None else _taken(body, name, program)


def _taken(body: Mapping[str, Instruction], name: str, program: Program) -> float:
    total = 0.0
    for user in (each for each in body.values() if name in each.operands):
        place, called = user.operands.index(name), CALLED.search(user.line)
        if user.opcode in SLICES and place == 0:
            total += bytes_of(user.shape)
        elif user.opcode == "dynamic-update-slice" and place == 0:
            continue  # written in place
        elif user.opcode == "bitcast":
            total += _taken(body, user.name, program)
        elif user.opcode == "fusion" and called and called[1] in program:
            total += _read_inside(program[called[1]], place, program)
        else:
            return math.inf
    return total


def _written_inside(body: Mapping[str, Instruction], program: Program) -> float:
    """Return how much a fused computation writes: what it makes, or the slices of it that it renews."""
    root = next(each for each in body.values() if each.root)
    ends = [body[name] for name in root.operands if name in body] if root.opcode == "tuple" else [root]
    total = 0.0
    for end in ends:
        while end.opcode == "bitcast" and end.operands[0] in body:
            end = body[end.operands[0]]
        update = body.get(end.operands[1]) if end.opcode == "dynamic-update-slice" else None
        total += _bytes(end.shape) if update is None else bytes_of(update.shape)
    return total


def _dimensions(shape: str) -> list[int]:
    found = arrays_of(shape)
    return found[0].sizes if found else []


def _bytes(shape: str) -> float:
    """Return the bytes of the arrays of a shape that lie in the device's memory, not in its faster ones."""
    return sum(array.bytes for array in arrays_of(shape) if array.in_memory)
