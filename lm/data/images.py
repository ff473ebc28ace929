"""Labelled images on disk, read by position: scikit-learn's digits, CIFAR, one folder a class, TFDS directories.

    images = open_images("imagenet", "train", side=256)
    pixels_BHWC, labels_B = images.read(shuffled(images.size, batch_size=256, seed=0)(step))

Each reader raises UserError where files are missing and Unusable where one is damaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.exits import Unusable, UserError

ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp")
CIFAR_10 = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
CIFAR_100 = {"train": ("train.bin",), "test": ("test.bin",)}


class Images(NamedTuple):
    """A split: `read` (indices [B]) -> images [B, H, W, C] of bytes and labels [B], which are places in `names`."""

    size: int
    names: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    facts: dict[str, Any]


def shuffled(size: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """Return step -> indices [B]: batches through a permutation of all, another one in every epoch."""
    import grain

    batches = grain.MapDataset.range(size).seed(seed).shuffle().repeat().batch(batch_size)
    return lambda step: np.asarray(batches[int(step)])


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits: images [1797, 8, 8, 1] with values 0 to 16, labels [1797].

    Alpaydin and Kaynak 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn: pip install 'cambium-lm[vision]'") from None
    found = load_digits()
    return found.images.astype(np.uint8)[..., None], found.target.astype(np.int32)


def cifar(folder: Path | str, split: str, kinds: int) -> Images:
    """Return a split of CIFAR-10 or CIFAR-100 (Krizhevsky 2009) from its binary files, whole in memory.

    A record is one label byte, coarse and fine ones in CIFAR-100, and 32 x 32 pixels, plane by plane.
    """
    folder, files = Path(folder), (CIFAR_10 if kinds == 10 else CIFAR_100)[split]
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(f"task.folder: {folder} must hold CIFAR-{kinds}'s binary files; missing: {', '.join(missing)}")
    labels_width = 1 if kinds == 10 else 2
    contents = [(folder / name).read_bytes() for name in files]
    for name, content in zip(files, contents, strict=True):
        if not content or len(content) % (labels_width + 3072):
            raise Unusable(f"{folder / name} is damaged: {len(content)} bytes are no whole records of CIFAR-{kinds}")
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, labels_width + 3072)
    labels = records[:, labels_width - 1].astype(np.int32)
    if labels.max() >= kinds:
        raise Unusable(f"{folder} is damaged: a label of {labels.max()} in CIFAR-{kinds}")
    planes = records[:, labels_width:].reshape(-1, 3, 32, 32)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in zip(files, contents, strict=True)}
    return Images(
        size=len(records),
        names=tuple(map(str, range(kinds))),
        read=lambda indices: (planes[indices].transpose(0, 2, 3, 1), labels[indices]),
        facts={"images": len(records), "sha256": sums},
    )


def open_images(folder: Path | str, split: str, side: int) -> Images:
    """Return the `train` or `test` split of a folder as squares of `side` pixels, three channels, decoded when read.

    The folder is one that TFDS prepared, or holds train/CLASS/*.jpeg and test/CLASS/*.jpeg. Where there is no
    split `test` it is called `val` or `validation`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"task.folder: no folder {folder}")
    return _tfds(folder, split, side) if (folder / "dataset_info.json").is_file() else _classes(folder, split, side)


def _classes(folder: Path, split: str, side: int) -> Images:
    """Return a split of a folder with one sub-folder a class."""
    found = [path.name for path in folder.iterdir() if path.is_dir()]
    root = folder / _name_of(split, found, folder)
    names = tuple(sorted(path.name for path in root.iterdir() if path.is_dir()))
    files = [(p, k) for k, name in enumerate(names) for p in sorted((root / name).iterdir())]
    files = [(path, label) for path, label in files if path.suffix.lower() in ENDINGS]
    if not files:
        raise UserError(f"task.folder: {root} holds no images in folders of classes ({', '.join(ENDINGS)})")

    def load(index: int) -> tuple[np.ndarray, int]:
        image, (path, label) = _pillow(), files[index]
        try:
            with image.open(path) as opened:
                return _square(opened, side), label
        except OSError as error:
            raise Unusable(f"{path} is damaged: {error}") from None

    listing = "\n".join(f"{path.relative_to(root)} {path.stat().st_size}" for path, _ in files)
    facts = {"images": len(files), "sha256_of_names_and_sizes": hashlib.sha256(listing.encode()).hexdigest()}
    return Images(len(files), names, _reader(load), facts)


def _tfds(folder: Path, split: str, side: int) -> Images:
    """Return a split of a prepared TFDS dataset with the features `image` and `label`, in a format read by position."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise UserError(f"task.folder: {folder} has no features image and label (features: {', '.join(features)})")
    try:
        rows = builder.as_data_source(_name_of(split, list(builder.info.splits), folder))
    except NotImplementedError as error:
        raise UserError(f"task.folder: {folder} cannot be read by position: {error}") from None

    def load(index: int) -> tuple[np.ndarray, int]:
        row = rows[index]
        return _square(_pillow().fromarray(np.squeeze(row["image"])), side), row["label"]

    facts = {"images": len(rows), "tfds": builder.info.full_name}
    return Images(len(rows), tuple(features["label"].names), _reader(load), facts)


def _name_of(split: str, found: list[str], folder: Path) -> str:
    """Return what this folder calls a split."""
    names = (split,) if split == "train" else (split, "val", "validation")
    name = next((name for name in names if name in found), None)
    if name is None:
        shown = ", ".join(sorted(found)[:5]) or "nothing"
        raise UserError(f"task.folder: {folder} has no split {' or '.join(names)} (found: {shown})")
    return name


def _reader(load: Callable[[int], tuple[np.ndarray, int]]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a `read` that loads images side by side: decoding leaves the interpreter free."""

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with ThreadPoolExecutor() as pool:
            images, labels = zip(*pool.map(load, map(int, indices)), strict=True)
        return np.stack(images), np.array(labels, np.int32)

    return read


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise UserError("images are decoded by Pillow: pip install 'cambium-lm[vision]'") from None
    return Image


def _square(image: Any, side: int) -> np.ndarray:
    """Return the largest central square of an image at this size, [side, side, 3]."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR))
