"""What this machine offers a run, and one line of advice for each thing that does not fit.

    python -m lm.doctor [--workdir DIR] [--platform tpu] [--json]

Exit code 0 where nothing needs attention, 1 where there is advice. JAX is started in a process of its own with a time
limit: on one host of a slice it waits for the others, so run this on all of them at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm.exits import main_guard
from lm.job import PLATFORMS, tpu_devices
from lm.versions import version_of, versions_of

PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "flax", "optax", "orbax-checkpoint", "numpy", "grain"),
    *("array_record", "tensorflow-datasets", "tokenizers", "tyro"),
)
VARIABLES = re.compile(
    r"CAMBIUM_|JAX_|XLA_|TPU_|LIBTPU|MEGASCALE_|CUDA_VISIBLE|NVIDIA_VISIBLE|TF_CPP|GLIBC_TUNABLES|LD_PRELOAD"
)
PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy")
LOCK = Path("/tmp/libtpu_lockfile")
GIB = 2**30
PROBE = (
    "import json, jax; d = jax.devices(); print(json.dumps({'platform': jax.default_backend(), 'count': len(d), "
    "'kind': d[0].device_kind, 'local': jax.local_device_count()}))"
)


@dataclass(frozen=True)
class Facts:
    """What was found; sizes in bytes, None where there is no such thing."""

    python: str
    glibc: str
    versions: dict[str, str]  # of what is installed
    required: dict[str, str]  # least versions
    devices: dict[str, Any]  # platform, kind, count, local; nothing where JAX failed
    failure: str | None  # the last line of what JAX said when it did not start
    start_seconds: float
    tpus: tuple[str, ...]  # device files
    gpus: tuple[str, ...]
    tpu_holders: tuple[str, ...]  # other processes that have a chip open
    tpu_lock: str | None  # the lock file of libtpu, and whose it is
    cores: int
    usable_cores: float  # by affinity and by the control group
    memory: int
    memory_available: int
    memory_limit: int | None  # of the control group
    open_files: int
    open_files_most: int
    shared_memory: int | None  # free in /dev/shm
    environment: dict[str, str]  # the variables that matter
    proxies: tuple[str, ...]  # their names alone: the values may hold passwords
    cache_writable: bool | None  # None without a compilation cache
    workdir: str
    workdir_error: str | None
    workdir_free: int
    wanted: str | None  # platform that was asked for


def gather(workdir: Path = Path("."), wanted: str | None = None, limit: float = 90.0) -> Facts:
    """Look at this machine; JAX gets `limit` seconds to start."""
    begun = time.monotonic()
    devices, failure = start_jax(limit)
    seconds = time.monotonic() - begun
    memory = {key: int(value) * 1024 for key, value in re.findall(r"(\w+):\s+(\d+) kB", _read("/proc/meminfo"))}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    there = _nearest(workdir)
    return Facts(
        python=platform.python_version(),
        glibc=" ".join(platform.libc_ver()).strip(),
        versions=versions_of(PACKAGES),
        required=_required(),
        devices=devices,
        failure=failure,
        start_seconds=seconds,
        tpus=tuple(tpu_devices()),
        gpus=tuple(sorted(glob.glob("/dev/nvidia[0-9]*"))),
        tpu_holders=tuple(_holders(tpu_devices())),
        tpu_lock=f"{LOCK}, of user {LOCK.stat().st_uid}" if LOCK.exists() else None,
        cores=os.cpu_count() or 1,
        usable_cores=_usable_cores(),
        memory=memory.get("MemTotal", 0),
        memory_available=memory.get("MemAvailable", 0),
        memory_limit=_number("/sys/fs/cgroup/memory.max") or _number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        open_files=soft,
        open_files_most=hard,
        shared_memory=shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else None,
        environment={name: value for name, value in sorted(os.environ.items()) if VARIABLES.match(name)},
        proxies=tuple(name for name in PROXIES if os.environ.get(name)),
        cache_writable=None if not cache or ":/" in cache else _unwritable(Path(cache)) is None,
        workdir=str(workdir),
        workdir_error=_unwritable(workdir),
        workdir_free=shutil.disk_usage(there).free,
        wanted=wanted,
    )


def start_jax(limit: float) -> tuple[dict[str, Any], str | None]:
    """Return the devices that JAX finds in a process of its own, and what it says where it finds none."""
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {limit:g} s"
    if done.returncode:
        return {}, done.stderr.strip().split("\n")[-1] or f"it ended with code {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1]), None


def advise(facts: Facts) -> list[str]:
    """Return one sentence for each thing that needs attention."""
    return [*_on_devices(facts), *_on_limits(facts), *_on_environment(facts), *_on_packages(facts), *_on_disk(facts)]


def _on_devices(facts: Facts) -> list[str]:
    found = facts.devices.get("platform")
    chosen = facts.environment.get("JAX_PLATFORMS", "")
    advice = []
    if facts.failure is not None:
        advice.append(f"JAX does not start: {facts.failure}")
        if facts.tpus and "within" in facts.failure:
            advice.append("on a slice of several hosts start this on all of them at once, with tpu/launch.py")
    if facts.wanted is not None and found != facts.wanted:
        advice.append(f"platform {facts.wanted} was asked for and JAX found {found or 'none'}")
    if facts.tpus and found != "tpu":
        advice.append(f"TPU chips are here ({len(facts.tpus)}) and JAX does not use them: {_why_no_tpu(facts)}")
    if facts.gpus and found not in ("gpu", "tpu"):
        advice.append(f"GPUs are here ({len(facts.gpus)}) and JAX does not use them: {_why_no_gpu(facts)}")
    if not facts.tpus and "libtpu" in facts.versions and "cpu" not in chosen and found == "cpu":
        advice.append(
            "libtpu is installed and there is no TPU: JAX looks for one for seconds and warns; set JAX_PLATFORMS=cpu"
        )
    return advice


def _why_no_tpu(facts: Facts) -> str:
    chosen = facts.environment.get("JAX_PLATFORMS")
    if "libtpu" not in facts.versions:
        return "libtpu is not installed; pip install 'cambium-lm[tpu]'"
    if chosen and "tpu" not in chosen:
        return f"JAX_PLATFORMS is {chosen}; unset it"
    if facts.tpu_holders:
        return f"{facts.tpu_holders[0]} holds them; end it, or wait"
    if facts.tpu_lock is not None:
        return f"the lock {facts.tpu_lock} may be left over; if no process uses the TPU, delete it"
    return "TPU_LOG_DIR or stderr of a run with TPU_STDERR_LOG_LEVEL=0 says what libtpu met"


def _why_no_gpu(facts: Facts) -> str:
    chosen = facts.environment.get("JAX_PLATFORMS")
    if "jax-cuda12-plugin" not in facts.versions:
        return "the CUDA plugin is not installed; pip install 'cambium-lm[cuda]'"
    if chosen and not set(chosen.split(",")) & {"cuda", "gpu"}:
        return f"JAX_PLATFORMS is {chosen}; unset it"
    if facts.environment.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides them; unset it"
    return "nvidia-smi says whether the driver works; JAX_PLATFORMS=cuda makes JAX say why it fails"


def _on_limits(facts: Facts) -> list[str]:
    advice = []
    if facts.open_files < 4096:
        advice.append(
            f"a process may open {facts.open_files} files, which sharded checkpoints exceed; "
            f"ulimit -n {min(facts.open_files_most, 65536)}"
        )
    available = min(facts.memory_available, facts.memory_limit or facts.memory_available)
    if available < 2 * GIB:
        advice.append(f"{available / GIB:.1f} GiB of memory are free; 2 GiB are the least for compiling small models")
    if facts.shared_memory is not None and facts.shared_memory < GIB // 4:
        advice.append(
            f"/dev/shm has {facts.shared_memory / 2**20:.0f} MiB free, through which data workers pass batches; "
            "give the container more (docker run --shm-size 8g)"
        )
    if facts.usable_cores * 2 <= facts.cores:
        advice.append(
            f"this process may use {facts.usable_cores:g} of {facts.cores} cores, and XLA starts a thread for each one "
            "it sees; pin it with taskset where only the control group limits it"
        )
    return advice


def _on_environment(facts: Facts) -> list[str]:
    env, advice = facts.environment, []
    if "JAX_COORDINATOR_ADDRESS" in env:
        missing = [name for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if name not in env]
        if missing:
            advice.append(f"JAX_COORDINATOR_ADDRESS is set without {' and '.join(missing)}")
        if facts.proxies:
            advice.append(f"{', '.join(facts.proxies)} may keep processes from their coordinator; unset for the run")
    if "JAX_NUM_CPU_DEVICES" in env and "xla_force_host_platform_device_count" in env.get("XLA_FLAGS", ""):
        advice.append("JAX_NUM_CPU_DEVICES wins over --xla_force_host_platform_device_count in XLA_FLAGS; keep one")
    for name, meaning in (
        ("JAX_DISABLE_JIT", "nothing is compiled"),
        ("JAX_ENABLE_X64", "numbers are float64, and no recipe was measured so"),
        ("JAX_DEBUG_NANS", "every step waits to be looked at"),
        ("JAX_DISABLE_MOST_OPTIMIZATIONS", "programs are compiled fast and run slowly"),
    ):
        if env.get(name, "").lower() in ("1", "true", "yes", "on"):
            advice.append(f"{name} is on: {meaning}; unset it")
    if facts.cache_writable is False:
        advice.append(f"the compilation cache {env.get('JAX_COMPILATION_CACHE_DIR')} cannot be written")
    if facts.cache_writable is None and facts.devices.get("platform") in ("tpu", "gpu"):
        advice.append("every start compiles anew; set JAX_COMPILATION_CACHE_DIR to a folder that outlives the machine")
    return advice


def _on_packages(facts: Facts) -> list[str]:
    advice = []
    if _parts(facts.python) < (3, 11):
        advice.append(f"Python is {facts.python}, needed is 3.11 or newer")
    for name, least in facts.required.items():
        has = facts.versions.get(name) or version_of(name)
        if has is None or _parts(has) < _parts(least):
            advice.append(f"{name} is {has or 'missing'}, needed is {least} or newer; pip install '{name}>={least}'")
    jax, jaxlib = facts.versions.get("jax"), facts.versions.get("jaxlib")
    if jax and jaxlib and _parts(jax)[:2] != _parts(jaxlib)[:2]:
        advice.append(f"jax is {jax} and jaxlib {jaxlib}; install the two of one release")
    return advice


def _on_disk(facts: Facts) -> list[str]:
    if facts.workdir_error is not None:
        return [f"{facts.workdir} cannot be written: {facts.workdir_error}"]
    if facts.workdir_free < 5 * GIB:
        return [f"{facts.workdir} has {facts.workdir_free / GIB:.1f} GiB free; checkpoints of one run may need more"]
    return []


def _required() -> dict[str, str]:
    try:
        needs = importlib.metadata.requires("cambium-lm") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return dict(found.groups() for need in needs if (found := re.fullmatch(r"([\w-]+)>=([\d.]+)", need)))  # type: ignore[misc]


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() and int(text) < 2**60 else None


def _usable_cores() -> float:
    cores = float(len(os.sched_getaffinity(0)))
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdecimal() and period.isdecimal() else cores


def _holders(devices: list[str]) -> list[str]:
    """Return the other processes that have one of the device files open, as far as they may be seen."""
    found = []
    for process in Path("/proc").glob("[0-9]*") if devices else ():
        try:
            opened = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue
        if opened & set(devices) and process.name != str(os.getpid()):
            found.append(f"process {process.name} ({_read(f'{process}/comm').strip()})")
    return found


def _nearest(folder: Path) -> Path:
    """Return a folder, or the one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _unwritable(folder: Path) -> str | None:
    """Return why no file can be written to a folder, or to where it would be made, or None."""
    try:
        with tempfile.TemporaryFile(dir=_nearest(folder)):
            return None
    except OSError as error:
        return error.strerror


def shown(facts: Facts, advice: list[str]) -> str:
    """Return facts and advice as text."""
    lines = []
    for name, value in dataclasses.asdict(facts).items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each}" for key, each in value.items()) or "none"
        elif isinstance(value, tuple):
            value = ", ".join(value) or "none"
        elif name.startswith(("memory", "shared", "workdir_free")) and value is not None:
            value = f"{value / GIB:.1f} GiB"
        elif isinstance(value, float):
            value = f"{value:.1f}"
        lines.append(f"{name.replace('_', ' '):18} {value}")
    return "\n".join([*lines, "", *(f"- {line}" for line in advice or ["nothing needs attention"])])


def main(argv: list[str]) -> None:
    """Print facts and advice; SystemExit with code 1 where there is advice."""
    parser = argparse.ArgumentParser(prog="python -m lm.doctor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs"), help="folder that runs will write to")
    parser.add_argument("--platform", choices=PLATFORMS, help="advise where JAX finds another")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    facts = gather(options.workdir, options.platform)
    advice = advise(facts)
    print(json.dumps({**dataclasses.asdict(facts), "advice": advice}) if options.json else shown(facts, advice))
    if advice:
        raise SystemExit(1)


if __name__ == "__main__":
    main_guard(main)
