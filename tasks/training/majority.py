"""Networks that majority kernels are tried on, tiny ones to compare and the papers' own (Mazzawi et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lm.config import (
    MajorityKernels,
    MLPConfig,
    OptimizerConfig,
    Recipe,
    ResNetConfig,
    TrainConfig,
    TransformerConfig,
)
from lm.evaluate import rate
from lm.types import Array, Batch, Evaluation, Key, Net, Params, Source
from tasks.formal.groups.modular_arithmetic import ModularArithmetic
from tasks.math.data import HELD_OUT, MathData, Row, document
from tasks.math.grammar.generator import problem
from tasks.math.tinygsm import TinyGSM
from tasks.task import Task
from tasks.vision.digits import Digits
from tasks.vision.shapes import Shapes
from tasks.vision.stored import cifar10_resnet20_full, cifar10_resnet56_full


@dataclass(frozen=True)
class FewProblems(Task):
    """A fixed set of word problems of one step with their programs as target; the rest of them is examined."""

    name: ClassVar[str] = "few_problems"

    train_count: int = 1000
    held_out: int = 256
    length: int = 96
    tokens: int = 320

    @property
    def vocabulary(self) -> int:
        return self.tokens

    def windows(self) -> tuple[Batch, Batch]:
        """Return problems to train on and held-out ones, one a row, padded at their end; longer ones are left out."""
        from lm.data import Codec, pack

        def rows(start: int, count: int) -> list[Row]:
            told = (problem(0, start + index, steps=(1, 1), distractor=0.0) for index in range(count))
            return [Row(p.question, p.code, True) for p in told]

        train, test = rows(0, 2 * self.train_count), rows(HELD_OUT, 2 * self.held_out)
        codec = Codec.train([text for row in train for text in row[:2]], self.tokens)

        def batch(rows: Sequence[Row], count: int) -> Batch:
            documents = (document(codec, row, question_weight=0.0) for row in rows)
            fitting = [d for d in documents if len(d.tokens) <= self.length + 1][:count]
            windows = [next(pack([d], self.length)) for d in fitting]
            fields = jax.tree.map(lambda *x: jnp.stack(list(map(jnp.asarray, x))), *windows)
            return Batch(**fields, info={})

        return batch(train, self.train_count), batch(test, self.held_out)

    def source(self, recipe: Any, folder: Path) -> Source:
        train, test = self.windows()

        def draw(key: Key, step: Array) -> Batch:
            key = jax.random.fold_in(key, step)
            chosen_B = jax.random.randint(key, (recipe.train.batch_size,), 0, train.inputs.shape[0])
            return jax.tree.map(lambda x: x[chosen_B], train)

        @partial(jax.jit, static_argnums=0)
        def hits(net: Net, params: Params) -> Array:
            right_BL = jnp.argmax(net.apply(params, test).logits, axis=-1) == test.targets
            return jnp.sum(right_BL & (test.weights > 0))

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            asked = int(jnp.sum(test.weights > 0))
            return Evaluation({"token_accuracy": rate(int(hits(net, params)), asked)}, {}, [])

        return Source(draw=draw, at=None, evaluate=evaluate, facts={})


def with_copies(recipe: Recipe, **settings: Any) -> Recipe:
    """Return the recipe with majority kernels."""
    return replace(recipe, transforms=(MajorityKernels(**settings),))


def perceptron(noisy: bool) -> Recipe:
    """Return the perceptron that memorises 40 % wrong labels of 1,000 digits, or the one on 200 clean digits."""
    width, count, steps, learning_rate = (64, 1000, 4000, 2e-3) if noisy else (32, 200, 3000, 1e-3)
    return Recipe(
        task=Digits(train_count=count, label_noise=0.4 if noisy else 0.0),
        model=MLPConfig(inputs=64, outputs=10, vocabulary=None, width=width, depth=1, dtype="float32"),
        optimizer=OptimizerConfig(learning_rate=learning_rate, beta2=0.999, final_fraction=0.0, clip=None),
        train=TrainConfig(steps=steps, batch_size=64),
    )


def small_models() -> dict[str, tuple[Recipe, Any]]:
    """Return the recipe of each small model and the configuration of its wide one, with about three times as much."""
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=20, beta2=0.99, final_fraction=0.0)
    resnet = ResNetConfig(classes=10, width=8, depth=0, groups=2, norm_groups=2, dtype="float32")
    sums = ModularArithmetic(modulus=23, train_fraction=0.7)
    mlp = MLPConfig(inputs=2, vocabulary=23, outputs=23, embedding=32, width=64, depth=1, dtype="float32")
    decoder = TransformerConfig(vocabulary=320, depth=2, width=64, heads=4, dtype="float32")
    images = Recipe(
        task=Digits(train_count=300),
        model=resnet,
        optimizer=optimizer,
        train=TrainConfig(steps=400, batch_size=32),
    )
    return {
        "digits": (images, replace(resnet, width=14)),
        "shapes": (replace(images, task=Shapes(side=10, noise=40, train_count=500)), replace(resnet, width=14)),
        "problems": (
            Recipe(
                task=FewProblems(),
                model=decoder,
                optimizer=optimizer,
                train=TrainConfig(steps=150, batch_size=8),
            ),
            replace(decoder, width=112),
        ),
        "sums": (
            Recipe(
                task=sums,
                model=mlp,
                optimizer=replace(optimizer, weight_decay=1.0, decay_pattern=".*"),
                train=TrainConfig(steps=2000, batch_size=sums.train_rows),
            ),
            replace(mlp, width=118),
        ),
    }


def cifar10_resnet20_majority_full() -> Recipe:
    """ResNet-20 on CIFAR-10 with three copies of each kernel; plain: cifar10_resnet20_full. Give --task.folder DIR.

    The mean of three copies moves at a third of SGD's rate, so the rate is three times the plain one, and the decay,
    which every copy feels in full, a third. Running statistics are estimated anew under the collapsed kernels.
    python scripts/train.py cifar10_resnet20_majority_full
    """
    return _on_cifar(cifar10_resnet20_full(), "cifar10_resnet20_majority_full")


def cifar10_resnet56_majority_full() -> Recipe:
    """ResNet-56 likewise; plain: cifar10_resnet56_full. Give --task.folder DIR.

    python scripts/train.py cifar10_resnet56_majority_full
    """
    return _on_cifar(cifar10_resnet56_full(), "cifar10_resnet56_majority_full")


def _on_cifar(plain: Recipe, name: str) -> Recipe:
    rate, decay = plain.optimizer.learning_rate, plain.optimizer.weight_decay
    optimizer = replace(plain.optimizer, learning_rate=3 * rate, weight_decay=decay / 3)
    return with_copies(replace(plain, name=name, optimizer=optimizer), factor=3)


def tinygsm_60m_full() -> Recipe:
    """A decoder of 18 layers, 59M parameters, the size of T5-small, on two million word problems with programs.

    The plain peer of tinygsm_60m_majority_full. Hours on one accelerator.
    python scripts/train.py tinygsm_60m_full
    """
    data = MathData(problems=2_000_000, vocabulary=4096, length=512)
    return Recipe(
        name="tinygsm_60m_full",
        task=TinyGSM(),
        data=data,
        model=TransformerConfig(vocabulary=data.vocabulary, depth=18, width=512, heads=4),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=1000, beta2=0.98, weight_decay=0.1),
        train=TrainConfig(steps=20_000, batch_size=64),
    )


def tinygsm_60m_majority_full() -> Recipe:
    """The same with three copies of each kernel: the paper reports a small gain for T5 at equal steps.

    python scripts/train.py tinygsm_60m_majority_full
    """
    return with_copies(replace(tinygsm_60m_full(), name="tinygsm_60m_majority_full"), factor=3)
