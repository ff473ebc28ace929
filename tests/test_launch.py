"""The launcher: its state machine against any cloud, processes on this machine, manifests for orchestrators."""

import dataclasses
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tpu.gcloud import Slice
from tpu.machine import ENDS, HOPELESS, Limits, Seen, State, step, verdict
from tpu.manifests import JobSet, skypilot_task, to_yaml

ROOT = Path(__file__).parent.parent
POD = Slice("pod", "us-west4-a", "v5litepod-8")
NODES = ("absent", "waiting", "pending", "ready", "unreachable", "preempted", "broken", "deleting", "unknown")


@pytest.mark.parametrize(
    ("codes", "one"),
    [
        ([0, 0], 0),
        ([75, 75], 75),
        ([75, 0], 75),  # who was done need not save
        ([75, 1], 1),  # one did not save
        ([134, 3, -9], 3),  # the others only noticed
        ([2, 75], 2),
        ([-9, 1], 137),  # the first end is the cause
        ([0, -15], 143),
    ],
)
def test_the_codes_of_all_processes_are_one(codes, one):
    assert verdict(codes) == one


CODES = st.sampled_from([0, 0, 75, 75, 75, 1, 2, 3, 4, 134, -9])
SEEN = st.builds(
    Seen,
    node=st.sampled_from(NODES),
    ended=st.lists(CODES, max_size=3).map(tuple),
    running=st.integers(0, 2),
    trouble=st.sampled_from(["", "", "", "capacity", "error"]),
)
SIGHTS = st.lists(st.tuples(st.sampled_from([True, True, True, False]), SEEN), max_size=40)
LIMITS = st.builds(Limits, restarts=st.integers(0, 3), failures=st.integers(0, 3), blind=st.integers(0, 3))


def play(sights, limits, state=State()):  # noqa: B008 (frozen)
    """Yield (state before, seen, state after, action) while the cloud shows these sights; the clock goes on.

    A tame sight is what a cloud without faults would show: the node that was asked for, whatever its processes do.
    """
    now, action = 1000.0, None
    for tame, seen in sights:
        did = action if action not in ("wait", "end") else None
        seen = dataclasses.replace(seen, did=did, trouble=seen.trouble if did else "")
        if tame:
            there = "absent" if state.phase in ("absent", "preempted") else "ready"
            seen = dataclasses.replace(seen, node=there, trouble="")
        before, (state, action) = state, step(state, seen, now, limits)
        yield before, seen, state, action
        if action == "end":
            return
        now = max(now + 15.0, state.after)


@settings(max_examples=200, deadline=None)
@given(SIGHTS, LIMITS)
def test_whatever_the_cloud_shows_budgets_hold_and_no_second_node_is_created(sights, limits):
    for before, seen, state, action in play(sights, limits):
        assert 0 <= before.restarts <= state.restarts <= limits.restarts
        assert 0 <= before.failures <= state.failures <= limits.failures
        assert action != "create" or seen.node == "absent"
        assert action != "delete" or (state.ours and seen.node != "absent")
        assert action != "start" or seen.node == "ready"
        if state.ours and seen.node not in ("absent", "unknown", "unreachable"):
            assert state.exists  # what is there is named at the end
        assert (action == "end") == (state.phase in ENDS)
        if state.phase == "done":
            assert seen.running == 0 and set(seen.ended) == {0}
        if state.phase == "failed":
            assert state.code and state.code > 0 and state.reason


def healthy(seen):
    return seen.node == "ready" and seen.running > 0 and not any(seen.ended)


KINDS = (
    *(Seen(node) for node in NODES),
    *(Seen("ready", codes) for codes in ((0,), (1,), (3,), (75,))),
    *(Seen("ready", codes, 1) for codes in ((), (1,))),
)
STATES = [State(phase, ours=phase != "absent") for phase in ("absent", "creating", "ready", "running", "preempted")]
# Two sights that come again and again, or one with trouble in all that is done.
STUCK = [(pair, "") for pair in itertools.product(KINDS, KINDS)]
STUCK += [((kind,), trouble) for kind in KINDS for trouble in ("capacity", "error")]


