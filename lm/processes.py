"""The processes of one job: how they begin, agree and meet, with a time limit and a name for whoever is missing.

    start_processes(Job(coordinator="10.0.0.2:8476", processes=4, process=1))
    compare({"seed": 0}, limit=300)     # ends every process where they differ
    barrier("data is written", limit=600)

Messages between processes go over the key-value store of JAX's coordination service, which process 0 holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax

from lm.exits import Absent, UserError
from lm.job import Job, tpu_devices
from lm.rollcall import bind_address, numbers, roll_call
from lm.strict import ConfigError, differences
from lm.versions import version_of

VERSIONS = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy")


def start_processes(job: Job | None = None) -> None:
    """Join the other processes of the job; call it before anything else of JAX.

    Within `start_limit` it raises Absent where a process is missing or nobody answers, and UserError where a number is
    given twice, the counts differ, or the platform is another than the one asked for.
    """
    job = job or Job()
    limits: Any = {
        "initialization_timeout": job.start_limit,
        "heartbeat_timeout_seconds": job.heartbeat,
        "shutdown_timeout_seconds": job.heartbeat,
    }
    address = job.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    try:
        if address is not None:
            count, index = (_number(job, name) for name in ("processes", "process"))
            roll_call(address, count, index, job.start_limit)
            jax.distributed.initialize(address, count, index, coordinator_bind_address=bind_address(address), **limits)
        elif job.processes is not None or job.process is not None:
            raise UserError("--processes and --process need --coordinator HOST:PORT")
        elif tpu_devices() and importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS", "tpu") != "cpu":
            _join_slice(limits)
    except (RuntimeError, OSError) as error:  # OSError: the slice's metadata did not answer
        raise Absent(f"the processes could not be joined: {str(error).splitlines()[0]}") from None
    if jax.distributed.is_initialized() and threading.current_thread() is threading.main_thread():
        # JAX has put a handler of its own below Python's, which only takes a note of the signal.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    if job.platform is not None and job.platform != (found := jax.default_backend()):
        raise UserError(f"platform {job.platform} was asked for and JAX found {found}; `python -m lm.doctor` says why")


def _join_slice(limits: dict[str, Any]) -> None:
    """Join the hosts of a Cloud TPU slice as JAX finds them; a host that JAX finds no slice around is alone."""
    with contextlib.suppress(ValueError):
        jax.distributed.initialize(**limits)


def _number(job: Job, name: str) -> int:
    variable = {"processes": "JAX_NUM_PROCESSES", "process": "JAX_PROCESS_ID"}[name]
    given: int | str | None = getattr(job, name)
    if given is None:
        given = os.environ.get(variable)
    try:
        return int(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise UserError(f"with a coordinator --{name} or {variable} must be a whole number, got {given}") from None


def is_main_process() -> bool:
    """Say whether this process writes the files that are written once."""
    return jax.process_index() == 0


def store() -> Any:
    """Return the client of the coordination service; None where there is one process."""
    from jax._src import distributed  # JAX offers the store nowhere else

    return distributed.global_state.client if jax.process_count() > 1 else None


def fresh(name: str) -> str:
    """Return a folder of the store for one use: every process's n-th call for a name returns the same."""
    return f"cambium/{name}/{store().key_value_increment(f'cambium/turn/{name}/{jax.process_index()}', 1)}"


def post(folder: str, text: str) -> None:
    """Leave this process's word in a folder of the store."""
    store().key_value_set(f"{folder}/{jax.process_index()}", text, allow_overwrite=True)


def posted(folder: str) -> dict[int, str]:
    """Return what processes have left in a folder of the store so far."""
    return {int(key.rpartition("/")[2]): text for key, text in store().key_value_dir_get(f"{folder}/")}


def barrier(name: str, limit: float) -> None:
    """Return once every process is here; after `limit` seconds Absent names the barrier and who did not come."""
    if jax.process_count() == 1:
        return
    folder = fresh(f"barrier {name}")
    post(folder, "")
    try:
        store().wait_at_barrier(folder, round(limit * 1000))
    except jax.errors.JaxRuntimeError as error:
        missing = set(range(jax.process_count())) - posted(folder).keys()
        reason = f"{numbers(missing)} did not come within {limit:g} s" if missing else str(error).splitlines()[0]
        raise Absent(f"barrier {name!r}: {reason}") from None


def compare(facts: dict[str, Any], limit: float) -> None:
    """Return where all processes give the same facts; else ConfigError in all of them, with the first that differs.

    Process 0 reads and judges; the coordination service is shut down before the error, so that everyone may leave.
    """
    if jax.process_count() == 1:
        return
    folder = fresh("facts")
    post(f"{folder}/found", json.dumps(facts))
    barrier("start", limit)
    if is_main_process():
        post(f"{folder}/verdict", first_difference(posted(f"{folder}/found")))
    barrier("start is agreed", limit)
    if verdict := posted(f"{folder}/verdict")[0]:
        jax.distributed.shutdown()
        raise ConfigError(verdict)


def first_difference(facts: dict[int, str]) -> str:
    """Return a sentence on the first fact in which a process differs from process 0, or nothing."""
    for index in sorted(facts):
        for path, ours, theirs in differences(facts[0], facts[index]):
            return f"the processes differ: {path} is {ours!r} in process 0 and {theirs!r} in process {index}"
    return ""


def facts_of(recipe_json: str, workdir: Path) -> dict[str, Any]:
    """Return what must be alike in all processes of a run: recipe, code, versions, and the checkpoints they see."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(file for package in ("lm", "tasks") for file in (root / package).rglob("*.py"))
    steps = (path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())
    return {
        "recipe": json.loads(recipe_json),
        "checkpoints": sorted(steps, key=int),
        "versions": {name: version_of(name) for name in VERSIONS},
        "code": {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest()[:12] for f in files},
    }
