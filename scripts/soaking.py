"""What scripts/soak.py does: runs that are killed at random moments and started again until they are through.

A chain is one run folder. Each start trains in it as scripts/train.py would, on a layout that is the chain's own or
drawn anew, and is killed; what it left behind is examined; the last start is left alone. The end is held against a
run that nobody killed. Starts of one process are forked from a server that has imported everything, so that the time
goes into steps and not into imports; those of several processes go through tpu/launch.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.checkpoint import Checkpoints, damage
from lm.config import MeshConfig, Recipe, TrainConfig, TransformerConfig
from lm.exits import ExitError, Preempted, Unusable, main_guard
from lm.models import build
from lm.report.html import write_report
from lm.report.writer import METRICS, read_rows
from lm.types import Source
from scripts.measure import largest_difference
from tasks.formal.flip_flop.language import FlipFlop
from tasks.task import Claim, Experiment

ROOT = Path(__file__).resolve().parents[1]
STEPS, LOG_EVERY, SAVE_EVERY, EVALUATE_EVERY = 160, 2, 4, 80
PATIENCE = 180.0  # seconds that a start may take until it saves, or until it ends
EARLY, START_UP = 0.2, 4.0  # share of the kills that may fall before the first save, and when
POLITE = 0.15  # share of requests to stop
WINDOW = 0.8  # seconds behind the first save in which a kill falls
COUNTED = (
    *("starts", "kills", "stops", "chains", "stuck", "hung", "codes_differing", "began_elsewhere", "damaged"),
    *("unfinished", "unreadable", "examples_differing", "rows_differing", "bits_differing", "lost_to_stops"),
)


class Layout(NamedTuple):
    """On how many processes, of how many devices each, and how the mesh arranges them."""

    processes: int
    devices: int
    mesh: MeshConfig


LAYOUTS: Mapping[str, Layout] = {
    "1": Layout(1, 1, MeshConfig()),
    "2": Layout(1, 2, MeshConfig(data=2)),
    "4": Layout(1, 4, MeshConfig(data=2, fsdp=2)),
    "8": Layout(1, 8, MeshConfig(data=2, fsdp=2, tensor=2)),
    "2x1": Layout(2, 1, MeshConfig(fsdp=2)),
    "3x1": Layout(3, 1, MeshConfig(data=3)),
    "4x2": Layout(4, 2, MeshConfig(data=4, fsdp=2)),
}
SINGLE = tuple(name for name, layout in LAYOUTS.items() if layout.processes == 1)
# The layouts of each chain in turn, and how often it is killed at most.
CHAINS = (
    (("1",), 16), (SINGLE, 16), (("2x1",), 3), (("8",), 12),
    (tuple(LAYOUTS), 8), (("1",), 16), (("4",), 12), (SINGLE, 16),
)  # fmt: skip


def promised(statement: str, metric: str, at_most: float = 0) -> Claim:
    """Return the claim that a count does not exceed what is promised."""
    return Claim("", statement, metric, at_most=at_most)


CLAIMS = (
    Claim(
        "", "Kills with -9 at random moments, start-up included, on 1 to 8 devices and 1 to 4 processes", "kills", 200
    ),
    promised("Starts that did not go on from the newest whole checkpoint", "began_elsewhere"),
    promised(f"Steps lost to the worst kill, with a checkpoint every {SAVE_EVERY} steps", "lost_most", 2 * SAVE_EVERY),
    promised("Steps lost to requests to stop (SIGTERM)", "lost_to_stops"),
    promised("Ends with another exit code than 75 (stopped) or that of the kill", "codes_differing"),
    promised("Starts that neither stepped nor ended in time", "hung"),
    promised("Runs that did not come to their end", "stuck"),
    promised("Steps whose examples differed in some start, process or layout", "examples_differing"),
    promised(
        "Killed runs on one layout whose final weights differ in a bit from the uninterrupted run's", "bits_differing"
    ),
    promised(
        "Killed runs whose rows of metrics lack a step, have one twice or (on one layout) differ", "rows_differing"
    ),
    promised("Looks after a kill at which metrics or report could not be read", "unreadable"),
    promised(f"Moved between layouts in {STEPS} steps: largest difference of a weight", "moved_difference", 2e-3),
)


@dataclasses.dataclass(frozen=True)
class Noted(FlipFlop):
    """Flip-flop strings read by position as a corpus is; every batch read is noted by its digest in the run folder."""

    def source(self, recipe: Recipe, folder: Path) -> Source:
        drawn = super().source(recipe, folder)
        assert drawn.draw is not None
        draw, notes = jax.jit(drawn.draw), folder / f"examples.{os.getpid()}.txt"

        def at(step: int) -> Any:
            batch = jax.tree.map(np.asarray, draw(jax.random.key(7), step))
            digest = hashlib.sha256(b"".join(x.tobytes() for x in jax.tree.leaves(batch))).hexdigest()
            with notes.open("a") as file:
                file.write(f"{step} {digest}\n")
            return batch

        return drawn._replace(draw=None, at=at)


def recipe_on(layout: Layout) -> Recipe:
    """Return the recipe that is soaked: so small that most of the time goes into saving."""
    return Recipe(
        task=Noted(length=16, test_reads=100),
        model=TransformerConfig(vocabulary=5, depth=2, width=16, heads=2),
        train=TrainConfig(
            steps=STEPS, batch_size=24, steps_per_dispatch=2, seed=1,
            log_every=LOG_EVERY, save_every=SAVE_EVERY, evaluate_every=EVALUATE_EVERY,
        ),
        mesh=layout.mesh,
        name="soak",
    )  # fmt: skip


def train_in(folder: Path, name: str) -> None:
    """Train in a folder on a layout, from where it stands to the end."""
    from lm.processes import start_processes
    from lm.train import fit

    start_processes()
    fit(recipe_on(LAYOUTS[name]), folder, quiet=True)


def flags_for(layout: Layout) -> str:
    """Return what gives a process of this layout its devices."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={layout.devices}"


