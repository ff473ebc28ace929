"""Count what the TPU compiler makes of a small decoder on a slice: python -m tests.golden.tpu_counts [--renew].

No TPU is needed, only its compiler (extra `tpu`). Memory, the compiler's own cycles and what is sent: a layer that
loses its layout, its fusion or its sharding shows here before anyone pays for a slice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from lm.files import write_whole
from lm.versions import version_of

KEPT = Path(__file__).with_name("tpu_counts.json")
TOPOLOGY = "v5e:2x2"
PROGRAM = f"a small decoder on {TOPOLOGY}"
# The decoder of the plan that has a peer, small; its heads are as wide, its loss is in as many chunks.
CHANGES = {
    "data.length": 512,
    "data.vocabulary": 2048,
    "model.vocabulary": 2048,
    "model.depth": 2,
    "model.width": 256,
    "model.heads": 4,
    "model.feedforward": 768,
    "train.batch_size": 4,
    "train.steps_per_dispatch": 1,
}
# Of the tests' own: the compiler ends a process at a flag that only CPUs know, and is to do all that it can.
ELSEWHERE = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")


def count_here() -> dict[str, int]:
    """Return the counts of the program, forwards, backwards and the update, as this process compiles it."""
    from lm.collectives import collectives, totals
    from lm.strict import override
    from tpu.planning.chips import parse_topology
    from tpu.planning.compiled import compile_recipe
    from tpu.planning.program import work_of
    from tpu.planning.table import peer_shape

    compiled = compile_recipe(override(peer_shape(), CHANGES), parse_topology(TOPOLOGY))
    work, sent = work_of(compiled.text), totals(collectives(compiled.text, dict(compiled.mesh.shape)))
    return {
        "flops": int(work.flops),
        "cycles": int(work.cycles),
        "kernels": work.kernels,
        **{f"{kind} {' '.join(axes)}": count for (kind, axes), (count, _) in sorted(sent.items())},
        **{f"bytes {kind} {' '.join(axes)}": size for (kind, axes), (_, size) in sorted(sent.items())},
        **{f"bytes of {name}": compiled.memory[name] for name in ("arguments", "temporaries", "peak")},
    }


def measured() -> dict[str, int]:
    """Return the counts of a process of its own."""
    code = "import json; from tests.golden.tpu_counts import count_here; print(json.dumps(count_here()))"
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def kept() -> tuple[str, dict[str, int]]:
    """Return the version of libtpu whose counts are kept, and them."""
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    return found["libtpu"], found["counts"]


def main(argv: list[str]) -> None:
    """Print the counts, and with --renew keep them."""
    text = json.dumps({"libtpu": version_of("libtpu"), "counts": measured()}, indent=1) + "\n"
    print(text, end="")
    if argv == ["--renew"]:
        write_whole(KEPT, text)


if __name__ == "__main__":
    main(sys.argv[1:])
