"""What happens to a run when the machine under it fails: real kills, full disks, lost folders, files cut anywhere.

scripts/soak.py does the first of these for as long as it is told to; docs/faults.md lists them all.
"""

import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from test_checkpoint import abstract, make_state, run_child
from trees import assert_same

import lm.train
from lm.checkpoint import Checkpoints, damage
from lm.config import Recipe, TrainConfig, TransformerConfig
from lm.exits import Unusable, UserError
from lm.report.folder import RunFolder
from lm.report.html import write_report
from lm.report.writer import METRICS, Writer, read_rows
from lm.train import fit
from lm.types import Source
from scripts.soaking import CLAIMS, Chain, Record, compare, import_ahead
from tasks.formal.flip_flop.language import FlipFlop

ROOT = Path(__file__).resolve().parents[1]


def test_kills_cost_a_few_steps_and_change_nothing(tmp_path):
    import_ahead()
    record, rng = Record(), random.Random(2)
    straight = Chain(tmp_path / "straight", record).finish("1")
    same, moved = (Chain(tmp_path / name, record) for name in ("same", "moved"))
    same.kill("1", rng)
    moved.kill("8", rng)
    for chain in (same, moved):
        compare(chain.finish("1"), straight, record, moved=chain is moved)
    figures = record.figures()
    assert figures["kills"] + figures["stops"] == 2, figures
    for claim in CLAIMS[1:]:
        assert figures[claim.metric] <= claim.at_most, (claim.statement, figures)


DELETED = """
import shutil, time
from pathlib import Path
from test_checkpoint import Checkpoints, make_state

def half(path, *_, **__):
    for file in sorted(file for file in Path(path).rglob("*") if file.is_file())[::2]:
        file.unlink()
    print(Path(path).name, flush=True)
    time.sleep(60)

checkpoints = Checkpoints(sys.argv[1], keep=2)
for step in (1, 2):
    checkpoints.save(step, make_state(step), "{}")
checkpoints.wait()
shutil.rmtree = half
checkpoints.save(3, make_state(3), "{}")
checkpoints.wait()
"""


def test_a_kill_inside_a_deletion_leaves_a_step_that_is_never_offered(tmp_path):
    child = run_child(DELETED, str(tmp_path))
    assert child.stdout.readline() == "1\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert damage(tmp_path / "1") is not None
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() == 3
    with pytest.raises(Unusable, match="checkpoint 1 .* is damaged"):
        checkpoints.restore(abstract(make_state(0)), step=1)
    assert_same(checkpoints.restore(abstract(make_state(0))), make_state(3))
    for step in (4, 5):
        checkpoints.save(step, make_state(step), "{}")
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "5"]


@dataclasses.dataclass(frozen=True)
class Stored(FlipFlop):
    """Strings read by position, so that a test may act between the steps."""

    def source(self, recipe: Recipe, folder: Path) -> Source:
        drawn = super().source(recipe, folder)
        draw = jax.jit(drawn.draw)
        return drawn._replace(draw=None, at=lambda step: jax.tree.map(np.asarray, draw(jax.random.key(7), step)))


RECIPE = Recipe(
    task=Stored(length=8, test_reads=50),
    model=TransformerConfig(vocabulary=5, depth=1, width=128, heads=2),
    train=TrainConfig(steps=8, batch_size=4, steps_per_dispatch=2, log_every=2, save_every=2, evaluate_every=4, keep=9),
    name="tiny",
)


# Of a save that failed, tensorstore reports each write that nobody waits for any more.
unwaited = pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning")


