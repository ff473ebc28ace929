"""The README is true: its snippets and commands run, its install line and its table of extras are the real ones."""

import configparser
import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]

# Commands that would train for minutes run with these flags behind them, and on a GSM8K of two questions.
TINY = "--train.steps 2 --train.batch_size 2 --model.width 16"
REDUCED = {
    "train.py flip_flop_cpu": f"{TINY} --task.length 16",
    "train.py flip_flop_attention_cpu": f"{TINY} --task.length 16",
    "prepare_data.py tinygsm_cpu": "--data.problems 100 --task.test_count 2",
    "train.py tinygsm_cpu": f"{TINY} --model.depth 1 --data.problems 100 --task.test_count 2",
    "train.py tinygsm_grown_cpu": f"{TINY} --train.steps 6 --data.problems 100 --task.test_count 2",
    "lengths.py addition_cpu": f"{TINY} --seeds 1 --task.longest_train 3 --task.longest_test 6",
    "train.py sorting_cpu": f"{TINY} --train.steps 6 --task.longest_test 10 --task.test_count 8",
    "sweep.py flip_flop_cpu": f"{TINY} --task.length 16",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder that all commands share, as a reader's would be, with a small DIR of GSM8K in it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "DIR").mkdir()
    row = {"question": "Ann has 2 pens and buys 3. How many?", "answer": "She has 2+3 = <<2+3=5>>5 pens.\n#### 5"}
    (folder / "DIR" / "train.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "DIR" / "test.jsonl").write_text(json.dumps({**row, "question": "Bob has 2 hats, gets 3. Now?"}) + "\n")
    return folder


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python scripts/")])
def test_commands_run(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    if "reproduce.py" in line:  # runs for minutes: here its experiments measure nothing
        hollow(monkeypatch)
    command = line.removeprefix("python scripts/")
    extra = next((flags for start, flags in REDUCED.items() if command.startswith(start)), "")
    monkeypatch.setattr(sys, "argv", shlex.split(f"{command} {extra}"))
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as a file, a script puts the root in the first place
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts" / sys.argv[0]), run_name="__main__")
    assert not end.value.code or "reproduce.py" in line, capsys.readouterr().err


def hollow(monkeypatch):
    """Put experiments that return 0 for every figure in the place of the real ones."""
    import dataclasses

    from tasks.registry import EXPERIMENTS

    def run(workdir, scale, seed):
        return {claim.metric: 0.0 for experiment in EXPERIMENTS.values() for claim in experiment.claims}

    hollowed = {name: dataclasses.replace(experiment, run=run) for name, experiment in EXPERIMENTS.items()}
    monkeypatch.setattr("tasks.registry.EXPERIMENTS", hollowed)


def test_every_command_is_tested():
    others = [line for line in COMMANDS if not line.startswith("python scripts/")]
    install = [line for line in others if line.startswith("python -m venv")]
    assert [line for line in others if line not in install] == ["make demo", "make test"]
    for target in ("demo", "test"):
        recipe = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert {"demo": "scripts/train.py tinygsm_cpu", "test": "-m pytest"}[target] in recipe
    makefile = (ROOT / "Makefile").read_text()
    assert all(line.rpartition(" ")[2] in makefile for line in install)


@pytest.mark.parametrize("snippet", range(len(blocks("python"))))
def test_snippets_run(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "snippet.py"
    text = blocks("python")[snippet].replace("steps=300", "steps=4").replace('"train.steps": 300', '"train.steps": 4')
    path.write_text(text.replace('"task.length": 64', '"task.length": 16'))
    runpy.run_path(str(path), run_name="snippet")


def test_extras_are_the_real_ones():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    rows = re.findall(r"^\| (`[^|]+) \|", README.partition("## Extras")[2], re.M)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(setup["options.extras_require"])
