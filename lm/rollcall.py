"""The roll call before a job begins: process 0 hears all the others, or everyone learns who is missing.

    roll_call("10.0.0.2:8476", count=4, index=1, limit=300)

JAX waits for all processes too, but a wrong count or a number given twice ends there in an abort. So process 0
listens on the coordinator's port before JAX does. Everyone else sends it one line, its number and its count, and
gets one line back: empty where the job begins, else the kind of end and the sentence that everyone ends with.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable

from lm.exits import Absent, ExitError, UserError

HELLO = "cambium"  # what a line begins with; whoever says something else is none of us
ABSENT, WRONG = "absent", "wrong"  # kinds of end: somebody did not come, or came with other numbers
LINE = 1024  # bytes of the longest line
PATIENCE = 5.0  # seconds for a caller to say its line


def roll_call(address: str, count: int, index: int, limit: float) -> None:
    """Return once all `count` processes have called; else all of them end alike.

    Absent says which processes did not come within `limit` seconds, or that nobody answers at `address`, HOST:PORT of
    process 0; UserError which number was given twice, or whose count is another.
    """
    host, port = split(address)
    if not 0 <= index < count:
        raise UserError(f"--process {index} of --processes {count}: the numbers are 0..{count - 1}")
    if count > 1:
        if index == 0:
            _hear(host, port, count, limit)
        else:
            _call(host, port, count, index, limit)


def split(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; UserError where it is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"the coordinator's address must be HOST:PORT, got {address!r}")
    return host.strip("[]"), int(port)


def bind_address(address: str) -> str:
    """Return where process 0 listens: on the loopback alone for an address there, else on every interface."""
    host, port = split(address)
    return address if host in ("127.0.0.1", "localhost", "::1") else f"[::]:{port}"


def _hear(host: str, port: int, count: int, limit: float) -> None:
    deadline = time.monotonic() + limit
    missing, callers, verdict = set(range(1, count)), [], ""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(_listen(host, port, count))
        while missing and not verdict:
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                caller = closing.enter_context(listener.accept()[0])
            except TimeoutError:
                verdict = f"{ABSENT} {numbers(missing)} of {count} did not arrive within {limit:g} s"
                break
            said = _hello(caller)
            if said is not None:
                callers.append(caller)
                verdict = _objection(*said, count, missing)
                missing.discard(said[0])
        for caller in callers:
            with contextlib.suppress(OSError):
                caller.sendall(f"{verdict}\n".encode())
                caller.recv(1)  # they hang up first, which leaves the port free for JAX
    if verdict:
        raise _end(verdict)


def _end(verdict: str) -> ExitError:
    kind, _, sentence = verdict.partition(" ")
    return (Absent if kind == ABSENT else UserError)(sentence)


def _objection(index: int, others: int, count: int, missing: set[int]) -> str:
    if others != count:
        return f"{WRONG} process {index} was started as one of {others}, process 0 as one of {count}"
    return "" if index in missing else f"{WRONG} two processes were started as process {index} of {count}"


def _listen(host: str, port: int, count: int) -> socket.socket:
    local = bind_address(f"{host}:{port}") == f"{host}:{port}"
    try:
        if local:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, port), family=family, backlog=count)
        return socket.create_server(("", port), backlog=count)
    except OSError as error:
        raise UserError(f"process 0 cannot listen on port {port}: {os.strerror(error.errno or 0)}") from None


def _hello(caller: socket.socket) -> tuple[int, int] | None:
    """Return (number, count) of a caller, or None where it is none of us."""
    caller.settimeout(PATIENCE)
    try:
        words = _read(caller).split()
    except OSError:
        return None
    if len(words) != 3 or words[0] != HELLO or not all(word.isdecimal() for word in words[1:]):
        return None
    return int(words[1]), int(words[2])


def _read(stream: socket.socket) -> str:
    said = b""
    while not said.endswith(b"\n") and len(said) < LINE:
        part = stream.recv(LINE - len(said))
        if not part:
            raise ConnectionResetError("hung up")
        said += part
    return said.decode(errors="replace").rstrip("\n")


def _call(host: str, port: int, count: int, index: int, limit: float) -> None:
    deadline = time.monotonic() + limit
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.001)) as line:
                line.sendall(f"{HELLO} {index} {count}\n".encode())
                line.settimeout(limit + PATIENCE)  # process 0 answers at its own limit, which began before this call
                verdict = _read(line)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                why = error.strerror or str(error)
                raise Absent(
                    f"process {index} of {count} found no coordinator at {host}:{port} within {limit:g} s ({why})"
                ) from None
            time.sleep(0.1)
    if verdict:
        raise _end(verdict)


def numbers(processes: Iterable[int]) -> str:
    """Return processes as words: `process 1`, `processes 1, 2 and 3`; of many the first ones."""
    found = sorted(processes)
    shown = [str(each) for each in found[:10]]
    if len(found) > 10:
        shown.append(f"{len(found) - 10} more")
    return f"process {shown[0]}" if len(shown) == 1 else f"processes {', '.join(shown[:-1])} and {shown[-1]}"
