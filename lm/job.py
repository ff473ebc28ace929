"""How a run is started and watched: which process of how many, on what, and how long anyone waits for anyone."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field

from lm.strict import ConfigError, require_choice, require_positive

PLATFORMS = ("cpu", "gpu", "tpu")


@dataclass(frozen=True)
class Patience:
    """How many seconds a process may make no progress before its watchdog ends it."""

    factor: float = 20.0  # times the median of the past stretches of steps ...
    floor: float = 300.0  # ... and at least so long
    slow: float = 3600.0  # to compile, to save, and between two batches of an evaluation
    silence: float = 25.0  # of another process

    def __post_init__(self):
        for name in ("factor", "floor", "slow", "silence"):
            require_positive(f"patience.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which of how many processes this one is, and its limits. What is not given is read from the environment.

    Without a coordinator there is one process, except on a Cloud TPU slice, whose hosts JAX finds by itself.
    """

    coordinator: str | None = None  # HOST:PORT of process 0 (default: JAX_COORDINATOR_ADDRESS)
    processes: int | None = None  # how many there are (default: JAX_NUM_PROCESSES)
    process: int | None = None  # number of this one, from 0 (default: JAX_PROCESS_ID)
    platform: str | None = None  # cpu, gpu or tpu: refuse to run where JAX found another
    start_limit: int = 300  # seconds for all processes to arrive
    heartbeat: int = 60  # seconds of silence after which JAX ends the others
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self):
        require_positive("start_limit", self.start_limit)
        require_positive("heartbeat", self.heartbeat)
        if self.patience.silence >= self.heartbeat / 2:  # where JAX may end the process, before it can write down why
            raise ConfigError(
                f"patience.silence must be less than half of heartbeat {self.heartbeat}, got {self.patience.silence:g}"
            )
        if self.platform is not None:
            require_choice("platform", self.platform, PLATFORMS)


def tpu_devices() -> list[str]:
    """Return the device files of the TPU chips of this machine."""
    return sorted(glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*"))
