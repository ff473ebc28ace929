"""Images that the user has on disk: CIFAR, one folder a class as ImageNet's, or a directory that TFDS prepared.

They are read on the host by position, so the whole state of the data is the step; what is random about them, and their
standardisation, happens on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import RESNETS, OptimizerConfig, Recipe, TrainConfig
from lm.data import images as disk
from lm.evaluate import SHOWN, rate
from lm.strict import ConfigError, require_choice, require_positive
from lm.types import Array, Batch, Evaluation, Example, Key, Net, Params, Source
from tasks.vision.augment import Augment, crop
from tasks.vision.images import Images, picture, wrong_labels

CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
READ = 256  # test images at a time


@dataclass(frozen=True)
class Stored(Images):
    """Images in a `folder`. `train_count` of the training images (None: all), chosen by `split_seed`, are trained on.

    A share `label_noise` of the training labels is replaced by random ones; test labels are the true ones.
    """

    size_name: ClassVar[str] = "pixels"

    folder: str | None = None
    kinds: int = 10
    train_count: int | None = None
    label_noise: float = 0.0
    split_seed: int = 0
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self):
        require_positive("task.kinds", self.kinds)
        require_positive("task.train_count", 1 if self.train_count is None else self.train_count)
        if not 0 <= self.label_noise <= 1:
            raise ConfigError(f"task.label_noise must lie in 0..1, got {self.label_noise}")

    @property
    def side(self) -> int:
        """Pixels of an image as the model sees it, along each axis."""
        raise NotImplementedError

    def open(self, split: str) -> disk.Images:
        """Return the `train` or `test` images on disk."""
        raise NotImplementedError

    def alter(self, key: Key, image_HWC: Array) -> Array:
        """Return a training image as one key changes it."""
        return self.augment(key, image_HWC)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.kinds)))

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return (self.side,)

    def show(self, seed: int, index: int, size: int) -> str:
        images = self._opened("test")
        pixels_BHWC, labels_B = images.read(np.array([index % images.size]))
        return f"{picture(self.middle(pixels_BHWC)[0])}\n-> {images.names[labels_B[0]]}"

    def source(self, recipe: Recipe, folder: Path) -> Source:
        """Read the training images by position; examine all test images."""
        self.check_classes(recipe)
        train, test = self._opened("train"), self._opened("test")
        rng, count = np.random.default_rng(self.split_seed), self.train_count or train.size
        if count > train.size:
            raise ConfigError(f"task.train_count is {count}, {self.folder} has {train.size} training images")
        chosen_N = np.sort(rng.permutation(train.size)[:count])
        wrong_N = wrong_labels(count, self.label_noise, self.kinds, rng)
        order = disk.shuffled(count, recipe.train.batch_size, recipe.train.seed)

        def at(step: int) -> Batch:
            places_B = order(step)
            pixels_BHWC, labels_B = train.read(chosen_N[places_B])
            return as_batch(pixels_BHWC, np.where(wrong_N[places_B] < 0, labels_B, wrong_N[places_B]))

        return Source(
            draw=None,
            at=at,
            evaluate=partial(self._examine, test),
            facts={"train": train.facts, "test": test.facts},
            augment=self.finish,
            ids=lambda step: chosen_N[order(step)].tolist(),
        )

    def finish(self, key: Key, batch: Batch) -> Batch:
        """Return a training batch of bytes altered, image by image, and standardised."""
        images_BHWC = jax.vmap(self.alter)(jax.random.split(key, batch.inputs.shape[0]), batch.inputs)
        return batch._replace(inputs=standardised(images_BHWC))

    def middle(self, pixels_BHWC: np.ndarray) -> np.ndarray:
        """Return the central part of images, [B, side, side, C]."""
        border = (pixels_BHWC.shape[1] - self.side) // 2
        inside = slice(border, border + self.side)
        return pixels_BHWC[:, inside, inside]

    def _opened(self, split: str) -> disk.Images:
        if self.folder is None:
            raise ConfigError(f"task.folder must name the folder with the images of {self.name}, got None")
        images = self.open(split)
        if len(images.names) != self.kinds:
            raise ConfigError(f"task.kinds is {self.kinds}, {self.folder} has {len(images.names)} kinds of images")
        return images

    def _examine(self, test: disk.Images, net: Net, params: Params, key: Key) -> Evaluation:
        block, counts, examples = min(READ, test.size), np.zeros(2), []
        for start in range(0, test.size, block):
            # One shape, one program: the last block is filled up with its last image, which is not counted.
            indices_B = np.minimum(np.arange(start, start + block), test.size - 1)
            pixels_BHWC, labels_B = test.read(indices_B)
            pixels_BHWC = self.middle(pixels_BHWC)
            ranks_B, predictions_B = jax.device_get(_ranks(net, params, as_batch(pixels_BHWC, labels_B)))
            counted_B = np.arange(start, start + block) < test.size
            counts += [np.sum(counted_B & (ranks_B < best)) for best in (1, 5)]
            for i in range(SHOWN if start == 0 else 0):
                target, prediction = test.names[labels_B[i]], test.names[predictions_B[i]]
                asked = {"question": picture(pixels_BHWC[i]), "target": target, "prediction": prediction}
                examples.append({**asked, "right": target == prediction})
        names = ("exact_match", "top_5")
        rates = {name: rate(float(count), test.size) for name, count in zip(names, counts, strict=True)}
        return Evaluation(rates, {}, examples)


@partial(jax.jit, static_argnums=0)
def _ranks(net: Net, params: Params, batch: Batch) -> tuple[Array, Array]:
    """Return how many kinds score at least as high as the right one, and the best one, [B] each."""
    logits_BV = net.apply(params, batch._replace(inputs=standardised(batch.inputs)), None).logits[:, 0]
    right_B1 = jnp.take_along_axis(logits_BV, batch.targets, axis=1)
    # What is not a number counts as higher: a broken model is never right.
    return jnp.sum(~(logits_BV < right_B1), axis=1) - 1, jnp.argmax(logits_BV, axis=1)


def as_batch(pixels_BHWC: np.ndarray, labels_B: np.ndarray) -> Batch:
    """Return images and labels as the question what kind of image each is."""
    labels_B1 = labels_B[:, None].astype(np.int32)
    return Example(pixels_BHWC, labels_B1, np.ones(labels_B1.shape, np.float32), np.zeros_like(labels_B1), {})


def standardised(images: Array) -> Array:
    """Return bytes as numbers of mean near 0 and standard deviation near 1, as photographs have them."""
    return images.astype(jnp.float32) / 64 - 2


@dataclass(frozen=True)
class Cifar(Stored):
    """CIFAR-10, or CIFAR-100 with `kinds` 100, from its binary files (Krizhevsky 2009)."""

    name: ClassVar[str] = "cifar"

    def __post_init__(self):
        super().__post_init__()
        require_choice("task.kinds", str(self.kinds), ("10", "100"))

    @property
    def side(self) -> int:
        return 32

    @property
    def names(self) -> tuple[str, ...]:
        return CIFAR_10 if self.kinds == 10 else super().names

    def open(self, split: str) -> disk.Images:
        assert self.folder is not None
        return disk.cifar(self.folder, split, self.kinds)._replace(names=self.names)


@dataclass(frozen=True)
class ImageFolder(Stored):
    """Photographs in train/CLASS/ and test/CLASS/ (or val/), or prepared by TFDS, as squares of `pixels`.

    In training a part of at least `least_area` of the central square is enlarged; in tests the middle of it is seen.
    """

    name: ClassVar[str] = "image_folder"

    kinds: int = 1000
    pixels: int = 224
    least_area: float = 0.25

    @property
    def side(self) -> int:
        return self.pixels

    def open(self, split: str) -> disk.Images:
        assert self.folder is not None
        return disk.open_images(self.folder, split, self.pixels * 8 // 7)

    def alter(self, key: Key, image_HWC: Array) -> Array:
        key_crop, key_augment = jax.random.split(key)
        return self.augment(key_augment, crop(key_crop, image_HWC, self.pixels, self.least_area))


def cifar10_resnet20_full() -> Recipe:
    """ResNet-20 on CIFAR-10 as He et al. 2015 train it: error 8.75 % in the paper.

    SGD with momentum 0.9, batch 128, 64,000 steps, shifts by 4 pixels and flips. The paper's decay of 1e-4 goes through
    the momentum, which makes it ten times as strong as the decay beside it here; the rate falls along a cosine, where
    the paper divides it by 10 twice. Give --task.folder DIR.
    python scripts/train.py cifar10_resnet20_full
    """
    return Recipe(
        name="cifar10_resnet20_full",
        task=Cifar(augment=Augment(shift=4, flip=True)),
        model=RESNETS["resnet20"],
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.1,
            warmup_steps=400,
            final_fraction=0.0,
            beta1=0.9,
            weight_decay=1e-3,
            clip=None,
        ),
        train=TrainConfig(steps=64_000, batch_size=128, log_every=200, save_every=4000, evaluate_every=8000),
    )


def cifar10_resnet56_full() -> Recipe:
    """ResNet-56 on CIFAR-10, trained as ResNet-20: error 6.97 % in the paper (He et al. 2015). Give --task.folder DIR.

    python scripts/train.py cifar10_resnet56_full
    """
    return replace(cifar10_resnet20_full(), name="cifar10_resnet56_full", model=RESNETS["resnet56"])


def cifar10_wrn_full() -> Recipe:
    """WRN-28-10 on CIFAR-10 (Zagoruyko and Komodakis 2016): error 4.0 % in the paper. Give --task.folder DIR.

    200 epochs of batch 128 and five times ResNet-20's decay; plain momentum and a cosine where the paper has Nesterov's
    and steps.
    python scripts/train.py cifar10_wrn_full
    """
    small = cifar10_resnet20_full()
    return replace(
        small,
        name="cifar10_wrn_full",
        model=RESNETS["wrn_28_10"],
        optimizer=replace(small.optimizer, weight_decay=5e-3),
        train=replace(small.train, steps=78_200),
    )


def imagenet_resnet50_full() -> Recipe:
    """ResNet-50 on ImageNet for 90 epochs (Goyal et al. 2017): error 23.7 % in the paper. Give --task.folder DIR.

    Batch 256 at rate 0.1 after five epochs of warm-up, momentum and decay as for CIFAR-10, parts and flips of
    photographs.
    python scripts/train.py imagenet_resnet50_full
    """
    small = cifar10_resnet20_full()
    return replace(
        small,
        name="imagenet_resnet50_full",
        task=ImageFolder(augment=Augment(flip=True)),
        model=RESNETS["resnet50"],
        optimizer=replace(small.optimizer, warmup_steps=25_000),
        train=replace(small.train, steps=450_000, batch_size=256, steps_per_dispatch=1, save_every=5000),
    )
