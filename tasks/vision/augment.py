"""Changes of a training image that leave its label alone, drawn on the device from a key."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lm.strict import ConfigError
from lm.types import Array, Key


def crop(key: Key, image_HWC: Array, side: int, least_area: float) -> Array:
    """Return a part of a square image, of `least_area` to all of it and 3/4 to 4/3 as wide as high, at this size.

    Szegedy et al. 2015; areas are uniform and shapes log-uniform. A part too long for the image ends at its border.
    """
    key_area, key_shape, key_place = jax.random.split(key, 3)
    area = jax.random.uniform(key_area, minval=least_area, maxval=1.0)
    shape = jnp.exp(jax.random.uniform(key_shape, minval=-1.0, maxval=1.0) * jnp.log(4 / 3))
    share_2 = jnp.minimum(jnp.sqrt(area * jnp.stack([shape, 1 / shape])), 1.0)
    corner_2 = jax.random.uniform(key_place, (2,)) * (1 - share_2)
    scale_2 = side / (image_HWC.shape[0] * share_2)
    start_2 = -corner_2 * side / share_2
    whole = (side, side, image_HWC.shape[2])
    return jax.image.scale_and_translate(image_HWC.astype(jnp.float32), whole, (0, 1), scale_2, start_2, "linear")


@dataclass(frozen=True)
class Augment:
    """What may happen to an image [H, W, C] before it is standardised; zeros come in where the image has left."""

    shift: int = 0  # most pixels that the image moves, either way along both axes
    flip: bool = False  # left and right change places in every second image
    cutout: int = 0  # side of a square of zeros at any place (DeVries and Taylor 2017)

    def __post_init__(self):
        for name in ("shift", "cutout"):
            if getattr(self, name) < 0:
                raise ConfigError(f"task.augment.{name} must not be negative, got {getattr(self, name)}")

    def __call__(self, key: Key, image_HWC: Array) -> Array:
        """Return the image as one key changes it."""
        key_shift, key_flip, key_cutout = jax.random.split(key, 3)
        height, width, _ = image_HWC.shape
        if self.shift:
            border = (self.shift, self.shift)
            start = jax.random.randint(key_shift, (2,), 0, 2 * self.shift + 1)
            padded = jnp.pad(image_HWC, (border, border, (0, 0)))
            image_HWC = jax.lax.dynamic_slice(padded, (*start, 0), image_HWC.shape)
        if self.flip:
            image_HWC = jnp.where(jax.random.bernoulli(key_flip), image_HWC[:, ::-1], image_HWC)
        if self.cutout:
            # The centre is any pixel, so that a square at the border is cut off.
            corner = jax.random.randint(key_cutout, (2,), 0, jnp.array([height, width])) - self.cutout // 2
            rows, columns = (jnp.arange(n) - c for n, c in zip((height, width), corner, strict=True))
            inside = (rows >= 0) & (rows < self.cutout), (columns >= 0) & (columns < self.cutout)
            image_HWC = jnp.where((inside[0][:, None] & inside[1][None])[..., None], 0, image_HWC)
        return image_HWC
