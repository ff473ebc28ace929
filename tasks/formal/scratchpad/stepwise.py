"""What tasks share whose answer is written state by state, one a step, and whose size is the number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lm.strict import ConfigError, require_choice
from lm.types import Array, Example, Key
from tasks.formal.scratchpad.inductive import FORMS
from tasks.task import Task


@dataclass(frozen=True)
class Stepwise(Task):
    """Questions of 1 to `longest_train` steps to learn from, examined to `longest_test`, in one of `forms`.

    A subclass has `text_length`, the inputs of a text with so many steps, and `sample_among`.
    """

    forms: ClassVar[tuple[str, ...]] = FORMS

    longest_train: int = 8
    longest_test: int = 20
    scratchpad: str = "inductive"

    def __post_init__(self):
        require_choice("task.scratchpad", self.scratchpad, self.forms)
        if not 1 <= self.longest_train <= self.longest_test:
            raise ConfigError(
                f"task.longest_train must be from 1 to task.longest_test {self.longest_test}, got {self.longest_train}"
            )

    def text_length(self, steps: int) -> int:
        raise NotImplementedError

    def sample_among(self, key: Key, size: Array, longest: int) -> Example:
        """Return an example of this size in the shape of those with `longest` steps."""
        raise NotImplementedError

    @property
    def max_length(self) -> int:
        return self.text_length(self.longest_test)

    @property
    def train_length(self) -> int:
        return self.text_length(self.longest_train)

    @property
    def train_sizes(self) -> tuple[int, int]:
        return 1, self.longest_train

    @property
    def test_count(self) -> int:
        return 512

    def sample(self, key: Key, size: Array) -> Example:
        return self.sample_among(key, size, self.longest_train)

    def sample_test(self, key: Key, size: Array) -> Example:
        return self.sample_among(key, size, self.longest_test)

    def render(self, example: Example) -> str:
        return self.spell(np.asarray(example.inputs)[: int(example.info["begin"])])


@dataclass(frozen=True)
class Spaced(Stepwise):
    """Steps that stand at any of `width` places."""

    width: int = 20

    def __post_init__(self):
        super().__post_init__()
        if self.longest_test > self.width:
            raise ConfigError(f"task.longest_test must be at most task.width {self.width}, got {self.longest_test}")
