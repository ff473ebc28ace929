"""What runs on the hosts of a slice: shell text that brings the code there, and starts, watches and ends a program.

Each host keeps three files in ~/.cambium: `pid` (process and its start time, so that a number used again by another
program is never mistaken for ours), `code` (how it ended) and `log` (what it said).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

PORT = 8476  # of the coordinator, on the first host
PYTHON = "3.12"
EXTRAS = "tpu,data,text"
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes"

# Sets `pid` where our program lives: one that left no code, as a process of this number that started when ours did.
ALIVE = (
    "cd ~/.cambium && [ ! -f code ] && read -r pid born < pid 2>/dev/null && "
    '[ "$(cut -d " " -f 22 "/proc/$pid/stat" 2>/dev/null)" = "$born" ]'
)
LINE = re.compile(r"^cambium-host (running|none|ended (\d+))$", re.M)


def unpack(bundle: str) -> str:
    """Return what makes ~/cambium the commit that a git bundle in the home holds."""
    fetch = f"git fetch --quiet ~/{shlex.quote(bundle)} HEAD && git checkout --quiet --force --detach FETCH_HEAD"
    return f"git init --quiet ~/cambium && cd ~/cambium && {fetch}"


def set_up() -> str:
    """Return what installs the package in ~/cambium/.venv and forgets how an earlier program ended."""
    # uv brings a Python of its own, since the hosts' is too old; newer pips ask for the variable, others ignore it
    uv = "python3 -m uv"
    return (
        f"mkdir -p ~/.cambium && if {{ {ALIVE}; }}; then echo 'a program runs here' >&2; exit 1; fi; cd ~/cambium && "
        "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv && "
        f"{uv} venv --quiet --allow-existing --python {PYTHON} .venv && "
        f"{uv} pip install --quiet --python .venv --editable '.[{EXTRAS}]' && rm -f ~/.cambium/pid ~/.cambium/code"
    )


def start(command: Sequence[str], name: str) -> str:
    """Return what starts a command on each host, detached, with the variables that make the processes one job.

    CAMBIUM_HOST is the slice's name: the lock of a run that died with one slice is free for the next of that name.
    """
    ask = f"curl --silent --fail --header Metadata-Flavor:Google {METADATA}"
    # the shell outlives a SIGTERM to the group, so that it can write down how the program took it
    program = (
        f"trap : TERM; {shlex.join(command)}; echo $? > ~/.cambium/code.new; mv ~/.cambium/code.new ~/.cambium/code"
    )
    return (
        f"if {{ {ALIVE}; }}; then echo 'a program runs here' >&2; exit 1; fi; "
        "rm -f ~/.cambium/code; cd ~/cambium && "
        f"index=$({ask}/agent-worker-number) && all=$({ask}/worker-network-endpoints) && first=${{all%%,*}} && "
        # an endpoint is an address, or name:number:address
        f"export CAMBIUM_HOST={name} JAX_COORDINATOR_ADDRESS=${{first##*:}}:{PORT} JAX_PROCESS_ID=$index "
        "JAX_NUM_PROCESSES=$(echo $all | tr , '\\n' | wc -l) PATH=~/cambium/.venv/bin:$PATH && "
        f"{{ setsid bash -c {shlex.quote(program)} >> ~/.cambium/log 2>&1 < /dev/null & }} && pid=$! && "
        'echo $pid $(cut -d " " -f 22 /proc/$pid/stat) > ~/.cambium/pid'
    )


def poll() -> str:
    """Return what prints one line on each host: running, none (was started), or ended and the code.

    A program that left no code was killed; it counts as one that SIGKILL ended.
    """
    return (
        f"if [ -f ~/.cambium/code ]; then echo cambium-host ended $(cat ~/.cambium/code); "
        f"elif {{ {ALIVE}; }}; then echo cambium-host running; "
        "elif [ -f ~/.cambium/pid ]; then echo cambium-host ended 137; else echo cambium-host none; fi"
    )


def stop(patience: int = 120) -> str:
    """Return what ends our program on each host: SIGTERM, so that it saves, and SIGKILL after `patience` seconds."""
    return (
        f"if {{ {ALIVE}; }}; then kill -TERM -- -$pid; for _ in $(seq {patience}); do "
        f"kill -0 -- -$pid 2>/dev/null || break; sleep 1; done; kill -KILL -- -$pid 2>/dev/null; fi; true"
    )


def logs(lines: int, follow: bool = False) -> str:
    """Return what prints the end of a host's log."""
    return f"tail -n {lines}{' -F' if follow else ''} ~/.cambium/log"


def read(text: str, hosts: int) -> tuple[tuple[int, ...], int, int]:
    """Return from what `poll` printed: the codes of ended programs, how many run, how many of the hosts are silent."""
    found = LINE.findall(text)
    ended = tuple(int(code) for _, code in found if code)
    return ended, sum(word == "running" for word, _ in found), hosts - len(found)
