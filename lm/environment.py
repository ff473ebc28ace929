"""What the environment tells JAX and XLA before they start, where its user has not told them.

    settle()      # first of all in a program

`CAMBIUM_ENVIRONMENT=as_is` leaves everything as it is, and a variable that is set stays so:

- JAX_COMPILATION_CACHE_DIR: compiled programs are kept in the user's cache folder, which processes may share, so that
  a second start need not compile them. `JAX_ENABLE_COMPILATION_CACHE=false` compiles anew.
- XLA_FLAGS: 512 bits in a vector on processors that have them.
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
FLAGS = ("--xla_cpu_prefer_vector_width=512",)
DAYS = 30  # that a compiled program is kept


def settle() -> None:
    """Set what is missing, and start the program anew where JAX has read its environment already."""
    if MARK in os.environ:
        return
    folder = compiled(os.environ)
    os.environ.update(advised(os.environ, folder if _ready(folder) else None), **{MARK: "settled"})
    if "jax" in sys.modules:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def advised(env: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """Return the variables that an environment lacks; compiled programs are kept in `folder`."""
    given = env.get("XLA_FLAGS", "")
    flags = [given, *(flag for flag in FLAGS if flag.partition("=")[0] not in given)]
    wanted = {}
    if folder is not None:
        wanted = {
            "JAX_COMPILATION_CACHE_DIR": str(folder),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    missing = {name: value for name, value in wanted.items() if name not in env}
    return {**missing, "XLA_FLAGS": " ".join(filter(None, flags))}


def compiled(env: Mapping[str, str]) -> Path:
    """Return the folder of the user's compiled programs, one for each kind of processor: machines may share a home."""
    home = Path(env.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return home / "cambium" / f"compiled-{hashlib.sha256(_processor().encode()).hexdigest()[:8]}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        said = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^(?:flags|Features)\s*:(.*)$", said, re.M):
            return found[1]
    return platform.processor() or platform.machine()


def _ready(folder: Path) -> bool:
    """Make the folder, empty it of what was compiled long ago (JAX sets it no limit), and say whether it is there."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*-cache"):
            if path.stat().st_mtime < time.time() - DAYS * 24 * 3600:
                path.unlink(missing_ok=True)
    return os.access(folder, os.W_OK)
