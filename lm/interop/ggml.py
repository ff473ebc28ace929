"""The number formats of GGUF tensors: blocks of bytes become float32.

weights = decode_blocks(FORMATS[3], buffer, count=4096)  # Q4_1

Letters of this file: B blocks, S bytes of a block, W weights of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

SUPER = 256  # weights of a block of the K formats
CHUNK = 1 << 14  # blocks decoded at a time, so that intermediate arrays stay in the cache


class Format(NamedTuple):
    """How `weights` numbers lie in `size` bytes; `decode` maps uint8 [B, S] to float32 [B, W]."""

    name: str
    weights: int
    size: int
    decode: Callable[[np.ndarray], np.ndarray]


def decode_blocks(form: Format, data: np.ndarray, count: int) -> np.ndarray:
    """Return `count` weights as float32 from the uint8 bytes of their blocks."""
    blocks_BS = data.reshape(-1, form.size)
    weights_BW = np.empty((len(blocks_BS), form.weights), np.float32)
    for start in range(0, len(blocks_BS), CHUNK):
        weights_BW[start : start + CHUNK] = form.decode(blocks_BS[start : start + CHUNK])
    return weights_BW.reshape(count)


def _view(blocks_BS: np.ndarray, start: int, stop: int, dtype: str) -> np.ndarray:
    """Return some bytes of each block as float32, read as numbers of another type."""
    return np.ascontiguousarray(blocks_BS[:, start:stop]).view(dtype).astype(np.float32)


def _nibbles(bytes_BS: np.ndarray) -> np.ndarray:
    """Return the low halves of all bytes, then the high ones, [B, 2 S]."""
    return np.concatenate([bytes_BS & 15, bytes_BS >> 4], axis=1)


def _bf16(blocks_BS: np.ndarray) -> np.ndarray:
    return (blocks_BS.view("<u2").astype("<u4") << 16).view("<f4")


def _q4_0(blocks_BS: np.ndarray) -> np.ndarray:
    return _view(blocks_BS, 0, 2, "<f2") * (_nibbles(blocks_BS[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks_BS: np.ndarray) -> np.ndarray:
    scale_B1, least_B1 = _view(blocks_BS, 0, 2, "<f2"), _view(blocks_BS, 2, 4, "<f2")
    return scale_B1 * _nibbles(blocks_BS[:, 4:]) + least_B1


def _q8_0(blocks_BS: np.ndarray) -> np.ndarray:
    return _view(blocks_BS, 0, 2, "<f2") * _view(blocks_BS, 2, 34, "i1")


def _q4_k(blocks_BS: np.ndarray) -> np.ndarray:
    """Eight parts of 32 weights: a scale and a minimum of 6 bits each, packed into 12 bytes of three groups of 4."""
    low_B4, least_B4, rest_B4 = (blocks_BS[:, start : start + 4] for start in (4, 8, 12))
    scale_B8 = np.concatenate([low_B4 & 63, rest_B4 & 15 | low_B4 >> 6 << 4], axis=1)
    least_B8 = np.concatenate([least_B4 & 63, rest_B4 >> 4 | least_B4 >> 6 << 4], axis=1)
    scale_B8, least_B8 = _view(blocks_BS, 0, 2, "<f2") * scale_B8, _view(blocks_BS, 2, 4, "<f2") * least_B8
    # Each 32 bytes hold two parts, one in the low halves and one in the high ones.
    q_B = _nibbles(blocks_BS[:, 16:].reshape(-1, 32)).reshape(-1, 8, 32)
    return (scale_B8[:, :, None] * q_B - least_B8[:, :, None]).reshape(-1, SUPER)


def _q6_k(blocks_BS: np.ndarray) -> np.ndarray:
    """Two halves of 128 weights: 64 bytes of low halves, 32 bytes of two upper bits; a scale for 16 weights."""
    low_B = _nibbles(blocks_BS[:, :128].reshape(-1, 64)).reshape(-1, 2, 4, 32)
    high_B = blocks_BS[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[None, None, :, None] & 3
    q_B = (low_B | high_B << 4).astype(np.float32) - 32
    scale_B16 = _view(blocks_BS, 208, 210, "<f2") * _view(blocks_BS, 192, 208, "i1")
    return (scale_B16[:, :, None] * q_B.reshape(-1, 16, 16)).reshape(-1, SUPER)


# By the number that a tensor's type has in the file.
FORMATS: Mapping[int, Format] = MappingProxyType(
    {
        0: Format("F32", 1, 4, lambda blocks_BS: _view(blocks_BS, 0, 4, "<f4")),
        1: Format("F16", 1, 2, lambda blocks_BS: _view(blocks_BS, 0, 2, "<f2")),
        2: Format("Q4_0", 32, 18, _q4_0),
        3: Format("Q4_1", 32, 20, _q4_1),
        8: Format("Q8_0", 32, 34, _q8_0),
        12: Format("Q4_K", SUPER, 144, _q4_k),
        14: Format("Q6_K", SUPER, 210, _q6_k),
        30: Format("BF16", 1, 2, _bf16),
    }
)

# Formats that a file may name and that are not read.
OTHERS: Mapping[int, str] = MappingProxyType(
    {6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS"}
    | {18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16"}
    | {26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"}
)
