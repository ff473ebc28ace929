"""Chips and topologies: what a device holds and how fast it is, in one table with its sources.

A device is what JAX calls one: a chip, or one of the two cores of a v2, v3 or tpu7x chip, with its half of everything.

    v5e:16x16              one slice of 256 chips
    v5e:16x16,slices=2     two of them, which meet over the data-centre network
    gpu:h100x8             eight GPUs
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from types import MappingProxyType

from lm.exits import UserError
from lm.strict import nearest

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One kind of device; memory in bytes, rates in bytes or operations a second."""

    name: str
    memory: float  # that a program may use, as the compiler says for a TPU
    flops: float  # peak in bfloat16 without sparsity
    bandwidth: float  # of its memory
    link: float  # of one link to a neighbour, one way; for a GPU all of NVLink, one way
    links: int
    network: float  # of a device's share of its host's network cards, one way
    clock: float | None  # Hz of the units whose cycles the compiler estimates; None: not known
    source: str
    dimensions: int = 0  # of the torus; 0: no TPU
    devices: int = 1  # of a chip
    largest: int = 0  # chips of a slice; of a GPU: devices that NVLink joins


DOCS = "cloud.google.com/tpu/docs"
USABLE = "memory: libtpu 0.0.51's own limit"
CHIPS: Mapping[str, Chip] = MappingProxyType(
    {
        chip.name: chip
        for chip in (
            Chip("v2", 7.48 * GIB, 23e12, 350e9, 31e9, 4, 1.6e9, None,
                 f"{DOCS}/v2, links: Jouppi et al. 2020 (CACM 63 7); {USABLE}", 2, 2, 256),
            Chip("v3", 15.48 * GIB, 61.5e12, 450e9, 41e9, 4, 1.6e9, None,
                 f"{DOCS}/v3, links: Jouppi et al. 2020 (CACM 63 7); {USABLE}", 2, 2, 1024),
            Chip("v4", 30.75 * GIB, 275e12, 1228e9, 50e9, 6, 6.25e9, 1.05e9,
                 f"{DOCS}/v4 and Jouppi et al. 2023 (arXiv 2304.01433); {USABLE}", 3, 1, 4096),
            Chip("v5e", 15.75 * GIB, 197e12, 819e9, 50e9, 4, 3.125e9, 1.503e9,
                 f"{DOCS}/v5e: 1,600 Gbit/s over 4 ports, 6.4 Tbit/s a pod of 256; {USABLE}", 2, 1, 256),
            Chip("v5p", 95.73 * GIB, 459e12, 2765e9, 100e9, 6, 6.25e9, 1.751e9,
                 f"{DOCS}/v5p: 4,800 Gbit/s over 6 ports; {USABLE}", 3, 1, 6144),
            Chip("v6e", 31.24 * GIB, 918e12, 1640e9, 100e9, 4, 12.5e9, 1.751e9,
                 f"{DOCS}/v6e: 3,200 Gbit/s over 4 ports, 25.6 Tbit/s a pod of 256; {USABLE}", 2, 1, 256),
            Chip("tpu7x", 94.74 * GIB, 1153.5e12, 3690e9, 50e9, 6, 6.25e9, None,
                 f"{DOCS}/tpu7x: 1,200 GB/s both ways over 6 ports; {USABLE}", 3, 2, 9216),
            Chip("a100", 80e9, 312e12, 2039e9, 300e9, 1, 25e9, None, "NVIDIA A100 80 GB SXM data sheet", largest=8),
            Chip("h100", 80e9, 989e12, 3350e9, 450e9, 1, 50e9, None, "NVIDIA H100 SXM data sheet", largest=8),
            Chip("h200", 141e9, 989e12, 4800e9, 450e9, 1, 50e9, None, "NVIDIA H200 SXM data sheet", largest=8),
            Chip("b200", 180e9, 2250e12, 8000e9, 900e9, 1, 50e9, None, "NVIDIA DGX B200 data sheet", largest=8),
            Chip("l4", 24e9, 121e12, 300e9, 32e9, 1, 12.5e9, None, "NVIDIA L4 data sheet; link: PCIe 4", largest=1),
        )
    }
)  # fmt: skip


