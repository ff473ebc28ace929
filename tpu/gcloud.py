"""Slices of TPU VMs through gcloud, asked for directly or in the queue: its commands, and what its answers mean.

Flags and states are those of `gcloud compute tpus tpu-vm` and `queued-resources` (Google Cloud CLI reference,
release 544, and the Cloud TPU API v2: Node.State, QueuedResourceState.State).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lm.exits import UserError
from tpu import hosts
from tpu.machine import Action, Node, Phase, Seen, Trouble

# Software of the hosts by generation ("TPU software versions" in the Cloud TPU documentation).
RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
NODE_STATES: dict[str, Node] = {
    **dict.fromkeys(("CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING"), "pending"),
    "READY": "ready",
    **dict.fromkeys(("PREEMPTED", "TERMINATED"), "preempted"),
    "DELETING": "deleting",
}  # any other is broken: STOPPED, HIDDEN, UNKNOWN ...
QUEUE_STATES: dict[str, Node] = {
    **dict.fromkeys(("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES"), "waiting"),
    "PROVISIONING": "pending",
    "ACTIVE": "ready",
    **dict.fromkeys(("SUSPENDING", "SUSPENDED"), "preempted"),
    "DELETING": "deleting",
}  # FAILED is broken: the request stays in the queue, and in the quota, until it is deleted
TROUBLES: tuple[tuple[Trouble, str], ...] = (
    ("capacity", r"RESOURCE_EXHAUSTED|[Qq]uota|no more capacity|[Ii]nsufficient (reserved )?capacity|stockout"),
    ("refused", r"PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|[Ii]nvalid|unrecognized arguments|active account"),
)


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run_command(command: Sequence[str], limit: float) -> Answer:
    """Run a command to its end, or for `limit` seconds; its stdout and stderr come back as text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed on this machine, or not on the PATH") from None
    except subprocess.TimeoutExpired:
        return Answer(124, "", f"{command[0]} did not answer within {limit:g} seconds")
    return Answer(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Slice:
    """The hardware of a run. `runtime` is the software of the hosts; empty means the usual one of the generation."""

    name: str
    zone: str
    accelerator: str  # as gcloud names it: v5litepod-16, v4-8
    runtime: str = ""
    project: str = ""  # empty: gcloud's own setting
    spot: bool = False
    queued: bool = False
    wait: float = 24.0  # hours for which hardware is asked
    prepare: str = ""  # shell text for every host before anything else: mount what outlives the slice

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise UserError(
                f"name must be 1 to 40 lower-case letters, digits and hyphens after a letter, got {self.name!r}"
            )
        if not re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z]", self.zone):
            raise UserError(f"zone must be a zone such as us-west4-a, got {self.zone!r}")
        if not re.fullmatch(r"v[0-9]+[a-z]*-[0-9]+", self.accelerator):
            raise UserError(f"accelerator must be a type such as v5litepod-16 or v4-8, got {self.accelerator!r}")
        if not self.runtime and self.generation not in RUNTIMES:
            raise UserError(
                f"accelerator {self.accelerator}: no usual runtime is known for {self.generation} "
                f"(known: {', '.join(RUNTIMES)}); give --runtime"
            )
        if not self.wait > 0:
            raise UserError(f"wait must be positive, got {self.wait}")

    @property
    def generation(self) -> str:
        """The part of the accelerator's name before the number of chips or cores."""
        return self.accelerator.rpartition("-")[0]

    @property
    def software(self) -> str:
        """The runtime version of the hosts."""
        return self.runtime or RUNTIMES[self.generation]

    def gcloud(self, group: str, verb: str, *arguments: str) -> list[str]:
        """Return one gcloud command on this slice's zone and project."""
        project = (f"--project={self.project}",) if self.project else ()
        return ["gcloud", "compute", "tpus", group, verb, *arguments, f"--zone={self.zone}", *project, "--quiet"]

    def create(self) -> list[str]:
        """Return the command that asks for the slice."""
        flags = [f"--accelerator-type={self.accelerator}", *(["--spot"] if self.spot else [])]
        if not self.queued:
            return self.gcloud("tpu-vm", "create", self.name, *flags, f"--version={self.software}")
        flags += [f"--runtime-version={self.software}", f"--valid-until-duration={round(self.wait * 3600)}s"]
        return self.gcloud("queued-resources", "create", self.name, f"--node-id={self.name}", *flags)

    def delete(self) -> list[str]:
        """Return the command that gives the slice back; --force takes the node of a request with it."""
        if self.queued:
            return self.gcloud("queued-resources", "delete", self.name, "--force")
        return self.gcloud("tpu-vm", "delete", self.name)

    def describe(self, group: str = "tpu-vm") -> list[str]:
        """Return the command that asks how the node is, or with group "queued-resources" how the request is."""
        return self.gcloud(group, "describe", self.name, "--format=json")

    def ssh(self, text: str, worker: str = "all") -> list[str]:
        """Return the command that runs shell text on hosts."""
        return self.gcloud("tpu-vm", "ssh", self.name, f"--worker={worker}", f"--command={text}")

    def scp(self, file: Path) -> list[str]:
        """Return the command that copies a file into the home of all hosts."""
        return self.gcloud("tpu-vm", "scp", str(file), f"{self.name}:", "--worker=all")


