"""Checkpoints: one directory per step, written in the background, committed at once, trusted byte by byte.

    checkpoints = Checkpoints(workdir / "checkpoints", keep=3)
    step = checkpoints.latest()                      # newest step whose files are all as they were written
    state = checkpoints.restore(abstract_state)      # on any mesh: each leaf of the target says its sharding
    checkpoints.save(step, state, recipe_json)       # returns at once; check() raises what went wrong meanwhile

The directory of a step holds

    state/           the TrainState as Orbax writes it
    meta/metadata    JSON: format, step, recipe, shape and type of every leaf
    manifest.sha256  a digest per file, as `sha256sum -c` reads it, and a last line that guards the manifest itself

Orbax has no checksums: a flipped bit comes back as a wrong weight. The manifest is written into the temporary
directory before the rename that commits the step, so a kill leaves either a temporary directory, which is never
offered and goes when the next writer opens, or a step with its manifest. A step without one is damaged.

Reading changes nothing on the disk, so a running training may be evaluated. The first save renames the damaged
steps that stand before the newest whole one to N.damaged: they are kept, and out of Orbax's sight.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lm.exits import Unusable, UserError
from lm.migrations import FORMAT, STATES
from lm.types import Params, TrainState

MANIFEST = "manifest.sha256"
STEP = re.compile(r"0|[1-9][0-9]*")
# Orbax completes these two after the manifest is written, and no restore reads them.
UNGUARDED = {"_CHECKPOINT_METADATA", "commit_success.txt", MANIFEST}


def _warn(line: str) -> None:
    print(line, file=sys.stderr)


class Checkpoints:
    """The checkpoints of one run. Every process of a run makes one and calls it alike; process 0 decides."""

    def __init__(self, directory: Path, *, keep: int = 3, log: Callable[[str], None] = _warn):
        self.directory = Path(directory).resolve()
        self._keep = keep
        self._log = log
        self._manager: Any = None
        self._saving: int | None = None
        self._verdicts: dict[int, str | None] = {}

    def ready(self) -> None:
        """Make the directory and write to it, so that a run that cannot save ends before its first step.

        Raises Unusable where it cannot be written.
        """
        probe = self.directory / f".writable.{os.getpid()}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(bytes(1))
            probe.unlink()
        except OSError as error:
            raise Unusable(f"checkpoints cannot be written to {self.directory}: {error.strerror}") from None

    def latest(self) -> int | None:
        """Return the newest whole step, or None where nothing was ever saved.

        Names every damaged step on the way in a log line. Raises Unusable where steps exist and none is whole.
        """
        self.wait()
        answer = _agree(self._decide_latest)
        if answer == -2:
            raise Unusable(f"no checkpoint in {self.directory} is whole; move the folder away to start anew")
        return None if answer == -1 else answer

    def restore(self, target: TrainState, step: int | None = None) -> TrainState:
        """Return the state of a step (the latest) as the target says: a tree of jax.ShapeDtypeStruct.

        Leaves go where their sharding says, whatever mesh they were saved from; without one, to the first
        device. Raises UserError where names, shapes or types differ, Unusable where the step is damaged.
        """
        step = self._whole(step)
        meta = self._meta(step)

        def read(target: TrainState) -> TrainState:
            _compare(meta["leaves"], _leaves(target), step)
            return self._read(step, target)

        for version in range(meta["format"], FORMAT):
            read = partial(STATES[version], read)
        return read(_placed(target))

    def restore_params(self, target: Params, step: int | None = None, *, average: bool = False) -> Params:
        """Return the parameters alone, or their moving average; nothing else is read from the disk."""
        step = self._whole(step)
        name = "ema" if average else "params"
        stored = {path: leaf for path, leaf in self._meta(step)["leaves"].items() if path.split("/")[0] == name}
        _compare(stored, _leaves({name: target}), step)
        return self._read(step, _placed({name: target}))[name]

    def recipe(self, step: int | None = None) -> str:
        """Return the recipe that a step (the latest) was saved with, as JSON."""
        return self._meta(self._whole(step))["recipe"]

    def open(self) -> None:
        """Make all that saving needs, half a second's work, which a caller may do while the device is busy.

        Every process calls it at the same time, or leaves it to the first save. Raises Unusable where it fails.
        """
        try:
            self._manager = self._manager or self._open()
        except OSError as error:
            raise self._unwritten(error) from error

    def save(self, step: int, state: TrainState, recipe_json: str) -> None:
        """Start saving a step in the background; the state may be donated as soon as this returns.

        Waits for a save under way. A step that is saved already is left alone. Raises UserError for a step
        before the newest one, and Unusable where this or the previous save cannot be written.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._saving = step
        self.open()
        meta = {"format": FORMAT, "step": step, "recipe": recipe_json, "leaves": _leaves(state)}
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta))
        try:
            saved = self._manager.save(step, args=items)
        except (OSError, ValueError) as error:
            raise self._unwritten(error) from error
        if not saved and step not in self._manager.all_steps():
            newest = self._manager.latest_step()
            raise UserError(f"step {step} lies before the newest checkpoint {newest} in {self.directory}")

    def check(self) -> None:
        """Raise Unusable where a background save has failed; a save under way is not waited for."""
        if self._manager is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Return when the save under way is committed; raises Unusable where it failed."""
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever the background thread met, tensorstore's own types included
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Finish the save under way and let go; raises Unusable where it failed."""
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None

    def _unwritten(self, error: Exception) -> Unusable:
        # tensorstore wraps what the system said in a paragraph of paths
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else str(error).split("\n")[0] or type(error).__name__
        what = "checkpoints" if self._saving is None else f"checkpoint {self._saving}"
        return Unusable(f"{what} could not be written to {self.directory}: {reason}")

    def _open(self) -> Any:
        import orbax.checkpoint as ocp

        def set_aside() -> int:
            self.directory.mkdir(parents=True, exist_ok=True)
            whole = self._newest_whole()
            for step in self._steps():
                if whole is None or step > whole:
                    self._set_aside(step)
            return 0

        _agree(set_aside)
        logging.getLogger("absl").addFilter(_not_orbax)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        # Weights hardly shrink, and to try takes as long as all the rest of a save, from cores that steps could use.
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(use_compression=False),
            "meta": ocp.JsonCheckpointHandler(),
        }
        return ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def _seal(self) -> None:
        # Orbax calls this in process 0 when all files of all processes are written, before the rename. On an
        # object store there is no rename and the files are in their last place.
        import orbax.checkpoint as ocp

        folder = self.directory / f"{self._saving}{ocp.path.atomicity.TMP_DIR_SUFFIX}"
        seal(folder if folder.exists() else self.directory / str(self._saving))

    def _steps(self) -> list[int]:
        names = [path.name for path in self.directory.iterdir()] if self.directory.is_dir() else []
        return sorted((int(name) for name in names if STEP.fullmatch(name)), reverse=True)

    def _newest_whole(self) -> int | None:
        for step in self._steps():
            known = step in self._verdicts
            wrong = self._verdict(step)
            if wrong is None:
                return step
            if not known:
                self._log(f"checkpoint {step} is damaged and passed over: {wrong}")
        return None

    def _verdict(self, step: int) -> str | None:
        if step not in self._verdicts:
            self._verdicts[step] = damage(self.directory / str(step))
        return self._verdicts[step]

    def _decide_latest(self) -> int:
        step = self._newest_whole()
        if step is not None:
            return step
        had_steps = any(not _is_stray(self.directory / str(step)) for step in self._steps())
        return -2 if had_steps or any(self.directory.glob("*.damaged*")) else -1

    def _whole(self, step: int | None) -> int:
        if step is None:
            step = self.latest()
            if step is None:
                raise UserError(f"no checkpoint in {self.directory}")
            return step
        self.wait()
        if not _agree(lambda: (self.directory / str(step)).exists()):
            known = ", ".join(str(known) for known in reversed(self._steps())) or "none"
            raise UserError(f"no checkpoint {step} in {self.directory} (there are: {known})")
        if _agree(lambda: self._verdict(step) is not None):
            raise Unusable(f"checkpoint {step} in {self.directory} is damaged: {self._verdict(step)}")
        return step

    def _set_aside(self, step: int) -> None:
        path = self.directory / str(step)
        name = f"{step}.{'stray' if _is_stray(path) else 'damaged'}"
        count = sum(1 for _ in self.directory.glob(f"{name}*"))
        aside = self.directory / (f"{name}.{count + 1}" if count else name)
        path.rename(aside)
        del self._verdicts[step]
        self._log(f"checkpoint {step} is set aside as {aside.name}")

    def _meta(self, step: int) -> dict[str, Any]:
        meta = json.loads((self.directory / str(step) / "meta" / "metadata").read_text())
        if meta["format"] not in (*STATES, FORMAT):
            known = f"formats {min(STATES)} to {FORMAT}"
            raise Unusable(f"checkpoint {step} has format {meta['format']}, this version reads {known}")
        return meta

    def _read(self, step: int, target: Any) -> Any:
        import orbax.checkpoint as ocp

        args = ocp.args.PyTreeRestore(
            item=target,
            restore_args=ocp.checkpoint_utils.construct_restore_args(target),
            partial_restore=True,
        )
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(self.directory / str(step) / "state", args=args)


