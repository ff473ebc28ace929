"""Layouts: what a compiled program sends between devices, and that every layout computes what one device does."""

import pytest

from lm.collectives import Collective, collectives, totals
from scripts.bench_layouts import LAYOUTS, MEMBERS, TOLERANCE, on_eight_devices

MESH = {"data": 2, "fsdp": 4, "tensor": 2}

# Lines as compilers write them, without what nobody reads. The loop of the CPU says how often it runs; the TPU's has a
# condition to be read, an all-gather repeated in the fusions that overlap with it, and a fused reduce-scatter.
CPU = """
%body (p: (s32[], f32[2,16])) -> (s32[], f32[2,16]) {
  %g = f32[16,16]{1,0} all-gather(%x), channel_id=1, replica_groups=[4,4]<=[2,4,2]T(2,0,1), dimensions={0}
  %r = (f32[16,16]{1,0}, bf16[4]{0}) all-reduce(%a, %b), replica_groups=[8,2]<=[16], to_apply=%add
}
%inner (q: f32[]) -> f32[] {
  %p = f32[8]{0} collective-permute(%y), channel_id=1, source_target_pairs={{0,2},{2,4},{4,6},{6,0}}
}
ENTRY %main (p0: f32[2,16]) -> f32[2,16] {
  %w = (s32[], f32[2,16]{1,0}) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %k = f32[2]{0} call(%w), to_apply=%inner
  %s = (f32[4]{0}, f32[16]{0}) all-gather-start(%k), replica_groups={{0,2,4,6},{8,10,12,14},{1,3,5,7},{9,11,13,15}}
  %d = f32[16]{0} all-gather-done(%s)
  %n = f32[16]{0} all-gather(%d), replica_groups=mesh['a'=2,'b'=4,'c'=2] {'b'}, dimensions={0}
  %m = f32[16]{0} all-to-all(%d), replica_groups=mesh['a'=2,'b'=8], device_ids=([8,2]T(1,0)) {'a'}, dimensions={0}
  %alone = f32[] all-reduce(%k), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7},{8},{9},{10},{11},{12},{13},{14},{15}}
  ROOT %all = pred[] all-reduce-start(%k), replica_groups={}, to_apply=%or
}
"""
TPU = """
%start (p: bf16[1,256]) -> bf16[1,1024] {
  %g = bf16[1,1024]{1,0:T(8,128)} all-gather(%p), replica_groups=[4,4]<=[8,2]T(1,0), frontend_attributes={chain_id="0"}
}
%step (p: bf16[1,256]) -> bf16[1,1024] {
  %g.1 = bf16[1,1024]{1,0:S(1)} all-gather(%p), replica_groups=[4,4]<=[8,2]T(1,0), frontend_attributes={chain_id="0"}
}
%all-reduce-scatter.1 (i: bf16[64,32]) -> bf16[16,32] {
  %r = bf16[64,32]{1,0:T(8,128)(2,1)} all-reduce(%i), channel_id=9, replica_groups=[4,4]<=[8,2]T(1,0), to_apply=%add
}
%condition (p: (s32[], bf16[4])) -> pred[] {
  %constant.6 = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%counter, %constant.6), direction=LT
}
%body (p: (s32[], bf16[4])) -> (s32[], bf16[4]) {
  %a = (bf16[1,256]{1,0}, bf16[1,1024]{1,0}, u32[]{:S(2)}) fusion(%p), kind=kCustom, calls=%start
  %b = bf16[1,1024]{1,0} fusion(%a), kind=kCustom, calls=%step
  %c = bf16[16,32]{1,0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter.1
  %h = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%c), source_target_pairs={{0,8},{8,0}}
}
ENTRY %main (p0: f32[2,16]) -> f32[2,16] {
  %w = (s32[]{:T(128)}, bf16[4]{0}) while(%t), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            CPU,
            [
                Collective("all-gather", ("fsdp",), 1024, 3),
                Collective("all-reduce", ("tensor",), 1024 + 8, 3),
                Collective("collective-permute", ("fsdp",), 32, 1),
                Collective("all-gather", ("fsdp",), 64, 1),
                Collective("all-gather", ("fsdp",), 64, 1),
                Collective("all-to-all", ("tensor",), 64, 1),
                Collective("all-reduce", ("data", "fsdp", "tensor"), 1, 1),
            ],
        ),
        (
            TPU,
            [
                Collective("all-gather", ("fsdp",), 2048, 12),
                Collective("reduce-scatter", ("fsdp",), 4096, 12),
                Collective("collective-permute", ("data",), 32, 12),
            ],
        ),
    ],
    ids=["cpu", "tpu"],
)
def test_collectives_are_read_from_the_text_of_a_program(text, expected):
    assert collectives(text, MESH) == expected


def test_collectives_of_a_kind_add_up():
    found = [Collective("all-gather", ("fsdp",), 8, 3), Collective("all-gather", ("fsdp",), 2, 1)]
    assert totals(found) == {("all-gather", ("fsdp",)): (4, 26)}


@pytest.fixture(scope="module")
def figures():
    return on_eight_devices()


@pytest.mark.parametrize("name", [layout.name for layout in LAYOUTS])
def test_a_layout_computes_what_one_device_does(figures, name):
    errors = {part: figures[name][part] for part in ("loss", "gradient", "weights")}
    assert max(errors.values()) <= TOLERANCE, errors
    assert errors["gradient"] > 0, "nothing was added up in another order, so nothing was laid out"


def test_a_population_spread_over_devices_learns_what_it_does_on_one(figures):
    assert max(figures[MEMBERS].values()) <= TOLERANCE, figures[MEMBERS]


# Bytes of arrays of the model "rotary", by which the table below says what each layout needs.
STREAM = 16 * 16 * 32 * 4  # what one block hands to the next, for the whole batch
KERNELS = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 2 * 32 * 128) * 4  # of 4 layers: query, output; key, value; up, down
NORMS, LAST = 4 * 2 * 32 * 4, 32 * 4  # scales within the blocks, and behind them
TABLE = 64 * 32 * 4  # the embedding, which is the head as well
KEYS = 16 * 16 * 16 * 4  # of a layer, as many as values
IDS = 16 * 16 * 4
SUMS = 3 * 4  # of the loss, of its weights and of what is right

SENT = {
    # The gradient, that of the table once as embedding and once as head.
    "data=8": {("all-reduce", "data"): (6, KERNELS + NORMS + LAST + 2 * TABLE + SUMS)},
    # Each kernel forward and backward, and the head. To look up ids in a table split along D, a device needs all ids
    # and the mask of those beyond the table; rows go to where the batch is and their gradient goes back.
    "fsdp=8": {
        ("all-gather", "fsdp"): (51, 2 * KERNELS + TABLE + IDS + IDS // 4),
        ("all-reduce", "fsdp"): (6, KERNELS + NORMS + LAST + TABLE + SUMS),
        ("all-to-all", "fsdp"): (2, 2 * STREAM // 8),
    },
    # Behind the two projections of each layer forward, before the inner ones backward: query, key, value and up. The
    # embedding and the gradient of the features; the logits' maximum, sum and target, and the first of the greatest.
    "tensor=2": {
        ("all-reduce", "tensor"): (21, 4 * (2 + 4) * STREAM + 2 * STREAM + 4 * IDS),
    },
    # Keys and values of each layer, with the segments and groups, and back their gradient; the gradient of all weights.
    "sequence=4": {
        ("all-gather", "sequence"): (10, 4 * 2 * KEYS + 2 * IDS),
        ("reduce-scatter", "sequence"): (8, 4 * 2 * KEYS),
        ("all-reduce", "sequence"): (1, KERNELS + NORMS + LAST + 2 * TABLE + SUMS * 2 // 3),
    },
    # 16 microbatches in 16 + 3 ticks, forward and backward. What the last stage makes goes to all and its gradient
    # comes from all, and the first stage tells all the gradient of what it took.
    "pipeline=4": {
        ("collective-permute", "pipeline"): (2 * 19, 2 * 19 * STREAM // 16),
        ("all-reduce", "pipeline"): (3, 3 * STREAM),
    },
    "data=2 x fsdp=4": {
        ("all-gather", "fsdp"): (51, 2 * KERNELS + TABLE + (IDS + IDS // 4) // 2),
        ("all-reduce", "fsdp"): (5, KERNELS + TABLE),
        ("all-reduce", "data"): (5, KERNELS // 4 + 2 * TABLE // 4),  # the parts that fsdp leaves
        ("all-reduce", "data fsdp"): (6, NORMS + LAST + SUMS),
        ("all-to-all", "fsdp"): (2, 2 * STREAM // 8),
    },
    "data=4 x sequence=2": {
        ("all-gather", "sequence"): (10, (4 * 2 * KEYS + 2 * IDS) // 4),
        ("reduce-scatter", "sequence"): (8, 4 * 2 * KEYS // 4),
        ("all-reduce", "data sequence"): (1, KERNELS + NORMS),
        ("all-reduce", "data"): (2, LAST + 2 * TABLE + SUMS),
        ("all-reduce", "sequence"): (1, LAST + 2 * TABLE + SUMS * 2 // 3),
    },
    "fsdp=4 x sequence=2": {
        ("all-gather", "fsdp"): (51, 2 * KERNELS + TABLE + (IDS + IDS // 4) // 2),
        ("all-reduce", "fsdp"): (7, KERNELS + NORMS + LAST + TABLE + SUMS),
        ("all-to-all", "fsdp"): (2, 2 * STREAM // 8),
        ("all-gather", "sequence"): (10, (4 * 2 * KEYS + 2 * IDS) // 4),
        ("reduce-scatter", "sequence"): (8, 4 * 2 * KEYS // 4),
        ("all-reduce", "sequence"): (1, (KERNELS + 2 * TABLE) // 4 + NORMS + LAST + SUMS * 2 // 3),
    },
    "data=2 x pipeline=4": {
        ("collective-permute", "pipeline"): (2 * 11, 2 * 11 * STREAM // 16),
        ("all-reduce", "pipeline"): (3, 3 * STREAM // 2),
        ("all-reduce", "data"): (2, (KERNELS + NORMS) // 4 + LAST + 2 * TABLE + SUMS),
    },
}


@pytest.mark.parametrize("name", SENT)
def test_a_layout_sends_what_it_must_and_nothing_else(figures, name):
    sent = {(kind, " ".join(axes)): (count, size) for kind, axes, count, size in figures[name]["sent"]}
    assert sent == SENT[name]