def _forked(folder: Path, name: str) -> None:
    log = os.open(folder.with_suffix(".log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["XLA_FLAGS"] = flags_for(LAYOUTS[name])
    main_guard(lambda _: train_in(folder, name))


class Start:
    """One start of the run of a folder, as one process or several."""

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.status, self.log = folder / "status.json", folder.with_suffix(".log")
        self.status.unlink(missing_ok=True)
        self.checkpoints, self.process = folder / "checkpoints", None
        self.names = self._names()
        layout = LAYOUTS[name]
        if layout.processes == 1:
            self.process = multiprocessing.get_context("forkserver").Process(target=_forked, args=(folder, name))
            self.process.start()
            return
        launch = [sys.executable, "tpu/launch.py", "--local", str(layout.processes), "--"]
        command = [*launch, sys.executable, "scripts/soak.py", "--run", str(folder.resolve()), "--layout", name]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags_for(layout)}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def _names(self) -> set[str]:
        return set(os.listdir(self.checkpoints)) if self.checkpoints.exists() else set()

    def send(self, number: int) -> None:
        """Send a signal: a kill to all processes of the start, a request to stop to the one that was started."""
        if self.code() is None:
            whole = isinstance(self.process, subprocess.Popen) and number == signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):  # it ends by itself just now
                (os.killpg if whole else os.kill)(self.process.pid, number)

    def code(self) -> int | None:
        """Return the exit code, minus the signal where one ended it, or None while one of its processes runs."""
        if not isinstance(self.process, subprocess.Popen):
            return self.process.exitcode
        code = self.process.poll()
        return None if code is None or is_alive(self.process.pid) else code

    def wait(self, seconds: float, until_saving: bool = False) -> bool:
        """Wait for its end, or until its first checkpoint is begun; return whether that came in time."""
        deadline = time.monotonic() + seconds
        while self.code() is None and not (until_saving and self._names() != self.names):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def is_alive(group: int) -> bool:
    """Say whether a process of this group is left, if only one thread of it: a kill takes its time."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            _, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group:
                return True
    return False


@dataclasses.dataclass
class Record:
    """What is counted over all chains. `lost` has the steps of each kill whose examples were read in vain."""

    counts: Counter[str] = dataclasses.field(default_factory=lambda: Counter(dict.fromkeys(COUNTED, 0)))
    lost: list[int] = dataclasses.field(default_factory=list)
    digests: dict[int, str] = dataclasses.field(default_factory=dict)
    moved_difference: float = 0.0
    moved_loss: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return everything as figures."""
        groups = {"0": (0, 0), "1_to_4": (1, 4), "5_to_8": (5, 8), "more": (9, STEPS)}
        spread = {f"kills_that_lost_{n}": sum(a <= x <= b for x in self.lost) for n, (a, b) in groups.items()}
        lost = self.lost or [0]
        summary = {"lost_mean": fmean(lost), "lost_median": median(lost), "lost_most": max(lost)}
        moved = {"moved_difference": self.moved_difference, "moved_loss": self.moved_loss}
        return {name: float(value) for name, value in {**self.counts, **summary, **spread, **moved}.items()}


class End(NamedTuple):
    """What a run came to: its weights and the rows of its metrics."""

    weights: Any
    rows: list[dict[str, float]]