@pytest.mark.parametrize("start", STATES, ids=lambda state: state.phase)
def test_every_path_ends(start):
    """Whatever a cloud keeps showing, only a program that runs and runs keeps the launcher."""
    limits = Limits(restarts=1, failures=1, wait=1000.0, pending=200.0, grace=30.0, blind=1)
    for sights, trouble in STUCK:
        forever = itertools.cycle([(False, dataclasses.replace(seen, trouble=trouble)) for seen in sights])
        for before, seen, _, action in itertools.islice(play(forever, limits, start), 400):
            if action == "end" or (before.phase == "running" and healthy(seen)):
                break
        else:
            raise AssertionError(f"{sights} with {trouble or 'no trouble'} goes on")


@pytest.mark.parametrize("code", HOPELESS)
def test_hopeless_codes_are_not_tried_again(code):
    state, action = step(State("running", ours=True), Seen("ready", (code, 134)), 0.0, Limits())
    assert (state.phase, state.code, action) == ("failed", code, "end")
    assert state.failures == state.restarts == 0


def test_a_preemption_that_is_seen_twice_is_counted_once():
    """The program saves and ends with 75, then the node goes; the next one may be lost before anything starts."""
    state, now = State("running", ours=True, exists=True), 0.0
    lost = [Seen("ready", (75, 75)), Seen("preempted"), Seen("absent"), Seen("ready"), Seen("preempted")]
    did = []
    for seen in lost:
        now = max(now, state.after) + 1
        state, action = step(state, seen, now, Limits())
        did.append((action, state.restarts))
    assert did == [("wait", 1), ("delete", 1), ("create", 1), ("setup", 1), ("delete", 2)]


WORKER = """
import os, signal, sys, time
from pathlib import Path
folder, role = Path(sys.argv[1]), sys.argv[2:][int(os.environ["JAX_PROCESS_ID"])]
attempt = len(list(folder.glob(f"{os.environ['JAX_PROCESS_ID']}-*")))
(folder / f"{os.environ['JAX_PROCESS_ID']}-{attempt}").write_text(str(os.getpid()))
code = role.split(",")[attempt]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
if code == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while code in ("hang", "work"):
    time.sleep(0.02)
sys.exit(int(code))
"""


def local(folder, roles, *flags):
    words = ("--local", str(len(roles)), "--grace", "0.5", *flags, "--", sys.executable, "-S", "-c", WORKER)
    command = [sys.executable, str(ROOT / "tpu" / "launch.py"), *words, str(folder), *roles]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def pids(folder, attempt=0):
    return [int(path.read_text() or 0) for path in sorted(folder.glob(f"*-{attempt}"))]


@pytest.mark.parametrize(
    ("roles", "hit", "number", "flags", "code"),
    [
        (["work", "work"], "launcher", signal.SIGTERM, (), 75),  # forwarded, and all save
        (["work", "work"], 1, signal.SIGKILL, (), 137),  # the other is ended after the grace period
        (["work", "hang"], 0, signal.SIGTERM, (), 137),  # one saved, one hangs: not all saved
        (["hang", "3"], None, None, (), 3),  # what was meant counts, not what the launcher did to the rest
        (["75,0", "75,0"], None, None, ("--restarts", "1"), 0),
        (["75,75", "0,75"], None, None, ("--restarts", "1"), 75),
        (["1,0", "0,0"], None, None, ("--failures", "1"), 0),
        (["2,0", "0,0"], None, None, ("--failures", "1", "--restarts", "1"), 2),
        (["work,work", "work,work"], "launcher", signal.SIGINT, ("--failures", "2"), 130),
        (["75,work", "75,work"], "between", signal.SIGTERM, ("--restarts", "1"), 75),  # while nothing runs
    ],
)
def test_processes_here_end_together_with_the_right_code(roles, hit, number, flags, code, tmp_path):
    launcher = local(tmp_path, roles, *flags)
    try:
        deadline = time.monotonic() + 20
        while len([pid for pid in pids(tmp_path) if pid]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)  # so that the handlers stand
        if hit == "between":
            assert "ended with code 75; next attempt" in next(line for line in launcher.stderr if "launch" in line)
            launcher.send_signal(number)
        elif hit is not None:
            os.kill(launcher.pid if hit == "launcher" else pids(tmp_path)[hit], number)
        _, said = launcher.communicate(timeout=10)
    finally:
        launcher.kill()
    assert launcher.returncode == code, said
    assert len(pids(tmp_path)) == 2 and not (number and pids(tmp_path, attempt=1))
    for path in tmp_path.glob("*-*"):
        assert not Path(f"/proc/{path.read_text()}").exists()


