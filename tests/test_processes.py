"""Processes of one job: they run the same, stop at one step, and none is left waiting for another."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lm.checkpoint import Checkpoints
from lm.config import OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.exits import Preempted
from lm.interrupt import Interrupt, safe_point
from lm.job import Patience
from lm.processes import facts_of, first_difference
from lm.strict import to_json
from lm.train import fit
from lm.watchdog import Company, Watchdog
from tasks.formal.flip_flop.language import FlipFlop

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_fact_that_differs_is_named_with_both_values():
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, seed=5))
    facts = [json.dumps(facts_of(to_json(each), ROOT)) for each in (RECIPE, RECIPE, recipe)]
    assert first_difference(dict(enumerate(facts[:2]))) == ""
    sentence = "the processes differ: recipe.train.seed is 0 in process 0 and 5 in process 2"
    assert first_difference(dict(enumerate(facts))) == sentence
    other = json.loads(facts[0])
    other["code"]["lm/train.py"] = "another"
    assert "code.lm/train.py is" in first_difference({0: facts[0], 1: json.dumps(other)})


def test_patience_follows_the_pace_of_the_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lm.watchdog.time.monotonic", lambda: now[0])
    dog = Watchdog(Patience(factor=10, floor=5, slow=100))

    def after(seconds, act=lambda: None):
        now[0] += seconds
        late = dog.overdue(now[0]) is not None
        act()
        return late

    assert not after(1e9)  # what comes before the first step has no limit
    dog.compiling()
    assert not after(99, dog.stepped)
    assert not any(after(2, dog.stepped) for _ in range(2)) and dog.limit() == 100  # two are no measure
    assert not any(after(2, dog.stepped) for _ in range(3))
    assert not after(19) and after(2)  # ten times the median of 2 s
    with dog.slow("evaluating"):
        assert not after(99, dog.alive) and not after(99) and after(2)
    assert "no step ended within 20 s while stepping" in str(after(21) and dog.overdue(now[0]))


def test_what_a_process_failed_of_is_said_rather_than_that_it_is_silent(monkeypatch):
    said = {"pulse": {0: "1", 1: "1", 2: "1"}, "failed": {}}
    monkeypatch.setattr("lm.watchdog.time.monotonic", lambda: 0.0)
    monkeypatch.setattr("lm.watchdog.fresh", lambda name: name)
    monkeypatch.setattr("lm.watchdog.post", lambda *_: None)
    monkeypatch.setattr("lm.watchdog.posted", lambda folder: said[folder.rpartition("/")[2]])
    monkeypatch.setattr("lm.watchdog.jax.process_count", lambda: 3)

    def look(company, *times):
        return [company.trouble(now) for now in times]

    assert look(Company(3), 1, 4, 4.5) == [None, None, "processes 0, 1 and 2 said nothing for 3 s"]
    company = Company(3)
    assert look(company, 1, 3) == [None, None]
    said["failed"][1] = "a disk is gone"
    said["pulse"] |= {0: "2", 2: "2"}
    assert look(company, 4.5, 6, 6.5) == [None, None, "process 1 has failed: a disk is gone"]


JOB = """
import sys, time
from pathlib import Path
from lm.exits import Absent, Preempted, main_guard
from lm.interrupt import Interrupt
from lm.job import Job, Patience
from lm.processes import barrier, compare, start_processes
from lm.report.folder import RunFolder
from lm.watchdog import Watchdog

def main(argv):
    address, process, mode, folder = argv
    first = process == "0"
    job = Job(
        coordinator=address, processes=2, process=int(process), start_limit=60, heartbeat=20,
        patience=Patience(floor=2, slow=2, silence=3),
    )
    start_processes(job)
    if mode == "meet":
        barrier("together", 30)
        try:
            if first:
                barrier("alone", 0.2)
        except Absent as error:
            print(error, flush=True)
        compare({"seed": 7}, 30)
        return compare({"seed": 7, "data": {"path": process}}, 30)
    import contextlib
    import jax
    jax.process_count()
    mine = RunFolder(folder) if first else contextlib.nullcontext()
    with mine as mine, Watchdog(job.patience, mine) as dog, Interrupt(dog) as interrupt:
        dog.compiling()
        for step in range(600):
            time.sleep(0.05 if first else 0.03)
            dog.stepped()
            if interrupt.requested():
                print("stopped at", step, flush=True)
                raise Preempted("stopped by a signal")
            if step == 20 and not first:
                print("ready", flush=True)
                if mode == "raise":
                    raise RuntimeError("a disk is gone")
                if mode in ("hang", "die"):
                    time.sleep(60)

