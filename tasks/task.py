"""What a task, a claim and an experiment are.

A synthetic task is a frozen dataclass with a pure `sample`; everything else has a default here:

    @dataclass(frozen=True)
    class Copy(Task):
        longest: int = 20
        def sample(self, key, size): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lm.exits import UserError
from lm.types import Array, Batch, Evaluation, Example, Key, Mean, Net, Outputs, Params, Source

if TYPE_CHECKING:
    from lm.report.pictures import Picture


@dataclass(frozen=True)
class Task:
    """A question that examples are drawn from. Subclasses are frozen dataclasses of its settings.

    A subclass has the properties `vocabulary`, `max_length`, `train_sizes` (inclusive range) and
    `test_sizes` (the sizes to examine), and `sample`. Sizes are whatever the task calls hard: digits,
    numbers to sort, instructions. Shapes follow `train_length` in training and `max_length` in tests, so any
    size runs in one program.
    """

    name: ClassVar[str]
    size_name: ClassVar[str] = "size"  # what the size counts: digits, numbers, steps
    units: ClassVar[Mapping[str, str]] = MappingProxyType({})  # of figures that are means of numbers, no proportions

    @property
    def vocabulary(self) -> int:
        raise NotImplementedError

    @property
    def max_length(self) -> int:
        raise NotImplementedError

    @property
    def train_length(self) -> int:
        """Length of a training example; shorter than `max_length` where tests are longer than training."""
        return self.max_length

    @property
    def train_sizes(self) -> tuple[int, int]:
        """Smallest and largest size seen in training."""
        raise NotImplementedError

    @property
    def test_sizes(self) -> tuple[int, ...]:
        """Sizes to examine, in and beyond the training range."""
        raise NotImplementedError

    def sample(self, key: Key, size: Array) -> Example:
        """Return one training example of this size; pure, jittable, vmappable; `size` may be traced."""
        raise NotImplementedError

    def sample_test(self, key: Key, size: Array) -> Example:
        """Return one test example of this size; as in training unless the task says otherwise."""
        return self.sample(key, size)

    @property
    def test_count(self) -> int:
        """Test examples of each size."""
        return 1024

    def test_example(self, key: Key, index: Array, size: Array) -> Example:
        """Return test example number `index` of this size; a task with a finite test set looks it up."""
        return self.sample_test(jax.random.fold_in(key, index), size)

    def predict(self, outputs: Outputs) -> Array:
        """Return what `score` grades at each position, [B, L]: the likeliest token, unless it asks for numbers."""
        return jnp.argmax(outputs.logits, axis=-1)

    def score(self, predictions_L: Array, example: Example) -> dict[str, Array | Mean]:
        """Grade one prediction per position; `exact_match` is 1 where every asked position is right.

        A figure is a number per example, or a Mean where an example holds several trials.
        """
        from tasks.score import exact_match, token_accuracy

        return {
            "exact_match": exact_match(predictions_L, example),
            "token_accuracy": token_accuracy(predictions_L, example),
        }

    def render(self, example: Example) -> str:
        """Return what an example asks as a reader would write it; `spell` writes the answer."""
        raise NotImplementedError

    def spell(self, tokens: Sequence[int]) -> str:
        """Return tokens as a reader would write them."""
        return " ".join(str(int(t)) for t in tokens)

    def show(self, seed: int, index: int, size: int) -> str:
        """Return test example number `index` of this size with its answer, for a reader."""
        example = self.test_example(jax.random.key(seed), index, size)
        return f"{self.render(example)}\n-> {self.spell(example.targets[example.weights > 0])}"

    def read(self, text: str) -> list[int]:
        """Return the tokens whose spellings a text joins, blanks aside; UserError where a part of it is no token."""
        names = {self.spell([token]).strip(): token for token in range(self.vocabulary)}
        longest_first = sorted(filter(None, names), key=len, reverse=True)
        tokens = []
        for word in text.split():
            while word:
                name = next((name for name in longest_first if word.startswith(name)), None)
                if name is None:
                    raise UserError(f"{word!r} does not start with a token of {self.name} ({' '.join(names)})")
                tokens.append(names[name])
                word = word.removeprefix(name)
        return tokens

    def draw_sizes(self, key: Key, batch_size: int) -> Array:
        """Return the sizes of a training batch, [B]: uniform over the training range unless the task says otherwise."""
        low, high = self.train_sizes
        return jax.random.randint(key, (batch_size,), low, high + 1)

    def draw(self, key: Key, batch_size: int) -> Batch:
        """Return a training batch."""
        key_size, key_sample = jax.random.split(key)
        return jax.vmap(self.sample)(jax.random.split(key_sample, batch_size), self.draw_sizes(key_size, batch_size))

    def source(self, recipe: Any, folder: Path) -> Source:
        """Return the task's data, examination and provenance. `folder` is the run folder."""
        from lm.evaluate import examine

        batch_size = recipe.train.batch_size

        def draw(key: Key, step: Array) -> Batch:
            return self.draw(jax.random.fold_in(key, step), batch_size)

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            return examine(net, params, self, key)

        return Source(draw=draw, at=None, evaluate=evaluate, facts={"data": "drawn in the step"}, prompt=self.read)


class Claim(NamedTuple):
    """One sentence of a paper that a measurement can contradict. Exactly one bound is given.

    `rule` says how seeds become one value: median, best, worst, mean. `exact` marks a claim without
    randomness (a construction, an identity), which needs no seeds.
    """

    paper: str
    statement: str
    metric: str
    at_least: float | None = None
    at_most: float | None = None
    paper_value: str = ""
    rule: str = "median"
    exact: bool = False
    scale: str = "cpu"


@dataclass(frozen=True)
class Experiment:
    """A study behind claims: `run(workdir, scale, seed)` returns the figures that the claims name.

    `pictures` draws those figures, {metric: [its value with each seed]}; it reads nothing else, so that a results
    file can be drawn again.
    """

    name: str
    paper: str
    claims: tuple[Claim, ...]
    run: Callable[[Path, str, int], Mapping[str, float]]
    seeds: Mapping[str, Sequence[int]] = field(default_factory=lambda: {"cpu": (0, 1, 2), "full": (0, 1, 2)})
    pictures: Callable[[Mapping[str, Sequence[float]]], Sequence[Picture]] = lambda figures: ()


def tokens_to_text(tokens: Sequence[int], names: Sequence[str]) -> str:
    """Join the names of tokens by spaces; an id without a name shows as its number."""
    return " ".join(names[t] if 0 <= t < len(names) else str(t) for t in map(int, tokens))


def next_token(tokens_T: Array, asked_T: Array, positions_T: Array, info: dict[str, Array]) -> Example:
    """Shift a sequence of T = L + 1 tokens into an example of length L.

    `asked_T` marks the tokens that must be predicted; position ids belong to the inputs.
    """
    return Example(
        inputs=tokens_T[:-1].astype(jnp.int32),
        targets=tokens_T[1:].astype(jnp.int32),
        weights=asked_T[1:].astype(jnp.float32),
        positions=positions_T[:-1].astype(jnp.int32),
        info=info,
    )
