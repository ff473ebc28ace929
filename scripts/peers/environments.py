"""Environments of the programs that benches measure against, built when they are first asked for.

python_of("torch", Path("runs/peers"))     # runs/peers/torch/bin/python
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lm.exits import Absent
from lm.files import write_whole

FOLDER = Path("runs/peers")  # where environments are kept, one folder each


class Environment(NamedTuple):
    """What an environment holds, and the oldest Python that it takes."""

    pins: tuple[str, ...]
    python: tuple[int, int] = (3, 11)


# Those of `torch` are the extra `bench`; the others ask for other versions of what they share.
ENVIRONMENTS: Mapping[str, Environment] = MappingProxyType(
    {
        "torch": Environment(("torch==2.13.0", "transformers==5.23.0")),
        "litgpt": Environment(("torch==2.13.0", "litgpt==0.5.13")),
        "maxtext": Environment(("maxtext[tpu]==0.2.5",), (3, 12)),
    }
)


def python_of(name: str, folder: Path = FOLDER) -> Path:
    """Return the interpreter of an environment, which is built where it is missing or holds other versions.

    Raises Absent, and leaves nothing behind, where it cannot be built.
    """
    environment, home = ENVIRONMENTS[name], folder.absolute() / name
    pins, python = home / "pins.txt", home / "bin" / "python"
    wanted = "\n".join(environment.pins) + "\n"
    if not (pins.is_file() and pins.read_text(encoding="utf-8") == wanted):
        _build(name, environment, home, wanted)
    return python


def _build(name: str, environment: Environment, home: Path, wanted: str) -> None:
    """Build an environment beside its place and move it there whole."""
    home.parent.mkdir(parents=True, exist_ok=True)
    print(f"building {home} with {', '.join(environment.pins)}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=home.parent) as rough:
        part = Path(rough) / name
        _run(name, _interpreter(name, environment), "-m", "venv", str(part))
        _run(name, str(part / "bin" / "python"), "-m", "pip", "install", "--quiet", *environment.pins)
        write_whole(part / "pins.txt", wanted)
        shutil.rmtree(home, ignore_errors=True)
        part.rename(home)


def _interpreter(name: str, environment: Environment) -> str:
    if sys.version_info[:2] >= environment.python:
        return sys.executable
    asked = "python{}.{}".format(*environment.python)
    found = shutil.which(asked)
    if found is None:
        raise Absent(f"peer {name} needs {asked}, which is not on the PATH")
    return found


def _run(name: str, *line: str) -> None:
    # A virtual environment or a path of ours must not leak into the one that is built.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    try:
        subprocess.run(line, check=True, capture_output=True, text=True, env=env)
    except subprocess.CalledProcessError as error:
        said = [line for line in (error.stderr + error.stdout).splitlines() if line.startswith("ERROR")] or [str(error)]
        raise Absent(f"the environment of peer {name} could not be built: {said[0]}") from None
