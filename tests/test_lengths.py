"""The harness of length generalisation: how far is far, what is drawn, and every scheme on a task with a size."""

import json

import jax
import pytest

from lm.config import RNNConfig
from lm.models import build
from lm.report.pictures import draw
from lm.strict import ConfigError, override
from scripts.results import lengths
from tasks.arithmetic.addition import Addition, addition_cpu
from tasks.arithmetic.sorting import Sorting, sorting_cpu
from tasks.lengths import accuracy_picture, figures, longest, with_scheme
from tasks.schemes import POSITIONS

SMALL = override(
    sorting_cpu(),
    {"task": Sorting(values=5, longest_train=3, longest_test=6), "model.vocabulary": 15, "model.width": 16},
)


@pytest.mark.parametrize(
    ("accuracies", "size"),
    [({5: 1.0, 10: 0.95}, 10), ({10: 0.94, 5: 1.0, 15: 1.0}, 5), ({5: 0.2}, 0), ({}, 0)],
)
def test_a_length_counts_where_every_shorter_one_is_solved_too(accuracies, size):
    assert longest(accuracies) == size


SUMS = override(addition_cpu(), {"task": Addition(longest_train=3, longest_test=6, max_position=12)})
SERVED = [(SMALL, s) for s in POSITIONS]
SERVED += [(SUMS, s) for s in ("coupled", "random_start", "index_hints", *POSITIONS)]


@pytest.mark.parametrize(("recipe", "scheme"), SERVED, ids=[f"{r.name} {s}" for r, s in SERVED])
def test_every_scheme_serves_the_longest_test(recipe, scheme):
    recipe = with_scheme(recipe, scheme)
    example = recipe.task.sample_test(jax.random.key(0), 6)
    batch = jax.tree.map(lambda x: x[None], example)
    net = build(recipe.model)
    logits = net.apply(net.init(jax.random.key(1)), batch).logits
    assert logits.shape == (1, recipe.task.max_length, recipe.task.vocabulary)
    assert not jax.numpy.isnan(logits).any()


def test_a_scheme_that_is_none_is_named_and_a_model_without_positions_refused():
    with pytest.raises(ConfigError, match="rotary"):
        with_scheme(SMALL, "rotari")
    with pytest.raises(ConfigError, match="RNNConfig, which has no positions"):
        with_scheme(override(SMALL, {"model": RNNConfig(vocabulary=15)}), "rotary")


def test_the_picture_has_medians_quartiles_and_the_trained_range():
    measured = {f"none@{n}": [0.1, 0.5, 0.3] for n in (10, 5)} | {"other@5": [1.0]}
    picture = accuracy_picture(measured, ["none"], title="t", size_name="digits", trained=(1, 5))
    (curve,) = picture.series
    assert (list(curve.x), list(curve.y)) == ([5, 10], [0.3, 0.3])
    assert (curve.low, curve.high) == ((0.2, 0.2), (0.4, 0.4))
    assert "trained on" in draw(picture)


def test_the_page_has_one_table_of_how_far_each_scheme_holds():
    seeds = [figures({5: 1.0, 10: a}, "addition", "coupled", 5) | {"longest/addition/none": 0.0} for a in (1.0, 0.9)]
    result = {"name": "toy", "figures": {name: [f[name] for f in seeds] for name in seeds[0]}}
    page = lengths([result])
    assert "| addition | `toy` | 5 | coupled **7.5** (5 to 10) · none **0** |" in page
    assert lengths([{"name": "toy", "figures": {"loss": [1.0]}}]) == ""


def test_one_command_compares_schemes(call, tmp_path):
    line = "sorting_cpu --task.values 5 --task.longest_train 3 --task.longest_test 6 --model.vocabulary 15"
    line += f" --model.width 16 --train.steps 3 --train.batch_size 4 --seeds 2 --workdir {tmp_path}"
    code, out, err = call("lengths", f"{line} --schemes no_positions rotary")
    assert code == 0, err
    assert "rotary: exact match 95 % up to 0 numbers (from 0 to 0 over 2 seeds); trained to 3" in out
    found = json.loads((tmp_path / "lengths.json").read_text())["exact_match"]
    assert set(found) == {f"{scheme}@{n}" for scheme in ("no_positions", "rotary") for n in range(2, 7)}
    assert "trained on" in (tmp_path / "lengths.svg").read_text()
    code, _, err = call("lengths", f"{line} --schemes alibi")
    assert (code, "holds other runs" in err) == (2, True)