def seal(folder: Path) -> None:
    """Write the manifest of a finished step."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(folder / name)}  {name}\n" for name in names if name not in UNGUARDED]
    text = "".join(lines)
    (folder / MANIFEST).write_text(text + f"# {hashlib.sha256(text.encode()).hexdigest()}\n")


def damage(folder: Path) -> str | None:
    """Return what is wrong with a step, naming the file, or None where every byte is as it was written."""
    if _is_stray(folder):
        return "it holds no files"
    try:
        text = (folder / MANIFEST).read_bytes().decode(errors="replace")
    except OSError as error:
        return f"{MANIFEST}: {error.strerror}"
    body, _, guard = text.rpartition("# ")
    if guard != f"{hashlib.sha256(body.encode()).hexdigest()}\n":
        return f"{MANIFEST} is not as it was written"
    for line in body.splitlines():
        digest, name = line.split("  ", 1)
        try:
            if _digest(folder / name) != digest:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _not_orbax(record: logging.LogRecord) -> bool:
    # Orbax logs each failure with pages of traceback from every thread; wait() raises it once, as a sentence.
    return "orbax" not in record.pathname


def _is_stray(path: Path) -> bool:
    return not any(inner.is_file() for inner in path.rglob("*"))


def _placed(target: Any) -> Any:
    """Return the target with a sharding on every leaf: the first device where it says none."""
    import jax

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), target
    )


def _leaves(tree: Any) -> dict[str, str]:
    """Return {path: type and shape} of the arrays of a tree, `params/block/kernel: float32[4, 8]`."""
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _compare(stored: dict[str, str], asked: dict[str, str], step: int) -> None:
    # Orbax would cast another type without a word.
    wrong = [f"has no {path}" for path in asked if path not in stored]
    wrong += [f"has {path}, which was not asked for" for path in stored if path not in asked]
    wrong += [
        f"has {path} as {stored[path]}, asked for was {leaf}"
        for path, leaf in asked.items()
        if stored.get(path, leaf) != leaf
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if len(wrong) > 1 else ""
        raise UserError(f"checkpoint {step} {wrong[0]}{more}; was the model or the optimizer changed?")


def _agree(decide: Callable[[], int]) -> int:
    """Return process 0's decision in every process."""
    import jax

    if jax.process_count() == 1:
        return int(decide())
    from jax.experimental import multihost_utils

    decision = decide() if jax.process_index() == 0 else 0
    return int(multihost_utils.broadcast_one_to_all(np.int32(decision)))
