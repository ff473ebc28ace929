"""The environment of a program: what is missing is set, what is set stays, and compiled programs are kept."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm.environment import FLAGS, MARK, advised, compiled, settle

FOLDER = Path("compiled")
LACKING = {
    "JAX_COMPILATION_CACHE_DIR": "compiled",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_FLAGS": " ".join(FLAGS),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_is_set_stays(name):
    assert advised({}, FOLDER) == LACKING
    own = "--xla_cpu_prefer_vector_width=128" if name == "XLA_FLAGS" else "7"
    assert {name: own, **advised({name: own}, FOLDER)} == {**LACKING, name: own}
    assert advised({"XLA_FLAGS": "--xla_a=1"}, FOLDER)["XLA_FLAGS"] == " ".join(("--xla_a=1", *FLAGS))
    assert set(advised({}, None)) == {"XLA_FLAGS"}


def test_a_program_is_left_alone_where_that_is_asked_for(monkeypatch):
    monkeypatch.setenv(MARK, "as_is")
    before = dict(os.environ)
    settle()
    assert dict(os.environ) == before


SAYS = """
import json, os, sys
began = dict(os.environ)
if {early} and "JAX_COMPILATION_CACHE_DIR" not in began:
    sys.modules["jax"] = json
from lm.exits import main_guard
def main(argv):
    print(json.dumps([argv, os.getpid(), began if {early} else dict(os.environ)]))
    raise SystemExit(5)
main_guard(main)
"""


@pytest.mark.parametrize("early", [False, True])
def test_a_program_runs_in_it_even_where_jax_has_begun_before(early, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", MARK))}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    line = [sys.executable, "-c", SAYS.format(early=early), "a b", "--debug", "c"]
    process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True)
    argv, number, found = json.loads(process.communicate()[0])
    assert (argv, number, process.returncode) == (["a b", "c"], process.pid, 5)
    assert {**found, **LACKING, "JAX_COMPILATION_CACHE_DIR": str(compiled(env))} == found


def test_what_was_compiled_long_ago_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})
    monkeypatch.setattr(os, "execv", lambda *_: None)
    folder = compiled(os.environ)
    folder.mkdir(parents=True)
    for name, days in (("old-cache", 31), ("new-cache", 29), ("other", 31)):
        (folder / name).touch()
        then = time.time() - days * 24 * 3600
        os.utime(folder / name, (then, then))
    settle()
    assert sorted(path.name for path in folder.iterdir()) == ["new-cache", "other"]


def test_a_home_that_cannot_be_written_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path / "file")})
    monkeypatch.setattr(os, "execv", lambda *_: None)
    settle()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ
