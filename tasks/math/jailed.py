"""The inside of the jail: raise the layers around this process, then become a bare Python that reads a program.

Runs as a script, `python -I -S jailed.py LAYERS SECONDS MEGABYTES`; layers that fail to rise end it with code 70.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

REFUSED = 70  # the exit code that says so
NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000 | 0x00020000 | 0x08000000  # user, pid, net, mount, ipc
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
READ = 0b1101  # execute, read file, read folder


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def landlock_abi(libc: ctypes.CDLL) -> int:
    """Return the version of Landlock that this kernel speaks, 0 for none."""
    return max(0, libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def raise_landlock(libc: ctypes.CDLL, readable: list[str]) -> None:
    """Leave nothing of the file system but reading these folders, and no TCP nor signals where the ABI has them."""
    abi = landlock_abi(libc)
    if not abi:
        raise OSError("this kernel has no Landlock")
    files = (1 << (13 if abi == 1 else 14 if abi == 2 else 15 if abi < 5 else 16)) - 1
    rules = (ctypes.c_uint64 * 3)(files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _checked(libc.syscall(CREATE_RULESET, rules, ctypes.c_size_t(size), 0))
    for folder in readable:
        if os.path.isdir(folder):
            opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            rule = READ.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
            _checked(libc.syscall(ADD_RULE, ruleset, 1, rule, 0))
            os.close(opened)
    _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def raise_namespaces(libc: ctypes.CDLL) -> None:
    """Go on as the second process of new namespaces; the first, out of a program's reach, ends them with it."""
    _checked(libc.unshare(NAMESPACES))
    for _ in range(2):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 127)
        _checked(libc.prctl(1, signal.SIGKILL, 0, 0, 0))  # PR_SET_PDEATHSIG


def limit(seconds: int, megabytes: int) -> None:
    """Bound CPU, memory, files and processes, softly and hard."""
    bounds = {"CPU": seconds, "AS": megabytes << 20, "FSIZE": 0, "NPROC": 16, "NOFILE": 32, "CORE": 0}
    for name, bound in bounds.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (bound, bound))


def main(layers: str, seconds: str, megabytes: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _checked(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
        if "namespaces" in layers:
            raise_namespaces(libc)
        if "landlock" in layers:
            raise_landlock(libc, [sys.base_prefix, "/lib", "/lib64", "/usr/lib"])
        limit(int(seconds), int(megabytes))
    except OSError as error:
        print(error, file=sys.stderr)
        os._exit(REFUSED)
    os.closerange(3, 4096)
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-"], {})


if __name__ == "__main__":
    main(*sys.argv[1:])
