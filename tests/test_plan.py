"""Laws of plans: closed forms of memory, operations and traffic, what is read of a compiled TPU program, one sentence
for a mistake. One test compiles for a TPU that is not there, where the TPU compiler is installed."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from lm.collectives import Collective, executions
from lm.config import MeshConfig, NoPositions, OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.exits import UserError, main_guard
from lm.strict import ConfigError, override
from lm.train import build_net
from scripts.results import save
from tasks.registry import RECIPES
from tasks.stem.text import Stem, StemData
from tpu.plan import main
from tpu.planning import chips, compiled, model, plans, program, search, show, table
from tpu.planning.chips import CHIPS, Topology, parse_topology

D, F, V, N, H, B, L = 64, 256, 512, 3, 4, 16, 256


def small(**values):
    """A decoder whose every matrix product is easily counted, on windows of a corpus that is not there."""
    recipe = Recipe(
        name="small",
        task=Stem(),
        data=StemData(vocabulary=V, length=L),
        model=TransformerConfig(
            vocabulary=V, depth=N, width=D, heads=H, feedforward=F, activation="relu", positions=NoPositions(),
            tied=False, dtype="bfloat16",
        ),
        optimizer=OptimizerConfig(),
        train=TrainConfig(batch_size=B, steps_per_dispatch=1),
        mesh=MeshConfig(data=1, fsdp=-1),
    )  # fmt: skip
    return override(recipe, values)


PARAMETERS = 2 * V * D + N * (4 * D * D + 2 * D * F + 2 * D) + D

# Chips.


@pytest.mark.parametrize("name", [chip.name for chip in CHIPS.values() if chip.dimensions])
def test_every_slice_of_a_chip_is_spelled_as_it_is_read(name):
    shapes = list(chips._shapes(CHIPS[name]))
    assert len(set(shapes)) == len(shapes) > 5
    for shape in shapes:
        for slices in (1, 2):
            topology = Topology(CHIPS[name], shape, slices)
            assert parse_topology(topology.name) == topology
            assert topology.devices == slices * topology.island == slices * math.prod(shape) * CHIPS[name].devices


def test_the_table_of_chips_agrees_with_itself():
    for chip in CHIPS.values():
        assert chip.source and 0 < chip.network < chip.link * chip.links < chip.bandwidth < chip.flops
    # 4 units of 128 x 128 in each of its cores make a multiply-add a cycle.
    assert CHIPS["v5e"].flops == pytest.approx(4 * 128 * 128 * 2 * CHIPS["v5e"].clock, rel=1e-3)
    assert CHIPS["v5p"].flops == pytest.approx(8 * 128 * 128 * 2 * CHIPS["v5p"].clock, rel=1e-3)


MISTAKES = {
    "v5e:3x3": "no topology 'v5e:3x3'; nearest: v5e:2x2, v5e:2x4, v5e:4x4",
    "v7x:2x2x1": "did you mean tpu7x?",
    "v5e:4x4,slices=0": "no topology",
    "gpu:h10x8": "did you mean h100",
    "gpu:h100x8 --mesh fsp=8": "no axis 'fsp'; did you mean fsdp?",
    "gpu:h100x8 --mesh fsdp=x": "fsdp must be a whole number, got 'x'",
    "gpu:h100x8 --mesh fsdp=4": "mesh data=1 x fsdp=4 x pipeline=1 x sequence=1 x tensor=1 needs 4 devices, found 8",
    "gpu:h100x3": "batch of 16 does not split over data x fsdp = 3 devices",
    "gpu:h100x8 --compile 1": "there is no compiler for gpu:h100x8",
    "gpu:h100x8 --model.dept 2": "--model.depth",
}


def run(capsys, monkeypatch, line):
    monkeypatch.setenv("XLA_FLAGS", "")  # which main takes away, and turns this off
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    monkeypatch.setattr("sys.argv", ["plan.py", *line.split()])
    with pytest.raises(SystemExit) as end:
        main_guard(main)
    return end.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence(line, capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, f"stem_cpu --topology {line}")
    assert (code, out) == (2, "") and MISTAKES[line] in err and err.count("\n") == 1


# What is read of a compiled program.

TEXT = """HloModule jit_called, is_scheduled=true

%dots (param_0: bf16[512,32], param_1: bf16[3,32,16]) -> bf16[512,16] {
  %param_0 = bf16[512,32]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %param_1 = bf16[3,32,16]{2,1,0:T(8,128)(2,1)} parameter(1)
  %layer = bf16[1,32,16]{2,1,0:T(8,128)(2,1)} dynamic-slice(%param_1, %i, %i, %i), dynamic_slice_sizes={1,32,16}
  %kernel = bf16[32,16]{1,0:T(8,128)(2,1)} bitcast(%layer)
  ROOT %convolution.1 = bf16[512,16]{1,0:T(8,128)(2,1)} convolution(%param_0, %kernel), dim_labels=bf_io->bf
}

