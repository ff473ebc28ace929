"""What tasks about images share: one label an image, pictures as text, a split with wrong labels on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lm.exits import UserError
from lm.strict import ConfigError
from lm.types import Array, Example, Mean, Source
from tasks.score import exact_match
from tasks.task import Task

RAMP = ",:-=+*#%@"  # from dark to light; a line of dots would be a prompt to doctest
WIDEST = 32  # columns of a picture as text


@dataclass(frozen=True)
class Images(Task):
    """Images [H, W, C] of one kind in `vocabulary` each. A subclass has `names`, the names of the kinds."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the kinds, by label."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        return len(self.names)

    @property
    def max_length(self) -> int:
        """Predictions for an image."""
        return 1

    def ask(self, image_HWC: Array, label: Array, size: Array | int) -> Example:
        """Return the question what kind of image this is; the image is standardised already."""
        return Example(
            inputs=image_HWC.astype(jnp.float32),
            targets=jnp.asarray(label, jnp.int32)[None],
            weights=jnp.ones(1),
            positions=jnp.zeros(1, jnp.int32),
            info={"size": jnp.asarray(size)},
        )

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array | Mean]:
        return {"exact_match": exact_match(predictions_L, example)}

    def check_classes(self, recipe: Any) -> None:
        """Raise ConfigError where the recipe's model has fewer outputs than there are kinds."""
        classes = getattr(recipe.model, "classes", getattr(recipe.model, "outputs", self.vocabulary))
        if classes < self.vocabulary:
            raise ConfigError(f"the model tells {classes} kinds apart, {self.name} has {self.vocabulary}")

    def source(self, recipe: Any, folder: Path) -> Source:
        self.check_classes(recipe)
        return super().source(recipe, folder)

    def render(self, example: Example) -> str:
        return picture(np.asarray(example.inputs))

    def spell(self, tokens: Sequence[int]) -> str:
        return " ".join(self.names[t] for t in map(int, tokens))

    def read(self, text: str) -> list[int]:
        raise UserError(f"{self.name} asks about images, which cannot be given as text")


def picture(image_HWC: np.ndarray) -> str:
    """Return an image as lines of text, two characters a pixel, its darkest value `,` and its lightest `@`."""
    step = -(-image_HWC.shape[1] // WIDEST)
    grey_HW = image_HWC[::step, ::step].mean(axis=-1)
    low, high = grey_HW.min(), grey_HW.max()
    level_HW = np.rint((grey_HW - low) / max(high - low, 1e-9) * (len(RAMP) - 1)).astype(int)
    return "\n".join("".join(2 * RAMP[level] for level in row) for row in level_HW)


def wrong_labels(count: int, share: float, kinds: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random label, maybe the right one, for this share of `count` images, and -1 for all others."""
    places = rng.permutation(count)[: round(share * count)]
    labels_N = np.full(count, -1, np.int32)
    labels_N[places] = rng.integers(kinds, size=len(places))
    return labels_N