@contextmanager
def no_file_longer_than(size):
    """Have every write beyond so many bytes of a file fail, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def at_step(step, action):
    """Return the task with something that happens when the examples of a step are read."""

    @dataclasses.dataclass(frozen=True)
    class Acting(Stored):
        def source(self, recipe, folder):
            source = super().source(recipe, folder)

            def at(now):
                if now == step:
                    action(folder)
                return source.at(now)

            return source._replace(at=at)

    return dataclasses.replace(RECIPE, task=Acting(length=8, test_reads=50))


def state_of(workdir):
    return json.loads((workdir / "status.json").read_text())["state"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that went up to step 4 of 8, to be copied."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    fit(RECIPE, folder, until=4, quiet=True)
    return folder


@pytest.fixture
def half(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@unwaited
def test_a_disk_without_room_ends_the_run_and_keeps_what_was_saved(half):
    with (
        no_file_longer_than(200_000),
        pytest.raises(Unusable, match="checkpoint 6 could not be written.*File too large"),
    ):
        fit(RECIPE, half, quiet=True)
    assert state_of(half) == "unusable"
    assert max(row["step"] for row in read_rows(half / METRICS)) <= 8
    kept = {int(path.name): damage(path) for path in (half / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {2: None, 4: None}
    assert fit(RECIPE, half, quiet=True).summary["step"] == 8


def test_a_disk_without_room_for_a_line_is_one_line_and_code_4(call, tmp_path):
    line = f"flip_flop_cpu --task.length 8 --model.width 8 --train.steps 2 --train.batch_size 4 --workdir {tmp_path}"
    (tmp_path / "log.txt").write_bytes(bytes(1_000_000))
    with no_file_longer_than(1_000_000):
        code, _, err = call("train", line)
    assert code == 4 and err.splitlines()[-1].startswith("unusable: File too large: "), err
    assert "Traceback" not in err


def test_checkpoints_that_cannot_be_written_end_a_run_before_its_first_step(tmp_path):
    def forbidden(folder):
        raise AssertionError("a step was begun")

    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(Unusable, match="checkpoints cannot be written to .*checkpoints: File exists"):
        fit(at_step(0, forbidden), tmp_path, quiet=True)
    for workdir in ("/proc/run", tmp_path / "checkpoints" / "run", "/dev/null"):
        with pytest.raises(UserError, match="cannot be written"):
            fit(at_step(0, forbidden), workdir, quiet=True)
    with pytest.raises(UserError, match=r"workdir 'a\\nb' holds control characters"):
        RunFolder("a\nb")


@pytest.mark.skipif(os.geteuid() == 0, reason="the permissions of a folder do not bind root")
def test_a_folder_without_permission_ends_a_run_before_its_first_step(tmp_path):
    (tmp_path / "checkpoints").mkdir(mode=0o500)
    with pytest.raises(Unusable, match="checkpoints cannot be written"):
        fit(RECIPE, tmp_path, quiet=True)


@unwaited
def test_folders_that_vanish_are_one_sentence_or_made_anew(half):
    def remove(folder):
        deadline = time.monotonic() + 20
        while not (folder / "checkpoints" / "6").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        shutil.rmtree(folder / gone)

    for gone in ("checkpoints", "."):
        run = shutil.copytree(half, half.with_name(f"without {gone}"))
        recipe = at_step(6, remove)
        try:
            fit(recipe, run, allow_change=("task",), quiet=True)
        except Unusable as error:
            assert re.search("could not be written|is gone", str(error))
        else:
            assert gone == "checkpoints" and Checkpoints(run / gone).latest() == 8


def test_an_evaluation_cut_off_is_made_on_the_way_back_and_none_is_written_twice(tmp_path, monkeypatch):
    def cut(*_):
        raise RuntimeError("cut off")

    def examined():
        return [row["step"] for row in read_rows(tmp_path / METRICS) if "loss" not in row]

    with monkeypatch.context() as patch:
        patch.setattr(lm.train, "evaluate_run", cut)
        with pytest.raises(RuntimeError, match="cut off"):
            fit(RECIPE, tmp_path, quiet=True)
    assert examined() == []
    for until in (6, None, None):
        fit(RECIPE, tmp_path, until=until, quiet=True)
    assert examined() == [4, 8]


@pytest.mark.parametrize("name", ["recipe.json", "stamp.json", METRICS])
def test_a_damaged_file_of_the_run_is_named_and_nothing_is_lost(half, name):
    before = {path: path.read_bytes() for path in (half / "checkpoints").rglob("*") if path.is_file()}
    text = (half / name).read_text()
    for content in ("", text[:20]) if name != METRICS else ("\0" * 20 + "\n" + text,):
        (half / name).write_text(content)
        with pytest.raises(Unusable, match=re.escape(name)):
            fit(RECIPE, half, quiet=True)
    assert {path: path.read_bytes() for path in before} == before
    (half / name).write_text(text)


def test_metrics_cut_at_any_byte_go_on_without_a_seam(tmp_path):
    def rows_to(folder, start, stop):
        writer = Writer(folder)
        writer.truncate(start)
        for step in range(start + 2, stop + 1, 2):
            writer.scalars(step, {"loss": 1 / step, "norm": float("nan") if step == 6 else 1.0})
            if step % 4 == 0:
                writer.scalars(step, {"test/exact_match": step / 8})
        writer.close()

    rows_to(tmp_path, 0, 8)
    whole = (tmp_path / METRICS).read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole) - sum(map(len, lines[-4:])), len(whole) + 1):
        complete = [json.loads(line)["step"] for line in whole[:cut].split(b"\n")[:-1]]
        (tmp_path / METRICS).write_bytes(whole[:cut])
        assert [row["step"] for row in read_rows(tmp_path / METRICS)] == complete
        assert write_report(tmp_path).read_text().endswith("</html>\n")
        # The checkpoint of a step is begun when its row is written, so a run goes on from such a step or before it.
        last = max(complete) - max(complete) % 4
        rows_to(tmp_path, last if complete.count(last) == 2 else last - 4, 8)
        assert (tmp_path / METRICS).read_bytes() == whole, cut
        for events in tmp_path.glob("events.*"):
            events.unlink()


def test_the_same_seed_is_the_same_run_whatever_the_machine_does_else(tmp_path):
    line = [
        sys.executable, "scripts/train.py", "flip_flop_attention_cpu", "--quiet", "--task.length", "16",
        "--task.test_reads", "50", "--model.width", "64", "--train.steps", "12", "--train.batch_size", "64",
        "--train.log_every", "1", "--train.save_every", "6", "--workdir",
    ]  # fmt: skip
    one_core = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); os.execv({sys.executable!r}, "
    for name, hashes in (("first", "1"), ("second", "2"), ("one core", "1")):
        words = [*line, str(tmp_path / name)]
        words = [sys.executable, "-c", f"{one_core}{words!r})"] if name == "one core" else words
        environment = {**os.environ, "PYTHONHASHSEED": hashes, "OMP_NUM_THREADS": hashes}
        subprocess.run(words, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=200)
    first, second, alone = (tmp_path / name for name in ("first", "second", "one core"))
    assert (first / METRICS).read_bytes() == (second / METRICS).read_bytes()
    assert (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    # The compiler cuts products by the number of cores, so their sums are rounded otherwise on another machine.
    losses = ([row["loss"] for row in read_rows(folder / METRICS) if "loss" in row] for folder in (first, alone))
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_every_test_that_the_page_of_faults_names_exists():
    named = re.findall(r"(tests/\w+\.py)::(\w+)", (ROOT / "docs" / "faults.md").read_text())
    assert len(named) > 50
    for path, test in named:
        assert f"\ndef {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
