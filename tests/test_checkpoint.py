"""Laws of checkpoints: what comes back is what was saved, or a step before it, or a sentence."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import assert_same

import lm.checkpoint
from lm.checkpoint import MANIFEST, UNGUARDED, Checkpoints
from lm.config import Guard, NextTokenLoss, Tempered
from lm.exits import Unusable, UserError
from lm.migrations import FORMAT, recipe_of_today
from lm.strict import from_json, to_json
from lm.train import fit
from lm.types import TrainState
from tasks.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"


def make_state(step: int, average: bool = False) -> TrainState:
    key_kernel, key_state = jax.random.split(jax.random.key(step))
    params = {
        "block": {"kernel": jax.random.normal(key_kernel, (16, 8)), "scale": jnp.full((8,), step, jnp.bfloat16)},
        "table": jnp.arange(step, step + 12).reshape(4, 3),
    }
    ema = jax.tree.map(lambda leaf: leaf + 1, params) if average else None
    return TrainState(jnp.int32(step), params, optax.adamw(1e-3).init(params), ema, key_state)


def abstract(state):
    return jax.eval_shape(lambda: state)


def save_steps(directory: Path, *steps: int, keep: int = 9) -> None:
    checkpoints = Checkpoints(directory, keep=keep)
    for step in steps:
        checkpoints.save(step, make_state(step), f'{{"recipe": {step}}}')
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the whole steps 1 and 2, to be copied."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_steps(directory, 1, 2)
    return directory


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("average", [False, True])
def test_what_is_saved_comes_back_although_the_state_was_donated(tmp_path, average):
    checkpoints = Checkpoints(tmp_path)
    state = make_state(3, average)
    checkpoints.save(3, state, '{"name": "x"}')
    jax.jit(lambda s: jax.tree.map(jnp.zeros_like, s._replace(key=None)), donate_argnums=0)(state)
    assert checkpoints.latest() == 3
    assert_same(checkpoints.restore(abstract(make_state(3, average))), make_state(3, average))
    assert checkpoints.recipe() == '{"name": "x"}'
    params = abstract(make_state(3).params)
    assert_same(checkpoints.restore_params(params), make_state(3).params)
    if average:
        assert_same(checkpoints.restore_params(params, average=True), make_state(3, True).ema)
    checkpoints.close()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("injury", [flip, truncate, Path.unlink])
def test_every_file_of_a_step_is_guarded(saved, tmp_path, injury):
    names = [path.relative_to(saved / "2") for path in (saved / "2").rglob("*") if path.is_file()]
    assert len(names) > 8
    for number, name in enumerate(names):
        directory = Path(shutil.copytree(saved, tmp_path / str(number)))
        injury(directory / "2" / name)
        before = sorted(directory.rglob("*"))
        log: list[str] = []
        checkpoints = Checkpoints(directory, log=log.append)
        expected = 2 if name.as_posix() in UNGUARDED - {MANIFEST} else 1
        assert checkpoints.latest() == expected, name
        assert sorted(directory.rglob("*")) == before, "reading must not touch the disk"
        assert (expected == 2) == (not log) and all(name.as_posix() in line for line in log)
        assert_same(checkpoints.restore(abstract(make_state(1))), make_state(expected))
        if expected == 1:
            with pytest.raises(Unusable, match="2 in .* is damaged"):
                checkpoints.restore(abstract(make_state(1)), step=2)


def test_training_goes_on_beside_what_was_set_aside(copy):
    flip(copy / "2" / "state" / "manifest.ocdbt")
    shutil.rmtree(copy / "2" / "meta")
    for stray in ("99", "98/state", "007", "-1", "3.5", "later"):
        (copy / stray).mkdir(parents=True)
    (copy / "97").write_text("not a step")
    checkpoints = Checkpoints(copy, log=lambda line: None)
    assert checkpoints.latest() == 1
    for step in (2, 3):
        checkpoints.save(step, make_state(step), "{}")
    assert checkpoints.latest() == 3
    checkpoints.close()
    assert (copy / "2.damaged" / "state" / "_METADATA").exists()
    names = {path.name for path in copy.iterdir()}
    assert names == {"1", "2", "3", "2.damaged", "97.stray", "98.stray", "99.stray", "007", "-1", "3.5", "later"}
    assert_same(Checkpoints(copy).restore(abstract(make_state(1)), step=2), make_state(2))


def test_nothing_whole_is_unusable_and_nothing_at_all_is_none(copy, tmp_path):
    assert Checkpoints(tmp_path / "never").latest() is None
    with pytest.raises(UserError, match="no checkpoint in"):
        Checkpoints(tmp_path / "never").restore(abstract(make_state(1)))
    with pytest.raises(UserError, match="no checkpoint 7 .*1, 2"):
        Checkpoints(copy).restore(abstract(make_state(1)), step=7)
    (tmp_path / "stray" / "5").mkdir(parents=True)
    log: list[str] = []
    assert Checkpoints(tmp_path / "stray", log=log.append).latest() is None
    assert log == ["checkpoint 5 is damaged and passed over: it holds no files"]
    for step in ("1", "2"):
        flip(copy / step / "meta" / "metadata")
    with pytest.raises(Unusable, match="is whole"):
        Checkpoints(copy, log=lambda line: None).latest()
    for step in ("1", "2"):
        (copy / step).rename(copy / f"{step}.damaged")
    with pytest.raises(Unusable, match="is whole"):
        Checkpoints(copy).latest()


def test_retention_keeps_the_newest_and_finishes_a_deletion_cut_short(copy):
    shutil.rmtree(copy / "1" / "state")
    (copy / "1" / MANIFEST).unlink()
    save_steps(copy, 3, keep=2)
    assert sorted(path.name for path in copy.iterdir()) == ["2", "3"]
    save_steps(copy, 4, 5, 6, keep=2)
    assert sorted(path.name for path in copy.iterdir()) == ["5", "6"]


def test_a_step_is_saved_once_and_forwards(copy):
    checkpoints = Checkpoints(copy)
    checkpoints.save(2, make_state(5), "{}")
    assert_same(checkpoints.restore(abstract(make_state(2)), step=2), make_state(2))
    with pytest.raises(UserError, match="step 0 lies before the newest checkpoint 2"):
        checkpoints.save(0, make_state(0), "{}")
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), r"kernel as float32\[16, 8\], .* bfloat16"),
        (lambda leaf: jax.ShapeDtypeStruct((16, 9), leaf.dtype), r"float32\[16, 8\], asked for was float32\[16, 9\]"),
        (lambda leaf: {"low": leaf}, "has no params/block/kernel/low .and 1 more"),
        (lambda leaf: None, "has params/block/kernel, which was not asked for"),
    ],
)
def test_another_tree_shape_or_type_is_refused(saved, change, words):
    target = abstract(make_state(2))
    target.params["block"]["kernel"] = change(target.params["block"]["kernel"])
    with pytest.raises(UserError, match=words):
        Checkpoints(saved).restore(target)
    with pytest.raises(UserError, match=words):
        Checkpoints(saved).restore_params(target.params)


def test_a_format_of_another_version_is_refused(copy):
    meta = copy / "2" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"format": 2', '"format": 99'))
    lm.checkpoint.seal(copy / "2")
    with pytest.raises(Unusable, match="checkpoint 2 has format 99, this version reads formats 1 to 2"):
        Checkpoints(copy).restore(abstract(make_state(2)))


def test_a_run_of_format_1_is_evaluated_and_goes_on(tmp_path, call):
    """The folder was written before states had a guard, when recipes named their objective by a word."""
    folder = Path(shutil.copytree(FIXTURES / "format_1", tmp_path / "run"))
    recipe = from_json((folder / "recipe.json").read_text(), KINDS, recipe_of_today)
    assert recipe.objective == NextTokenLoss() and recipe.train.guard == Guard()
    code, out, _ = call("evaluate", f"--workdir {folder}")
    assert code == 0 and json.loads(out)["step"] == 5
    result = fit(recipe, folder, resume="must", quiet=True)
    assert (int(result.state.guard.seen), int(result.state.guard.skipped)) == (5, 0)
    norm = float(optax.tree.norm(result.params))  # the other figures are of the version that wrote the folder
    np.testing.assert_allclose((result.summary["loss"], norm), (1.3345083, 5.0761867), rtol=1e-4)
    assert Checkpoints(folder / "checkpoints")._meta(10)["format"] == FORMAT
    assert from_json((folder / "recipe.json").read_text(), KINDS) == recipe


def test_a_recipe_of_format_1_that_gives_a_bare_length():
    recipe = from_json((FIXTURES / "tempered.json").read_text(), KINDS, recipe_of_today)
    assert recipe.model.tempered == Tempered(length=16)
    assert from_json(to_json(recipe), KINDS) == recipe


def test_a_failed_background_save_surfaces_and_harms_nothing(copy, monkeypatch):
    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(copy)
    with monkeypatch.context() as patch:
        patch.setattr(lm.checkpoint, "seal", full)
        checkpoints.save(3, make_state(3), "{}")
        while checkpoints._manager.is_saving_in_progress():
            pass
        with pytest.raises(Unusable, match="checkpoint 3 could not be written.*No space left"):
            checkpoints.check()
    checkpoints.check()
    assert checkpoints.latest() == 2
    checkpoints.save(4, make_state(4), "{}")
    assert checkpoints.latest() == 4
    checkpoints.close()


def run_child(code: str, *arguments: str, stderr: int | None = None, **environment: str) -> subprocess.Popen:
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n{code}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True
    )


KILLED = """
import time, lm.checkpoint
from test_checkpoint import Checkpoints, make_state
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(3, make_state(3), "{}")
checkpoints.wait()
if sys.argv[2] == "sealing":
    def seal(folder):
        print("now", flush=True)
        time.sleep(60)
    lm.checkpoint.seal = seal
    checkpoints.save(4, make_state(4), "{}")