def test_a_preempted_run_of_two_processes_goes_on_by_itself(tmp_path):
    """One process is told to stop, both save the same step, and the launcher starts them again from there."""
    tiny = "--task.length 16 --model.width 16 --train.batch_size 4 --train.log_every 5 --train.save_every 100000"
    words = f"flip_flop_cpu {tiny} --train.steps 40 --mesh.data 2 --workdir {tmp_path} --quiet"
    train = [sys.executable, "scripts/train.py", *words.split()]
    command = [sys.executable, "tpu/launch.py", "--local", "2", "--restarts", "1", "--", *train]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1"}
    launcher = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        metrics, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 60
        while not metrics.exists() or not metrics.read_text():
            assert time.monotonic() < deadline and launcher.poll() is None, launcher.stderr.read()
            time.sleep(0.02)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGTERM)
        out, said = launcher.communicate(timeout=90)
    finally:
        launcher.terminate()  # which ends its processes too, where something above went wrong
        launcher.wait(timeout=30)
    assert launcher.returncode == 0, said
    assert said.count("ended with code 75") == 3  # of each process, and of the attempt
    assert out.count('"recipe"') == 1
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "done"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [*range(5, 41, 5), 40]  # none twice and none left out; the last is the evaluation's


COMMAND = ("python", "scripts/train.py", "flip_flop_cpu", "--task.name", "it's $HOME")
QUEUED = dataclasses.replace(POD, queued=True, spot=True)
MANIFESTS = {
    "one slice": ("jobset", JobSet("pod", "v5e:4x4", "image").manifest(COMMAND)),
    "all of it": (
        "jobset",
        JobSet("pod", "v5p:2x2x2", "image", slices=2, claim="c", queue="q", spot=True).manifest(COMMAND),
    ),
    "one chip": ("jobset", JobSet("pod", "v5e:1x1", "image").manifest(COMMAND)),
    "sky": ("skypilot", skypilot_task(POD, COMMAND)),
    "sky with a bucket": (
        "skypilot",
        skypilot_task(QUEUED, COMMAND, "bucket"),
    ),
}


FREE = ("labels", "annotations", "nodeSelector", "limits", "file_mounts")  # tables whose keys are anybody's


def corrupted(value):
    """Yield copies of a manifest with one mistake each: a field of another name, or a value of another kind."""
    if isinstance(value, dict):
        for key, inner in value.items():
            rest = {name: other for name, other in value.items() if name != key}
            yield {**rest, f"{key}s": inner}
            if key not in FREE:
                yield from ({**rest, key: broken} for broken in corrupted(inner))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ([*value[:index], broken, *value[index + 1 :]] for broken in corrupted(inner))
    else:
        yield [value]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_keep_to_their_schemas_and_mistakes_do_not(name):
    jsonschema = pytest.importorskip("jsonschema")
    kind, manifest = MANIFESTS[name]
    schema = json.loads((ROOT / "tests" / "schemas" / f"{kind}.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    written = yaml.safe_load(to_yaml(manifest))
    assert written == manifest
    check.validate(written)
    mistakes = list(corrupted(written))
    assert len(mistakes) > 15
    assert [mistake for mistake in mistakes if check.is_valid(mistake)] == []


def pod_text(manifest):
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    return job["template"]["spec"]["containers"][0]["command"][2]


@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        (
            pod_text(MANIFESTS["all of it"][1]),
            {"JOB_INDEX": "1", "JOB_COMPLETION_INDEX": "0"},
            ["pod-slice-0-0.pod:8476", "4", "2"],
        ),
        (
            MANIFESTS["sky"][1]["run"].replace("source", "# source"),
            {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"},
            ["10.0.0.1:8476", "2", "1"],
        ),
    ],
)
def test_what_a_manifest_runs_is_one_job(text, variables, expected):
    """The shell text with a program in the command's place that prints what it was given."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    program = f"import os, sys; print([os.environ[n] for n in {names}], sys.argv[1:])"
    text = text.replace("exec python", f"exec {sys.executable} -S -c {shlex.quote(program)}")
    done = subprocess.run(["bash", "-c", text], env={**os.environ, **variables}, capture_output=True, text=True)
    assert done.stdout == f"{expected} {list(COMMAND[1:])}\n", done.stderr
