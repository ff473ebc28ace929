"""Runs on TPU slices, against a stand-in for gcloud that loses machines, denies quota and leaves halves behind."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import time
import typing
from pathlib import Path

import pytest

from lm.exits import UserError
from lm.report.folder import RunFolder
from scripts import train
from scripts.cli import parse_recipe
from tpu import hosts, launch, plan, runs
from tpu.gcloud import NODE_STATES, QUEUE_STATES, TROUBLES, Gcloud, Slice, trouble
from tpu.machine import Limits, Node, Seen, State
from tpu.supervise import supervise

ROOT = Path(__file__).parent.parent
STAND_IN = ROOT / "tests" / "gcloud_stand_in.py"
POD = Slice("pod", "us-west4-a", "v5litepod-8")


PROGRAM = """
import json, os, sys, time
from pathlib import Path
bucket, plan, rank = Path(sys.argv[1]), json.loads(sys.argv[2]), os.environ["JAX_PROCESS_ID"]
attempt = len(list(bucket.glob(f"{rank}-*")))
facts = {name: value for name, value in os.environ.items() if name.startswith(("JAX_", "CAMBIUM_"))}
(bucket / f"{rank}-{attempt}").write_text(json.dumps(facts))
print("begun", flush=True)
code = plan[attempt] if isinstance(plan[attempt], int) else plan[attempt][int(rank)]
while code == -1:
    time.sleep(0.05)
