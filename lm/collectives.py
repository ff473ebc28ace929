"""The collectives of a compiled program, read from its text: what is sent, along which axes of the mesh, how often.

    for kind, axes, size, count in collectives(compiled.as_text(), dict(mesh.shape)): ...

Partitions are numbered as the mesh lists its devices, so a group of them says which axes it runs along.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?[\])}]) ([\w-]+)\(")
CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONSTANT = re.compile(r"^\s*%?([\w.-]+) = [su](?:32|64)\[\]\S* constant\((\d+)\)")
COUNTER = re.compile(r"^\s*%?([\w.-]+) = [su](?:32|64)\[\]\S* get-tuple-element\(.*\), index=(\d+)")
ADVANCE = re.compile(r"^\s*%?([\w.-]+) = [su](?:32|64)\[\]\S* add\(%?([\w.-]+), %?([\w.-]+)\)")
HANDED_ON = re.compile(r"^\s*ROOT .* tuple\((.*?)\)")
BELOW = re.compile(r"^\s*ROOT .* compare\(%?([\w.-]+), %?([\w.-]+)\), direction=LT")
CHAIN = re.compile(r'\bchain_id="(\d+)"')
ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
LISTED = re.compile(r"\b(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
NAMED = re.compile(r"\breplica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S*)\))? \{([^}]*)\}")
ORDER = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
IOTA = re.compile(r"\breplica_groups=\[([\d,]+)\]<=(\S+)")


class Collective(NamedTuple):
    """One collective: bytes of the whole array on one device, before or after, whichever is more; runs in a step.

    Of these bytes a device receives (n - 1) / n from the n along `axes` in an all-gather, a reduce-scatter and an
    all-to-all, twice that in an all-reduce, and all of them in a permute.
    """

    kind: str
    axes: tuple[str, ...]
    bytes: int
    count: int  # type: ignore[assignment]  # hides tuple.count


class Held(NamedTuple):
    """An array in the text of a program."""

    sizes: list[int]
    bytes: float
    in_memory: bool  # in the device's main memory, not in one of its faster ones


def collectives(hlo_text: str, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """Return the collectives of an optimised HLO module (of CPU, GPU or TPU) on a mesh of these sizes.

    A loop counts as often as it runs, and once where the program does not say. Of an asynchronous pair the start
    counts. A TPU repeats a collective in every fusion that overlaps with it; these share a chain and count once.
    """
    computations, entry = _read(hlo_text, mesh_shape)
    runs = _runs(computations, entry)
    counted: list[Collective] = []
    chains: set[str] = set()
    for name, computation in computations.items():
        for one, chain in computation.found:
            if runs[name] and one.axes and chain not in chains:
                counted.append(one._replace(count=runs[name]))
                chains |= {chain} - {""}
    return counted


def executions(hlo_text: str) -> dict[str, int]:
    """Return how often each computation of an optimised HLO module runs in one run of the whole."""
    return _runs(*_read(hlo_text, {}))


def arrays_of(shapes: str) -> list[Held]:
    """Return the arrays in a shape as HLO writes it: (f32[2,3]{1,0}, s32[])."""
    found = []
    for name, bits, dimensions, layout in ARRAY.findall(shapes):
        sizes = _numbers(dimensions)
        found.append(Held(sizes, math.prod(sizes) * (8 if name == "pred" else int(bits)) / 8, "S(" not in layout))
    return found


def bytes_of(shapes: str, scalars: bool = True) -> int:
    """Return the bytes of the arrays in a shape as HLO writes it, or of those with axes."""
    return int(sum(each.bytes for each in arrays_of(shapes) if each.sizes or scalars))


def totals(found: Iterable[Collective]) -> dict[tuple[str, tuple[str, ...]], tuple[int, int]]:
    """Return {(kind, axes): (how many run in a step, the bytes of all of them)}."""
    sums: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}
    for one in found:
        count, size = sums.get((one.kind, one.axes), (0, 0))
        sums[one.kind, one.axes] = (count + one.count, size + one.count * one.bytes)
    return sums


class _Computation(NamedTuple):
    """What is read of one computation."""

    found: list[tuple[Collective, str]]  # its collectives, each with its chain
    calls: list[tuple[str, int | str]]  # what it runs, and how often: a number, or as this condition allows
    constants: dict[str, int]
    counters: dict[str, int]  # numbers that a loop hands on, by the place where they stand
    advanced: dict[str, tuple[int, int]]  # these numbers and a constant added: the place and the constant
    steps: dict[int, int]  # by how much the body of a loop advances the number at a place
    limits: dict[int, int]  # what the number at a place must stay below, where this is the condition of a loop


def _trips(condition: _Computation, body: _Computation) -> int:
    """Return how often a loop that counts from 0 runs, by more where it is unrolled; 1 where the program is silent."""
    found = [math.ceil(limit / body.steps.get(place, 1)) for place, limit in condition.limits.items()]
    return found[0] if found else 1


def _runs(computations: Mapping[str, _Computation], entry: str) -> dict[str, int]:
    runs = dict.fromkeys(computations, 0)

    def enter(name: str, times: int) -> None:
        runs[name] += times
        for called, trips in computations[name].calls:
            if isinstance(trips, str):
                trips = _trips(computations[trips], computations[called])
            enter(called, times * trips)

    enter(entry, 1)
    return runs


def _read(text: str, mesh_shape: Mapping[str, int]) -> tuple[dict[str, _Computation], str]:
    """Return what stands in every computation, without a mesh but its collectives, and the name of the first one."""
    computations: dict[str, _Computation] = {}
    entry = ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            name = header[2]
            entry = name if header[1] else entry
            here = computations[name] = _Computation([], [], {}, {}, {}, {}, {})
        elif constant := CONSTANT.match(line):
            here.constants[constant[1]] = int(constant[2])
        elif counter := COUNTER.match(line):
            here.counters[counter[1]] = int(counter[2])
        elif (advance := ADVANCE.match(line)) and advance[2] in here.counters and advance[3] in here.constants:
            here.advanced[advance[1]] = here.counters[advance[2]], here.constants[advance[3]]
        elif handed := HANDED_ON.match(line):
            made = re.findall(r"%([\w.-]+)", handed[1])
            here.steps.update(here.advanced[each] for each in made if each in here.advanced)
        elif (below := BELOW.match(line)) and below[2] in here.constants:
            here.limits[here.counters.get(below[1], 0)] = here.constants[below[2]]
        elif instruction := INSTRUCTION.match(line):
            shapes, opcode = instruction.groups()
            here.calls.extend(_calls(line, opcode))
            kind = opcode.removesuffix("-start")
            if kind in KINDS and mesh_shape:
                groups = _groups(line, math.prod(mesh_shape.values()))
                size = _bytes(kind, kind != opcode, shapes, groups.shape[-1])
                # A TPU writes a reduce-scatter as a fusion of an all-reduce and a slice.
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
                chain = CHAIN.search(line)
                here.found.append((Collective(kind, _axes(groups, mesh_shape), size, 1), chain[1] if chain else ""))
    return computations, entry


def _calls(line: str, opcode: str) -> list[tuple[str, int | str]]:
    """Return the computations that an instruction runs, and how often; a reducer of two scalars holds nothing."""
    if opcode.endswith(("-update", "-done")):
        return []
    called = {role: name for role, name in CALLED.findall(line) if role != "to_apply" or opcode == "call"}
    if opcode == "while":
        trips = TRIPS.search(line)
        return [(called["body"], int(trips[1]) if trips else called["condition"])]
    branches = BRANCHES.search(line)
    names = [*called.values(), *(name.strip(" %") for name in (branches[1].split(",") if branches else ()))]
    return [(name, 1) for name in names]


def _groups(line: str, devices: int) -> np.ndarray:
    """Return the groups of partitions, [groups, members], of a line that lists them, or counts and transposes them."""
    if listed := LISTED.search(line):
        return np.array([_numbers(group) for group in listed[1].strip("{}").split("},{")])
    if iota := IOTA.search(line):
        return _order(iota[2], devices).reshape(_numbers(iota[1]))
    if named := NAMED.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        members = [axis for axis, name in enumerate(sizes) if f"'{name}'" in named[3]]
        places = _order(named[2] or f"[{devices}]", devices).reshape(tuple(sizes.values()))
        size = math.prod(places.shape[axis] for axis in members)
        return np.moveaxis(places, members, range(-len(members), 0)).reshape(-1, size)
    return np.arange(devices)[None]


def _order(text: str, devices: int) -> np.ndarray:
    """Return the numbers of all partitions in the order that a text such as [2,4]T(1,0) gives."""
    match = ORDER.match(text)
    assert match is not None, f"{text} is no order of {devices} partitions"
    return np.arange(devices).reshape(_numbers(match[1])).transpose(_numbers(match[2]) if match[2] else None).ravel()


def _axes(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Return the axes of the mesh along which the members of a group differ."""
    places = np.stack(np.unravel_index(groups, tuple(mesh_shape.values())))
    moving = (places != places[..., :1]).any(axis=(1, 2))
    return tuple(name for name, moves in zip(mesh_shape, moving, strict=True) if moves)


def _bytes(kind: str, started: bool, shapes: str, members: int) -> int:
    """Return the larger of the bytes that go in and come out; the shape of a start lists both, but an all-reduce's."""
    # Beside the arrays of a start stand scalars of state.
    whole: float = bytes_of(shapes, scalars=not started or kind == "all-reduce")
    if started and kind != "all-reduce":
        whole *= members / (members + 1) if kind in ("all-gather", "reduce-scatter") else 1 / 2
    elif kind == "reduce-scatter":
        whole *= members
    return round(whole)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]
