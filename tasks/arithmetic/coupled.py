"""Tasks whose tokens carry coupled position ids, and the other schemes of positions that these are held against.

A task says its tokens, which of them are asked, and its offsets: tokens that play the same role, such as digits of
one significance, have the same offset from the start of the ids, counted from 1, and 0 is no id. From these three
`lay_out` writes an example in any of SCHEMES:

    coupled       start - 1 + offset; 0 where there is none
    random_start  consecutive ids from the start
    plain         consecutive ids from 0: for models without learned positions
    hinted        an index token before each token that has an id, which names it, in the answer too;
                  consecutive ids from 0 (Zhou et al. 2023, arXiv 2310.16028)

`arm` turns a recipe with coupled ids into one of the schemes of positions that a model may have instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from lm.config import Learned, NoPositions, Positions, Recipe
from lm.strict import ConfigError, require_choice
from lm.types import Array, Example
from tasks.build import below
from tasks.schemes import POSITIONS
from tasks.task import Task, next_token

SCHEMES = ("coupled", "random_start", "plain", "hinted")


@dataclass(frozen=True)
class Coupled(Task):
    """A task with coupled ids up to `max_position`, trained to a size and examined beyond it.

    A subclass has `spellings`, `length`, `couples`, `sample` and `sample_test`. With `axes` A > 1 offsets are [T, A]
    and there is a start an axis.
    """

    spellings: ClassVar[str]  # a letter a token; the first is padding
    axes: ClassVar[int] = 1

    longest_train: int = 10
    longest_test: int = 20
    scheme: str = "coupled"
    max_position: int = 42

    def __post_init__(self):
        require_choice("task.scheme", self.scheme, SCHEMES)
        if not 1 <= self.longest_train <= self.longest_test:
            raise ConfigError(
                f"task.longest_train must be from 1 to task.longest_test {self.longest_test}, got {self.longest_train}"
            )
        if self.scheme != "plain" and self.starts(self.longest_test) < 1:
            raise ConfigError(
                f"task.max_position must be at least {self.reach(self.longest_test) + 1} "
                f"for {self.longest_test} {self.size_name}, got {self.max_position}"
            )

    def length(self, size: Array | int) -> Array | int:
        """Return the number of tokens, both ends included and index tokens not; all but the ends have an id."""
        raise NotImplementedError

    def couples(self, size: Array | int) -> Array | int:
        """Return the largest offset."""
        raise NotImplementedError

    @property
    def vocabulary(self) -> int:
        return len(self.spellings) + (self.max_position if self.scheme == "hinted" else 0)

    @property
    def max_length(self) -> int:
        return self._slots(self.length(self.longest_test)) - 1

    @property
    def train_length(self) -> int:
        return self._slots(self.length(self.longest_train)) - 1

    def _slots(self, length: int) -> int:
        return length + self.axes * (length - 2) if self.scheme == "hinted" else length

    @property
    def train_sizes(self) -> tuple[int, int]:
        return 1, self.longest_train

    @property
    def test_sizes(self) -> tuple[int, ...]:
        step = max(1, self.longest_test // 20)
        return tuple(range(step, self.longest_test + 1, step))

    def reach(self, size: Array | int) -> Array | int:
        """Return the largest id minus the start."""
        return self.length(size) - 2 if self.scheme == "random_start" else self.couples(size) - 1

    def starts(self, size: Array | int) -> Array | int:
        """Return the number of starts that keep every id within 1..max_position."""
        return self.max_position - self.reach(size)

    def draw_start(self, bits: Array, size: Array | int) -> Array:
        """Return a start that is uniform over the legal ones, out of 32 random bits."""
        return 1 + below(bits, self.starts(size))

    def lay_out(
        self, tokens_T: Array, asked_T: Array, offsets: Array, start: Array | int, info: dict[str, Array]
    ) -> Example:
        """Write an example in the task's scheme, with ids from `start`."""
        named, ids = offsets > 0, start - 1 + offsets
        if self.scheme == "coupled":
            return next_token(tokens_T, asked_T, jnp.where(named, ids, 0), info)
        named_TA = named.reshape(-1, self.axes)
        last = jnp.max(jnp.where(named_TA[:, 0], jnp.arange(tokens_T.size), 0))
        if self.scheme == "hinted":
            tokens_T, asked_T = self._hint(tokens_T, asked_T, ids.reshape(-1, self.axes), last)
            last = last * (1 + self.axes)
        first = jnp.ravel(jnp.asarray(start))[0] if self.scheme == "random_start" else 0
        order_T = jnp.arange(tokens_T.size)
        return next_token(tokens_T, asked_T, jnp.where(order_T <= last, first + order_T, 0), info)

    def _hint(self, tokens_T: Array, asked_T: Array, ids_TA: Array, last: Array) -> tuple[Array, Array]:
        """Put index tokens before tokens 1 to `last`; each is asked where the token that it names is."""
        group, order = 1 + self.axes, jnp.arange(self._slots(tokens_T.size))
        hinted = (order > 0) & (order <= last * group)
        token = jnp.where(hinted, 1 + (order - 1) // group, order - jnp.minimum(order, last) * self.axes)
        within = jnp.where(hinted, (order - 1) % group, self.axes)
        groups = jnp.concatenate([len(self.spellings) - 1 + ids_TA, tokens_T[:, None]], axis=1)
        tokens = jnp.take(groups.ravel(), token * group + within, mode="fill", fill_value=0)
        return tokens, jnp.take(asked_T, token, mode="fill", fill_value=False)

    def render(self, example: Example) -> str:
        return self.spell(np.asarray(example.inputs)[1 : np.argmax(np.asarray(example.weights) > 0) + 1])

    def spell(self, tokens: Sequence[int]) -> str:
        named = len(self.spellings)
        return "".join(self.spellings[t] if t < named else f"<{t - named + 1}>" for t in map(int, tokens))


# What coupled ids are held against (Cho et al. 2024; Ruoss et al. 2023 for randomised positions).
ARMS = ("no_positions", "random_start", "index_hints", "alibi", "rotary", "randomised")


def arm(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe with coupled ids with a random start, with index hints, or with any of POSITIONS in their place.

    "coupled" is the recipe itself. Ids from a random start reach a fifth beyond what the longest test needs.
    """
    require_choice("scheme", name, ("coupled", "random_start", "index_hints", *POSITIONS))
    task = recipe.task
    if name == "coupled":
        return recipe
    if name == "random_start":
        longest = task.length(task.longest_test) - 2
        task = replace(task, scheme="random_start", max_position=longest + longest // 5)
        positions: Positions = Learned(rows=task.max_position + 1)
    elif name == "index_hints":
        task, positions = replace(task, scheme="hinted"), NoPositions()
    else:
        task = replace(task, scheme="plain")
        positions = POSITIONS[name](task.max_length)
    model = replace(recipe.model, vocabulary=task.vocabulary, positions=positions)
    return replace(recipe, name=f"{recipe.name}_{name}", task=task, model=model)
