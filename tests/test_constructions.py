"""Weights by hand compute what theorems say they compute."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.models import build
from tasks.arithmetic.addition import Addition, addition_cpu
from tasks.arithmetic.addition_construction import construct
from tasks.arithmetic.position_coupling import LONG, construction_exact_match
from tasks.build import numeral
from tasks.formal.flip_flop.study import construction_errors

MODEL = addition_cpu().model


def test_addition_by_hand_is_exact_at_a_hundred_digits_and_needs_sharp_heads():
    assert construction_exact_match(LONG, 1000) == 1.0
    assert construction_exact_match(LONG, 10, sharpness=0.0) == 0.0


@pytest.mark.parametrize("digits", [1, 300])
def test_addition_by_hand_works_at_other_lengths(digits):
    task = Addition(longest_train=1, longest_test=digits, max_position=digits + 2)
    net, params = construct(task)
    batch = jax.jit(jax.vmap(task.sample_test, (0, None)))(jax.random.split(jax.random.key(0), 20), digits)
    predictions = jnp.argmax(jax.jit(net.apply)(params, batch).logits, axis=-1)
    assert np.all(jax.vmap(task.score)(predictions, batch)["exact_match"] == 1)


def test_flip_flop_by_hand_never_errs_and_needs_the_write_to_outdo_the_next_place():
    assert construction_errors(reach=1.5) == 0
    assert construction_errors(reach=0.5) > 0


def test_one_coupled_layer_cannot_tell_the_operands_apart():
    # Both orders are the same set of (token, id) pairs, so no weights of one layer see a difference after '='.
    task = Addition(longest_train=6, longest_test=6)
    pair = jax.vmap(numeral, (0, None))(jax.random.bits(jax.random.key(1), (2, 6)), 6)
    orders = [task.write(pair, 6, 3), task.write(pair[::-1], 6, 3)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *orders)
    params = build(replace(MODEL, depth=2)).init(jax.random.key(0))
    difference = []
    for depth in (1, 2):
        cut = {**params, "blocks": jax.tree.map(lambda x, depth=depth: x[:depth], params["blocks"])}
        logits = jax.jit(build(replace(MODEL, depth=depth)).apply)(cut, batch).logits[:, 2 * 6 + 2 :]
        difference.append(float(jnp.abs(logits[0] - logits[1]).max()))
    assert difference[0] < 1e-4 < difference[1]