%renewed (param_0: f32[3,16], param_1: f32[16]) -> f32[3,16] {
  %param_0.1 = f32[3,16]{1,0:T(8,128)} parameter(0)
  %param_1.1 = f32[1,16]{1,0:T(8,128)} parameter(1)
  ROOT %update = f32[3,16]{1,0:T(8,128)} dynamic-update-slice(%param_0.1, %param_1.1, %i, %i)
}

%body (p: (s32[], f32[3,16])) -> (s32[], f32[3,16]) {
  %p = (s32[], bf16[512,32], bf16[3,32,16], f32[3,16], f32[1,16]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[512,32]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=1
  %w = bf16[3,32,16]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=2
  %kept = f32[3,16]{1,0:T(8,128)} get-tuple-element(%p), index=3
  %row = f32[1,16]{1,0:T(8,128)} get-tuple-element(%p), index=4
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i, %two)
  %y = bf16[512,16]{1,0:T(8,128)(2,1)} fusion(%x, %w), kind=kOutput, calls=%dots, config={"estimated_cycles":"100"}
  %z = f32[3,16]{1,0:T(8,128)} fusion(%kept, %row), kind=kLoop, calls=%renewed, config={"estimated_cycles":"7"}
  %a = bf16[512,16]{1,0:T(8,128)(2,1)} custom-call(%y), custom_call_target="tpu_custom_call"
  ROOT %out = (s32[], bf16[512,32], bf16[3,32,16], f32[3,16], f32[1,16]) tuple(%next, %x, %w, %z, %row)
}