main_guard(main)
"""


class Pair:
    """Two processes of one job, ended with the test whatever happens."""

    def __init__(self, program, address, *arguments):
        commands = [[sys.executable, "-c", program, address, index, *map(str, arguments)] for index in "01"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.processes = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for command in commands]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait_for(self, line):
        """Return once process 1 has said this line."""
        while (said := self.processes[1].stdout.readline()) != f"{line}\n":  # gloo speaks too
            assert said, self.processes[1].communicate()

    def ends(self, limit):
        """Return [(exit code, stdout, stderr)] of both; fail where one outlives the limit."""
        found = [process.communicate(timeout=limit) for process in self.processes]
        return [(process.returncode, *texts) for process, texts in zip(self.processes, found, strict=True)]


def test_barriers_and_differences_name_who_and_what(address, tmp_path):
    with Pair(JOB, address, "meet", tmp_path) as pair:
        (code, out, err), second = pair.ends(60)
    assert out == "barrier 'alone': process 1 did not come within 0.2 s\n", err + second[2]
    sentence = "the processes differ: data.path is '0' in process 0 and '1' in process 1"
    assert (code, second[0]) == (2, 2), err
    assert sentence in err and sentence in second[2]


@pytest.mark.parametrize(
    ("mode", "codes", "reason"),
    [
        ("raise", (1, 1), "process 1 has failed: RuntimeError: a disk is gone"),
        ("hang", (1, 1), "process 1 has failed: no step ended within 2 s while stepping"),
        ("die", (1, -signal.SIGKILL), "process 1 said nothing for 3 s"),
        ("term", (75, 75), "stopped by a signal"),
    ],
)
def test_what_ends_one_process_ends_both_and_is_written_down(mode, codes, reason, address, tmp_path):
    with Pair(JOB, address, mode, tmp_path) as pair:
        pair.wait_for("ready")
        if mode == "die":
            pair.processes[1].kill()
        if mode == "term":
            pair.processes[1].send_signal(signal.SIGTERM)
        begun = time.monotonic()
        first, second = pair.ends(30)
        assert time.monotonic() - begun < 20 + 5  # the heartbeat and a little
    assert (first[0], second[0]) == codes, (first, second)
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == ("preempted" if mode == "term" else "failed")
    assert status["error"].startswith(reason) and reason in first[2]
    if mode == "term":  # each has a pace of its own
        assert first[1].splitlines()[-1].startswith("stopped at ") and first[1].splitlines()[-1] in second[1]
    if mode == "hang":
        assert "most recent call first" in second[2] and "in main" in second[2]


def test_a_hang_leaves_its_stacks_in_the_log(tmp_path):
    program = (
        "import sys, time\nfrom lm.job import Patience\nfrom lm.watchdog import Watchdog\n"
        "from lm.report.folder import RunFolder\n"
        f"with RunFolder({str(tmp_path)!r}) as mine, Watchdog(Patience(slow=0.5), mine) as dog:\n"
        "    dog.compiling()\n    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "error: no step ended within 0.5 s while compiling" in done.stderr
    log = (tmp_path / "log.txt").read_text()
    assert "line 7 in <module>" in log and log.endswith("no step ended within 0.5 s while compiling\n")
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


RECIPE = Recipe(
    task=FlipFlop(length=16),
    model=TransformerConfig(vocabulary=5, depth=1, width=8, heads=2),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
    train=TrainConfig(steps=12, batch_size=8, steps_per_dispatch=2, log_every=6, save_every=6, evaluate_every=4),
    name="tiny",
)


@dataclasses.dataclass(frozen=True)
class Signalled(FlipFlop):
    """The same strings; SIGTERM comes while they are prepared, compiled or examined."""

    place: str = ""

    def source(self, recipe, folder):
        source = super().source(recipe, folder)

        def at(place):
            if place == self.place:
                signal.raise_signal(signal.SIGTERM)

        traced = []

        def draw(key, step):
            traced.append(step)
            if len(traced) == 2:  # the first time its shapes are asked for
                at("compiling")
            return source.draw(key, step)

        def evaluate(net, params, key):
            at("evaluating")
            return source.evaluate(net, params, key)

        at("preparing")
        return source._replace(draw=draw, evaluate=evaluate)


def test_a_signal_at_any_place_costs_no_step(tmp_path, monkeypatch):
    straight = fit(RECIPE, tmp_path / "straight", quiet=True)
    folder = tmp_path / "stopped"
    checkpoints = folder / "checkpoints"

    def run(place):
        recipe = dataclasses.replace(RECIPE, task=Signalled(length=16, place=place))
        return fit(recipe, folder, quiet=True, allow_change=("task",))

    save = Checkpoints.save

    def twice(*arguments):
        signal.raise_signal(signal.SIGTERM)
        save(*arguments)
        signal.raise_signal(signal.SIGTERM)

    for place, saved in (("preparing", None), ("compiling", 2), ("evaluating", 4), ("saving", 6)):
        if place == "saving":
            monkeypatch.setattr(Checkpoints, "save", twice)
        with pytest.raises(Preempted, match="signal"):
            run(place)
        steps = [int(path.name) for path in checkpoints.glob("*")]
        assert max(steps, default=None) == saved, place
        if saved is not None:
            assert json.loads((folder / "status.json").read_text())["state"] == "preempted"

    monkeypatch.undo()
    found = run("")
    for a, b in zip(jax.tree.leaves(straight.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_waits_for_the_save_and_a_second_interrupt_does_not():
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Preempted):
            safe_point()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupt.requested()
    safe_point()  # nobody listens any more


TRAIN = """
import sys, time
from pathlib import Path
from lm.exits import main_guard
from lm.interrupt import safe_point
from lm.job import Job
from lm.processes import start_processes
from tests.test_processes import RECIPE, Signalled

def main(argv):
    address, process, folder = argv
    start_processes(Job(coordinator=address, processes=2, process=int(process), start_limit=60))
    from lm import train

    def evaluate(net, params, key):
        print("evaluating", flush=True)
        for _ in range(600):
            safe_point()
            time.sleep(0.05)
        raise AssertionError("nobody stopped this")

    prepare = train.prepare
    def slow(*arguments):
        run = prepare(*arguments)
        return run._replace(source=run.source._replace(evaluate=evaluate))
    train.prepare = slow
    train.fit(RECIPE, folder, quiet=True)

main_guard(main)
"""


def test_a_signal_to_one_process_stops_both_at_one_step_while_they_evaluate(address, tmp_path):
    with Pair(TRAIN, address, tmp_path) as pair:
        pair.wait_for("evaluating")
        pair.processes[1].send_signal(signal.SIGTERM)
        ends = pair.ends(60)
    assert [code for code, *_ in ends] == [75, 75], ends
    assert all("stopped by a signal and saved at step 4" in err for *_, err in ends)
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "preempted"
    assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")] == ["4"]
