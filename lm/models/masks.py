"""Which keys a query sees, as arrays that broadcast to [B, H, Q, S]."""

from __future__ import annotations

import jax.numpy as jnp

from lm.types import Array


def visible(rows: slice, seen: slice, segments_BL: Array | None, groups_BL: Array | None, window: int | None) -> Array:
    """Return which of a slice of the keys each of a slice of the queries sees, [B or 1, 1, Q, S]."""
    allowed = causal(jnp.arange(rows.start, rows.stop), jnp.arange(seen.start, seen.stop), window)
    if segments_BL is not None:
        allowed = allowed & same_segment(segments_BL[:, rows], segments_BL[:, seen])
    if groups_BL is not None:
        allowed = allowed & open_groups(groups_BL[:, rows], groups_BL[:, seen])
    return allowed


def causal(slots_Q: Array, slots_S: Array, window: int | None) -> Array:
    """Return which of the keys in slots S come no later than a query and lie in its window, [1, 1, Q, S]."""
    slots_Q1, slots_1S = slots_Q[:, None], slots_S[None]
    allowed_QS = slots_1S <= slots_Q1 if window is None else (slots_1S <= slots_Q1) & (slots_1S > slots_Q1 - window)
    return allowed_QS[None, None]


def blocks(length: int, size: int, window: int | None) -> list[tuple[slice, slice]]:
    """Return the blocks of so many queries, and for each the keys that one of its queries may see."""
    starts = range(0, length, size)
    rows = [slice(start, min(start + size, length)) for start in starts]
    return [(each, slice(0 if window is None else max(0, each.start - window + 1), each.stop)) for each in rows]


def same_segment(queries_BQ: Array, keys_BS: Array) -> Array:
    """Return [B, 1, Q, S]. Padding, segment 0, sees padding: no row is empty and no real token sees it."""
    return queries_BQ[:, None, :, None] == keys_BS[:, None, None, :]


def open_groups(queries_BQ: Array, keys_BS: Array) -> Array:
    """Return which keys lie in the group of a query or in group 0, which is open to all: [B, 1, Q, S]."""
    keys_B11S = keys_BS[:, None, None, :]
    return (queries_BQ[:, None, :, None] == keys_B11S) | (keys_B11S == 0)
