"""The same run for two orchestrators: a JobSet for GKE, a task for SkyPilot, as YAML that their tools submit.

Both restart what was preempted and saved (exit code 75) without end, and leave alone what would end the same way
again (2, 3, 4). JobSet counts other failures, SkyPilot does not repeat them: it could not tell them from hopeless ones.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm.exits import UserError
from lm.strict import nearest
from tpu.gcloud import Slice
from tpu.hosts import EXTRAS, PORT, PYTHON
from tpu.machine import HOPELESS, PREEMPTED, Limits

# Node labels of GKE ("Plan TPUs in GKE": cloud.google.com/gke-tpu-accelerator).
ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}


@dataclass(frozen=True)
class JobSet:
    """A run on GKE: `slices` slices of a topology such as v5e:4x4, one pod on each host.

    The image holds Python and this repository, installed, at `directory`. `claim` names a volume claim that all
    pods can write (Filestore, or a bucket through its CSI driver); it is mounted at /data.
    """

    name: str
    topology: str
    image: str
    slices: int = 1
    chips: int = 4  # of a host
    directory: str = "/cambium"
    claim: str = ""
    queue: str = ""  # of Kueue
    spot: bool = False
    failures: int = Limits.failures

    def __post_init__(self) -> None:
        generation, _, shape = self.topology.partition(":")
        if generation not in ACCELERATORS or not re.fullmatch(r"[0-9]+(x[0-9]+){1,2}", shape):
            raise UserError(
                f"topology must be one of {', '.join(ACCELERATORS)} and a shape, as v5e:4x4, got {self.topology!r}"
                f"{nearest(generation, ACCELERATORS)}"
            )
        if self.slices < 1 or self.chips < 1 or self.count % self.chips and self.count > self.chips:
            raise UserError(f"{self.count} chips of {self.topology} are not whole hosts of {self.chips} chips")

    @property
    def count(self) -> int:
        """Chips of one slice."""
        return math.prod(map(int, self.topology.partition(":")[2].split("x")))

    @property
    def hosts(self) -> int:
        """Hosts of one slice."""
        return max(1, self.count // self.chips)

    def manifest(self, command: Sequence[str]) -> dict[str, Any]:
        """Return the object of kind JobSet (jobset.x-k8s.io/v1alpha2, JobSet 0.11 or newer)."""
        labels = {"labels": {"kueue.x-k8s.io/queue-name": self.queue}} if self.queue else {}
        own_pool = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        codes = [self._codes(HOPELESS), self._codes((PREEMPTED,))]
        taken = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        job = {
            "parallelism": self.hosts,
            "completions": self.hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,
            "podFailurePolicy": {"rules": [*codes, taken]},
            "template": {"spec": self._pod(command)},
        }
        slices = {"name": "slice", "replicas": self.slices, "template": {"spec": job}}
        return {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": self.name, **labels, "annotations": own_pool},
            "spec": {"failurePolicy": self._policy(), "replicatedJobs": [slices]},
        }

    def _policy(self) -> dict[str, Any]:
        """Failures are counted against maxRestarts, preemptions are not."""
        hopeless = "|".join(map(str, HOPELESS))
        rules: list[dict[str, Any]] = [
            {
                "name": "hopeless",
                "action": "FailJobSet",
                "onJobFailureReasons": ["PodFailurePolicy"],
                "onJobFailureMessagePatterns": [f"exit code ({hopeless}) "],  # the message of the Job controller
            },
            {
                "name": "preempted",
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            },
        ]
        return {"maxRestarts": self.failures, "rules": rules}

    @staticmethod
    def _codes(codes: Sequence[int]) -> dict[str, Any]:
        match = {"containerName": "program", "operator": "In", "values": list(codes)}
        return {"action": "FailJob", "onExitCodes": match}

    def _pod(self, command: Sequence[str]) -> dict[str, Any]:
        index = f"$((JOB_INDEX * {self.hosts} + JOB_COMPLETION_INDEX))"
        text = (
            f"export JAX_COORDINATOR_ADDRESS={self.name}-slice-0-0.{self.name}:{PORT}\n"
            f"export JAX_NUM_PROCESSES={self.slices * self.hosts} JAX_PROCESS_ID={index}\n"
            f"exec {shlex.join(command)}\n"  # so that the program gets SIGTERM
        )
        generation, _, shape = self.topology.partition(":")
        spot = {"cloud.google.com/gke-spot": "true"} if self.spot else {}
        place = {
            "cloud.google.com/gke-tpu-accelerator": ACCELERATORS[generation],
            "cloud.google.com/gke-tpu-topology": shape,
        }
        job_index = {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/job-index']"}}
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": self.claim}}
        mounts = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]} if self.claim else {}
        container = {
            "name": "program",
            "image": self.image,
            "workingDir": self.directory,
            "command": ["bash", "-c", text],
            "ports": [{"containerPort": PORT}],
            "env": [{"name": "JOB_INDEX", "valueFrom": job_index}],
            "resources": {"limits": {"google.com/tpu": min(self.chips, self.count)}},
            **mounts,
        }
        return {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 120,  # for the last checkpoint
            "nodeSelector": {**place, **spot},
            "containers": [container],
            **({"volumes": [volume]} if self.claim else {}),
        }


def skypilot_task(where: Slice, command: Sequence[str], bucket: str = "") -> dict[str, Any]:
    """Return a SkyPilot task (0.11 or newer) for `sky jobs launch`; with a bucket, mounted at /data.

    SkyPilot creates, prepares and deletes the machines itself; it runs the task on every host of a slice.
    """
    exports = (
        f'export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{PORT}"\n'
        'export JAX_NUM_PROCESSES="$(echo "$SKYPILOT_NODE_IPS" | wc -l)" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"\n'
        f"export CAMBIUM_HOST={where.name}\n"  # the lock of a run that died with its machines is free for the next
    )
    resources = {
        "infra": f"gcp/{where.zone.rpartition('-')[0]}/{where.zone}",
        "accelerators": f"tpu-{where.accelerator}",
        "accelerator_args": {"runtime_version": where.software, "gcp_queued_resource": where.queued},
        "use_spot": where.spot,
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [PREEMPTED]},
    }
    install = f"uv pip install --python .venv --editable '.[{EXTRAS}]'"
    mounts = {"file_mounts": {"/data": {"source": f"gs://{bucket}", "mode": "MOUNT"}}} if bucket else {}
    return {
        "name": where.name,
        "resources": resources,
        "workdir": ".",
        **mounts,
        "setup": f"uv venv --allow-existing --python {PYTHON} .venv\n{install}\n",
        "run": f"{exports}source .venv/bin/activate\nexec {shlex.join(command)}\n",
    }


def to_yaml(manifest: dict[str, Any]) -> str:
    """Return the manifest as YAML, with shell text as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump(manifest, Dumper=Dumper, sort_keys=False, width=1000)


