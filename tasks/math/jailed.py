"""The inside of the jail: a keeper that starts a program behind the layers, outlives it and alone names its answer.

Runs as a script, `python -I -S jailed.py LAYERS SECONDS MEGABYTES`, with a token and the program on standard input.
Once the program and all that it started are gone, the keeper prints the token, what failed to rise, whether the
program came to an end, and the answer, a line each. The program never sees the token nor the pipe that it goes by.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000 | 0x08000000  # user, pid, net, mount, ipc
MOUNT_SETATTR, CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 442, 444, 445, 446  # the same on every architecture
EXECUTE, READ_FILE, READ_FOLDER = 1, 4, 8
PACKAGES = ("site-packages", "dist-packages")  # not part of the standard library that they lie in
MOST_ANSWER = 8192  # bytes, more than the digits that Python prints of an integer
# By architecture its number in audit records, and the calls to refuse: clone, fork, vfork, clone3, as limits hold for
# one process only; shmget and memfd_create, whose memory no limit sees; unshare, io_uring_setup: more kernel to attack.
CALLS = {
    "x86_64": (0xC000003E, (56, 57, 58, 435, 29, 319, 272, 425)),
    "aarch64": (0xC00000B7, (220, 435, 194, 279, 97, 425)),
}
X32 = 0x40000000  # on x86_64, the bit of a second set of numbers for the same calls
# It tells by the nonce that it started, and that it ended. A program could walk up to the nonce: it would win the
# right to name a number, which `return` gives it anyway.
PROGRAM = """
import math, os, sys
def main():
    nonce, _, source = sys.stdin.buffer.read().partition(b"\\n")
    os.write(3, nonce)
    def answer(text):
        os.write(3, nonce + text.encode())
        os._exit(0)
    try:
        program = compile(source.decode(), "program", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        answer("syntax")
    names = {"__name__": "program"}
    type(main)(program, names)()
    value = names["solve"]()
    if not isinstance(value, bool) and hasattr(value, "as_integer_ratio"):
        value = value if isinstance(value, int) else float(value)
        if not isinstance(value, float) or math.isfinite(value):
            answer(repr(value))
    answer("non_numeric")
main()
"""


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def raise_namespaces(libc: ctypes.CDLL) -> None:
    """Go on as the second process of new namespaces, where all is read-only; the first, out of reach, ends them."""
    _checked(libc.unshare(NAMESPACES))
    read_only = (ctypes.c_uint64 * 4)(1, 0, 1 << 18, 0)  # and private: chmod and its like are unknown to Landlock
    _checked(libc.syscall(MOUNT_SETATTR, -100, b"/", 0x8000, read_only, ctypes.c_size_t(32)))  # and all below
    for _ in range(2):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 127)
        die_with_parent(libc)


def raise_landlock(libc: ctypes.CDLL) -> None:
    """Leave nothing of the file system but reading Python itself, and no TCP nor signals where the ABI has them."""
    abi = _checked(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    files = (1 << (13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16)) - 1
    rules = (ctypes.c_uint64 * 3)(files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _checked(libc.syscall(CREATE_RULESET, rules, ctypes.c_size_t(size), 0))
    for path, rights in readable().items():
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = rights.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
        _checked(libc.syscall(ADD_RULE, ruleset, 1, rule, 0))
        os.close(opened)
    _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def readable() -> dict[str, int]:
    """Return what Python needs, with rights: itself, its loader and libraries, the standard library."""
    with open("/proc/self/maps") as maps:
        mapped = {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}
    libraries = {path for path in mapped if ".so" in os.path.basename(path)}
    loaders = {path for path in libraries if os.path.basename(path).startswith("ld-")}
    standard = os.path.dirname(os.__file__)
    rights = dict.fromkeys(libraries, READ_FILE) | {os.path.dirname(path): READ_FILE | READ_FOLDER for path in loaders}
    rights |= {entry.path: READ_FILE for entry in os.scandir(standard) if entry.name not in PACKAGES}
    return rights | {standard: READ_FOLDER} | dict.fromkeys([*loaders, interpreter()], READ_FILE | EXECUTE)


def interpreter() -> str:
    """Return Python's own file, without the links of a virtual environment."""
    return os.path.realpath(sys.executable)


def raise_seccomp(libc: ctypes.CDLL) -> None:
    """Refuse the calls above with EPERM, and all calls of other architectures."""
    machine = os.uname().machine
    if machine not in CALLS:
        raise OSError(f"the calls of {machine} are not known")
    audit, calls = CALLS[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # of classic BPF: (code, if true skip, if false skip, value)
    last = len(calls) + 1
    filters = [(load, 0, 0, 4), (equal, 0, last + 2, audit), (load, 0, 0, 0), (at_least, last, 0, X32)]
    filters += [(equal, last - 1 - i, 0, call) for i, call in enumerate(calls)]
    filters += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050001)]  # allow; EPERM
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in filters))
    program = struct.pack("@HP", len(filters), ctypes.addressof(code))
    _checked(libc.prctl(22, 2, program, 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


RISE = {"namespaces": raise_namespaces, "landlock": raise_landlock, "seccomp": raise_seccomp}


def die_with_parent(libc: ctypes.CDLL) -> None:
    """Have this process killed when its parent ends."""
    _checked(libc.prctl(1, signal.SIGKILL, 0, 0, 0))  # PR_SET_PDEATHSIG


def limit(seconds: int, megabytes: int) -> None:
    """Bound CPU, memory and files, softly and hard."""
    for name, bound in {"CPU": seconds, "AS": megabytes << 20, "FSIZE": 0, "NOFILE": 32, "CORE": 0}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (bound, bound))


def become_program(layers: list[str], seconds: int, megabytes: int, pipes: tuple[int, int, int]) -> None:
    """Raise the layers, then become a bare Python with the source, no output and a pipe for the answer; or report."""
    source, answer, report = pipes
    step = "the process"
    try:
        os.setsid()  # or the program could signal the keeper as one of its group
        libc = ctypes.CDLL(None, use_errno=True)
        die_with_parent(libc)
        _checked(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for step in layers:
            RISE[step](libc)
        step = "limits"
        limit(seconds, megabytes)
        for here, there in ((source, 0), (nowhere, 1), (nowhere, 2), (answer, 3)):
            os.dup2(here, there)
        os.execve(interpreter(), [interpreter(), "-I", "-S", "-c", PROGRAM], {})
    except OSError as error:
        os.write(report, f"{step}: {error}".encode())
        os._exit(1)


def main(layers: str, seconds: str, megabytes: str) -> None:
    signal.alarm(int(seconds) + 1)  # should nobody be left to kill this one
    token, _, program = sys.stdin.buffer.read().partition(b"\n")
    nonce = os.urandom(16).hex().encode() + b"="
    sources, answers, reports = os.pipe(), os.pipe(), os.pipe()
    os.write(sources[1], nonce + b"\n" + program)  # within a pipe's buffer, by the bound on sources
    os.close(sources[1])
    child = os.fork()
    if not child:
        become_program(
            layers.split(",") if layers else [], int(seconds), int(megabytes), (sources[0], answers[1], reports[1])
        )
    os.close(answers[1])
    os.close(reports[1])
    with open(answers[0], "rb") as pipe:
        answer = pipe.read(MOST_ANSWER)
    ended = os.waitpid(child, 0)[1] == 0 and answer.startswith(2 * nonce)
    with open(reports[0], "rb") as pipe:
        report = pipe.read()
    if not (report or answer.startswith(nonce)):
        report = b"Python: it does not start inside"
    sys.stdout.buffer.write(b"\n".join((token, report, b"ended" if ended else b"", answer[2 * len(nonce) :])))


if __name__ == "__main__":
    main(*sys.argv[1:])
