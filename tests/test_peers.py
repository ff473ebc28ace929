"""Peers: environments stand whole or not at all, sides take turns, a side that ends early is named."""

import configparser
import json
import os
from pathlib import Path

import pytest

from lm.exits import Absent
from scripts import bench_step
from scripts.bench_step import CORES, STEP, STEP_JAX
from scripts.peers import environments
from scripts.peers.race import Side, Taken, race, ratio

ROOT = Path(__file__).parent.parent
VENV = '#!/bin/sh\nmkdir -p "$3/bin" && printf \'#!/bin/sh\\n{}\\n\' > "$3/bin/python" && chmod +x "$3/bin/python"\n'


def test_the_extra_is_the_environment():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert tuple(setup["options.extras_require"]["bench"].split()) == environments.ENVIRONMENTS["torch"].pins


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Return a function that sets what an environment's Python does when it is asked to install."""
    path = tmp_path / "python"

    def makes(pip):
        path.write_text(VENV.format(pip))
        path.chmod(0o755)

    monkeypatch.setattr(environments, "_interpreter", lambda name, environment: str(path))
    return makes


def test_an_environment_is_built_once_and_again_where_it_holds_other_versions(tmp_path, interpreter, capsys):
    interpreter("exit 0")
    folder = tmp_path / "peers"
    for _ in range(2):
        python = environments.python_of("torch", folder)
        assert os.access(python, os.X_OK)
    assert capsys.readouterr().err.count("building") == 1
    (folder / "torch" / "pins.txt").write_text("torch==1.0\n")
    environments.python_of("torch", folder)
    assert capsys.readouterr().err.count("building") == 1


def test_what_cannot_be_built_is_said_and_leaves_nothing(tmp_path, interpreter):
    interpreter("echo ERROR: no such version >&2; exit 1")
    with pytest.raises(Absent, match="^the environment of peer torch could not be built: ERROR: no such version$"):
        environments.python_of("torch", tmp_path / "peers")
    assert list((tmp_path / "peers").iterdir()) == []


def test_sides_take_turns(tmp_path):
    log = tmp_path / "log"
    sides = {
        name: Side("tests.worker", {"log": str(log), "name": name, "sleep": s}) for name, s in (("a", 8), ("b", 2))
    }
    taken = race(sides, cores=1, seconds=0.0, rounds=3)
    assert log.read_text().split() == ["a", "b"] * 4  # the first steps, and three rounds
    assert [len(taken["a"].wall), len(taken["a"].cpu)] == [3, 3]
    assert ratio(taken["a"], taken["b"], "wall").value > 1
    assert taken["a"].facts["peak_memory"] > 1e6 and taken["a"].facts["first_step"] > 0
    assert taken["a"].facts["settings"] == json.loads(json.dumps(sides["a"].settings))


def test_a_side_that_ends_early_is_named(tmp_path):
    with pytest.raises(Absent, match="^peer ended with code 1: KeyError: 'log'$"):
        race({"peer": Side("tests.worker", {})}, cores=1, seconds=0.0, rounds=1)
    with pytest.raises(Absent, match="^1000 cores are measured on and this process has"):
        race({}, cores=1000, seconds=0.0, rounds=1)


@pytest.mark.parametrize("bench", [STEP, CORES, STEP_JAX])
def test_a_bench_of_steps_measures_what_it_claims(bench, tmp_path, monkeypatch):
    def taken(sides, cores, seconds, rounds):
        facts = {"peak_memory": 1e9, "flops": 1e9, "first_step": 1.0, "losses": [4.0, 3.0, 2.0]}
        times = {name: [[1.0 + (name == "ours")]] for name in sides}
        return {name: Taken(each if cores == 2 else [[2.0, 2.0]], each, facts) for name, each in times.items()}

    monkeypatch.setattr(bench_step, "race", taken)
    monkeypatch.setattr(bench_step, "python_of", lambda name, folder: folder / name)
    (tmp_path / "nanodo" / "nanodo").mkdir(parents=True)
    (tmp_path / "nanodo" / "nanodo" / "model.py").touch()
    figures = bench.against(tmp_path).run(tmp_path, "cpu", 0)
    assert {claim.metric for claim in bench.claims} <= figures.keys()
    for claim in bench.claims:
        assert figures[claim.metric] == {"ratio": 0.5, "memory": 1.0, "loss": 0.0}[claim.metric.split("_")[-1]]
    with pytest.raises(Absent, match="^peer nanodo is not in"):
        STEP_JAX.against(tmp_path / "nowhere").run(tmp_path, "cpu", 0)