def add_parsers(verbs: Any) -> None:
    """Add the verbs that print a manifest."""
    jobset = verbs.add_parser("jobset", help="print the run as a JobSet for GKE")
    jobset.add_argument("name")
    jobset.add_argument("--topology", required=True, help="such as v5e:4x4")
    jobset.add_argument("--image", required=True, help="with Python and this repository, installed")
    jobset.add_argument("--slices", type=int, default=JobSet.slices)
    jobset.add_argument("--chips", type=int, default=JobSet.chips, help="of a host")
    jobset.add_argument("--directory", default=JobSet.directory, help="of the repository in the image")
    jobset.add_argument("--claim", default="", help="volume claim that all pods can write; mounted at /data")
    jobset.add_argument("--queue", default="", help="of Kueue")
    jobset.add_argument("--spot", action="store_true")
    jobset.add_argument("--failures", type=int, default=JobSet.failures, help="attempts after failures")
    jobset.set_defaults(act=print_jobset)
    sky = verbs.add_parser("skypilot", help="print the run as a task for SkyPilot")
    sky.add_argument("name")
    sky.add_argument("--zone", required=True)
    sky.add_argument("--accelerator", required=True, help="such as v5litepod-16")
    sky.add_argument("--runtime", default="")
    sky.add_argument("--spot", action="store_true")
    sky.add_argument("--queued", action="store_true")
    sky.add_argument("--bucket", default="", help="mounted at /data")
    sky.set_defaults(act=print_skypilot)


def print_jobset(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Print the JobSet on stdout, and on stderr how to submit, read and delete it."""
    names = ("name", "topology", "image", "slices", "chips", "directory", "claim", "queue", "spot", "failures")
    one = JobSet(**{name: getattr(options, name) for name in names})
    name = one.name
    _print(
        to_yaml(one.manifest(_given(command))),
        f"kubectl apply -f {name}.yaml",
        f"kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name={name}",
        f"kubectl delete jobset {name}",
    )


def print_skypilot(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Print the task on stdout, and on stderr how to submit, read and delete it."""
    names = ("name", "zone", "accelerator", "runtime", "spot", "queued")
    where = Slice(**{name: getattr(options, name) for name in names})
    _print(
        to_yaml(skypilot_task(where, _given(command), options.bucket)),
        f"sky jobs launch --name {where.name} {where.name}.yaml",
        f"sky jobs logs --name {where.name}",
        f"sky jobs cancel --name {where.name}",
    )


def _given(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command:
        raise UserError("give the command behind --")
    return command


def _print(manifest: str, *commands: str) -> None:
    print(manifest, end="")
    print("save it, then:", *commands, sep="\n  ", file=sys.stderr)
