"""A verifier: a copy of the generator with one more row of its head, trained to say at every token whether the program
will give the right answer.

Liu et al. 2023, arXiv 2312.09241, section 4. Its value is that row's logit on top of the log-likelihood of the program
so far (`lm.losses.token_values`), so that it begins by ranking programs as the generator does. By the row alone three
layers learn little from a thousand questions: a token would have to be compared, after it was read, with what was
expected, and it is the layer before the head that knows what that was.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.candidates import best_score, sigmoid
from lm.config import OptimizerConfig, Recipe, TrainConfig, VerifierLoss
from lm.data import Document
from lm.decode import pad_left
from lm.exits import UserError
from lm.interrupt import safe_point
from lm.losses import token_values
from lm.types import Array, Batch, Evaluation, Example, Key, Net, Params, Source
from tasks.math.graded import Candidate, Graded, distinct, read_graded
from tasks.math.grammar.problem import figure
from tasks.math.selection import Judged, selection
from tasks.task import Task

TRAIN, HELD_OUT = "train.jsonl", "held_out.jsonl"
SCORED_AT_ONCE = 64  # sequences


@dataclass(frozen=True)
class Verifier(Task):
    """Say of a sampled program whether it gives the right answer: label 1, or 0.

    `folder` holds train.jsonl and held_out.jsonl, graded samples for questions that the two do not share.
    """

    name: ClassVar[str] = "verifier"
    size_name: ClassVar[str] = "label"
    train_sizes: ClassVar[tuple[int, int]] = (0, 1)
    test_sizes: ClassVar[tuple[int, ...]] = (0, 1)

    folder: str = ""
    length: int = 256  # of a window

    def source(self, recipe: Recipe, folder: Path) -> Source:
        """Pack the training candidates in the run folder; examine by choosing among those of held-out questions."""
        from lm.data import Corpus, build_corpus

        train, held_out = (Path(self.folder) / name for name in (TRAIN, HELD_OUT))
        questions = read_graded(train)
        if next(documents(questions, self.length), None) is None:
            raise UserError(f"{train} has no question with right and wrong candidates; sample more, or warmer")
        origin = {"train_sha256": hashlib.sha256(train.read_bytes()).hexdigest()}
        build_corpus(
            folder / "corpus", "verifier", {"train": lambda: documents(questions, self.length)}, self.length, origin
        )
        corpus = Corpus(folder / "corpus", "train", recipe.train.batch_size, recipe.train.seed)
        judged = read_graded(held_out)

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            return selection(judge(net, params, judged))

        facts = {"corpus": corpus.facts, "windows": corpus.size}
        return Source(None, lambda step: labelled(corpus.at(step)), evaluate, facts, ids=corpus.ids)

    def test_example(self, key: Key, index: Array, size: Array) -> Example:
        raise UserError("a verifier judges programs and writes none; sample from its generator")

    def show(self, seed: int, index: int, size: int) -> str:
        found = [(q, c) for q in read_graded(Path(self.folder) / HELD_OUT) for c in q.candidates if c.right == size]
        if index >= len(found):
            raise UserError(f"{self.folder} has {len(found)} held-out candidates of label {size}")
        question, candidate = found[index]
        return f"{question.question}\n{candidate.program}\n-> {size}"


def documents(questions: Iterable[Graded], length: int) -> Iterator[Document]:
    """Yield the distinct candidates of every question; the sign of a weight is the label, above zero right.

    In every question the right ones weigh as much as the wrong ones; a question with one kind alone is left out, and
    so is a candidate that does not fit in a window.
    """
    for question in questions:
        fitting = [c for c in distinct(question.candidates) if len(question.prompt) + len(c.tokens) <= length + 1]
        right = sum(c.right for c in fitting)
        if 0 < right < len(fitting):
            for c in fitting:
                weight = 1 / right if c.right else -1 / (len(fitting) - right)
                yield Document(question.prompt + c.tokens, [0.0] * len(question.prompt) + [weight] * len(c.tokens))


def labelled(batch: Batch) -> Batch:
    """Return a batch of packed documents with the signs of its weights as labels."""
    return batch._replace(weights=np.abs(batch.weights), info={"labels": (batch.weights > 0).astype(np.float32)})


def score(net: Net, params: Params, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
    """Return the value behind the last token of every (prompt, program); equal ones are read once."""
    unique = sorted({(tuple(a), tuple(b)) for a, b in pairs}, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    scores: dict[Any, float] = {}
    for start in range(0, len(unique), SCORED_AT_ONCE):
        safe_point()
        rows = unique[start : start + SCORED_AT_ONCE]
        filled = rows + rows[:1] * (SCORED_AT_ONCE - len(rows))  # one shape, few programs
        tokens_BL, segments_BL = pad_left([prompt + program for prompt, program in filled], 0)
        lengths_B = np.array([len(program) for _, program in filled])
        values_B = np.asarray(_values(net, params, tokens_BL, segments_BL, lengths_B))
        scores |= zip(rows, values_B.tolist(), strict=False)
    return [scores[tuple(prompt), tuple(program)] for prompt, program in pairs]


@functools.partial(jax.jit, static_argnums=0)
def _values(net: Net, params: Params, tokens_BL: Array, segments_BL: Array, lengths_B: Array) -> Array:
    positions_BL = jnp.maximum(jnp.cumsum(segments_BL, axis=1) - 1, 0)[:, :-1]
    asked_BL = jnp.arange(tokens_BL.shape[1])[None] >= tokens_BL.shape[1] - lengths_B[:, None]
    weights_BL = asked_BL[:, 1:].astype(jnp.float32)
    batch = Batch(tokens_BL[:, :-1], tokens_BL[:, 1:], weights_BL, positions_BL, {}, segments_BL[:, :-1])
    return token_values(net.apply(params, batch).logits, batch)[:, -1]


def judge(net: Net, params: Params, questions: Sequence[Graded]) -> list[Judged]:
    """Score every sampled candidate."""
    pairs = [(question.prompt, candidate.tokens) for question in questions for candidate in sampled(question)]
    scores = iter(score(net, params, pairs))
    judged = []
    for question in questions:
        drawn = sampled(question)
        greedy = next((c.right for c in question.candidates if c.temperature == 0), None)
        judged.append(Judged([c.value for c in drawn], [c.right for c in drawn], [next(scores) for _ in drawn], greedy))
    return judged


def sampled(question: Graded) -> list[Candidate]:
    """Return the candidates to choose from: all but those of greedy decoding."""
    return [candidate for candidate in question.candidates if candidate.temperature > 0]


def verifier_recipe(generator: Recipe, folder: Path, optimizer: OptimizerConfig, train: TrainConfig) -> Recipe:
    """Return the recipe of a verifier for the graded samples in a folder: the generator's model with one more token.

    It is evaluated at every save, and every save is kept.
    """
    every = train.save_every
    return Recipe(
        name=f"{generator.name}_verifier",
        task=Verifier(str(folder), generator.data.length),
        model=replace(generator.model, vocabulary=generator.model.vocabulary + 1),
        objective=VerifierLoss(),
        optimizer=optimizer,
        train=replace(train, evaluate_every=every, keep=train.steps // every + 1),
        mesh=generator.mesh,
    )


def examples(questions: Sequence[Graded], judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return what the verifier chose for every question, for the report."""
    shown = []
    for question, scored in zip(questions, judged, strict=True):
        best, score = best_score(list(zip(sampled(question), scored.scores, strict=True)), scored.scores)
        said = {"program": best.program, "probability": round(sigmoid(score), 4)}
        prediction = best.status if best.value is None else f"{best.value:g}"
        head = {"question": question.question, "target": figure(question.answer), "prediction": prediction}
        shown.append({**head, "right": best.right, **said})
    return shown
