"""What to do next for a run on machines that come and go: a pure function of state, observation and time.

    state, action = step(state, seen, now, limits)

The exit codes of the program are the contract: 0 is done; 2, 3 and 4 end the run, since another attempt would end
the same way; 75 (preempted and saved) is tried again on the budget for restarts, any other code on the one for
failures. The machines are the cloud's: what it takes away counts as a preemption, what it breaks as a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Phase = Literal["absent", "creating", "ready", "running", "preempted", "failed", "done"]
Action = Literal["create", "delete", "setup", "start", "stop", "wait", "end"]
Node = Literal["absent", "waiting", "pending", "ready", "unreachable", "preempted", "broken", "deleting", "unknown"]
Trouble = Literal["", "capacity", "refused", "error"]

ENDS = ("done", "failed")
HOPELESS = (2, 3, 4)  # bad input, diverged, unusable
PREEMPTED = 75


@dataclass(frozen=True)
class Limits:
    """How often and how long a run is tried; times are in seconds."""

    restarts: int = 20  # after preemptions
    failures: int = 2  # attempts after failures
    wait: float = 24 * 3600.0  # for hardware: in the queue, or asking again while there is no capacity
    pending: float = 1800.0  # for a node to come up, or to be gone
    grace: float = 300.0  # between the end of the first process and that of the last
    blind: int = 6  # observations in a row that say nothing
    back_off: float = 30.0  # before a second attempt; doubles with each further one
    longest: float = 600.0  # back-off


@dataclass(frozen=True)
class State:
    """Where a run stands. All of it is written down, so that a launcher that was killed goes on."""

    phase: Phase = "absent"
    ours: bool = False  # we have asked for a node of this name
    exists: bool = False  # it may be there and cost money
    restarts: int = 0  # spent
    failures: int = 0  # spent
    blind: int = 0  # observations that said nothing, in this phase
    denied: int = 0  # requests for hardware in a row that were denied
    since: float = 0.0  # when the phase began
    asked: float | None = None  # when the hardware that is not there yet was first asked for
    uneven: float | None = None  # when a process ended badly while others run
    after: float = 0.0  # nothing is done before
    doomed: bool = False  # ends as soon as the node is deleted
    code: int | None = None  # of the last end
    reason: str = ""


@dataclass(frozen=True)
class Seen:
    """What was seen of the node and of the program's processes, and how the last action went."""

    node: Node
    ended: tuple[int, ...] = ()  # exit codes, first end first where that is known
    running: int = 0
    did: Action | None = None
    trouble: Trouble = ""
    words: str = ""  # what the trouble says of itself


def verdict(codes: Sequence[int]) -> int:
    """Return the one exit code that stands for those of all processes.

    A hopeless code wins. It is 75 only where every process that did not finish has saved, else the first that is
    not 0. A signal counts as 128 plus its number, as in a shell.
    """
    codes = [128 - code if code < 0 else code for code in codes]
    hopeless = [code for code in codes if code in HOPELESS]
    others = [code for code in codes if code not in (0, PREEMPTED)]
    return (hopeless or others or [max(codes)])[0]


