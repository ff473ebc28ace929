"""Images: splits and wrong labels, changes that keep the label, patterns told apart, and what lies on disk."""

import io
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.data.images import cifar, digits, open_images, shuffled
from lm.exits import Unusable, UserError
from lm.losses import augmented
from lm.models import build
from lm.step import init_state, make_step
from lm.strict import ConfigError, override
from lm.train import fit, parts_of
from lm.types import Net, Outputs
from tasks.registry import RECIPES
from tasks.vision.augment import Augment, crop
from tasks.vision.digits import Digits
from tasks.vision.images import picture
from tasks.vision.shapes import KINDS, Shapes, patterns
from tasks.vision.stored import Cifar, ImageFolder, as_batch, standardised

COUNT = 20  # images of each file or class


def record(label, rng, width):
    """Return one record of CIFAR whose first pixel is its label."""
    pixels = rng.integers(0, 256, 3072).astype(np.uint8)
    pixels[0] = label
    return bytes([7] * (width - 1) + [label]) + pixels.tobytes()


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A folder with every kind of images on disk, small."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("disk"), np.random.default_rng(0)
    for folder, names, kinds, width in (
        ("cifar10", [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"], 10, 1),
        ("cifar100", ["train.bin", "test.bin"], 100, 2),
    ):
        (root / folder).mkdir()
        for name in names:
            labels = rng.integers(0, kinds, COUNT)
            (root / folder / name).write_bytes(b"".join(record(label, rng, width) for label in labels))
    for split in ("train", "val"):
        for label, kind in enumerate(("cat", "dog", "emu")):
            (root / "folder" / split / kind).mkdir(parents=True)
            (root / "folder" / split / kind / "notes.txt").write_text("no image")
            for i in range(COUNT // 5):
                pixels = np.full((30 + i, 40 - i, 3), 60 * label + i, np.uint8)
                Image.fromarray(pixels).save(root / "folder" / split / kind / f"{i}.png")
    return root


# Digits


def test_digits_split_into_parts_that_make_the_whole_and_only_training_labels_are_wrong():
    images, labels = digits()
    task = Digits(train_count=1000, label_noise=0.5)
    (train_x, train_y), (test_x, test_y) = task.split()
    rows = lambda x, y: sorted((a.tobytes(), int(b)) for a, b in zip(x, y, strict=True))  # noqa: E731
    (_, true_y), same_test = replace(task, label_noise=0.0).split()
    assert rows(np.concatenate([train_x, test_x]), np.concatenate([true_y, test_y])) == rows(images, labels)
    assert np.array_equal(same_test[1], test_y) and len(test_y) == task.test_count
    # Half are drawn anew, a tenth of these as they were.
    assert abs(np.mean(train_y != true_y) - 0.45) < 0.05
    assert np.array_equal(task.split()[0][1], train_y)
    assert not np.array_equal(replace(task, split_seed=1).split()[0][0], train_x)


# What happens to an image


def test_an_image_is_left_alone_where_nothing_is_asked_for():
    image = jnp.arange(48).reshape(4, 4, 3)
    assert np.array_equal(Augment()(jax.random.key(0), image), image)


def test_each_change_does_what_it_says():
    image = 1 + np.arange(60, dtype=np.uint8).reshape(5, 6, 2)
    keys = jax.random.split(jax.random.key(0), 200)
    shifted = np.asarray(jax.vmap(Augment(shift=1), (0, None))(keys, image))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    expected = {padded[i : i + 5, j : j + 6].tobytes() for i in range(3) for j in range(3)}
    assert {x.tobytes() for x in shifted} == expected and shifted.dtype == np.uint8
    flipped = np.asarray(jax.vmap(Augment(flip=True), (0, None))(keys, image))
    assert {x.tobytes() for x in flipped} == {image.tobytes(), image[:, ::-1].tobytes()}
    cut = np.asarray(jax.vmap(Augment(cutout=3), (0, None))(keys, image))
    holes = cut == 0
    assert np.array_equal(cut[~holes], np.broadcast_to(image, cut.shape)[~holes])
    assert set(holes.all(axis=-1).sum(axis=(1, 2)).tolist()) == {4, 6, 9}
    assert holes.any(axis=0).all()


def test_a_crop_is_a_part_of_the_image_at_the_asked_size():
    ramp = jnp.stack(jnp.meshgrid(jnp.arange(32.0), jnp.arange(32.0), indexing="ij"), axis=-1)
    keys = jax.random.split(jax.random.key(0), 50)
    parts = np.asarray(jax.vmap(lambda key: crop(key, ramp, 16, 0.25))(keys))
    assert parts.shape == (50, 16, 16, 2) and parts.min() >= -1e-3 and parts.max() <= 31 + 1e-3
    # Inside, a ramp stays one, nearly: the step between pixels is the share of the image times 32 / 16.
    steps = np.stack([np.diff(parts[:, 2:-2, 8, 0]), np.diff(parts[:, 8, 2:-2, 1])])
    assert np.abs(steps - steps.mean(axis=-1, keepdims=True)).max() < 0.25
    area = np.prod(steps.mean(axis=-1) / 2, axis=0)
    assert 0.2 < area.min() < 0.5 < area.max() <= 1.001


# Shapes


def test_patterns_of_one_size_differ_and_lie_within_it():
    side = 16
    for radius in range(side // 5, 2 * (side // 5) + 1):
        steps = jnp.arange(side) - 8
        found = np.asarray(patterns(steps[:, None], steps[None], radius)).astype(bool)
        assert len({x.tobytes() for x in found}) == len(KINDS)
        far = np.maximum(np.abs(steps)[:, None], np.abs(steps)[None]) > radius
        assert not found[:, far].any() and found.any(axis=(1, 2)).all()


def test_noise_has_the_strength_that_the_size_says():
    task = Shapes()
    keys = jax.random.split(jax.random.key(0), 100)
    plain, noisy = (jax.vmap(task.sample_test, (0, None))(keys, size) for size in (0, 80))
    assert np.array_equal(plain.targets, noisy.targets) and set(plain.targets.ravel().tolist()) == set(range(10))
    difference = np.asarray(noisy.inputs - plain.inputs)
    assert abs(difference.std() - 0.8) < 0.02 and abs(difference.mean()) < 0.02


def test_shapes_repeat_their_scenes_with_labels_that_may_be_wrong():
    task = Shapes(train_count=5, label_noise=1.0, kinds=4)
    batch = jax.vmap(task.sample, (0, None))(jax.random.split(jax.random.key(0), 100), 30)
    seen = {(x.tobytes(), int(y[0])) for x, y in zip(np.asarray(batch.inputs), batch.targets, strict=True)}
    assert len(seen) == 5
    clean = replace(task, label_noise=0.0)
    free = jax.vmap(replace(clean, train_count=None).sample, (0, None))(jax.random.split(jax.random.key(0), 100), 30)
    assert len(np.unique(np.asarray(free.inputs), axis=0)) == 100


# On disk


@pytest.mark.parametrize("kinds", [10, 100])
def test_cifar_is_read_as_it_was_written(disk, kinds):
    train, test = (cifar(disk / f"cifar{kinds}", split, kinds) for split in ("train", "test"))
    assert (train.size, test.size) == (100 if kinds == 10 else COUNT, COUNT)
    pixels, labels = test.read(np.arange(COUNT))
    content = (disk / f"cifar{kinds}" / ("test_batch.bin" if kinds == 10 else "test.bin")).read_bytes()
    third = np.frombuffer(content, np.uint8).reshape(COUNT, -1)[2, -3072:]
    assert pixels.shape == (COUNT, 32, 32, 3) and np.array_equal(pixels[:, 0, 0, 0], labels)
    assert np.array_equal(pixels[2, 1, 5], [third[37], third[1024 + 37], third[2048 + 37]])


def test_a_folder_of_classes_is_read_by_position(disk):
    train = open_images(disk / "folder", "train", side=16)
    test = open_images(disk / "folder", "test", side=16)
    assert train.names == ("cat", "dog", "emu") and train.size == test.size == 3 * (COUNT // 5)
    pixels, labels = train.read(np.array([11, 0, 5]))
    assert labels.tolist() == [2, 0, 1] and pixels.shape == (3, 16, 16, 3)
    assert pixels[:, 8, 8, 1].tolist() == [123, 0, 61]


def test_a_tfds_directory_is_read_by_position(disk, tmp_path):
    import tensorflow_datasets as tfds
    from PIL import Image

    def rows():
        for i in range(6):
            file = io.BytesIO()
            Image.fromarray(np.full((20, 30), 40 * i, np.uint8)).save(file, "png")
            file.seek(0)
            yield i, {"image": file, "label": "ab"[i % 2]}

    class Tones(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None

        def _info(self):
            image = tfds.features.Image(shape=(None, None, 1))
            features = {"image": image, "label": tfds.features.ClassLabel(names=["a", "b"])}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": rows(), "test": rows()}

        def _generate_examples(self):
            raise NotImplementedError

    tfds.disable_progress_bar()
    Tones(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    images = open_images(tmp_path / "tones" / "1.0.0", "test", side=8)
    pixels, labels = images.read(np.arange(6))
    assert images.names == ("a", "b") and pixels.shape == (6, 8, 8, 3)
    assert sorted(zip(pixels[:, 4, 4, 0].tolist(), labels.tolist(), strict=True)) == [(40 * i, i % 2) for i in range(6)]


def test_an_epoch_takes_every_image_once_and_a_step_is_always_the_same():
    order, again = (shuffled(10, 5, seed=3) for _ in range(2))
    epochs = [np.concatenate([order(2 * epoch), order(2 * epoch + 1)]) for epoch in range(3)]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1]) and np.array_equal(again(3), epochs[1][5:])


def oracle(right):
    """Return a net that reads the label from the first pixel and is right for labels below `right`."""

    def apply(params, batch, key=None):
        label = jnp.round((batch.inputs[:, 0, 0, 0] + 2) * 64).astype(jnp.int32)
        return Outputs(jax.nn.one_hot(jnp.where(label < right, label, (label + 1) % 10), 10)[:, None])

    return Net(lambda key: {}, apply)


def test_stored_images_are_examined_each_once(disk, monkeypatch):
    monkeypatch.setattr("tasks.vision.stored.READ", 8)  # 20 test images: the last block is not full
    recipe = override(RECIPES["cifar10_resnet20_full"](), {"task.folder": str(disk / "cifar10")})
    source = recipe.task.source(recipe, disk)
    labels = cifar(disk / "cifar10", "test", 10).read(np.arange(COUNT))[1]
    for right in (10, 5):
        figures = source.evaluate(oracle(right), {}, jax.random.key(0)).metrics["exact_match"]
        assert (figures.count, figures.value) == (COUNT, np.mean(labels < right))
    broken = Net(lambda key: {}, lambda params, batch, key=None: Outputs(jnp.full((8, 1, 10), jnp.nan)))
    assert source.evaluate(broken, {}, jax.random.key(0)).metrics["top_5"].value == 0


def test_stored_training_images_are_chosen_and_mislabelled_by_the_split_seed(disk):
    task = Cifar(folder=str(disk / "cifar10"), train_count=30, label_noise=0.5)
    recipe = override(RECIPES["cifar10_resnet20_full"](), {"task": task, "train.batch_size": 30})
    first, second = (recipe.task.source(recipe, disk).at(step) for step in (0, 1))
    rows = [
        sorted((x.tobytes(), int(y)) for x, y in zip(b.inputs, b.targets[:, 0], strict=True)) for b in (first, second)
    ]
    assert rows[0] == rows[1] and first.inputs.dtype == np.uint8
    wrong = np.mean(first.inputs[:, 0, 0, 0] != first.targets[:, 0])
    assert 0.2 < wrong < 0.5
    finished = task.finish(jax.random.key(0), as_batch(first.inputs, first.targets[:, 0]))
    assert np.array_equal(finished.inputs, standardised(jnp.asarray(first.inputs)))


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("cifar", "imagenet"))])
def test_recipes_for_images_on_disk_take_a_step(name, disk):
    recipe = RECIPES[name]()
    photographs = isinstance(recipe.task, ImageFolder)
    changes = {"task.kinds": 3, "model.classes": 3} if photographs else {}
    folder = disk / ("folder" if photographs else "cifar10")
    recipe = override(recipe, {"task.folder": str(folder), "train.batch_size": 4, **changes})
    source, net = recipe.task.source(recipe, disk), build(recipe.model)
    objective, optimizer, average = parts_of(recipe)
    state = jax.eval_shape(lambda: init_state(net, optimizer, jax.random.key(0), average))
    step = make_step(net, augmented(objective, source.augment), optimizer)
    after, metrics = jax.eval_shape(step, state, source.at(0))
    assert jax.tree.structure(after) == jax.tree.structure(state) and metrics["loss"].sum.shape == ()


def test_a_run_on_stored_images_resumes_bit_for_bit(disk, tmp_path):
    small = {"model.depth": 0, "model.groups": 1, "model.width": 4, "task.augment.shift": 2}
    run = {"train.steps": 4, "train.batch_size": 4, "train.save_every": 2, "train.evaluate_every": None}
    recipe = override(RECIPES["cifar10_resnet20_full"](), {"task.folder": str(disk / "cifar10"), **small, **run})
    straight = fit(recipe, tmp_path / "straight", quiet=True)
    for until in (2, None):
        stopped = fit(recipe, tmp_path / "stopped", until=until, quiet=True)
    jax.tree.map(np.testing.assert_array_equal, straight.state.params, stopped.state.params)
    assert straight.evaluation.examples[0]["question"].count("\n") == 31


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda d: Cifar().show(0, 0, 32), ConfigError, "task.folder must name the folder"),
        (lambda d: cifar(d / "cifar100", "train", 10), UserError, "missing: data_batch_1.bin"),
        (lambda d: cifar(d / "absent", "test", 100), UserError, "missing: test.bin"),
        (lambda d: cifar(d / "broken", "test", 100), Unusable, "test.bin is damaged: 10 bytes"),
        (lambda d: cifar(d / "other", "test", 10), Unusable, "damaged: a label of 200"),
        (lambda d: open_images(d / "absent", "train", 8), UserError, "no folder"),
        (lambda d: open_images(d / "cifar10", "train", 8), UserError, "has no split train"),
        (lambda d: open_images(d / "empty", "train", 8), UserError, "holds no images"),
        (lambda d: open_images(d / "torn", "train", 8).read(np.array([0])), Unusable, "a.png is damaged"),
        (lambda d: ImageFolder(folder=str(d / "folder"), pixels=8).show(0, 0, 8), ConfigError, "has 3 kinds"),
    ],
)
def test_missing_or_damaged_images_are_one_sentence(make, error, said, disk):
    for name, path, content in (
        ("broken", "test.bin", b"0123456789"),
        ("other", "test_batch.bin", bytes([200] * 3073)),
        ("empty", "train/a/b.txt", b""),
        ("torn", "train/a/a.png", b"no image"),
    ):
        (disk / name / path).parent.mkdir(parents=True, exist_ok=True)
        (disk / name / path).write_bytes(content)
    with pytest.raises(error, match=said):
        make(disk)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.classes": 9}, "the model tells 9 kinds apart, cifar has 10"),
        ({"task.train_count": 101}, "task.train_count is 101, .* has 100 training images"),
    ],
)
def test_recipes_that_do_not_fit_the_images_are_refused(changes, said, disk):
    recipe = override(RECIPES["cifar10_resnet20_full"](), {"task.folder": str(disk / "cifar10"), **changes})
    with pytest.raises(ConfigError, match=said):
        recipe.task.source(recipe, disk)


@pytest.mark.parametrize(("package", "read"), [("sklearn.datasets", digits), ("PIL", None)])
def test_a_missing_package_is_named_with_its_extra(package, read, disk, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'cambium-lm\[vision\]'"):
        digits() if read else open_images(disk / "folder", "train", 8).read(np.array([0]))


def test_a_wide_picture_is_thinned_out():
    lines = picture(np.arange(100 * 100).reshape(100, 100, 1)).splitlines()
    assert len(lines) == 25 and {len(line) for line in lines} == {50} and lines[0][0] == "," and lines[-1][-1] == "@"
