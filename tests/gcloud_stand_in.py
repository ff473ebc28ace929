"""A stand-in for gcloud: keeps a cloud of one slice in the folder $CLOUD and writes down every call.

Hosts are folders with real processes. events.json says what goes wrong, by kind of call and in turn: "create":
quota, half (fails, and a node that is no use stays), error, waiting; "describe": any state the node then has, or
error; "ssh" and "scp": error; "delete": error. An empty word, or none, means that all goes well.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CLOUD = Path(os.environ["CLOUD"])
HOSTS = 2
WORDS = {
    "quota": "ERROR: Quota limit 'TPUV5sPreemptible' has been exceeded. Limit: 0. RESOURCE_EXHAUSTED",
    "half": "ERROR: INTERNAL: the operation ended with an error",
    "error": "ERROR: UNAVAILABLE: the service is currently unavailable",
    "missing": "ERROR: NOT_FOUND: Resource was not found",
    "denied": "ERROR: PERMISSION_DENIED: Permission 'tpu.nodes.create' denied",
    "exists": "ERROR: ALREADY_EXISTS: Resource exists",
}


def load(name, default):
    path = CLOUD / name
    return json.loads(path.read_text()) if path.exists() else default


def save(name, value):
    (CLOUD / name).write_text(json.dumps(value))


def end(word=""):
    if word:
        print(WORDS[word], file=sys.stderr)
    sys.exit(bool(word))


def event(kind):
    events = load("events.json", {})
    mine = events.get(kind, [])
    now = mine.pop(0) if mine else ""
    save("events.json", events)
    return now


def take_away():
    """End the processes on the hosts, once they have said something, and lose the disks, as a preemption does."""
    for host in CLOUD.glob("host-*"):
        pid, log = host / ".cambium" / "pid", host / ".cambium" / "log"
        deadline = time.monotonic() + 20
        if pid.exists():
            while not log.read_text() and time.monotonic() < deadline:
                time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text().split()[0]), signal.SIGKILL)
        shutil.rmtree(host)


def create(queued):
    if load("node.json", None) or load("request.json", None):
        end("exists")
    word = event("create")
    if queued:
        save("request.json", "WAITING_FOR_RESOURCES" if word == "waiting" else "ACTIVE")
    if word == "half":
        save("node.json", "STOPPED")
    if word in ("", "waiting"):
        save("node.json", "READY")
    end("" if word == "waiting" else word)


def describe(queued):
    word = event("queue" if queued else "describe")
    if word in WORDS:
        end(word)
    name = "request.json" if queued else "node.json"
    if word and load(name, None):
        save(name, word)
    state = load(name, None)
    if state is None:
        end("missing")
    if state == "PREEMPTED":
        take_away()
    ends = [{"ipAddress": f"10.0.0.{index}"} for index in range(HOSTS)]
    print(json.dumps({"state": {"state": state}} if queued else {"state": state, "networkEndpoints": ends}))


def delete():
    word = event("delete")
    if word:
        end(word)
    if not load("node.json", None) and not load("request.json", None):
        end("missing")
    take_away()
    for name in ("node.json", "request.json"):
        (CLOUD / name).unlink(missing_ok=True)


def workers(flags):
    which = flags.get("worker", "0")
    for index in range(HOSTS) if which == "all" else [int(which)]:
        host = CLOUD / f"host-{index}"
        host.mkdir(exist_ok=True)
        yield index, host


def ssh(flags):
    if event("ssh") or load("node.json", None) != "READY":
        end("error")
    codes = []
    for index, host in workers(flags):
        path = f"{CLOUD / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "HOME": str(host), "PATH": path, "WORKER": str(index)}
        codes.append(subprocess.run(["bash", "-c", flags["command"]], env=environment, cwd=host).returncode)
    sys.exit(next(filter(None, codes), 0))


def scp(source, flags):
    if event("scp"):
        end("error")
    for _, host in workers(flags):
        shutil.copy(source, host)


def main():
    assert sys.argv[1:3] == ["compute", "tpus"] and "--quiet" in sys.argv
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[3:]) + "\n")
    group, verb, subject, *_ = sys.argv[3:]
    flags = dict(word[2:].split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
    assert flags["zone"] == "us-west4-a"
    queued = group == "queued-resources"
    match verb:
        case "create":
            create(queued)
        case "describe":
            describe(queued)
        case "delete":
            delete()
        case "ssh":
            ssh(flags)
        case "scp":
            scp(subject, flags)


main()
