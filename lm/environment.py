"""What the environment tells JAX and the C library before they start, where their user has not told them.

    settle()      # first of all in a program

A second start need not compile again what is in JAX_COMPILATION_CACHE_DIR, which is in the user's cache folder; several
processes may share it. `JAX_ENABLE_COMPILATION_CACHE=false` compiles anew. On Linux, large blocks of memory lie in
large pages: XLA asks for the memory of a step anew each time, and without them a step on CPU takes 1.15 to 1.45 times
as long. `CAMBIUM_ENVIRONMENT=as_is` leaves the environment alone, and a variable that is set stays so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

MARK = "CAMBIUM_ENVIRONMENT"
PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if sys.platform == "linux" else {}
DAYS = 30  # that a compiled program is kept


def settle() -> None:
    """Set what is missing, and start the program anew where that has been read already."""
    if MARK in os.environ:
        return
    folder = compiled(os.environ)
    late = "jax" in sys.modules or bool(PAGES.keys() - os.environ.keys())  # the C library reads it before Python starts
    os.environ.update({**(advised(folder) if _ready(folder) else {}), **PAGES, MARK: "settled", **os.environ})
    if late:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def advised(folder: Path) -> dict[str, str]:
    """Return the variables that keep all that is compiled in a folder."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def compiled(env: Mapping[str, str]) -> Path:
    """Return the folder of the user's compiled programs, one for each kind of processor: machines may share a home."""
    home = env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "cambium" / f"compiled-{hashlib.sha256(_processor().encode()).hexdigest()[:8]}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^(?:flags|Features)\s*:(.*)$", said, re.M):
            return found[1]
    return platform.processor() or platform.machine()


def _ready(folder: Path) -> bool:
    """Make the folder, empty it of what was compiled long ago (JAX sets it no limit), and say whether it is there."""
    if not folder.is_absolute():  # its user has no home
        return False
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*-cache"):
            if path.stat().st_mtime < time.time() - DAYS * 24 * 3600:
                path.unlink(missing_ok=True)
    return os.access(folder, os.W_OK)
