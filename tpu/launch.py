"""Start one command as all the processes of one JAX job: here, or on every host of a TPU slice.

    python tpu/launch.py --local 2 -- python scripts/train.py flip_flop_cpu
    python tpu/launch.py run pod --zone us-west4-a --accelerator v5litepod-16 --spot -- python scripts/train.py ...

Here, `--local N` starts N processes, wired through JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID
exactly as on a slice of N hosts. On a slice, `run` asks for the hardware, installs the newest commit on all hosts,
starts the command and stays with it: what is preempted is created again, and the same command goes on from its
checkpoint. A launcher that was killed goes on with `run NAME`. docs/tpu.md is the guide.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and tpu
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import Diverged, ExitError, Preempted, Unusable, UserError, main_guard
from tpu import hosts, manifests
from tpu.gcloud import Gcloud, Slice, shown
from tpu.local import GRACE, run_local
from tpu.machine import Limits, State
from tpu.runs import FOLDER, Run, find, held, known
from tpu.supervise import supervise

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = Limits()


def main(argv: list[str]) -> None:
    cut = argv.index("--") if "--" in argv else len(argv)
    command = tuple(argv[cut + 1 :])
    parser = make_parser()
    options = parser.parse_args(argv[:cut])
    if options.verb:
        options.act(options, command)
        return
    if options.local is None or options.local < 1 or not command:
        parser.error("give --local N with N of at least 1, and a command behind --; or a verb (--help lists them)")
    sys.exit(run_local(command, options.local, options.restarts, options.failures, options.grace))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of everything before `--`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", type=int, metavar="N", help="processes on this machine")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds from the first failure to the end of all")
    _budgets(parser, Limits(restarts=0, failures=0))
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, act, about in (
        ("create", create, "ask for the slice, install the newest commit on all hosts"),
        ("push", push, "bring the newest commit to all hosts"),
        ("run", run, "create, set up, start the command behind --, stay with it to the end; goes on by itself"),
        ("status", status, "one JSON object: where the run stands, how the slice is"),
        ("logs", logs, "the end of a host's log"),
        ("stop", stop, "end our program on all hosts: SIGTERM, so that it saves, then SIGKILL"),
        ("delete", delete, "give the slice back"),
    ):
        verb = verbs.add_parser(name, help=about, description=about)
        verb.set_defaults(act=act)
        _slice_flags(verb)
        verb.add_argument("--dry-run", action="store_true", help="print every command, run none")
        if name in ("create", "run"):
            verb.add_argument("--poll", type=float, default=15.0, help="seconds between two looks at the slice")
        if name == "run":
            _budgets(verb, DEFAULT)
            verb.add_argument("--then", choices=("keep", "delete"), default="keep", help="the slice after the end")
        if name == "logs":
            verb.add_argument("--worker", default="0", help="number of a host, or all")
            verb.add_argument("--lines", type=int, default=100)
            verb.add_argument("--follow", action="store_true")
    manifests.add_parsers(verbs)
    return parser


def _budgets(parser: argparse.ArgumentParser, limits: Limits) -> None:
    parser.add_argument("--restarts", type=int, default=limits.restarts, help="attempts after preemptions (code 75)")
    parser.add_argument("--failures", type=int, default=limits.failures, help="attempts after other failures")


def _slice_flags(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", help="of the slice and of the run")
    verb.add_argument("--zone")
    verb.add_argument("--accelerator", help="such as v5litepod-16")
    verb.add_argument("--runtime", help="software of the hosts (default: the usual one of the generation)")
    verb.add_argument("--project", help="default: gcloud's setting")
    verb.add_argument("--spot", action="store_true", default=None, help="cheaper, may be taken away")
    verb.add_argument("--queued", action="store_true", default=None, help="ask in the queue")
    verb.add_argument("--wait", type=float, help="hours to wait for hardware (24)")
    verb.add_argument("--prepare", metavar="SHELL", help="for every host before all else: mount what outlives a slice")


def the_run(options: argparse.Namespace) -> Run:
    """Return the recorded run of this name, or a new one by the flags; UserError where they disagree."""
    given = {field.name: getattr(options, field.name) for field in fields(Slice)}
    given = {name: value for name, value in given.items() if value is not None}
    found = find(options.name)
    if found is None:
        missing = [f"--{name}" for name in ("zone", "accelerator") if name not in given]
        if missing:
            needs = f"a new one needs {' and '.join(missing)}"
            raise UserError(f"no run {options.name} in {FOLDER}; {needs}{known(options.name)}")
        return Run(Slice(**given))
    differing = [name for name, value in given.items() if value != getattr(found.slice, name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"--{name} {given[name]}: run {options.name} has {name} {getattr(found.slice, name)}; "
            "delete it or take another name"
        )
    return found


def backend_of(one: Run) -> Gcloud:
    """Return the back end of a run."""
    return Gcloud(one.slice, one.command, ROOT, one.path.with_suffix(".bundle").resolve())


def rehearse(*groups: tuple[str, Sequence[Sequence[str]]]) -> None:
    """Print commands under a comment each that says when they run."""
    for when, commands in groups:
        print(f"# {when}")
        for command in commands:
            print(shown(command))


def conclude(one: Run) -> None:
    """Say how a run ended and what is left of it: the last line, and the exit code."""
    said = sentence(one.state.reason, one.left())
    if one.state.phase == "done":
        print(f"launch: {said}", file=sys.stderr)
        return
    kinds: dict[int | None, type[ExitError]] = {2: UserError, 3: Diverged, 4: Unusable, 75: Preempted}
    raise kinds.get(one.state.code, ExitError)(said)


def drive(one: Run, limits: Limits, poll: float, halt: Callable[[], bool] = lambda: False) -> Run:
    """Supervise a run; what ends the launcher itself leaves the hosts as they are, and says so."""

    def leave(number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    last = [one]

    def save(state: State) -> None:
        if state.phase != last[0].state.phase and state.phase in ("creating", "ready", "running"):
            print(f"launch: {state.phase}", file=sys.stderr, flush=True)
        last[0] = one.save(state)

    backend = backend_of(one)
    one.save(one.state)  # its folder takes the bundle too
    warn_of_changes()
    signal.signal(signal.SIGTERM, leave)
    try:
        supervise(backend, one.state, lambda: limits, save, halt=halt, poll=poll)
    except KeyboardInterrupt:
        again = f"the launcher was interrupted; go on with: python tpu/launch.py run {one.slice.name}"
        raise ExitError(sentence(again, last[0].left())) from None
    except ExitError as error:
        raise type(error)(sentence(str(error), last[0].left())) from None
    except Exception as error:
        traceback.print_exc()
        raise ExitError(sentence(f"the launcher failed: {error!r}", last[0].left())) from None
    return last[0]


def warn_of_changes() -> None:
    """Say so where files differ from the commit that goes to the hosts."""
    done = subprocess.run(["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True)
    if changed := len(done.stdout.splitlines()):
        print(f"launch: {changed} files differ from the newest commit, which is what the hosts get", file=sys.stderr)


def sentence(*parts: str) -> str:
    """Return the parts that say something as one line."""
    return "; ".join(filter(None, parts))


def create(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Ask for the slice and prepare its hosts; a slice that comes up is kept."""
    one = the_run(options)
    if options.dry_run:
        backend = backend_of(one)
        steps = (("is it there?", [one.slice.describe()]), ("ask for it", backend.commands("create")))
        rehearse(*steps, ("prepare the hosts, bring the code, install it", backend.commands("setup")))
        return
    with held(options.name):
        if one.state.phase == "running":
            raise UserError(f"{options.name} runs a program; see it with: python tpu/launch.py status {options.name}")
        one = one if one.state.phase in ("creating", "preempted") else fresh(one)
        one = drive(one, replace(DEFAULT, wait=_seconds(one)), options.poll, halt=lambda: True)
        if one.state.phase != "ready":
            conclude(one)
        print(f"launch: {sentence('ready', one.left())}", file=sys.stderr)


