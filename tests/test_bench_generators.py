"""The plain generators that the device path is timed against make the same sequences."""

import jax
import numpy as np
import pytest

from scripts.plain_generators import pairs

PAIRS = pairs()


@pytest.mark.parametrize("name", PAIRS)
def test_plain_generators_make_sequences_of_the_same_form(name):
    task, plain = PAIRS[name]
    rng, sums = np.random.default_rng(0), []
    like = jax.eval_shape(task.sample, jax.random.key(0), max(task.train_sizes))
    for _ in range(20):
        inputs, targets, weights = plain(rng, task)
        for ours, theirs in zip((inputs, targets, weights), (like.inputs, like.targets, like.weights), strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        assert weights.max() == 1
        if targets.dtype == np.int32:
            assert targets.min() >= 0 and targets.max() < task.vocabulary
        if inputs.ndim == 1:
            assert inputs.min() >= 0 and inputs.max() < task.vocabulary
        sums.append(inputs.tobytes())
    assert len(set(sums)) > 10