class Gcloud:
    """The back end of a slice: what each action runs, and what can be seen of it.

    `run` takes a command and a limit in seconds. Nothing is kept here but the number of hosts last seen.
    """

    def __init__(
        self,
        slice_: Slice,
        command: Sequence[str],
        root: Path,
        bundle: Path,
        run: Callable[[Sequence[str], float], Answer] = run_command,
    ):
        self.slice, self.command, self.root, self.bundle, self.run = slice_, command, root, bundle, run

    def commands(self, action: Action) -> list[list[str]]:
        """Return what an action runs, in order."""
        here = self.slice
        match action:
            case "create":
                return [here.create()]
            case "delete":
                return [here.delete()]
            case "setup":
                prepare = [here.ssh(here.prepare)] if here.prepare else []
                return [*prepare, *self.push(), here.ssh(hosts.set_up())]
            case "start":
                return [here.ssh(hosts.start(self.command, here.name))]
            case "stop":
                return [here.ssh(hosts.stop())]
        return []

    def push(self) -> list[list[str]]:
        """Return what brings the newest commit of the repository to all hosts."""
        bundle = ["git", "-C", str(self.root), "bundle", "create", "--quiet", str(self.bundle), "HEAD"]
        return [bundle, self.slice.scp(self.bundle), self.slice.ssh(hosts.unpack(self.bundle.name))]

    def watch(self) -> list[list[str]]:
        """Return what asks how the slice is and how the program runs."""
        queue = [self.slice.describe("queued-resources")] if self.slice.queued else []
        return [*queue, self.slice.describe(), self.slice.ssh(hosts.poll())]

    def act(self, action: Action) -> tuple[Trouble, str]:
        """Run an action's commands up to the first that fails; returns the kind of trouble and its words."""
        for command in self.commands(action):
            answer = self.run(command, 3600.0)
            if answer.code and not (action == "delete" and "NOT_FOUND" in answer.err):
                kind = trouble(answer.err) if command[0] == "gcloud" and action in ("create", "delete") else "error"
                return kind, last_line(answer)
        return "", ""

    def observe(self, phase: Phase) -> Seen:
        """Ask the cloud for the node and, where the program should run, the hosts for its processes."""
        node, facts, words = self._ask("queued-resources", QUEUE_STATES) if self.slice.queued else ("ready", {}, "")
        if node == "ready":
            node, facts, words = self._ask("tpu-vm", NODE_STATES)
            if node == "absent" and self.slice.queued:  # the request outlived its node
                node = "preempted"
        if node == "ready" and not facts.get("networkEndpoints"):
            node, words = "broken", "the node has no hosts"
        if node != "ready" or phase != "running":
            hopeless = node == "unknown" and phase == "absent" and trouble(words) == "refused"  # before anything exists
            return Seen(node, trouble="refused" if hopeless else "", words=words)
        answer = self.run(self.slice.ssh(hosts.poll()), 300.0)
        ended, running, silent = hosts.read(answer.out, len(facts["networkEndpoints"]))
        if silent:
            return Seen("unreachable", words=f"{silent} of the hosts say nothing: {last_line(answer)}")
        return Seen(node, ended, running)

    def _ask(self, group: str, states: dict[str, Node]) -> tuple[Node, dict[str, Any], str]:
        answer = self.run(self.slice.describe(group), 120.0)
        if answer.code:
            return ("absent" if "NOT_FOUND" in answer.err else "unknown"), {}, last_line(answer)
        try:
            facts = json.loads(answer.out)
            state = facts["state"]["state"] if group == "queued-resources" else facts["state"]
        except (ValueError, KeyError, TypeError):
            return "unknown", {}, f"no state in gcloud's answer: {answer.out[:80]!r}"
        return states.get(state, "broken"), facts, f"state {state}"


def trouble(words: str) -> Trouble:
    """Return what kind of trouble gcloud's error message speaks of."""
    return next((kind for kind, pattern in TROUBLES if re.search(pattern, words)), "error")


def last_line(answer: Answer) -> str:
    """Return the line of a failed command's output that says most: its error, else its last one."""
    lines = [line.strip() for line in (answer.err.strip() or answer.out.strip()).splitlines() if line.strip()]
    error = [line for line in lines if line.startswith("ERROR")]
    return (error or lines or [f"code {answer.code}"])[-1]


def shown(command: Sequence[str]) -> str:
    """Return a command as one would type it."""
    return shlex.join(command)
