"""The loop around the state machine: look, decide, write down, act. What stands behind it is a back end.

state = supervise(Gcloud(...), State(), lambda: limits, save)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from tpu.machine import Action, Limits, Phase, Seen, State, Trouble, step


class Backend(Protocol):
    """Machines and the processes on them."""

    def observe(self, phase: Phase) -> Seen:
        """Return what is there now; processes need be looked for in the phase `running` only."""

    def act(self, action: Action) -> tuple[Trouble, str]:
        """Do what the action says; returns the kind of trouble, or nothing, and its words."""


def supervise(
    backend: Backend,
    state: State,
    limits: Callable[[], Limits],
    save: Callable[[State], None],
    *,
    halt: Callable[[], bool] = lambda: False,
    poll: float = 15.0,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> State:
    """Take a run to its end, or until `halt()` is true when the program would be started; returns the last state.

    Each state is saved before its action begins, so that a launcher that is killed between the two knows what it
    may have done. `limits` is asked before each step.
    """
    did: Action | None = None
    trouble: Trouble = ""
    words = ""
    while True:
        while (pause := state.after - clock()) > 0 and not halt():
            sleep(min(pause, poll))
        seen = backend.observe(state.phase)
        if did:
            seen = replace(seen, did=did, trouble=trouble, words=words or seen.words)
        before, (state, action) = state, step(state, seen, clock(), limits())
        if action == "start" and halt():
            state = replace(state, phase="ready")
        save(state)
        _report(before, state)
        if action == "end" or (action == "start" and halt()):
            return state
        did, trouble, words = None, "", ""
        if action == "wait":
            sleep(poll)
        else:
            did, (trouble, words) = action, backend.act(action)


def _report(before: State, state: State) -> None:
    spent = (state.restarts, state.failures, state.denied, state.blind)
    if spent != (before.restarts, before.failures, before.denied, before.blind) and state.reason:
        wait = f"; next attempt in {state.after - state.since:.0f} s" if state.after > state.since else ""
        print(f"launch: {state.reason}{wait}", file=sys.stderr, flush=True)