def fresh(one: Run) -> Run:
    """Return the run with budgets unspent, on the node that may exist."""
    state = one.state
    return replace(one, state=State(phase="ready" if state.exists else "absent", ours=state.ours, exists=state.exists))


def run(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Run a command on a slice to its end, or go on with the one that was begun."""
    one = the_run(options)
    goes_on = one.command and one.state.phase not in ("done", "failed")
    if goes_on and command and command != one.command:
        raise UserError(f"{options.name} runs {shown(one.command)!r}; stop it first")
    if not command and not one.command:
        raise UserError("give the command behind --")
    one = replace(one, command=command or one.command)
    if options.dry_run:
        backend = backend_of(one)
        steps = [(name, backend.commands(name)) for name in ("create", "setup", "start")]
        ends = [("after the end", backend.commands("delete"))] if options.then == "delete" else []
        rehearse(("look", [one.slice.describe()]), *steps, ("watch, again and again", backend.watch()), *ends)
        return
    with held(options.name):
        one = one if goes_on else fresh(one)
        limits = replace(DEFAULT, restarts=options.restarts, failures=options.failures, wait=_seconds(one))
        one = drive(one, limits, options.poll)
        if options.then == "delete" and one.state.exists:
            one = give_back(one)
        conclude(one)


def _seconds(one: Run) -> float:
    return one.slice.wait * 3600


def push(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Bring the newest commit to all hosts."""
    one = the_run(options)
    commands = backend_of(one).push()
    if options.dry_run:
        rehearse(("bring the code", commands))
        return
    with held(options.name):
        warn_of_changes()
        for each in commands:
            if subprocess.run(each).returncode:
                raise ExitError(sentence(f"this failed: {shown(each)}", one.left()))


def status(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Print what is recorded and what is seen, as one JSON object."""
    one = the_run(options)
    backend = backend_of(one)
    if options.dry_run:
        rehearse(("look", backend.watch()))
        return
    seen = backend.observe("running")
    facts = {"slice": asdict(one.slice), "command": one.command, "state": asdict(one.state)}
    print(json.dumps({**facts, "node": seen.node, "ended": seen.ended, "running": seen.running, "words": seen.words}))


def logs(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Print the end of a host's log."""
    one = the_run(options)
    each = one.slice.ssh(hosts.logs(options.lines, options.follow), options.worker)
    if options.dry_run:
        rehearse(("read", [each]))
        return
    sys.exit(subprocess.run(each).returncode)


def stop(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """End the program on all hosts and keep the slice."""
    one = the_run(options)
    backend = backend_of(one)
    if options.dry_run:
        rehearse(("end our program", backend.commands("stop")))
        return
    with held(options.name):
        trouble, words = backend.act("stop")
        if trouble:
            raise ExitError(sentence(f"stop failed: {words}", one.left()))
        if one.state.phase != "done":
            one = one.save(replace(one.state, phase="failed", reason="stopped"))
        print(f"launch: {sentence('stopped', one.left())}", file=sys.stderr)


def delete(options: argparse.Namespace, command: tuple[str, ...]) -> None:
    """Give the slice back and forget the run."""
    one = the_run(options)
    if options.dry_run:
        rehearse(("give it back", backend_of(one).commands("delete")))
        return
    with held(options.name):
        one = give_back(one)
        if one.state.exists:
            raise ExitError(sentence(one.state.reason, one.left()))
        one.path.unlink(missing_ok=True)
        print(f"launch: {options.name} is gone", file=sys.stderr)


def give_back(one: Run) -> Run:
    """Delete the slice; the state keeps what went wrong."""
    trouble, words = backend_of(one).act("delete")
    reason = f"{one.state.reason}; delete failed: {words}" if trouble else one.state.reason
    return one.save(replace(one.state, exists=bool(trouble), reason=reason.removeprefix("; ")))


if __name__ == "__main__":
    main_guard(main)
