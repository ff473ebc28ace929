"""The environment of a program: what is missing is set, what is set stays, and compiled programs are kept."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm.environment import MARK, PAGES, advised, compiled, settle


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program that has read nothing of its environment, which is empty but for the place of caches."""
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})
    monkeypatch.setattr(os, "execv", lambda *_: None)
    return compiled(os.environ)


@pytest.mark.parametrize("name", [*advised(Path()), *PAGES])
def test_what_is_set_stays(name, program):
    os.environ[name] = "7"
    settle()
    assert {**advised(program), **PAGES, name: "7"}.items() <= os.environ.items()


def test_a_program_is_left_alone_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(os, "environ", {MARK: "as_is"})
    settle()
    assert os.environ == {MARK: "as_is"}


SAYS = """
import json, os, sys
began = dict(os.environ)
if {late!r} == "jax" and "JAX_COMPILATION_CACHE_DIR" not in began:
    sys.modules["jax"] = json
from lm.exits import main_guard
def main(argv):
    print(json.dumps([argv, os.getpid(), began if {late!r} else dict(os.environ)]))
    raise SystemExit(5)
main_guard(main)
"""


@pytest.mark.parametrize("late", ["", "jax", *PAGES])
def test_a_program_runs_in_it_even_where_it_has_been_read_before(late, tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", MARK))}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path), **PAGES}
    env.pop(late, None)
    line = [sys.executable, "-c", SAYS.format(late=late), "a b", "--debug", "c"]
    process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True)
    argv, number, found = json.loads(process.communicate()[0])
    assert (argv, number, process.returncode) == (["a b", "c"], process.pid, 5)
    assert {**advised(compiled(env)), **PAGES}.items() <= found.items()


def test_what_was_compiled_long_ago_is_removed(program):
    program.mkdir(parents=True)
    for name, days in (("old-cache", 31), ("new-cache", 29), ("other", 31)):
        (program / name).touch()
        then = time.time() - days * 24 * 3600
        os.utime(program / name, (then, then))
    settle()
    assert sorted(path.name for path in program.iterdir()) == ["new-cache", "other"]


@pytest.mark.parametrize("home", ["/dev/null", "~"])
def test_without_a_home_that_can_be_written_nothing_is_kept(home, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.environ["XDG_CACHE_HOME"] = home
    settle()
    assert list(tmp_path.iterdir()) == []
    assert not advised(program).keys() & os.environ.keys()