%condition (p: (s32[], f32[3,16])) -> pred[] {
  %p = (s32[], bf16[512,32], bf16[3,32,16], f32[3,16], f32[1,16]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %limit = s32[]{:T(128)} constant(6)
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main (a: f32[128], t: (s32[], f32[3,16])) -> f32[128] {
  %a = f32[128]{0:T(128)} parameter(0)
  %t = (s32[], bf16[512,32], bf16[3,32,16], f32[3,16], f32[1,16]) parameter(1)
  %w = (s32[], bf16[512,32], bf16[3,32,16], f32[3,16], f32[1,16]) while(%t), condition=%condition, body=%body
  %s = (f32[128]{0:T(128)S(1)}, f32[128]{0:T(128)}, u32[]{:S(2)}) copy-start(%a)
  %d = f32[128]{0:T(128)S(1)} copy-done(%s)
  %none = f32[]{:T(128)} constant(0), config={"estimated_cycles":"9223372036854775807"}
  ROOT %n = f32[128]{0:T(128)} negate(%d), config={"estimated_cycles":"1000"}
}
"""


def test_a_program_is_read_as_often_as_it_runs():
    assert executions(TEXT)["body"] == 3  # up to 6 by twos
    work = program.work_of(TEXT)
    assert work.flops == 3 * 2 * 512 * 32 * 16
    assert work.cycles == 3 * 107 + 1000
    assert work.kernels == 3
    # A layer of the weights and its result; a row, written in place; the kernel's array, in and out; the counter.
    body = 2 * (32 * 16 + 512 * 16) + 4 * (16 + 16) + 2 * 2 * 512 * 16 + 3 * 4
    assert work.bytes == 3 * body + 2 * 4 * 128


def valid_pairs(length, size, made, stride, low, apart, within):
    pairs = 0
    for o in range(made):
        for k in range(size):
            place = o * stride + k * within - low
            pairs += 0 <= place <= (length - 1) * apart and place % apart == 0
    return pairs


@pytest.mark.parametrize("seed", range(20))
def test_windows_count_what_they_meet(seed):
    rng = np.random.default_rng(seed)
    length, size, made, stride, apart, within = map(int, rng.integers(1, 6, 6))
    low = int(rng.integers(0, 5))
    said = program._met(
        length, size, made, stride=str(stride), pad=f"{low}_0", lhs_dilate=str(apart), rhs_dilate=str(within)
    )
    assert said == valid_pairs(length, size, made, stride, low, apart, within)


# The model.


def test_the_model_counts_operations_in_closed_form():
    recipe = small()
    products = PARAMETERS - V * D - D * (2 * N + 1)
    pairs = L * (L + model_block()) / 2  # attention in blocks of queries, each on all keys up to its end
    attention = 3 * 4 * B * pairs * D * N
    assert model.model_flops(recipe) == 6 * products * B * L + attention
    traced = model.shapes_of(recipe)[1]
    assert model.attention_flops(recipe, traced) == pytest.approx(3.5 * 4 * B * L * (L + 1) / 2 * D * N)
    windowed = override(recipe, {"model.window": 10})
    seen = sum(min(i + 1, 10) for i in range(L))
    assert model.attention_flops(windowed, traced) == pytest.approx(3.5 * 4 * B * seen * D * N)


def model_block():
    from lm.models.blocked import BLOCK

    return BLOCK


@pytest.mark.parametrize("devices", [1, 4])
def test_the_model_counts_memory_in_closed_form(devices):
    recipe = small(**{"model.remat": "full"})
    found = model.needs(recipe, devices, model.trace(recipe))
    norms = D * (2 * N + 1)  # scales stay whole
    share = 4 * ((PARAMETERS - norms) / devices + norms)
    assert found.parameters == found.gradients == share
    assert found.optimizer == pytest.approx(2 * share, rel=1e-3)
    # The stream between blocks in bfloat16, and logits in float32 (with their weights) around them.
    assert found.activations >= (2 * N * B * L * D + 4 * B * L * V) / devices
    halved = override(recipe, {"train.accumulate": 2})
    assert model.needs(halved, devices, model.trace(recipe)).activations == found.activations / 2
    assert model.needs(halved, devices, model.trace(recipe)).gradients == 2 * share


def test_recomputation_keeps_less_and_computes_more():
    whole, again = small(), small(**{"model.remat": "full"})
    kept = [model.needs(recipe, 4, model.trace(recipe)).activations for recipe in (whole, again)]
    assert kept[1] < kept[0] / 2
    gpu = parse_topology("gpu:h100x4")
    steps = [plans.plan(recipe, gpu, False).flops["step"] for recipe in (whole, again)]
    assert 1.15 < steps[1] / steps[0] < 4 / 3  # what no gradient needs is not computed again


@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_model_is_within_its_factor_of_the_cpu_compiler(remat):
    recipe = small(
        **{"model.remat": remat, "model.dtype": "float32", "model.attention": "plain", "model.unroll": False}
    )
    made = compiled.memory_of(compiled.lower(recipe, jax.devices()[:1])[0].compile())
    needed = model.needs(recipe, 1, model.trace(recipe)).peak
    assert 1 / model.WITHIN < needed / made["peak"] < model.WITHIN


SIZES = {"data": 2, "fsdp": 4, "pipeline": 1, "sequence": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("topology", "each", "seconds"),
    [
        # On one slice: all links at once; an all-reduce is a reduce-scatter and an all-gather.
        ("v5e:4x4", Collective("all-gather", ("fsdp",), 800, 1), 800 * 3 / 4 / 200e9),
        ("v5e:4x4", Collective("all-reduce", ("tensor",), 800, 3), 3 * 2 * 800 / 2 / 200e9),
        ("v5e:4x4", Collective("collective-permute", ("tensor",), 800, 1), 800 / 200e9),
        # Between two slices: only along data, where each device has its own share to fetch.
        ("v5e:2x4,slices=2", Collective("all-gather", ("fsdp",), 800, 1), 800 * 3 / 4 / 200e9),
        ("v5e:2x4,slices=2", Collective("all-reduce", ("data",), 800, 1), 2 * 800 / 2 / 3.125e9),
        ("v5e:2x4,slices=2", Collective("all-gather", ("data", "fsdp"), 800, 1), 800 / 2 / 4 / 3.125e9),
        # Hosts of eight GPUs.
        ("gpu:h100x16", Collective("all-reduce", ("data",), 800, 1), 2 * 800 / 2 / 50e9),
        ("gpu:h100x16", Collective("all-gather", ("fsdp",), 800, 1), 800 * 3 / 4 / 450e9),
    ],
)
def test_the_network_takes_its_time(topology, each, seconds):
    assert plans.network_seconds([each], SIZES, parse_topology(topology)) == pytest.approx(seconds)


def test_a_layout_sends_what_it_must():
    recipe = small(**{"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
    found = {(c.kind, c.axes): c.bytes * c.count for c in model.traffic(recipe, 8, model.trace(recipe))}
    rows = B // 4 * L
    assert found == {
        ("all-gather", ("fsdp",)): 2 * 2 * PARAMETERS / 2,
        ("reduce-scatter", ("fsdp",)): 4 * PARAMETERS / 2,
        ("all-reduce", ("data",)): 4 * PARAMETERS / 4,
        ("all-reduce", ("tensor",)): 2 * 2 * N * 2 * rows * D,  # two results a block, forwards and backwards
    }
    alone = override(recipe, {"mesh": MeshConfig(data=1)})
    assert model.traffic(alone, 1, model.trace(alone)) == []


# Plans.


def test_a_plan_as_json_says_everything(capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, "stem_cpu --topology gpu:h100x8 --mesh data=4,tensor=2 --json")
    assert (code, err) == (0, "") and out.count("\n") == 1
    said = json.loads(out)
    assert set(said) == {field.name for field in dataclasses.fields(plans.Plan)}
    assert said["mesh"] == {"data": 4, "tensor": 2} and said["fits"] and not said["compiled"]
    assert {"limit", "needed", "parameters", "optimizer", "gradients", "activations"} <= set(said["memory"])
    assert said["bound"] == max(said["seconds"].values())
    assert said["mfu_bound"] == pytest.approx(said["flops"]["model"] / CHIPS["h100"].flops / said["bound"])
    code, out, err = run(capsys, monkeypatch, "stem_cpu --topology gpu:h100x8 --mesh data=4,tensor=2")
    assert (code, err) == (0, "") and "fits: needs" in out and "MFU" in out


def test_a_search_ranks_what_fits_first():
    topology = parse_topology("gpu:h100x8")
    found = search.search(small(), topology, 0)
    assert [search.rank(plan) for plan in found] == sorted(search.rank(plan) for plan in found)
    meshes = {show.mesh_of(plan) for plan in found}
    assert {"data=8", "fsdp=8", "fsdp=4,tensor=2", "fsdp=2,tensor=4"} <= meshes
    few = {show.mesh_of(plan) for plan in search.search(small(), parse_topology("gpu:h100x48"), 0)}
    assert {"fsdp=16,pipeline=3", "fsdp=6,sequence=8"} & few and not any("pipeline=2" in mesh for mesh in few)
    assert all(math.prod(plan.mesh.values()) == 8 and plan.fits for plan in found)
    tight = Topology(dataclasses.replace(CHIPS["h100"], memory=found[0].memory["model"] / 2), (8,))
    assert {plan.accumulate for plan in search.search(small(), tight, 0) if plan.remat == "none"} != {1}
    tiny = [
        plan.memory["needed"]
        for plan in search.search(small(), Topology(dataclasses.replace(CHIPS["h100"], memory=1e3), (8,)), 0)
    ]
    assert tiny == sorted(tiny)  # where nothing fits
    slices = parse_topology("v5e:2x2,slices=2")
    assert all(mesh.data % 2 == 0 for mesh in search.meshes(small(), slices))


def test_the_phi_recipes_have_the_parameters_of_the_papers():
    for name, count in (("phi3_mini_full", 3_821_079_552), ("phi4_full", 14_659_507_200)):
        params = jax.eval_shape(build_net(RECIPES[name]())[1].init, jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_the_rows_of_the_table_are_recipes_on_topologies():
    for recipe, where in table.rows().values():
        topology = parse_topology(where)
        assert list(search.meshes(recipe, topology)), f"{recipe.name} has no mesh on {where}"


def test_a_row_of_the_table_becomes_a_line_of_the_page(tmp_path):
    found = plans.plan(small(), parse_topology("gpu:h100x8"), False)
    said = table.result({"small gpu:h100x8": found})
    save(json.loads(json.dumps(said)), tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| small | gpu:h100x8 | fsdp=8 | 16 in 1 | none | yes |" in page
    assert said["claims"][-1]["passed"] and said["figures"] == {"model_factor": [1.0]}
    assert plans.Plan(**said["plans"]["small gpu:h100x8"]) == found
    with pytest.raises(UserError, match="no row 'phi5'"):
        table.write(["phi5"])


def test_a_recipe_is_compiled_for_a_tpu_that_is_not_there(monkeypatch):
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed (extra tpu)")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # it ends the process at a flag that only CPUs know
    # Smaller arrays would lie in the fast memory beside the units.
    larger = {"model.width": 512, "model.feedforward": 2048, "data.length": 1024, "train.batch_size": 32}
    found = plans.plan(small(**larger), parse_topology("v5e:2x2"), True)
    assert found.compiled and found.fits and found.mesh == {"fsdp": 4}
    assert 1 / model.WITHIN < found.memory["model"] / found.memory["needed"] < model.WITHIN
    assert found.flops["step"] == pytest.approx(found.flops["model"], rel=0.2)
    assert {each["kind"] for each in found.collectives} & {"all-gather", "collective-permute"}
    assert 0 < found.seconds["compute"] < found.seconds["compiler"]
    large = override(small(), {"model.width": 32_768, "model.feedforward": 131_072})
    refused = plans.plan(large, parse_topology("v5e:2x2"), True)
    assert not refused.fits and refused.memory["needed"] > refused.memory["limit"]
    assert show.shown(refused).splitlines()[2].startswith("does not fit: needs")


def test_without_the_compiler_the_extra_is_named(capsys, monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    code, out, err = run(capsys, monkeypatch, "stem_cpu --topology v5e:2x2")
    assert (code, out) == (2, "") and "pip install 'cambium-lm[tpu]'" in err and err.count("\n") == 1


def test_a_mesh_that_slices_cannot_have_is_refused():
    with pytest.raises(ConfigError, match="mesh.data 1 does not split over 2 slices"):
        plans.plan(small(), parse_topology("v5e:2x2,slices=2"), False)
