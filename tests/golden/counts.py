"""Count what seven compiled programs do on CPU: python -m tests.golden.counts [--renew].

No clock: the operations that a recipe's step asks for, what the compiler made of them by kind, and the bytes that it
reads, writes and holds. Sizes are small, for the compiler's sake; the counts are the same on every x86 machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from lm.files import write_whole
from lm.versions import version_of

Counts = dict[str, dict[str, int]]
RUN = "a run with two evaluations compiles"
KEPT = Path(__file__).with_name("counts.json")
DEVICES = 4
# Of what the compiler writes down; the rest of the time is spent below it. Its programs follow the machine's
# instructions and cores, so it is told which to assume.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": str(DEVICES),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}
KINDS = (
    "dot",
    "convolution",
    "transpose",
    "copy",
    "while",
    "fusion",
    "custom-call",
    "call",
    "gather",
    "scatter",
    "sort",
)
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "call", "conditional"}
SMALL = {"model.width": 32, "train.batch_size": 8}
TEXT = SMALL | {"task.length": 16}


class Program(NamedTuple):
    """A compiled function with the shapes of its arguments, and the sizes of its mesh."""

    function: Any
    arguments: tuple[Any, ...]
    mesh_shape: dict[str, int]


def step(name: str, changes: dict[str, Any], devices: int = 1, stage: int = 0, **parts: Any) -> Program:
    """Return the steps that training a recipe dispatches together, in one stage of its growth."""
    import jax
    import numpy as np

    from lm.strict import override
    from lm.train import prepare
    from lm.transforms import stages_of
    from tasks.registry import RECIPES

    recipe = stages_of(replace(override(RECIPES[name](), changes), **parts))[stage].recipe
    run = prepare(recipe, Path(), devices=jax.devices()[:devices])
    mesh = jax.tree.leaves(run.target)[0].sharding.mesh
    return Program(run.stretch, (run.target, None, jax.ShapeDtypeStruct((), np.int32)), dict(mesh.shape))


def accumulated() -> Program:
    """Rotary positions, a batch in two parts over data=2 x fsdp=2, the logits in four parts."""
    parts = {"train.accumulate": 2, "objective.chunks": 4, "mesh.fsdp": 2}
    return step("flip_flop_rotary_cpu", TEXT | parts, devices=4)


def narrow() -> Program:
    """Operands of bfloat16 in every product, attention in two blocks of queries."""
    shape = {"model.width": 32, "train.batch_size": 2, "task.length": 128}
    return step("flip_flop_attention_cpu", shape | {"model.products": "bfloat16"})


def majority() -> Program:
    """Learned positions, norms and biases, three copies of each kernel."""
    from lm.config import MajorityKernels

    return step("flip_flop_attention_cpu", TEXT, transforms=(MajorityKernels(factor=3),))


def grown() -> Program:
    """The second stage of a growth from one layer to three, with a moving average."""
    from lm.config import Growth

    return step("addition_cpu", SMALL | {"model.depth": 3, "train.ema": 0.99}, stage=1, growth=Growth((1, 2, 3)))


def images() -> Program:
    """A ResNet with group norm."""
    return step("shapes_resnet_cpu", {"train.batch_size": 8, "model.groups": 1})


def members() -> Program:
    """Two seeds by two rates of an LSTM, spread over data=2."""
    import jax
    import numpy as np

    from lm.config import MeshConfig
    from lm.mesh import make_mesh
    from lm.strict import override
    from lm.sweep import population
    from tasks.registry import RECIPES

    recipe = override(RECIPES["flip_flop_cpu"](), TEXT)
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    run = population(recipe, recipe.task.source(recipe, Path()), mesh)
    values = {"optimizer.learning_rate": np.float32([1e-3, 1e-3, 1e-4, 1e-4])}
    states = jax.eval_shape(run.begin, jax.random.split(jax.random.key(0), 4), values)
    return Program(run.stretch, (states, values, np.int32(8)), dict(mesh.shape))


def decoding() -> Program:
    """Two candidates each of four prompts of 16 tokens, up to 32 new ones."""
    import jax
    import numpy as np

    from lm.decode import generate
    from lm.models import build
    from tasks.registry import RECIPES

    net = build(replace(RECIPES["tinygsm_cpu"]().model, vocabulary=64, width=32, depth=2))
    arguments = (jax.eval_shape(net.init, jax.random.key(0)), *(np.ones((4, 16), np.int32),) * 2)

    def run(params: Any, tokens_BL: Any, segments_BL: Any, keys_B: Any) -> Any:
        settings = {"stop": 0, "max_new": 32, "temperature": 0.7, "candidates": 2}
        return generate(net, params, tokens_BL, segments_BL, keys_B, **settings)

    return Program(jax.jit(run), (*arguments, jax.random.split(jax.random.key(0), 4)), {})


PROGRAMS = {
    "flip_flop_rotary_cpu, accumulated": accumulated,
    "flip_flop_attention_cpu, products of bfloat16": narrow,
    "flip_flop_attention_cpu, majority kernels": majority,
    "addition_cpu, grown": grown,
    "shapes_resnet_cpu": images,
    "flip_flop_cpu, four members": members,
    "tinygsm_cpu, decoding": decoding,
}


def counts_of(program: Program) -> dict[str, int]:
    """Return the counts of one run of a program; a loop whose length the program does not know runs once."""
    from lm.collectives import collectives, totals
    from lm.flops import count_flops
    from tpu.planning.compiled import memory_of

    compiled = program.function.lower(*program.arguments).compile()
    memory, text = memory_of(compiled), compiled.as_text()
    sent = totals(collectives(text, program.mesh_shape))
    return {
        "flops": count_flops(program.function, *program.arguments),
        **operations(text),
        **{f"{kind} {' '.join(axes)}": count for (kind, axes), (count, _) in sorted(sent.items())},
        **{f"bytes {kind} {' '.join(axes)}": size for (kind, axes), (_, size) in sorted(sent.items())},
        **{f"bytes of {name}": memory[name] for name in ("arguments", "temporaries", "peak")},
    }


def operations(text: str) -> dict[str, int]:
    """Return how many operations of each kind an optimised program runs, and the bytes that all of them write.

    Inside a fusion only products and convolutions count: the rest of it is one pass over memory.
    """
    from lm.collectives import COMPUTATION, INSTRUCTION, bytes_of, executions

    runs, counted, written, name = executions(text), Counter({"dot": 0}), 0, ""
    fused = set(re.findall(r" fusion\(.*\bcalls=%?([\w.-]+)", text))
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            name = header[2]
        elif (instruction := INSTRUCTION.match(line)) and runs[name]:
            shapes, kind = instruction.groups()
            if kind in KINDS and (name not in fused or kind in ("dot", "convolution")):
                counted[kind] += runs[name]
            if name not in fused and kind not in FREE:
                written += runs[name] * bytes_of(shapes)
    return {**{kind: counted[kind] for kind in KINDS if counted[kind]}, "bytes written": written}


def compiled_by_a_run() -> dict[str, int]:
    """Return how many functions of each name a short run with two evaluations compiles, as if in a new process."""
    import jax
    from jax._src import monitoring  # jax.monitoring removes all listeners or none

    from lm.strict import override
    from lm.train import fit
    from tasks.registry import RECIPES

    names: Counter[str] = Counter()

    def listen(event: str, seconds: float, **facts: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names[facts["fun_name"]] += 1

    often = {"train.steps": 8, "train.evaluate_every": 4, "train.log_every": 2, "task.test_reads": 20}
    recipe = override(RECIPES["flip_flop_attention_cpu"](), TEXT | often | {"model.width": 8})
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit(recipe, folder, quiet=True)
    finally:
        monitoring.unregister_event_duration_listener(listen)
    return dict(sorted(names.items()))


def count_here() -> Counts:
    """Return the counts of every program as this process compiles it."""
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # the compiler cuts loops by the number of cores
    return {name: counts_of(program()) for name, program in PROGRAMS.items()}


def measured() -> Counts:
    """Return the counts of a process whose compiler is told what to assume."""
    code = "import json; from tests.golden.counts import count_here; print(json.dumps(count_here()))"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def kept() -> tuple[str, Counts]:
    """Return the version of jaxlib whose counts are kept, and them."""
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    return found["jaxlib"], found["counts"]


def differences(was: Counts, now: Counts) -> list[str]:
    """Return a line for each count that is another one than it was."""
    lines = []
    for name in {**was, **now}:
        old, new = was.get(name, {}), now.get(name, {})
        changed = (count for count in {**old, **new} if old.get(count, 0) != new.get(count, 0))
        lines += [f"{name}: {count} was {old.get(count, 0):,}, is {new.get(count, 0):,}" for count in changed]
    return lines


def main(argv: list[str]) -> None:
    """Print what has changed since the counts were kept, and with --renew keep those of today."""
    found = measured() | {RUN: compiled_by_a_run()}
    was = kept()[1] if KEPT.exists() else {}
    print("\n".join(differences(was, found)) or "nothing has changed")
    if argv == ["--renew"]:
        write_whole(KEPT, json.dumps({"jaxlib": version_of("jaxlib"), "counts": found}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
