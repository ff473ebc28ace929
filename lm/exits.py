"""Exit codes as a contract, and the errors that carry them.

0 done, 2 bad input, 3 diverged, 4 data or checkpoint unusable, 75 preempted and saved, 1 anything else.

    if __name__ == "__main__":
        main_guard(main)  # main(argv) -> None
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import ClassVar, NoReturn

from lm.strict import ConfigError


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


def main_guard(main: Callable[[list[str]], None]) -> NoReturn:
    """Run main(argv) and leave with the exit code of the contract.

    An ExitError or ConfigError becomes one line on stderr; with `--debug` anywhere among the arguments the
    traceback goes before it. Any other exception is a defect and keeps its traceback.
    """
    debug = "--debug" in sys.argv
    try:
        main([argument for argument in sys.argv[1:] if argument != "--debug"])
        code = 0
    except (ExitError, ConfigError) as error:
        if debug:
            traceback.print_exc()
        label = error.label if isinstance(error, ExitError) else "error"
        print(f"{label}: {' '.join(str(error).split())}", file=sys.stderr)
        code = error.code if isinstance(error, ExitError) else UserError.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # the reader of stdout has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at the end fails again
        code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    _leave(code)


def _leave(code: int) -> NoReturn:
    # A rank that fails alone must not wait for its peers in JAX's shutdown barrier (up to five minutes):
    # they notice its end by the missing heartbeat.
    jax = sys.modules.get("jax")
    alone = code not in (0, Preempted.code)
    if alone and jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