else:
    checkpoints.save(4, make_state(4), "{}")
    print("now", flush=True)
time.sleep(60)
"""


def test_a_kill_during_a_save_costs_that_save_at_most(saved, tmp_path):
    children = {}
    for moment in ("sealing", "at once"):
        directory = Path(shutil.copytree(saved, tmp_path / moment))
        children[moment] = run_child(KILLED, str(directory), moment)
    for moment, child in children.items():
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
        child.communicate()
        checkpoints = Checkpoints(tmp_path / moment)
        step = checkpoints.latest()
        assert step == 3 if moment == "sealing" else step in (3, 4)
        assert_same(checkpoints.restore(abstract(make_state(0))), make_state(step))
        for step in (5, 6):
            checkpoints.save(step, make_state(step), "{}")
        assert checkpoints.latest() == 6
        checkpoints.close()
        assert not list((tmp_path / moment).glob("*tmp*"))


EIGHT = """
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
from test_checkpoint import Checkpoints, abstract, make_state
from trees import assert_same

assert jax.device_count() == 8
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
def place(leaf):
    spec = PartitionSpec("data", "fsdp") if leaf.shape == (16, 8) else PartitionSpec()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
checkpoints = Checkpoints(sys.argv[1])
state = checkpoints.restore(jax.tree.map(place, abstract(make_state(0))))
assert_same(state, make_state(2))
assert state.params["block"]["kernel"].addressable_shards[0].data.shape == (4, 4)
checkpoints.save(3, state, "{}")
checkpoints.close()
"""


def test_one_device_to_eight_and_back(copy):
    child = run_child(EIGHT, str(copy), JAX_NUM_CPU_DEVICES="8")
    child.communicate()
    assert child.returncode == 0
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest() == 3
    assert_same(checkpoints.restore(abstract(make_state(0))), make_state(2))


TWO = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=int(sys.argv[3]), initialization_timeout=60)
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_checkpoint import Checkpoints, abstract, flip, make_state

mesh = Mesh(np.array(jax.devices()).reshape(4), ("data",))
def place(leaf):
    spec = PartitionSpec("data") if leaf.shape == (16, 8) else PartitionSpec()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
target = jax.tree.map(place, abstract(make_state(0)))
state = jax.jit(lambda: make_state(3), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))()
first = Checkpoints(sys.argv[1])
first.save(3, state, "{}")
first.save(4, state, "{}")
first.close()
if jax.process_index() == 0:
    flip(next((first.directory / "4").rglob("ocdbt.process_1/d/*")))
multihost_utils.sync_global_devices("flipped")

log = []
again = Checkpoints(sys.argv[1], log=log.append)
assert again.latest() == 3
state = again.restore(target)
kernel = multihost_utils.process_allgather(state.params["block"]["kernel"], tiled=True)
np.testing.assert_array_equal(kernel, make_state(3).params["block"]["kernel"])
again.save(4, state, "{}")
again.close()
assert len(log) == (2 if jax.process_index() == 0 else 0), log
"""


def test_two_processes_agree_on_what_is_whole(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    children = [run_child(TWO, str(tmp_path), address, str(rank)) for rank in range(2)]
    try:
        for child in children:
            child.communicate(timeout=100)
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0]
    assert (tmp_path / "4.damaged").is_dir()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() == 4
    assert_same(checkpoints.restore(abstract(make_state(0))), make_state(3))