def step(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    """Return the next state and what to do."""
    if state.phase in ENDS:
        return state, "end"
    blind = seen.node in ("unknown", "unreachable")
    if not blind:
        state = replace(state, exists=state.ours and seen.node != "absent")
    if seen.trouble == "refused":
        return _end(state, seen.words, 2)
    if now < state.after:
        return state, "wait"
    if blind:
        return _blind(state, seen, now, limits)
    if state.phase in ("absent", "preempted"):
        return _absent(state, seen, now, limits)
    return _there(state, seen, now, limits)


def _there(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    """Go on with a node that was asked for, however it is now."""
    if seen.node == "preempted" or (seen.node in ("absent", "deleting") and state.phase != "creating"):
        return _lost(state, "the node was taken away", now, limits)
    if seen.node == "broken":
        return _failure(state, "the node is broken", now, limits, "absent", "delete")
    if state.phase == "creating":
        return _creating(state, seen, now, limits)
    if seen.node != "ready":  # under maintenance: what runs there is interrupted
        return _restart(state, "the node went down for maintenance", now, limits, "creating")
    return _ready(state, seen, now, limits) if state.phase == "ready" else _running(state, seen, now, limits)


def _enter(state: State, phase: Phase, now: float, **changes: Any) -> State:
    return replace(state, phase=phase, since=now, blind=0, uneven=None, **changes)


def _end(state: State, reason: str, code: int) -> tuple[State, Action]:
    return replace(state, phase="failed" if code else "done", reason=reason, code=code), "end"


def _later(now: float, attempts: int, limits: Limits) -> float:
    return now + min(limits.longest, limits.back_off * 2 ** min(attempts, 30))


def _failure(
    state: State, reason: str, now: float, limits: Limits, phase: Phase, action: Action, code: int = 1
) -> tuple[State, Action]:
    if state.failures >= limits.failures:
        return _end(state, reason, code)
    after = _later(now, state.failures, limits)
    spent = state.failures + 1
    return _enter(state, phase, now, failures=spent, after=after, code=code, reason=reason), action


def _restart(state: State, reason: str, now: float, limits: Limits, phase: Phase) -> tuple[State, Action]:
    if state.restarts >= limits.restarts:
        return _end(state, reason, PREEMPTED)
    after, spent = now + limits.back_off, state.restarts + 1
    return _enter(state, phase, now, restarts=spent, after=after, code=PREEMPTED, reason=reason), "wait"


def _lost(state: State, reason: str, now: float, limits: Limits) -> tuple[State, Action]:
    """A preempted node stays in the list and takes quota: it is deleted before the next one is created."""
    told = state.phase == "ready" and state.code == PREEMPTED  # the program has saved: this preemption is counted
    doomed = not told and state.restarts >= limits.restarts
    spent = state.restarts + (not told and not doomed)
    changes = {"restarts": spent, "doomed": doomed, "code": PREEMPTED, "reason": reason, "after": 0.0, "asked": None}
    return _enter(state, "preempted", now, **changes), "delete" if state.exists else "wait"


def _blind(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    if state.blind < limits.blind:
        after = _later(now, state.blind, limits)
        return replace(state, blind=state.blind + 1, after=after, reason=seen.words), "wait"
    if seen.node == "unreachable" and state.ours:
        return _failure(state, f"no host answers: {seen.words}", now, limits, "absent", "delete")
    return _end(state, f"the cloud does not say how the node is: {seen.words}", 1)


def _absent(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    """Delete before create: two nodes never exist, and a node that is not ours is left alone."""
    if seen.node == "absent" and state.doomed:
        return _end(state, state.reason, state.code or 1)
    if seen.node == "absent":
        asked = now if state.asked is None else state.asked
        return _enter(state, "creating", now, ours=True, exists=True, asked=asked, code=None), "create"
    if not state.ours:
        return _end(state, "a node of this name was there before; take another name or delete it", 2)
    if now - state.since > limits.pending:
        return _end(state, f"the node could not be deleted: {seen.words or seen.node}", state.code or 1)
    return replace(state, after=now + limits.back_off), "wait" if seen.node == "deleting" else "delete"


def _creating(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    asked = now if state.asked is None else state.asked
    state = replace(state, asked=asked)
    if seen.node == "ready":
        return _enter(state, "ready", now, asked=None, denied=0), "setup"
    no_capacity = seen.node == "absent" and seen.trouble == "capacity"
    if (no_capacity or seen.node == "waiting") and now - asked > limits.wait:
        reason = f"no hardware within {limits.wait / 3600:.3g} hours: {seen.words or 'still in the queue'}"
        return _enter(state, "absent", now, doomed=True, code=1, reason=reason), "wait" if no_capacity else "delete"
    if no_capacity:
        later, spent = _later(now, state.denied, limits), state.denied + 1
        return _enter(state, "absent", now, denied=spent, after=later, reason=seen.words), "wait"
    if seen.node == "waiting":
        return replace(state, since=now), "wait"  # the time for coming up begins when the queue is over
    if seen.node == "pending" and now - state.since <= limits.pending:
        return state, "wait"
    if seen.node == "pending":
        return _failure(state, "the node does not come up", now, limits, "absent", "delete")
    return _failure(state, seen.words or "the node was not created", now, limits, "absent", "wait")


def _ready(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    if seen.did != "setup":
        return state, "setup"
    if seen.trouble:
        return _failure(state, f"set-up failed: {seen.words}", now, limits, "ready", "wait")
    return _enter(state, "running", now), "start"


def _running(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    if seen.did == "start" and seen.trouble:  # some hosts may have started: none may wait for the others
        return _failure(state, f"start failed: {seen.words}", now, limits, "ready", "stop")
    if seen.running:
        return _some_run(replace(state, blind=0), seen, now, limits)
    if not seen.ended:
        if seen.did == "start":
            return _failure(state, "the program did not start", now, limits, "ready", "wait")
        return state, "start"
    code = verdict(seen.ended)
    reason = f"the program ended with code {code}"
    if code == 0 or code in HOPELESS:
        return _end(state, reason, code)
    if code == PREEMPTED:
        return _restart(state, reason, now, limits, "ready")
    return _failure(state, reason, now, limits, "ready", "wait", code)


def _some_run(state: State, seen: Seen, now: float, limits: Limits) -> tuple[State, Action]:
    if not any(seen.ended):
        return replace(state, uneven=None), "wait"
    uneven = now if state.uneven is None else state.uneven
    state = replace(state, uneven=uneven)
    if now - uneven > 4 * limits.grace:
        return _end(state, f"{seen.running} processes do not stop", verdict(seen.ended))
    if now - uneven > limits.grace:
        return state, "stop"
    return state, "wait"
