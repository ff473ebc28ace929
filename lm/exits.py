"""Exit codes as a contract, and the errors that carry them.

0 done, 2 bad input, 3 diverged, 4 data or checkpoint unusable, 75 preempted and saved, 1 anything else.

    if __name__ == "__main__":
        main_guard(main)  # main(argv) -> None
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ClassVar, NoReturn

from lm.environment import settle
from lm.strict import ConfigError

# What a system says of a disk that is full, over quota, read-only or broken, or of a file that may not grow.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
LINGER = 5.0  # seconds that the coordinator stays so that the others read what has failed


class ExitError(Exception):
    """An end that the user must hear of: one sentence, a label before it and an exit code behind it."""

    code: ClassVar[int] = 1
    label: ClassVar[str] = "error"


class UserError(ExitError):
    """A mistake in what the user gave: a flag, a path, a file. Names the field, the value and the nearest valid."""

    code = 2


class Diverged(ExitError):  # noqa: N818 (an outcome, not an error)
    """Training left the finite numbers; the last good step is still there."""

    code = 3
    label = "diverged"


class Unusable(ExitError):  # noqa: N818 (an outcome, not an error)
    """Data or checkpoints exist and cannot be used."""

    code = 4
    label = "unusable"


class Preempted(ExitError):  # noqa: N818 (an outcome, not an error)
    """The machine was taken away; the state was saved and the same command goes on from there."""

    code = 75
    label = "preempted"


class Absent(ExitError):  # noqa: N818 (an outcome, not an error)
    """A process did not come to where all were to meet. No mistake of the user: another attempt may well succeed."""


class Stopped(Preempted):
    """A signal came while there was nothing to save and nobody to agree with."""


def main_guard(main: Callable[[list[str]], None]) -> NoReturn:
    """Run main(argv) and leave with the exit code of the contract.

    An ExitError or ConfigError becomes one line on stderr; with `--debug` anywhere among the arguments the
    traceback goes before it. Any other exception is a defect and keeps its traceback. SIGTERM is an exception too,
    so that what is half written is cleaned up; code that has something to save brings its own handler. The program
    runs in the environment of `lm.environment`.
    """
    settle()
    debug, alone = "--debug" in sys.argv, True
    try:
        with _terminable():
            main([argument for argument in sys.argv[1:] if argument != "--debug"])
        code, alone = 0, False
    except (ExitError, ConfigError) as error:
        if debug:
            traceback.print_exc()
        label = error.label if isinstance(error, ExitError) else "error"
        print(f"{label}: {' '.join(str(error).split())}", file=sys.stderr)
        code = error.code if isinstance(error, ExitError) else UserError.code
        alone = code != Preempted.code or isinstance(error, Stopped)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # the reader of stdout has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at the end fails again
        code = 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK and not debug:
            print(f"{Unusable.label}: {error.strerror}: {error.filename or 'a file of the run'}", file=sys.stderr)
            code = Unusable.code
        else:
            traceback.print_exc()
            code = 1
    _leave(code, alone)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Stopped("stopped by a signal; what is complete stands, and the same command goes on from there")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(code: int, alone: bool) -> NoReturn:
    # A process that leaves alone must not wait for the others in JAX's shutdown barrier, which they never reach.
    # They learn of it from their watchdogs, as long as process 0, which holds what they read, is there.
    distributed = sys.modules.get("jax._src.distributed")
    state = None if distributed is None else distributed.global_state
    if alone and state is not None and state.client is not None and state.num_processes > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        if state.process_id == 0:
            time.sleep(LINGER)
        os._exit(code)
    sys.exit(code)
