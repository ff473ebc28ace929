"""The glitch map: how rare errors are, how far from the write and where in the string they lie, which heads fail.

evaluation = examine_reads(net, params, FlipFlop(test_reads=300_000), key)
evaluation.slices["steps since the write"]["64-127"]["glitch_rate"]           # a Rate, with its Wilson interval

Liu et al. 2023 (arXiv 2306.00946), sections 4 and 5: errors are not confined to one distance, and attention that
is sharp can still rest on the wrong write.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.evaluate import examine, rate
from lm.interrupt import safe_point
from lm.keys import fast
from lm.mesh import compiler_options
from lm.types import Array, Batch, Evaluation, Key, Net, Params, Rate
from tasks.formal.flip_flop.language import FlipFlop

PARTS = 8  # of a string, by position
AT_ONCE = 256  # strings
TURNING, TURNED = "turning strings", "10 % ignored, then 98 %"  # a slicing and its one slice


class Survey(NamedTuple):
    """Glitches among the reads of some strings, by part of the string and distance to the write, [P, S].

    `confused` counts the errors between the two bits alone, `flawless` the strings without any glitch.
    """

    glitches: Array
    reads: Array
    confused: Array
    flawless: Array
    strings: Array


def expected_reads(task: FlipFlop, size: int) -> float:
    """Return the reads that a string has on average, the last one included."""
    if task.form == "automaton":
        return task.length
    return 1 + float(jnp.sum(1 - task.percentages(jnp.int32(size))[1:-1] / 100)) * (1 - task.writes)


def distances(task: FlipFlop) -> list[int]:
    """Return where the ranges of the distance to the write begin: 0, 1, 2, 4, 8 ... instructions."""
    longest = (task.length if task.form == "automaton" else task.length // 2) - 1
    return [0, *(2**i for i in range(longest.bit_length()))]


def spans(starts: list[int], stop: int) -> list[str]:
    """Return the names of ranges that begin at `starts`: 1, 2-3, 4-7."""
    ends = [*starts[1:], stop]
    return [str(start) if end - start == 1 else f"{start}-{end - 1}" for start, end in zip(starts, ends, strict=True)]


def steps_since_write(task: FlipFlop, inputs_L: Array) -> Array:
    """Return how many instructions ago the latest write was, [L], at every instruction."""
    gap_L = jnp.arange(inputs_L.shape[0]) - task.latest_write(inputs_L)
    return gap_L if task.form == "automaton" else gap_L // 2


def two_bits(task: FlipFlop, logits_BLV: Array) -> Array:
    """Return the likelier of the two bits, as a token, [B, L]."""
    first = task.vocabulary - 2 if task.form == "tokens" else 0
    return first + jnp.argmax(logits_BLV[..., first : first + 2], axis=-1)


def _count(net: Net, task: FlipFlop, params: Params, key: Key, start: Array, strings: Array, size_C: Array) -> Survey:
    indices_B = start + jnp.arange(AT_ONCE)
    batch = jax.vmap(task.test_example, in_axes=(None, 0, None))(fast(key), indices_B, size_C)
    logits_BLV = net.apply(params, batch, None).logits
    reads_BL = task.reads(batch) & (indices_B < strings)[:, None]
    wrong_BL = reads_BL & (jnp.argmax(logits_BLV, axis=-1) != batch.targets)
    gap_BL = jax.vmap(functools.partial(steps_since_write, task))(batch.inputs)
    starts_S = jnp.asarray(distances(task))
    near_BLS = jax.nn.one_hot(jnp.searchsorted(starts_S, gap_BL, side="right") - 1, len(starts_S))
    length = batch.inputs.shape[1]
    part_LP = jax.nn.one_hot(jnp.arange(length) * PARTS // length, PARTS)

    def spread(hits_BL: Array) -> Array:
        return jnp.einsum("bl,lp,bls->ps", hits_BL.astype(jnp.float32), part_LP, near_BLS)

    return Survey(
        glitches=spread(wrong_BL),
        reads=spread(reads_BL),
        confused=jnp.sum(reads_BL & (two_bits(task, logits_BLV) != batch.targets)),
        flawless=jnp.sum((indices_B < strings) & ~jnp.any(wrong_BL, axis=1)),
        strings=jnp.sum(indices_B < strings),
    )


def survey(net: Net, params: Params, task: FlipFlop, key: Key, size: int) -> Survey:
    """Count glitches on the strings that hold `task.test_reads` reads on average; NumPy arrays in float64."""
    strings = math.ceil(task.test_reads / expected_reads(task, size))
    size_C, plain = task.percentages(jnp.int32(size)), replace(task, last=None)  # one program, turning or not
    count = jax.jit(_count, static_argnums=(0, 1), compiler_options=compiler_options())
    counts = []
    for start in range(0, strings, AT_ONCE):
        safe_point()
        part = count(net, plain, params, key, jnp.int32(start), jnp.int32(strings), size_C)
        counts.append(jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(part)))
    return jax.tree.map(lambda *parts: sum(parts), *counts)


def rates(found: Survey) -> dict[str, Rate]:
    """Return the rates of a survey, each with its interval."""
    reads = float(found.reads.sum())
    return {
        "exact_match": rate(float(found.flawless), float(found.strings)),
        "glitch_rate": rate(float(found.glitches.sum()), reads),
        "wrong_bit_rate": rate(float(found.confused), reads),
    }


def sliced(names: list[str], glitches_S: Array, reads_S: Array) -> dict[str, dict[str, Rate]]:
    """Return the glitch rate of every slice that holds a read."""
    counts = zip(names, glitches_S, reads_S, strict=True)
    return {name: {"glitch_rate": rate(float(wrong), float(asked))} for name, wrong, asked in counts if asked}


def examine_reads(net: Net, params: Params, task: FlipFlop, key: Key) -> Evaluation:
    """Grade the reads of every percentage, and of strings that turn from dense to sparse in their last quarter.

    Slices by distance to the write and by part of the string are over all percentages, without the turning ones.
    """
    keys = {size: jax.random.fold_in(key, size) for size in task.test_sizes}
    found = {size: survey(net, params, task, keys[size], size) for size in task.test_sizes}
    turning = survey(net, params, replace(task, last=98), keys[10], 10)
    whole: Survey = jax.tree.map(lambda *parts: sum(parts), *found.values())
    starts = distances(task)
    stops = [-(-part * task.max_length // PARTS) for part in range(PARTS + 1)]
    slices = {
        task.size_name: {str(size): rates(part) for size, part in found.items()},
        TURNING: {TURNED: rates(turning)},
        "steps since the write": sliced(
            spans(starts, 2 * starts[-1]), whole.glitches.sum(axis=0), whole.reads.sum(axis=0)
        ),
        "part of the string": sliced(spans(stops[:-1], stops[-1]), whole.glitches.sum(axis=1), whole.reads.sum(axis=1)),
    }
    return Evaluation(rates(whole), slices, examine(net, params, task, key).examples)


class Heads(NamedTuple):
    """What each head of each layer attends to: the share that rests on the right write, at glitches and elsewhere."""

    at_glitches_NH: np.ndarray
    elsewhere_NH: np.ndarray
    glitches: int


def heads(net: Net, params: Params, task: FlipFlop, key: Key, size: int, strings: int) -> Heads:
    """Say where a transformer's attention goes at reads, on strings of one percentage; NaN where nothing went wrong.

    Of tokens the right write is its instruction and its bit together.
    """

    @jax.jit
    def count(key: Key) -> tuple[Array, ...]:
        batch: Batch = jax.vmap(task.sample, (0, None))(jax.random.split(key, AT_ONCE), jnp.int32(size))
        outputs = net.apply(params, batch, attention=True)
        wrong_BL = jnp.argmax(outputs.logits, axis=-1) != batch.targets
        reads_BL = task.reads(batch)
        write_BL = jax.vmap(task.latest_write)(batch.inputs)
        bit_BL = write_BL if task.form == "automaton" else write_BL + 1
        places_11L = jnp.arange(batch.inputs.shape[1])[None, None]
        right_BLL = (places_11L == write_BL[..., None]) | (places_11L == bit_BL[..., None])
        mass_NBHL = jnp.einsum("nbhqs,bqs->nbhq", outputs.attention, right_BLL.astype(jnp.float32))
        sides = (reads_BL & wrong_BL, reads_BL & ~wrong_BL)
        sums = [jnp.einsum("nbhq,bq->nh", mass_NBHL, side_BL.astype(jnp.float32)) for side_BL in sides]
        return *sums, *(jnp.sum(side_BL) for side_BL in sides)

    keys = jax.random.split(key, math.ceil(strings / AT_ONCE))
    counts = [[np.asarray(part, np.float64) for part in count(each)] for each in keys]
    at_glitches_NH, elsewhere_NH, glitches, right = (sum(parts) for parts in zip(*counts, strict=True))
    with np.errstate(invalid="ignore"):
        return Heads(at_glitches_NH / glitches, elsewhere_NH / right, int(glitches))
