"""The command line: what a user types, what comes back, and what a mistake looks like."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.results import judge, render
from tasks.task import Claim, Experiment

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(p.stem for p in (ROOT / "scripts").glob("*.py") if "main_guard(main)" in p.read_text())
TINY = (
    "flip_flop_cpu --task.length 16 --model.width 16 --train.steps 4 "
    "--train.batch_size 4 --train.steps_per_dispatch 2 --train.log_every 2 --train.save_every 2"
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "tiny"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_a_script_does(script, call):
    code, out, _ = call(script, "--help")
    about = importlib.import_module(f"scripts.{script}").__doc__.splitlines()[0]
    assert code == 0
    assert " ".join(about.split()) in " ".join(out.split())


def test_scripts_run_as_files_and_as_modules():
    for how in (["scripts/list.py"], ["-m", "scripts.list"]):
        done = subprocess.run([sys.executable, *how], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in ("flip_flop", "flip_flop_cpu", "Claims of flipflop"):
            assert name in done.stdout


MISTAKES = [
    ("train", "", "give a name first"),
    ("train", "flip_flop_cup", "no recipe 'flip_flop_cup'; did you mean flip_flop_cpu"),
    ("train", "flip_flop_cpu --train.step 3", "--train.step, 3; did you mean --train.steps"),
    ("train", "flip_flop_cpu --lr 3", "Unrecognized options: --lr, 3; train.py flip_flop_cpu --help"),
    ("train", "flip_flop_cpu --train.steps 1.5", "--train.steps: not a number of this kind: '1.5'"),
    ("train", "flip_flop_cpu --train.steps", "Missing value for argument '--train.steps'"),
    ("train", "flip_flop_cpu --train.steps 0", "train.steps must be positive, got 0"),
    ("train", "flip_flop_cpu --until x", "--until: 'x' is not {None}|INT"),
    ("train", "flip_flop_cpu --resume nevr", "'nevr' for argument '--resume'"),
    ("train", "flip_flop_cpu --task.mode loud", "task.mode must be one of clean, noisy, got 'loud'"),
    ("train", "flip_flop_cpu --task.length 7", "task.length must be even and at least 4, got 7"),
    ("train", "flip_flop_full --model.positions rotery", "did you mean rotary"),
    (
        "train",
        "flip_flop_full --model.positions rotary:part=1",
        "rotary has no field 'part' (fields: base, fraction, scaling)",
    ),
    ("train", "flip_flop_full --model.positions rotary:fraction=x", "rotary.fraction: 'x' is not of type float"),
    ("train", "flip_flop_full --transforms majority", "'majority' is none of majoritykernels, blockscales, looped"),
    ("train", "flip_flop_full --transforms looped:layers=0", "transforms.layers must be positive, got 0"),
    ("evaluate", "--workdir nowhere", "no run in nowhere"),
    (
        "train",
        "flip_flop_full --transforms majoritykernels:pattern=(",
        "transforms.pattern must be a regular expression",
    ),
    ("train", "tinygsm_grown_cpu --growth.alpha -1", "growth.alpha must not be negative, got -1"),
    ("train", "tinygsm_grown_cpu --growth.steps 5 5 5", "growth.steps must have one length a depth where"),
    ("export", "--workdir nowhere --out x", "no run in nowhere"),
    ("convert", "export --workdir nowhere --out x", "no run in nowhere"),
    ("convert", "export --out x", "give either --workdir RUN or --model PATH"),
    ("convert", "inspect --model nowhere", "no folder nowhere"),
    ("convert", "import --model nowhere", "no command 'import'"),
    ("export", "--workdir here --out here/plain", "lies in the run folder itself"),
    ("teach", "--url x --model m --gsm8k x --out o", "url must start with http:// or https://, got 'x'"),
    ("teach", "--url http://x --model m --gsm8k x --out o", "gsm8k_train: x must hold train.jsonl (found: no such"),
    ("duo", "--generator nowhere --workdir x", "no run in nowhere"),
    ("duo", "--generator here --workdir x --samples 0", "samples must be positive, got 0"),
    ("self_train", "--generator nowhere --workdir x", "no run in nowhere"),
    ("decontaminate", "--train svamp --tests svamp:x", "a set is given as NAME:FOLDER, got 'svamp'"),
    ("decontaminate", "--train svanp:x --tests svamp:x", "no data set 'svanp'; did you mean svamp"),
    ("evaluate", "", "--workdir"),
    ("sample", "--workdir nowhere --prompt x", "no run in nowhere"),
    ("show_run", "--workdir nowhere", "no evaluated run in nowhere"),
    ("look", "--workdir nowhere", "no run in nowhere"),
    ("show_task", "flipflop", "no task 'flipflop'; did you mean flip_flop"),
    ("sweep", "flip_flop_cpu --seeds 1 2", "--seeds takes one value, got 1 2"),
    ("sweep", "flip_flop_cpu --optimizer.lr 1e-3 3e-4", "Unrecognized options: --optimizer.lr, 1e-3"),
    ("reproduce", "", "name an experiment"),
    ("reproduce", "flipflip", "no experiment 'flipflip'; did you mean flipflop"),
    ("prepare_data", "flip_flop_cpu", "flip_flop_cpu draws its data inside the training step"),
]


@pytest.mark.parametrize(("script", "line", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_code_2(script, line, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(script, line)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert message in err


def test_positions_are_chosen_by_name():
    from lm.config import ALiBi, Positions, Randomised, Rotary
    from scripts.choices import choose, show

    choices = Positions.__args__
    assert choose("randomised:inner=rotary:fraction=0.5,longest=64", choices) == Randomised(Rotary(fraction=0.5), 64)
    assert choose("ALiBi", choices) == ALiBi()
    for kind in choices:
        assert choose(show(kind()), choices) == kind()
    assert show(Randomised(ALiBi())) == "randomised:inner=alibi"


def test_training_stops_resumes_and_leaves_a_whole_run_folder(call, workdir):
    code, out, err = call("train", f"{TINY} --workdir {workdir} --until 2")
    assert (code, json.loads(out.splitlines()[-1])["step"]) == (0, 2), err
    code, out, err = call("train", f"{TINY} --workdir {workdir}")
    assert code == 0
    assert "resumed at step 2" in err
    summary = json.loads(out.splitlines()[-1])
    assert summary["step"] == 4
    assert summary == json.loads((workdir / "summary.json").read_text())
    for name in (
        "recipe.json", "stamp.json", "metrics.jsonl", "samples.jsonl", "checkpoints/2", "checkpoints/4", "report.html",
        "log.txt", "summary.json", "status.json", "run.lock",
    ):  # fmt: skip
        assert (workdir / name).exists(), name
    assert list(workdir.glob("events.out.tfevents.*"))
    code, out, err = call("train", f"{TINY} --workdir {workdir} --model.width 32")
    assert (code, err.count("\n")) == (2, 1)
    assert "model.width was 16, now 32" in err


def test_evaluate_repeats_the_figures_of_training(call, workdir):
    code, out, _ = call("evaluate", f"--workdir {workdir}")
    assert code == 0
    found, summary = json.loads(out), json.loads((workdir / "summary.json").read_text())
    assert {name: found[name] for name in ("recipe", "step", "metrics", "slices")} == {
        name: summary[name] for name in ("recipe", "step", "metrics", "slices")
    }


def test_an_export_is_the_plain_model_with_the_figures_of_the_run(call, tmp_path):
    run, plain = tmp_path / "run", tmp_path / "plain"
    line = f"{TINY} --train.ema 0.5 --transforms majoritykernels:factor=2 looped:layers=1 --workdir {run}"
    code, _, err = call("train", line)
    assert code == 0, err
    assert call("export", f"--workdir {run} --out {plain}")[0] == 0
    of_run, of_plain = (call("evaluate", f"--workdir {folder}")[1] for folder in (run, plain))
    assert of_run == of_plain
    assert json.loads((plain / "recipe.json").read_text())["transforms"] == []
    code, _, err = call("export", f"--workdir {run} --out {plain}")
    assert (code, "holds a run" in err) == (2, True)


def test_sample_continues_a_prompt(call, workdir):
    code, out, _ = call("sample", f"--workdir {workdir} --prompt 'w1 i0 r' --candidates 3 --temperature 1 --length 5")
    assert code == 0
    assert [len(line.replace(" ", "")) for line in out.splitlines()] == [5, 5, 5]
    assert set(out) <= set("wri01 \n")


def test_look_shows_heads_in_the_report_and_refuses_what_has_none(call, tmp_path):
    model = "--model.width 8 --model.heads 2 --train.steps 2 --train.steps_per_dispatch 1"
    assert call("train", f"flip_flop_attention_cpu {model} --task.length 8 --workdir {tmp_path} --quiet")[0] == 0
    code, out, _ = call("look", f"--workdir {tmp_path} --examples 16 --maps 1")
    assert code == 0 and "layer 1: " in out and out.endswith(f"report: {tmp_path / 'report.html'}\n")
    assert "head 1" in (tmp_path / "report.html").read_text()
    code, _, err = call("look", f"--workdir {tmp_path} --size 300")
    assert (code, err) == (2, "error: --size 300: percent ignored of flip_flop lie in 10..98\n")
    changed = (tmp_path / "recipe.json").read_text().replace("TransformerConfig", "RNNConfig")
    (tmp_path / "recipe.json").write_text(changed)
    code, _, err = call("look", f"--workdir {tmp_path}")
    assert code == 4 and "recipe.json" in err


def test_show_run_and_show_task(call, workdir, tmp_path):
    code, out, _ = call("show_run", f"--workdir {workdir}")
    assert (code, "95 % interval" in out, "report.html" in out, "lost" in out) == (0, True, True, False)
    status = json.loads((workdir / "status.json").read_text())
    (tmp_path / "status.json").write_text(json.dumps({**status, "state": "running", "started": "0"}))
    (tmp_path / "samples.jsonl").touch()
    _, _, err = call("show_run", f"--workdir {tmp_path}")
    assert f"summary.json is missing (lost: process {status['pid']} is gone" in err
    code, out, _ = call("show_task", "flip_flop --task.length 12 --count 1 --size 50")
    assert (code, "-> " in out) == (0, True)


def test_sweep_leaves_every_member(call, tmp_path):
    line = f"{TINY} --seeds 2 --optimizer.learning_rate 1e-3 3e-4 --workdir {tmp_path}"
    code, out, err = call("sweep", line)
    assert code == 0, err
    assert "learning_rate 0.0003: exact_match" in out
    members = json.loads((tmp_path / "sweep.json").read_text())["members"]
    assert [(m["seed"], m["values"]["optimizer.learning_rate"]) for m in members] == [
        (0, 1e-3), (1, 1e-3), (0, 3e-4), (1, 3e-4),
    ]  # fmt: skip
    assert (tmp_path / "sweep.svg").read_text().startswith("<svg")
    code, _, err = call("sweep", f"{TINY} --seeds 2 --optimizer.learning_rate 1e-3 1e-4 --workdir {tmp_path}")
    assert (code, "holds another sweep" in err) == (2, True)


@pytest.mark.parametrize(
    ("rule", "bound", "measured", "value", "passed"),
    [
        ("median", {"at_least": 0.5}, [0.1, 0.6, 0.7], 0.6, True),
        ("worst", {"at_least": 0.5}, [0.1, 0.6, 0.7], 0.1, False),
        ("best", {"at_most": 0.5}, [0.1, 0.6, 0.7], 0.1, True),
        ("worst", {"at_most": 0.5}, [0.1, 0.6, 0.7], 0.7, False),
        ("mean", {"at_most": 0.5}, [0.5, 0.5], 0.5, True),
    ],
)
def test_a_claim_is_judged_by_its_rule(rule, bound, measured, value, passed):
    judged = judge(Claim("paper", "statement", "metric", rule=rule, **bound), measured, [0, 1, 2])
    assert (judged["value"], judged["passed"]) == (value, passed)


def test_reproduce_writes_the_verdict_and_says_whether_it_was_missed(call, tmp_path, monkeypatch):
    claims = (
        Claim("p", "rises", "high", at_least=1.0, paper_value="2"),
        Claim("p", "is | exact", "low", at_most=0.0, exact=True),
        Claim("p", "needs a pod", "other", at_least=1.0, scale="full"),
    )
    seen = []

    def run(workdir, scale, seed):
        seen.append((workdir.name, scale, seed))
        return {"high": float(seed), "low": 0.0}

    experiment = Experiment("toy", "Toy (Nobody 2026)", claims, run)
    monkeypatch.setattr("tasks.registry.EXPERIMENTS", {"toy": experiment})
    code, out, _ = call("reproduce", f"toy --workdir {tmp_path} --docs {tmp_path}")
    assert (code, seen) == (0, [("0", "cpu", 0), ("1", "cpu", 1), ("2", "cpu", 2)])
    assert "| rises | 2 | 1 (median of 0, 1, 2) | >= 1 | holds |" in out
    assert "| is \\| exact |  | 0 | <= 0 | holds |" in out
    result = json.loads((tmp_path / "results" / "toy.cpu.json").read_text())
    assert [claim["seeds"] for claim in result["claims"]] == [[0, 1, 2], []]
    assert {"commit", "dirty", "versions", "date", "hardware", "command", "wall_seconds"} <= set(result)
    assert "2 of 2 claims hold" in (tmp_path / "RESULTS.md").read_text()
    harder = claims[0]._replace(at_least=1.5)
    monkeypatch.setattr("tasks.registry.EXPERIMENTS", {"toy": dataclasses.replace(experiment, claims=(harder,))})
    code, out, _ = call("reproduce", f"toy --workdir {tmp_path} --docs {tmp_path}")
    assert (code, "**missed**" in out) == (1, True)
    code, _, err = call("reproduce", f"toy --scale full --workdir {tmp_path} --docs {tmp_path}")
    assert (code, err) == (2, "error: toy claims nothing at scale full\n")


def test_the_page_of_results_is_in_step_with_the_files():
    assert (ROOT / "docs" / "RESULTS.md").read_text() == render(ROOT / "docs" / "results")