sys.exit(code)
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A folder that is the cloud, with the stand-in on the PATH, a repository of one file and a bucket."""
    here, there = tmp_path / "bin", tmp_path / "cloud" / "bin"
    for folder in (here, there, tmp_path / "bucket", tmp_path / "repository"):
        folder.mkdir(parents=True)
    ends = "pod:0:10.0.0.0,pod:1:10.0.0.1"
    tools = {
        here / "gcloud": f'exec {sys.executable} -S {STAND_IN} "$@"',
        there / "curl": f'case "$*" in *agent-worker-number) echo $WORKER;; *) echo {ends};; esac',
        there / "python3": f'[ "$1" = -m ] && exit 0; exec {sys.executable} -S "$@"',
    }
    for path, line in tools.items():
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("CLOUD", str(tmp_path / "cloud"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repository" / "program.py").write_text(PROGRAM)
    name = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "--quiet"], ["add", "."], [*name, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path / "repository"), *words], check=True)
    yield tmp_path / "cloud"
    (tmp_path / "cloud" / "events.json").write_text("{}")
    subprocess.run(["gcloud", "compute", "tpus", "tpu-vm", "delete", "pod", "--zone=us-west4-a", "--quiet"])


def calls(cloud, verb=None):
    """Return the calls the stand-in wrote down; of one verb, or all but those that only look."""
    lines = [json.loads(line) for line in (cloud / "calls").read_text().splitlines()]
    return [words for words in lines if (words[1] == verb if verb else words[1] != "describe")]


def attempts(cloud):
    """Return what the processes of rank 0 found in their environment, one entry for each attempt."""
    return [json.loads(path.read_text()) for path in sorted((cloud.parent / "bucket").glob("0-*"))]


class Clock:
    """A clock that only sleeping moves; a little real time passes so that processes come along."""

    now = 1e9

    def sleep(self, seconds):
        self.now += seconds
        assert self.now < 1e9 + 1e6, "it goes on"
        time.sleep(0.05)


def look_after(cloud, plan, events, where=POD, limits=Limits(), state=State(), poll=120.0):  # noqa: B008 (frozen)
    """Supervise a program that ends as planned while events happen; returns the last run that was written down."""
    (cloud / "events.json").write_text(json.dumps(events))
    command = ("python3", "program.py", str(cloud.parent / "bucket"), json.dumps(plan))
    one, clock, last = runs.Run(where, command, state), Clock(), []
    backend = Gcloud(where, command, cloud.parent / "repository", cloud.parent / "pod.bundle")
    save = lambda state: last.append(one.save(state))  # noqa: E731
    supervise(backend, state, lambda: limits, save, poll=poll, clock=lambda: clock.now, sleep=clock.sleep)
    return last[-1]


QUEUED = dataclasses.replace(POD, queued=True, spot=True)
TAKEN = ["missing", "", "", "", "PREEMPTED"]  # while the program runs
SCENES = {
    # name: (slice, plan of codes, events, phase, code, restarts, failures, creates, attempts, exists)
    "all goes well": (POD, [0], {}, "done", 0, 0, 0, 1, 1, True),
    "saved, but not taken away": (POD, [75, 0], {}, "done", 0, 1, 0, 1, 2, True),
    "taken away": (POD, [-1, 0], {"describe": TAKEN}, "done", 0, 1, 0, 2, 2, True),
    "taken away too often": (
        *(POD, [-1, -1], {"describe": [*TAKEN, "", "", "", "", "PREEMPTED"]}, "failed", 75),
        *(1, 0, 2, 2, False),
    ),
    "no capacity, then some": (POD, [0], {"create": ["quota", "quota"]}, "done", 0, 0, 0, 3, 1, True),
    "half a node": (POD, [0], {"create": ["half"]}, "done", 0, 0, 1, 2, 1, True),
    "not allowed": (POD, [0], {"create": ["denied"]}, "failed", 2, 0, 0, 1, 0, False),
    "set-up and delete stumble": (
        *(POD, [0], {"create": ["half"], "scp": ["error"], "delete": ["error"]}, "done", 0),
        *(0, 2, 2, 1, True),
    ),
    "the start stumbles on the hosts": (POD, [0, 0], {"ssh": ["", "", "error"]}, "done", 0, 0, 1, 1, 1, True),
    "bad input": (POD, [2], {}, "failed", 2, 0, 0, 1, 1, True),
    "one diverged, the others noticed": (POD, [[134, 3]], {}, "failed", 3, 0, 0, 1, 1, True),
    "failures are counted": (POD, [1, 1, 1, 1], {}, "failed", 1, 0, 2, 1, 3, True),
    "one fails, one hangs": (POD, [[1, -1], 0], {}, "done", 0, 0, 1, 1, 2, True),
    "the queue moves": (
        *(QUEUED, [0], {"queue": ["missing", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]}, "done", 0),
        *(0, 0, 1, 1, True),
    ),
    "the queue never moves": (QUEUED, [0], {"create": ["waiting"]}, "failed", 1, 0, 0, 1, 0, False),
    "suspended": (
        *(QUEUED, [-1, 0], {"queue": ["missing", "", "", "", "SUSPENDED"]}, "done", 0),
        *(1, 0, 2, 2, True),
    ),
    "the request failed": (QUEUED, [0], {"queue": ["missing", "FAILED"]}, "done", 0, 0, 1, 2, 1, True),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_run_on_a_slice(scene, cloud):
    where, plan, events, phase, code, restarts, failures, creates, tries, exists = SCENES[scene]
    limits = Limits(restarts=1)
    one = look_after(cloud, plan, events, where, limits, poll=7200.0 if scene == "the queue never moves" else 120.0)
    state = one.state
    assert (state.phase, state.code, state.restarts, state.failures) == (phase, code, restarts, failures), state
    assert len(calls(cloud, "create")) == creates
    assert len(attempts(cloud)) == tries
    assert state.exists == exists == (cloud / "node.json").exists()
    assert bool(one.left()) == exists and ("launch.py delete pod" in one.left()) == exists
    for facts in attempts(cloud):
        assert facts["JAX_COORDINATOR_ADDRESS"] == f"10.0.0.0:{hosts.PORT}"
        assert (facts["JAX_NUM_PROCESSES"], facts["JAX_PROCESS_ID"], facts["CAMBIUM_HOST"]) == ("2", "0", "pod")
    assert runs.find("pod") == one


class Paper:
    """A cloud in memory that a launcher finds again after it was killed; `kill` is the action it dies of."""

    def __init__(self, kill, after):
        self.kill, self.after = kill, after
        self.node, self.program, self.done = "absent", "none", []

    def observe(self, phase):
        ran, self.program = self.program, "ended" if self.program == "running" else self.program
        return Seen(self.node, (0,) if ran == "ended" else (), int(ran == "running"))

    def act(self, action):
        killed, self.kill = self.kill == action, None if self.kill == action else self.kill
        if killed and not self.after:
            raise KeyboardInterrupt
        self.done.append(action)
        self.node = {"create": "ready", "delete": "absent"}.get(action, self.node)
        self.program = {"setup": "none", "start": "running"}.get(action, self.program)
        if killed:
            raise KeyboardInterrupt
        return "", ""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kill", ["create", "setup", "start"])
def test_a_launcher_that_is_killed_goes_on(kill, after):
    cloud, clock, written = Paper(kill, after), Clock(), [State()]
    for _ in range(2):
        try:
            supervise(cloud, written[-1], Limits, written.append, clock=lambda: clock.now, sleep=clock.sleep)
        except KeyboardInterrupt:
            assert written[-1].exists  # whatever was done, it is known that it may have been
    assert written[-1].phase == "done"
    assert (cloud.done.count("create"), cloud.done.count("start")) == (1, 1)


def test_the_next_slice_of_a_name_takes_over_the_lock_of_the_last(tmp_path, monkeypatch):
    """A preemption leaves the lock behind, on a host that nobody sees again."""
    (tmp_path / "run.lock").write_text("process 7 on pod")
    with pytest.raises(UserError, match="in use by process 7 on pod"), RunFolder(tmp_path):
        pass
    monkeypatch.setenv("CAMBIUM_HOST", "pod")
    with RunFolder(tmp_path):
        assert "took over the lock that process 7 on pod left behind" in (tmp_path / "log.txt").read_text()


def test_what_gcloud_says_is_understood():
    states = {**NODE_STATES, **QUEUE_STATES}
    assert set(states.values()) <= set(typing.get_args(Node))
    # states of Node and of QueuedResource in the Cloud TPU API v2; those that are not named here count as broken
    nodes = "CREATING READY RESTARTING REIMAGING DELETING REPAIRING STOPPED STOPPING STARTING PREEMPTED TERMINATED"
    queue = "CREATING ACCEPTED PROVISIONING FAILED DELETING ACTIVE SUSPENDING SUSPENDED WAITING_FOR_RESOURCES"
    assert set(NODE_STATES) <= {*nodes.split(), "HIDING", "HIDDEN", "UNHIDING", "UNKNOWN"}
    assert set(QUEUE_STATES) <= set(queue.split())
    for words, kind in (
        ("Quota limit 'TPUV6EPreemptiblePerProjectPerRegionForTPUAPI' has been exceeded. Limit: 0", "capacity"),
        ('There is no more capacity in the zone "europe-west4-a"; you can try in another zone', "capacity"),
        ("Insufficient reserved capacity. Contact customer support to increase your reservation.", "capacity"),
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", "refused"),
        ("You do not currently have an active account selected.", "refused"),
        ("unrecognized arguments: --acelerator-type", "refused"),
        ("INTERNAL: an internal error occurred", "error"),
    ):
        assert trouble(words) == kind
    assert {kind for kind, _ in TROUBLES} == {"capacity", "refused"}


def test_hosts_that_say_nothing_are_counted():
    assert hosts.read("noise\ncambium-host running\ncambium-host ended 75\n", 4) == ((75,), 1, 2)


DELETE = "python tpu/launch.py delete pod"


DELETE = "python tpu/launch.py delete pod"


def command_line(*words):
    return [sys.executable, str(ROOT / "tpu" / "launch.py"), *words]


def call(*words, check=None):
    done = subprocess.run(command_line(*words), capture_output=True, text=True, timeout=60)
    assert check is None or done.returncode == check, done.stderr
    return done


def until(condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_is_left_found_stopped_and_deleted(cloud):
    where = ("--zone", "us-west4-a", "--accelerator", "v5litepod-8", "--prepare", "touch prepared")
    program = "trap 'echo saved; exit 75' TERM; echo begun $JAX_PROCESS_ID; while :; do sleep 0.1; done"
    words = (*where, "--poll", "0.1", "--", "sh", "-c", program)
    rehearsed = [shlex.split(line) for line in call("run", "pod", "--dry-run", *words, check=0).stdout.splitlines()]
    typed = [line[3:] for line in rehearsed if line[0] == "gcloud" and line[4] != "describe"]
    assert len(typed) == 7  # create, prepare, copy, unpack, install, start, watch
    assert not (cloud / "calls").exists()
    first = subprocess.Popen(command_line("run", "pod", *words), stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: (cloud / "calls").exists() and len(calls(cloud)) > len(typed))
        assert calls(cloud)[: len(typed)] == typed
        second = call("delete", "pod", check=2)
        assert f"process {first.pid} looks after pod" in second.stderr
        assert len(list(cloud.glob("host-*/prepared"))) == 2
        first.terminate()
        _, said = first.communicate(timeout=20)
    finally:
        first.kill()
    assert first.returncode == 1
    last = said.splitlines()[-1]
    assert "go on with: python tpu/launch.py run pod" in last
    assert last.endswith("TPU VM pod in us-west4-a still exists and costs money; remove it with: " + DELETE)

    facts = json.loads(call("status", "pod", check=0).stdout)
    assert (facts["node"], facts["running"], facts["state"]["phase"]) == ("ready", 2, "running")
    assert "runs 'sh -c" in call("run", "pod", "--", "true", check=2).stderr
    assert "still exists" in call("stop", "pod", check=0).stderr.splitlines()[-1]
    assert json.loads(call("status", "pod", check=0).stdout)["ended"] == [75, 75]
    assert "# start" in call("run", "pod", "--dry-run", "--", "true", check=0).stdout  # now it may run another
    log = call("logs", "pod", "--worker", "1", check=0).stdout
    assert log.startswith("begun 1\n") and log.endswith("saved\n")
    assert "pod is gone" in call("delete", "pod", check=0).stderr
    assert not (cloud / "node.json").exists() and runs.find("pod") is None
    assert len(calls(cloud, "create")) == len(calls(cloud, "delete")) == 1
    assert "pod is gone" in call("delete", "pod", *where, check=0).stderr  # as often as one likes


MISTAKES = [
    ("create Pod --zone us-west4-a --accelerator v5litepod-8", "name must be 1 to 40 lower-case letters"),
    ("create pod --zone us-west4 --accelerator v5litepod-8", "zone must be a zone such as us-west4-a, got 'us-west4'"),
    ("create pod --zone us-west4-a --accelerator 8", "accelerator must be a type such as v5litepod-16"),
    ("create pod --zone us-west4-a --accelerator v9-8", "no usual runtime is known for v9 (known: v2, v3, v4, v5"),
    ("create pod --accelerator v4-8", "no run pod in runs/launch; a new one needs --zone; did you mean pods"),
    ("run pod --zone us-west4-a --accelerator v4-8", "give the command behind --"),
    ("status pot", "no run pot in runs/launch; a new one needs --zone and --accelerator; did you mean pod"),
    ("status pods --zone us-west4-b", "run pods has zone us-west4-a"),
    ("status torn", "runs/launch/torn.json is damaged"),
    ("jobset pod --topology v5f:4x4 --image i -- true", "topology must be one of v4, v5e, v5p, v6e, tpu7x and a shape"),
    ("jobset pod --topology v5e:2x3 --image i -- true", "6 chips of v5e:2x3 are not whole hosts of 4 chips"),
    ("jobset pod --topology v5e:4x4 --image i", "give the command behind --"),
    ("skypilot pod --zone us-west4-a --accelerator v5litepod-8", "give the command behind --"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_a_mistake_is_one_line(line, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs.Run(dataclasses.replace(POD, name="pods")).save(State())
    (runs.FOLDER / "torn.json").write_text('{"slice": {"na')
    with pytest.raises(UserError, match=re.escape(said)):
        launch.main(shlex.split(line))


# -- the guide -----------------------------------------------------------------------------------------------------

GUIDE = (ROOT / "docs" / "tpu.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```bash\n(.*?)^```", GUIDE, re.M | re.S) for line in block.splitlines() if line
]
CODE = "".join(path.read_text() for room in ("lm", "tpu") for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_guide_are_real(line, cloud, monkeypatch, capsys):
    """Launches are rehearsed, whatever they start is parsed, and nothing is called."""
    words = shlex.split(line)
    runs.Run(dataclasses.replace(POD, accelerator="v5litepod-16"), ("true",)).save(State("done", ours=True))
    if words[1:2] == ["tpu/launch.py"]:
        cut = words.index("--") if "--" in words else len(words)
        if words[2] in ("create", "run", "push", "status", "logs", "stop", "delete"):
            if words[2] == "create":
                (runs.FOLDER / "pod.json").unlink()
            launch.main([*words[2:cut], "--dry-run", *words[cut:]])
            assert "gcloud compute tpus" in capsys.readouterr().out
        elif words[2] in ("jobset", "skypilot"):
            launch.main(words[2:])
            assert words[3] in capsys.readouterr().out
        words = words[cut + 1 :]
    while words and (words[0] == "env" or "=" in words[0]):
        words = words[1:]
    if words[1:2] == ["scripts/train.py"]:
        parse_recipe(train.Options, words[2:], "train.py", None)
    elif words[1:2] == ["tpu/plan.py"]:
        parse_recipe(plan.Options, words[2:], "plan.py", None)
    elif words[:1] == ["gcloud"]:
        assert words[1:3] == ["compute", "tpus"]
    else:
        assert not words or words == ["python", "-m", "lm.doctor"]
    assert not (cloud / "calls").exists()


def test_messages_of_the_guide_are_those_of_the_code():
    rows = re.findall(r"^\| (`.+?) \|", GUIDE[GUIDE.index("## 7.") :], re.M)
    said = [piece.strip() for row in rows for text in re.findall(r"`(.+?)`", row) for piece in text.split("...")]
    assert len(said) > 35
    code = CODE.replace("{command[0]}", "gcloud").replace('"\n', "")
    ours = [piece for piece in said if piece not in code and "--workdir" not in piece]
    assert ours == ["Quota limit", "has been exceeded"]  # the cloud's words