@dataclass(frozen=True)
class Topology:
    """Devices of one kind: `shape` is that of a TPU slice in chips, or the number of GPUs."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def is_tpu(self) -> bool:
        return self.chip.dimensions > 0

    @property
    def name(self) -> str:
        """Its spelling."""
        if not self.is_tpu:
            return f"gpu:{self.chip.name}x{self.shape[0]}"
        return f"{self.slice_name}{f',slices={self.slices}' if self.slices > 1 else ''}"

    @property
    def slice_name(self) -> str:
        """One slice, as the compiler calls it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def devices(self) -> int:
        """How many there are, of all slices."""
        return math.prod(self.shape) * self.chip.devices * self.slices

    @property
    def island(self) -> int:
        """Devices that fast links join."""
        return self.devices // self.slices if self.is_tpu else min(self.devices, self.chip.largest)


def parse_topology(text: str) -> Topology:
    """Return a topology from its spelling; an unknown one is a UserError that names the nearest."""
    kind, _, rest = text.partition(":")
    if kind == "gpu":
        return _gpus(text, rest)
    tpus = [chip.name for chip in CHIPS.values() if chip.dimensions]
    if kind not in tpus:
        known = f"the compiler knows {', '.join(f'{name}:...' for name in tpus)}, and there is gpu:h100x8"
        raise UserError(f"no topology {text!r}{nearest(kind, [*tpus, 'gpu'])} ({known})")
    chip = CHIPS[kind]
    found = re.fullmatch(r"(\d+(?:x\d+)*)(?:,slices=([1-9]\d*))?", rest)
    shapes = list(_shapes(chip))
    shape = tuple(map(int, found[1].split("x"))) if found else ()
    if found is None or shape not in shapes:
        raise UserError(f"no topology {text!r}; nearest: {', '.join(_nearest_shapes(chip, shapes, shape))}")
    return Topology(chip, shape, int(found[2] or 1))


def _gpus(text: str, rest: str) -> Topology:
    gpus = [chip.name for chip in CHIPS.values() if not chip.dimensions]
    found = re.fullmatch(r"([a-z]+\d+)(?:x([1-9]\d*))?", rest)
    if found is None or found[1] not in gpus:
        close = nearest(found[1] if found else rest, gpus)
        raise UserError(f"no topology {text!r}{close} (gpu:NAMExCOUNT of {', '.join(gpus)})")
    return Topology(CHIPS[found[1]], (int(found[2] or 1),))


def _shapes(chip: Chip) -> Iterator[tuple[int, ...]]:
    """Yield the slices of a chip, smallest first: sides that double, or in three dimensions multiples of 4."""
    if chip.dimensions == 2:
        sides = [1, *(2**i for i in range(1, 6))]
        shapes = {(a, b) for a in sides for b in (a, 2 * a) if (a, b) != (1, 2) and b <= 32}
    else:
        shapes = {(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)}
        shapes |= {(a, b, c) for a, b, c in combinations_with_replacement(range(4, 29, 4), 3)}
    fitting = (shape for shape in shapes if math.prod(shape) <= chip.largest)
    # A v2 or v3 board is a square of four chips, which no slice divides.
    whole = (shape for shape in fitting if chip.devices == 1 or math.prod(shape) >= 4)
    yield from sorted(whole, key=lambda shape: (math.prod(shape), shape))


def _nearest_shapes(chip: Chip, shapes: list[tuple[int, ...]], wanted: tuple[int, ...]) -> list[str]:
    size = math.log2(max(math.prod(wanted), 1))
    close = sorted(shapes, key=lambda shape: abs(math.log2(math.prod(shape)) - size))[:3]
    return [Topology(chip, shape).name for shape in sorted(close, key=math.prod)]
