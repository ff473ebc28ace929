"""Laws of mixtures: exact proportions, pure in the step, no example twice before its source is used up."""

from collections import Counter

import numpy as np
import pytest

from lm.data.mixture import Mixture, Phase, boundaries
from lm.strict import ConfigError, from_json, to_json
from lm.types import Example

PHASES = (Phase(1, (("a", 1.0),)), Phase(2, (("a", 0.5), ("b", 0.3), ("c", 0.2))), Phase(1, (("b", 3), ("c", 1))))


class Stream:
    """A source whose example n says which source and number it is."""

    def __init__(self, mark):
        self.mark = mark

    def at(self, number):
        row = np.array([[self.mark, number]])
        return Example(row, row, row.astype(np.float32), row, {}, row)

    def ids(self, number):
        return [number]


def mixture(phases=PHASES, steps=40, batch_size=6, names="abc"):
    return Mixture({name: Stream(i) for i, name in enumerate(names)}, phases, batch_size, steps)


def taken(mixed, first, last):
    """Return (source, number) of every example of these steps, in order."""
    return [tuple(map(int, row)) for step in range(first, last) for row in mixed.at(step).inputs]


def test_every_stretch_of_a_phase_has_its_proportions():
    mixed = mixture()
    for (start, stop), phase in zip([(0, 10), (10, 30), (30, 40)], PHASES, strict=True):
        weights = dict(phase.weights)
        for last in range(start + 1, stop + 1):
            found, count = Counter(source for source, _ in taken(mixed, start, last)), 6 * (last - start)
            for i, name in enumerate("abc"):
                assert abs(found[i] - count * weights.get(name, 0) / sum(weights.values())) <= 1
            assert {name: found[i] for i, name in enumerate("abc")} == mixed.counts(start, last)


def test_a_source_goes_on_where_it_stood():
    everything = taken(mixture(), 0, 40)
    for source in range(3):
        numbers = [number for mark, number in everything if mark == source]
        assert numbers == list(range(len(numbers)))


def test_a_batch_is_a_function_of_the_step_alone():
    mixed = mixture()
    late = [taken(mixed, step, step + 1) for step in (39, 3, 20, 3)]
    again = mixture()
    assert late == [taken(again, step, step + 1) for step in (39, 3, 20, 3)] and late[1] == late[3]
    assert mixed.at(0).info == {} and mixed.at(0).weights.shape == (6, 2)
    for step in (-1, 40):
        with pytest.raises(IndexError, match=f"step {step} is none of the 40"):
            mixed.at(step)


def test_an_example_is_called_by_its_source_and_its_name_there():
    mixed = mixture()
    for step in (0, 17, 39):
        assert mixed.ids(step) == [f"{'abc'[mark]} {number}" for mark, number in mixed.at(step).inputs]


def test_phases_share_the_steps_and_survive_json():
    assert boundaries(PHASES, 40) == [10, 30, 40] and boundaries((Phase(0.3, (("a", 1),)),), 7) == [7]
    assert from_json(to_json(PHASES[1]), {"Phase": Phase}) == PHASES[1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Phase(0, (("a", 1.0),)), "phases.share must be positive, got 0"),
        (lambda: Phase(1, (("a", 0.0),)), "phases.weights must not be negative, and one must be positive"),
        (lambda: Phase(1, (("a", -1.0), ("b", 2.0))), "phases.weights must not be negative"),
        (lambda: mixture((Phase(1, (("ab", 1.0),)),), names=("abc",)), "no source 'ab'; did you mean abc"),
        (lambda: boundaries((), 3), "phases must hold at least one phase"),
        (lambda: boundaries(PHASES, 2), "every phase must hold a step"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
