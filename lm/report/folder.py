"""The run folder: one directory that says what was run, how it went and where it stands.

    with RunFolder("runs/flip_flop", resume="auto") as folder:
        folder.write_recipe(to_json(recipe))
        folder.stamp({"seed": 0, **source.facts})
        folder.status("running", step=0)

Holds recipe.json stamp.json status.json log.txt run.lock, and what others write under `path`: metrics.jsonl
samples.jsonl summary.json events.out.tfevents.* checkpoints/STEP/ report.html.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lm.config import KINDS
from lm.exits import ExitError, Unusable, UserError
from lm.files import write_whole
from lm.migrations import recipe_of_today
from lm.strict import differences, renewed, require_choice
from lm.versions import versions_of

# What a run writes about itself, as patterns; all else in its folder is data of the task.
OWN_FILES = (
    *("checkpoints", "recipe.json", "stamp.json", "status.json", "summary.json", "pictures.json", "report.html"),
    *("*.jsonl", "events.*", "log.txt", "run.lock"),
)
# Fields of a recipe that may change on resume: they decide where and how often, not what is computed.
FREE = (
    *("mesh.", "name", "task.folder"),
    *("train.log_every", "train.evaluate_every", "train.save_every", "train.keep", "train.steps_per"),
)
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets", "grain", "tokenizers"),
    *("safetensors", "transformers", "torch"),
)


class RunFolder:
    """The run folder of one run, held by a lock while the context lasts.

    `resume` "must" refuses a folder without a run, "never" one with a run. In a run of several processes the
    first one alone has a RunFolder. Raises UserError where the folder cannot be used or is in use.
    """

    def __init__(self, workdir: str | Path, resume: str = "auto"):
        require_choice("resume", resume, ("auto", "must", "never"))
        if ":/" in str(workdir):  # what pathlib leaves of gs://bucket
            raise UserError(f"workdir {workdir} is not a local path; mount the bucket and name the mounted folder")
        if any(ord(letter) < 32 for letter in str(workdir)):
            raise UserError(f"workdir {str(workdir)!r} holds control characters")
        self.folder = Path(workdir)
        self._resume = resume
        self._lock: Any = None
        self._changed: list[dict[str, Any]] = []

    def __enter__(self) -> RunFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path("run.lock"), "a+")  # noqa: SIM115 (held until __exit__)
        except OSError as error:
            raise UserError(f"workdir {self.folder} cannot be written: {error.strerror}") from None
        try:
            self._acquire()
            self._check_resume()
        except UserError:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            state = error.label if isinstance(error, ExitError) and error.label != "error" else "failed"
            with contextlib.suppress(OSError, Unusable):  # of a full or lost disk the error itself speaks
                self.status(state, error=str(error) or type(error).__name__)
        self._lock.truncate(0)
        self._lock.close()

    def path(self, name: str) -> Path:
        """Return the path of a file of the run."""
        return self.folder / name

    def read_recipe(self) -> str | None:
        """Return the recipe of the run as JSON, or None where none was written yet; Unusable where it is damaged."""
        path = self.path("recipe.json")
        if not path.exists():
            return None
        try:
            text = path.read_text(encoding="utf-8")
            json.loads(text)
        except ValueError as error:
            raise Unusable(f"{path} is damaged ({error}); each checkpoint has a copy in meta/metadata") from None
        return text

    def check_recipe(
        self, json_text: str, allow_change: tuple[str, ...] = (), kinds: Mapping[str, type] = KINDS
    ) -> None:
        """Raise UserError where the folder holds a run of a recipe that computes something else.

        `allow_change` names fields (dotted) or groups of them that may differ beside those that decide only where and
        how often; stamp.json will name those that do. `kinds` are the classes of the recipe.
        """
        old = self.read_recipe()
        changed = [] if old is None else differences(renewed(old, kinds, recipe_of_today), json_text)
        changed = [d for d in changed if not d.path.startswith(FREE)]
        allowed = [d for d in changed if any(f"{d.path}.".startswith(f"{name}.") for name in allow_change)]
        refused = [d for d in changed if d not in allowed]
        if refused:
            shown = "; ".join(f"{d.path} was {d.old}, now {d.new}" for d in refused[:5])
            raise UserError(
                f"{self.path('.')} holds a run of another recipe ({shown}); take another folder or allow the change"
            )
        self._changed = [{"field": d.path, "was": d.old, "now": d.new} for d in allowed]

    def write_recipe(self, json_text: str) -> None:
        """Write recipe.json."""
        self.write("recipe.json", json_text)

    def stamp(self, facts: dict[str, Any]) -> None:
        """Write stamp.json: facts (seed, data), commit, versions, devices, arguments, and the starts before.

        Each start names what it was allowed to change of the recipe.
        """
        path = self.path("stamp.json")
        earlier = []
        if path.exists():
            try:
                last = json.loads(path.read_text(encoding="utf-8"))
                start = {name: last[name] for name in ("date", "commit", "dirty", "argv")}
                earlier = [*last["earlier"], start | {name: last[name] for name in ("changed",) if name in last}]
            except (ValueError, TypeError, KeyError) as error:
                raise Unusable(f"{path} is damaged ({error}); delete it to go on without the starts before") from None
        self.write_json("stamp.json", {**provenance(), **facts, "changed": self._changed, "earlier": earlier})

    def status(self, state: str, **facts: Any) -> None:
        """Write status.json: running, done, preempted, diverged, unusable or failed, when, by whom, and the facts."""
        pid = os.getpid()
        process = {"pid": pid, "started": _started(pid), "host": _host()}
        self.write_json("status.json", {"state": state, "date": _now(), **process, **facts})

    def log(self, line: str) -> None:
        """Append a line to log.txt with the time before it."""
        # A path may hold bytes that are no UTF-8.
        try:
            with self.path("log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{_now()} {line}\n")
        except FileNotFoundError:
            raise Unusable(f"workdir {self.folder} is gone") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file at once."""
        self.write(name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write a file of the run at once."""
        try:
            write_whole(self.path(name), text)
        except FileNotFoundError:
            raise Unusable(f"workdir {self.folder} is gone") from None

    def _acquire(self) -> None:
        # The kernel lets go of flock when its holder dies, so on one host no lock outlives its run. Between
        # hosts that share a disk flock may not reach, so there the name in the file counts.
        self._lock.seek(0)
        holder = self._lock.read().strip()
        advice = f"if that run is gone, delete {self.path('run.lock')}"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"workdir {self.folder} is in use by {holder}") from None
        if holder and not holder.endswith(f" on {_host()}"):
            raise UserError(f"workdir {self.folder} is in use by {holder}; {advice}")
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {_host()}")
        self._lock.flush()
        if holder:
            self.log(f"took over the lock that {holder} left behind")

    def _check_resume(self) -> None:
        has_run = self.path("recipe.json").exists()
        if self._resume == "must" and not has_run:
            raise UserError(f"resume is 'must' and workdir {self.folder} holds no run")
        if self._resume == "never" and has_run:
            raise UserError(f"resume is 'never' and workdir {self.folder} holds a run; name another folder")


def read_status(folder: Path) -> dict[str, Any]:
    """Return status.json of a run folder, {} where there is none; Unusable where it is damaged.

    A run whose process was killed on this host cannot say so: it is "lost" here, with the reason as its error.
    """
    path = folder / "status.json"
    if not path.exists():
        return {}
    try:
        status = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise Unusable(f"{path} is damaged: {error}") from None
    started = status.get("started")  # None where it was written by an earlier version, or without /proc
    runs_here = status.get("state") == "running" and started is not None and status["host"] == _host()
    if runs_here and started != _started(status["pid"]):
        return {**status, "state": "lost", "error": f"process {status['pid']} is gone and left no word"}
    return status


def _started(pid: int) -> str | None:
    """Return when a process of this host began, in ticks since the host did; None where it is dead."""
    try:
        state, *facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else facts[18]  # a zombie waits for nothing but its parent


def provenance() -> dict[str, Any]:
    """Return where a run comes from: date, commit, versions, devices, host, arguments."""
    import jax

    devices = jax.devices()
    return {
        "date": _now(),
        **_commit(Path(__file__).resolve().parents[2]),
        "versions": {"python": platform.python_version(), **versions_of(PACKAGES)},
        "devices": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "processes": jax.process_count(),
        "host": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "argv": sys.argv,
    }


def _commit(root: Path) -> dict[str, Any]:
    """Return the commit of the tree that holds this code, and a digest of what differs from it.

    All None where the code is installed rather than checked out.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True)
        return done.stdout.decode(errors="replace")

    try:
        git("ls-files", "--error-unmatch", "lm/report/folder.py")
        difference = git("status", "--porcelain") + git("diff", "HEAD")
        commit = git("rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None, "difference": None}
    digest = hashlib.sha256(difference.encode()).hexdigest() if difference else None
    return {"commit": commit, "dirty": bool(difference), "difference": digest}


def _host() -> str:
    # A launcher that lets a slice of one name exist only once gives it a name of its own, since the hosts of the
    # slice that comes after a preemption are called otherwise.
    return os.environ.get("CAMBIUM_HOST") or socket.gethostname()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
