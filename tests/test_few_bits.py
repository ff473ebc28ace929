"""Laws of an optimizer that keeps less on the device: bfloat16 moments and weights, random rounding, host memory."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.checkpoint import Checkpoints
from lm.config import Bfloat16Weights, MeshConfig, OptimizerConfig
from lm.losses import next_token
from lm.mesh import HOST, make_mesh, offloaded, state_shardings, under
from lm.optim import beside_statistics, make_optimizer, round_stochastically
from lm.step import init_state, make_step, repeat
from lm.strict import ConfigError
from lm.transforms import ema, make_transform, wrap_all
from lm.types import Batch, Net, Outputs

WIDE = {"kernel": jnp.linspace(-1.0, 1.0, 4096).reshape(64, 64)}


def optimizer_of(learning_rate=1e-3, **changes):
    config = OptimizerConfig(schedule="constant", clip=None, learning_rate=learning_rate, **changes)
    return make_optimizer(config, optax.constant_schedule(learning_rate))


def run(optimizer, params, gradient, steps):
    """Return parameters and state after so many steps with one gradient."""

    @jax.jit
    def after(params, state):
        def body(_, carry):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, body, (params, state))

    return after(params, optimizer.init(params))


@pytest.mark.parametrize("x", [1.001, -1.001, 1e-30, -3.14159e5, 0.99999, 1.0, -0.375, 0.0])
def test_random_rounding_takes_one_of_two_neighbours_and_is_right_on_average(x):
    x = jnp.float32(x)
    drawn = np.float32(jax.vmap(lambda key: round_stochastically(key, x))(jax.random.split(jax.random.key(0), 20_000)))
    # The lower neighbour in magnitude has the same upper half; the other one is the next number.
    low = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000), jnp.float32
    )
    high = jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(low, jnp.uint32) + jnp.uint32(0x10000), jnp.float32
    )
    assert set(drawn) <= ({float(low)} if low == x else {float(low), float(high)})
    deviation = np.abs(float(high) - float(low)) / 2 / np.sqrt(drawn.size)  # at most
    assert abs(drawn.astype(np.float64).mean() - float(x)) <= 4 * deviation


def test_random_rounding_leaves_what_is_not_finite():
    all_ones = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # not a number, at the edge of the bits
    x = jnp.concatenate([jnp.array([jnp.inf, -jnp.inf, jnp.nan]), jnp.asarray(all_ones)])
    np.testing.assert_array_equal(round_stochastically(jax.random.key(0), x).astype(jnp.float32), x)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_off_leaves_the_program_and_the_state_as_they_were(name):
    rule = optax.scale_by_adam(0.9, 0.95, 1e-8) if name == "adamw" else optax.trace(0.9)
    plain = beside_statistics(optax.chain(rule, optax.scale_by_learning_rate(optax.constant_schedule(1e-3))))
    found = optimizer_of(name=name)
    assert str(jax.make_jaxpr(found.init)(WIDE)) == str(jax.make_jaxpr(plain.init)(WIDE))
    state = plain.init(WIDE)
    assert jax.tree.structure(found.init(WIDE)) == jax.tree.structure(state)
    assert str(jax.make_jaxpr(found.update)(WIDE, state, WIDE)) == str(jax.make_jaxpr(plain.update)(WIDE, state, WIDE))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_moments_in_bfloat16_take_half_the_memory_and_nearly_the_same_steps(name, rounding):
    few, full = optimizer_of(name=name, moments="bfloat16", rounding=rounding), optimizer_of(name=name)
    sizes = [
        sum(x.nbytes for x in jax.tree.leaves(o.init(WIDE)) if jnp.issubdtype(x.dtype, jnp.floating))
        for o in (few, full)
    ]
    assert 2 * sizes[0] == sizes[1]
    gradient = {"kernel": jnp.sin(jnp.arange(4096.0)).reshape(64, 64)}
    (found, state), (expected, _) = (run(o, WIDE, gradient, 20) for o in (few, full))
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("bfloat16"), jnp.dtype("int32")}
    moved = expected["kernel"] - WIDE["kernel"]
    # Eight bits of mantissa, twenty times.
    np.testing.assert_allclose(found["kernel"] - WIDE["kernel"], moved, atol=0.05 * float(jnp.abs(moved).max()))


def test_a_slow_moment_gets_there_on_average_only_where_rounding_is_random():
    gradient, means = {"kernel": jnp.full((64, 64), 0.5)}, {}
    for rounding in ("nearest", "stochastic"):
        optimizer = optimizer_of(beta2=0.999, moments="bfloat16", rounding=rounding)
        _, state = run(optimizer, WIDE, gradient, 600)
        means[rounding] = float(state[0].nu["kernel"].astype(jnp.float32).mean())
    exact = 0.25 * (1 - 0.999**600)
    assert means["nearest"] < 0.8 * exact
    np.testing.assert_allclose(means["stochastic"], exact, rtol=0.005)


def test_small_steps_move_bfloat16_weights_on_average_only_where_rounding_is_random():
    weights, gradient = {"kernel": jnp.ones((64, 64), jnp.bfloat16)}, {"kernel": jnp.ones((64, 64), jnp.bfloat16)}
    means = {}
    for rounding in ("nearest", "stochastic"):
        optimizer = optimizer_of(1e-4, name="sgd", beta1=0.0, rounding=rounding)
        after, _ = run(optimizer, weights, gradient, 100)
        assert after["kernel"].dtype == jnp.bfloat16
        means[rounding] = float(after["kernel"].astype(jnp.float32).mean())
    assert means["nearest"] == 1.0  # a step of 1e-4 is a fortieth of the distance to the next number
    np.testing.assert_allclose(means["stochastic"], 0.99, atol=4 * 0.004 * 10 / 64 / 2)


def test_every_step_and_every_array_rounds_by_bits_of_its_own():
    params = {name: jnp.ones((64, 64), jnp.bfloat16) for name in ("a", "b")}
    optimizer = optimizer_of(1e-3, name="sgd", beta1=0.5, moments="bfloat16", rounding="stochastic")
    gradient, state = jax.tree.map(lambda x: x.astype(jnp.float32) / 3, params), optimizer.init(params)
    drawn = {}
    for count in range(3):
        at = jax.tree.map(lambda x, n=count: jnp.full_like(x, n) if x.dtype == jnp.int32 else x, state)
        steps, after = optimizer.update(gradient, at, params)
        moments = after[0].trace
        drawn |= {(count, kind, name): np.float32(x[name]) for kind, x in (("w", steps), ("m", moments)) for name in x}
        again, _ = optimizer.update(gradient, at, params)
        jax.tree.map(np.testing.assert_array_equal, steps, again)
    patterns = {key: (x == x.max()).tobytes() for key, x in drawn.items()}
    assert len(set(patterns.values())) == len(patterns) == 12


def bigrams(key):
    """Return the parameters of a net that reads one token at a time."""
    table, kernel = jax.random.normal(key, (2, 11, 16)) / 4
    return {"embedding": {"table": table}, "head": {"kernel": kernel.T}}


NET = Net(
    bigrams, lambda params, batch, key: Outputs(params["embedding"]["table"][batch.inputs], params["head"]["kernel"])
)


def example():
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 11, (4, 8)))
    return Batch(tokens, (tokens * 3) % 11, jnp.ones((4, 8)), jnp.tile(jnp.arange(8), (4, 1)), {})


def training(transforms=(), offload=False, **changes):
    """Return the compiled start and stretch of a small run on one device."""
    net = wrap_all(NET, [make_transform(transform, None) for transform in transforms])
    optimizer, average, mesh = optimizer_of(1e-2, **changes), ema(0.9), make_mesh(MeshConfig(), jax.devices()[:1])
    step = make_step(net, next_token, optimizer, lambda key, step: example(), average=average)
    begin = partial(init_state, net, optimizer, jax.random.key(0), average)
    shardings = state_shardings(jax.eval_shape(begin), mesh, offload=offload)
    stretch = repeat(offloaded(step) if offload else step)
    start = jax.jit(under(mesh, begin), out_shardings=shardings)
    return start, jax.jit(under(mesh, stretch), donate_argnums=0, out_shardings=(shardings, None))


def test_moments_on_the_host_change_no_bit():
    ends = []
    for offload in (False, True):
        start, stretch = training(offload=offload)
        state, _ = stretch(start(), None, 2)
        state, metrics = stretch(state, None, 2)
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state)}
        assert kinds == {HOST if offload else "device"}
        assert {x.sharding.memory_kind for x in jax.tree.leaves(state.params)} == {"device"}
        ends.append(jax.tree.map(np.asarray, (state.params, state.opt_state, metrics)))
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_devices_that_reach_no_memory_of_the_host_are_refused():
    device = SimpleNamespace(addressable_memories=lambda: [SimpleNamespace(kind="device")])
    mesh = SimpleNamespace(devices=np.array([device]))
    with pytest.raises(ConfigError, match="optimizer.offload needs devices that reach pinned_host memory, these have"):
        state_shardings({}, mesh, offload=True)


def test_few_bits_learn_are_saved_and_go_on_bit_for_bit(tmp_path):
    settings = {"moments": "bfloat16", "rounding": "stochastic", "offload": True, "transforms": [Bfloat16Weights()]}
    start, stretch = training(**settings)
    middle, first = stretch(start(), None, 4)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1, log=print)
    checkpoints.save(4, middle, "{}")
    checkpoints.wait()
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), middle)
    end, last = stretch(middle, None, 16)
    restored = checkpoints.restore(target, 4)
    checkpoints.close()
    assert {x.dtype for x in jax.tree.leaves(restored.params)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(restored.ema)} == {jnp.dtype("float32")}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(restored.opt_state)} == {HOST}
    again, _ = stretch(restored, None, 16)
    jax.tree.map(np.testing.assert_array_equal, end.params, again.params)
    assert float(last["loss"].value) < 0.9 * float(first["loss"].value)
