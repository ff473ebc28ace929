"""Runs on slices, as files that survive the launcher: what was asked for, what is being run, where it stands.

A run NAME is runs/launch/NAME.json; NAME.lock is held by the launcher that looks after it, and NAME.bundle is the
code that went to the hosts.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lm.exits import UserError
from lm.files import write_whole
from lm.strict import nearest
from tpu.gcloud import Slice
from tpu.machine import State

FOLDER = Path("runs/launch")


@dataclass(frozen=True)
class Run:
    """One run on a slice."""

    slice: Slice
    command: tuple[str, ...] = ()
    state: State = State()

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return FOLDER / f"{self.slice.name}.json"

    def save(self, state: State) -> Run:
        """Write the run down with this state."""
        run = replace(self, state=state)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(asdict(run), indent=1) + "\n")
        return run

    def left(self) -> str:
        """Return a sentence that names what may still exist and how it is removed; empty where nothing does."""
        if not self.state.exists:
            return ""
        kind = "queued resource and TPU VM" if self.slice.queued else "TPU VM"
        remove = f"python tpu/launch.py delete {self.slice.name}"
        return f"{kind} {self.slice.name} in {self.slice.zone} still exists and costs money; remove it with: {remove}"


def find(name: str) -> Run | None:
    """Return the run of this name, or None; raises UserError where its file is damaged."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Run(Slice(**facts["slice"]), tuple(facts["command"]), State(**facts["state"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); look for what exists with gcloud compute tpus tpu-vm list, then delete it"
        ) from None


def known(name: str) -> str:
    """Return the end of a sentence about a run that is not there: the nearest names."""
    return nearest(name, [path.stem for path in FOLDER.glob("*.json")])


@contextmanager
def held(name: str) -> Iterator[None]:
    """Hold the run's lock; raises UserError while another launcher of this machine looks after it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"process {lock.read().strip()} looks after {name}; end that first (Ctrl-C there, or kill it): "
                "the program on the hosts goes on"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
