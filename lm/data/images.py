"""Labelled images on disk."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lm.exits import UserError


class Pictures(NamedTuple):
    """Images [n, H, W, C] of bytes and their labels [n] below the number of `names`."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


def digits() -> Pictures:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 x 1 with values 0 to 16 (Alpaydin and Kaynak 1998)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("the digits come with scikit-learn: pip install 'cambium-lm[vision]'") from None
    found = load_digits()
    return Pictures(found.images.astype(np.uint8)[..., None], found.target.astype(np.int32), tuple("0123456789"))
