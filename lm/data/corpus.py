"""A corpus of packed windows on disk: built once by a TFDS builder, read by position with Grain.

build_corpus(folder, "tinygsm", {"train": lambda: documents}, length=256, facts={"seed": 0})
batch = Corpus(folder, "train", batch_size=48, seed=0).at(step)

The folder holds facts.json (what the corpus was built from, and the sha256 of every other file) beside the
ArrayRecord files and their TFDS description. TensorFlow is not needed for either side.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm.data.packing import FIELDS, Document, pack
from lm.exits import Unusable, UserError
from lm.strict import ConfigError, nearest, require_positive
from lm.types import Example

FACTS = "facts.json"
VERSION = "1.0.0"

Splits = Mapping[str, Callable[[], Iterable[Document]]]


def build_corpus(folder: Path | str, name: str, splits: Splits, length: int, facts: Mapping[str, Any]) -> None:
    """Pack the documents of every split into windows of `length` tokens and write them to a new folder.

    The corpus is built beside `folder` and renamed into place, so a folder is complete or absent; a build that
    was cut off leaves `FOLDER.building-*`, which may be removed. A complete corpus with the same name, splits,
    length and facts is kept as it is. `facts` (JSON) is everything that decides the documents.
    Raises UserError where the folder holds something else, or where a split has no documents.
    """
    require_positive("length", length)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"the name of a corpus is lower case letters, digits and underscores, got {name!r}")
    folder = Path(folder)
    origin = json.loads(json.dumps({"name": name, "length": length, "splits": sorted(splits), "facts": dict(facts)}))
    if _is_built(folder, origin):
        return
    building = folder.with_name(f"{folder.name}.building-{uuid.uuid4().hex[:8]}")
    building.mkdir(parents=True)
    try:
        counts = _write_records(building, name, splits, length)
        files = {file.relative_to(building).as_posix(): _sha256(file) for file in building.rglob("*") if file.is_file()}
        description = {"origin": origin, "splits": counts, "files": dict(sorted(files.items()))}
        (building / FACTS).write_text(json.dumps(description, indent=1))
        try:
            os.rename(building, folder)
        except OSError:
            # Another process may have finished the same corpus first.
            if not _is_built(folder, origin):
                raise
    finally:
        if building.exists():
            shutil.rmtree(building)


class Corpus:
    """A split of a built corpus as batches by step, each a pure function of (files, batch_size, seed, step).

    Batches of `batch_size` windows follow one another through a permutation of all windows, another one in
    every epoch, and run over the borders of epochs. Opening verifies the sha256 of the split's files and raises
    Unusable with the name of a damaged or missing one.
    """

    def __init__(self, folder: Path | str, split: str, batch_size: int, seed: int):
        require_positive("batch_size", batch_size)
        if not 0 <= seed < 2**32:
            raise ConfigError(f"the seed of a corpus must lie in 0..{2**32 - 1}, got {seed}")
        import grain
        import tensorflow_datasets as tfds

        folder = Path(folder)
        self.facts = _read_facts(folder)
        if split not in self.facts["splits"]:
            known = ", ".join(self.facts["splits"])
            raise UserError(f"{folder} has no split {split!r}{nearest(split, known.split(', '))} (splits: {known})")
        name = self.facts["origin"]["name"]
        _verify(folder, self.facts["files"], other=[s for s in self.facts["splits"] if s != split])
        builder = tfds.builder_from_directory(folder / name / VERSION)
        windows = grain.MapDataset.source(builder.as_data_source(split))
        self.size = len(windows)
        # `seed` hashes the seed, `shuffle` adds the epoch to it: neighbouring seeds share no epoch.
        self._batches, self._ids = (
            each.seed(seed).shuffle().repeat().batch(batch_size)
            for each in (windows, grain.MapDataset.range(self.size))
        )

    def at(self, step: int) -> Example:
        """Return the global batch of a step: NumPy arrays [B, L] of `packing.FIELDS`."""
        return Example(**self._batches[int(step)], info={})

    def ids(self, step: int) -> list[int]:
        """Return which windows of the split the batch of a step holds."""
        return self._ids[int(step)].tolist()


def _write_records(folder: Path, name: str, splits: Splits, length: int) -> dict[str, dict[str, Any]]:
    import tensorflow_datasets as tfds

    counts: dict[str, dict[str, Any]] = {}

    def windows_of(split: str, documents: Callable[[], Iterable[Document]]) -> Iterator[tuple[int, Any]]:
        windows = used = 0
        for window in pack(documents(), length):
            yield windows, window
            windows += 1
            used += int(np.count_nonzero(window["segments"]))
        if not windows:
            raise UserError(f"split {split!r} of corpus {name!r} has no documents")
        counts[split] = {"windows": windows, "tokens": used, "fill": used / (windows * length)}

    # TFDS takes a class; made here, it closes over the documents and nothing imports TFDS before it is needed.
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version(VERSION)
        code_path = None  # else TFDS looks for this file with a package that it does not declare

        def _info(self):
            tensor = tfds.features.Tensor
            features = {field: tensor(shape=(length,), dtype=dtype) for field, dtype in FIELDS.items()}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {split: windows_of(split, documents) for split, documents in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError("the splits are generators already")

        def _log_download_bytes(self):
            """Say nothing: nothing is downloaded, and stdout belongs to the caller."""

        def _log_download_done(self):
            """Say nothing, as above."""

    Builder.name = name
    tfds.disable_progress_bar()
    downloads = folder / "downloads"
    Builder(data_dir=folder, file_format="array_record").download_and_prepare(download_dir=downloads)
    shutil.rmtree(downloads)
    return counts


def _is_built(folder: Path, origin: dict[str, Any]) -> bool:
    """Say whether the folder is this corpus; raise UserError where it is something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = _read_facts(folder)["origin"]
    for key in origin:
        if found.get(key) != origin[key]:
            raise UserError(
                f"{folder} holds another corpus ({key} {found.get(key)!r} there, {origin[key]!r} asked for): "
                "remove it or choose another folder"
            )
    return True


def _read_facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    if not folder.is_dir():
        raise UserError(f"no corpus at {folder}")
    try:
        facts = json.loads(path.read_bytes())
        origin, splits, files = facts["origin"], facts["splits"], facts["files"]
        if not (isinstance(origin["name"], str) and isinstance(splits, dict) and isinstance(files, dict)):
            raise ValueError("its fields have other types")
    except OSError as error:
        raise Unusable(f"{folder} is not a complete corpus: cannot read {path.name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Unusable(f"{path} is damaged: {error}; remove {folder} to build the corpus again") from None
    return facts


def _verify(folder: Path, files: Mapping[str, str], other: list[str]) -> None:
    """Raise Unusable unless every file, but for the records of the other splits, is as it was written."""
    for name, digest in files.items():
        if any(f"-{split}.array_record" in name for split in other):
            continue
        path = folder / name
        if not path.is_file():
            raise Unusable(f"{path} is missing; remove {folder} to build the corpus again")
        if _sha256(path) != digest:
            raise Unusable(f"{path} is damaged (sha256 other than in {FACTS}); remove {folder} to build it again")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