class Chain:
    """One run, killed and started again until it is through."""

    def __init__(self, folder: Path, record: Record):
        self.folder, self.record = folder, record
        self.newest = 0  # newest whole checkpoint

    def kill(self, name: str, rng: random.Random) -> None:
        """Start on a layout, kill or ask to stop at a random moment, and examine what is left."""
        early, polite, moment = rng.random() < EARLY, rng.random() < POLITE, rng.random()
        counts, start = self.record.counts, self._start(name)
        if not early:
            counts["hung"] += not start.wait(PATIENCE, until_saving=True)
            time.sleep(WINDOW * moment)
        else:
            start.wait(START_UP * LAYOUTS[name].processes * moment, until_saving=True)
        polite &= start.status.exists()
        start.send(signal.SIGTERM if polite else signal.SIGKILL)
        if not start.wait(PATIENCE):
            counts["hung"] += 1
            start.send(signal.SIGKILL)
            start.wait(PATIENCE)
        expected = Preempted.code if polite else -signal.SIGKILL
        counts["stops" if polite else "kills"] += start.code() == expected
        counts["codes_differing"] += start.code() not in (0, expected)
        lost = self._examine()
        if start.code() == -signal.SIGKILL:
            self.record.lost.append(lost)
        elif polite:
            counts["lost_to_stops"] += lost

    def finish(self, name: str) -> End:
        """Let the run come to its end."""
        start = self._start(name)
        if not start.wait(PATIENCE):
            start.send(signal.SIGKILL)
        if start.code() != 0:
            raise Unusable(f"the run in {self.folder} ended with code {start.code()}; see {start.log}")
        self._examine()
        abstract = jax.eval_shape(build(recipe_on(LAYOUTS[name]).model).init, jax.random.key(0))
        rows = read_rows(self.folder / METRICS)
        expected = [*range(LOG_EVERY, STEPS + 1, LOG_EVERY), *range(EVALUATE_EVERY, STEPS + 1, EVALUATE_EVERY)]
        self.record.counts["rows_differing"] += sorted(row["step"] for row in rows) != sorted(expected)
        return End(Checkpoints(self.folder / "checkpoints").restore_params(abstract, STEPS), rows)

    def _start(self, name: str) -> Start:
        self.record.counts["starts"] += 1
        return Start(self.folder, name)

    def _examine(self) -> int:
        """Count the damaged, the unreadable and what differs; return the steps that were taken in vain."""
        counts, status = self.record.counts, self.folder / "status.json"
        stepped = status.exists()  # it was removed before the start
        if stepped and (said := json.loads(status.read_text()))["state"] == "running":
            counts["began_elsewhere"] += said["step"] != self.newest
        folders = list((self.folder / "checkpoints").glob("*"))
        wrong = {int(path.name): damage(path) for path in folders if path.name.isdigit()}
        self.newest = max((step for step, why in wrong.items() if why is None), default=0)
        counts["damaged"] += sum(why is not None for why in wrong.values())
        counts["unfinished"] += sum("tmp" in path.name for path in folders)
        read = self._read_notes()
        try:
            read_rows(self.folder / METRICS)
            page = write_report(self.folder).read_text(encoding="utf-8")
            counts["unreadable"] += not page.endswith("</html>\n")
        except (ExitError, ValueError):
            counts["unreadable"] += 1
        return max(read - self.newest, 0) if stepped else 0

    def _read_notes(self) -> int:
        """Take in the notes of the examples that were read; return the step behind the last one."""
        last = -1
        for notes in self.folder.glob("examples.*.txt"):
            for line in notes.read_text().splitlines():
                step, digest = line.split()
                last = max(last, int(step))
                self.record.counts["examples_differing"] += self.record.digests.setdefault(int(step), digest) != digest
            notes.unlink()
        return last + 1


def import_ahead() -> None:
    """Have the server from which starts are forked import everything, once."""
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)  # it would win over the number of devices that each start is given
    multiprocessing.get_context("forkserver").set_forkserver_preload(["orbax.checkpoint", "lm.train", __name__])


def soak(workdir: Path, minutes: float, seed: int) -> dict[str, float]:
    """Kill runs for so many minutes and return what was counted; a chain under way is brought to its end."""
    import_ahead()
    rng, deadline = random.Random(seed), time.monotonic() + 60 * minutes
    record, straight = Record(), {}
    for number, (names, most) in enumerate(cycle(CHAINS)):
        if time.monotonic() > deadline:
            break
        one = names[0]
        if one not in straight:
            straight[one] = Chain(workdir / f"straight-{one}", record).finish(one)
        chain = Chain(workdir / f"chain-{number}", record)
        for _ in range(most):
            if time.monotonic() < deadline:
                chain.kill(rng.choice(names), rng)
        try:
            end = chain.finish(one)
        except Unusable as error:
            print(error, file=sys.stderr)
            record.counts["stuck"] += 1
            continue
        compare(end, straight[one], record, moved=len(names) > 1)
        shutil.rmtree(chain.folder)
        record.counts["chains"] += 1
    return record.figures()


def compare(end: End, straight: End, record: Record, moved: bool) -> None:
    """Hold the end of a killed run against that of an uninterrupted one."""
    if not moved:
        leaves = zip(jax.tree.leaves(end.weights), jax.tree.leaves(straight.weights), strict=True)
        record.counts["bits_differing"] += any(np.asarray(a).tobytes() != np.asarray(b).tobytes() for a, b in leaves)
        record.counts["rows_differing"] += end.rows != straight.rows
        return
    record.moved_difference = max(record.moved_difference, largest_difference(end.weights, straight.weights))
    losses = ([row["loss"] for row in rows if "loss" in row] for rows in (end.rows, straight.rows))
    record.moved_loss = max(record.moved_loss, *(abs(a - b) for a, b in zip(*losses, strict=True)))


def experiment(minutes: float, seed: int) -> Experiment:
    """Return the soak as an experiment whose claims are the promises of a run that is killed."""

    def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
        return soak(workdir, minutes, seed)

    return Experiment("soak", "Killed at random moments", CLAIMS, run, {"cpu": (seed,)})
