"""Maps from parameters to parameters: averages, and wrappers over a net that know nothing of the model."""

from lm.transforms.ema import Average, ema

__all__ = ["Average", "ema"]
