"""A quality filter as in the Phi recipes (Gunasekar et al. 2023): a small classifier learns how a textbook reads.

Its labels are a proxy that costs nothing: passages of textbook sections are good; exercises with their bare answers and
textbook passages with their words in disorder are not. So what it measures is connected explanation, not truth.

judge, held_out_auroc = train_judge(texts, seed=0)
scores = judge([text.text for text in texts])        # [texts], in 0..1
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.candidates import auroc
from lm.step import init_state, make_step, repeat
from lm.types import Array, Batch, Example, Key, Net, Outputs, Params
from tasks.stem.corpora import Text
from tasks.stem.tagger import binary

BUCKETS = 1 << 15
WIDTH = 16
GRAMS = 128  # words and pairs of words of a passage that are looked at
WORD = re.compile(r"[^\W\d_]+|\d|[^\w\s]")

Judge = Callable[[Sequence[str]], np.ndarray]


def features(passage: str) -> np.ndarray:
    """Return the hashes of a passage's first words and pairs of words, [GRAMS]; 0 behind the end."""
    words = WORD.findall(passage.lower())[: GRAMS // 2]
    grams = [*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))]
    found = np.zeros(GRAMS, np.int32)
    found[: len(grams)] = [1 + crc32(gram.encode()) % (BUCKETS - 1) for gram in grams]
    return found


def judge_net() -> Net:
    """Return a classifier of bags of hashes [B, GRAMS]: the mean of their vectors and one score, [B, 1, 1]."""

    def init(key: Key) -> Params:
        return {
            "table": 0.1 * jax.random.normal(key, (BUCKETS, WIDTH)),
            "kernel": jnp.ones(WIDTH),
            "bias": jnp.zeros(()),
        }

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        del key  # nothing here is random
        present_BG1 = (batch.inputs > 0)[..., None]
        sum_BD = jnp.sum(params["table"][batch.inputs] * present_BG1, axis=1)
        mean_BD = sum_BD / jnp.maximum(jnp.sum(present_BG1, axis=1), 1)
        return Outputs((mean_BD @ params["kernel"] + params["bias"])[:, None, None])

    return Net(init, apply)


def passages(text: str, least: int = 60, most: int = 12) -> list[str]:
    """Return paragraphs joined until they have `least` words, at most `most` of them, spread over the text."""
    found, current = [], ""
    for block in text.split("\n\n"):
        current += f"{block}\n"
        if len(current.split()) >= least:
            found.append(current)
            current = ""
    found = found or [current]
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]


def labelled(texts: Sequence[Text], rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
    """Return passages and whether each is good: as many bad ones as there are, half of them exercises."""
    good = [passage for text in texts if text.source == "textbooks" for passage in passages(text.text)]
    exercises = [text.text for text in texts if text.source == "exercises"]
    half = min(len(exercises), len(good) // 2)
    bad = [exercises[i] for i in rng.choice(len(exercises), half, replace=False)] if half else []
    bad += [disordered(good[i], rng) for i in rng.choice(len(good), len(good) - half, replace=False)]
    return good + bad, np.arange(len(good) + len(bad)) < len(good)


def disordered(passage: str, rng: np.random.Generator) -> str:
    """Return the words of a passage in another order."""
    words = passage.split()
    return " ".join(words[i] for i in rng.permutation(len(words)))


def train_judge(texts: Sequence[Text], seed: int, steps: int = 300, batch_size: int = 128) -> tuple[Judge, float]:
    """Train on passages of the training split; return the judge of documents and its AUROC on held-out passages.

    The judge gives each text the mean probability of its passages. Needs textbooks in all splits.
    """
    rng = np.random.default_rng(seed)
    shown, good_N = labelled([text for text in texts if text.split == "train"], rng)
    inputs_NG = jnp.asarray(np.stack([features(passage) for passage in shown]))
    targets_N1 = jnp.asarray(good_N[:, None].astype(np.int32))

    def draw(key: Key, step: Array) -> Batch:
        rows = jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, len(shown))
        ones = jnp.ones((batch_size, 1))
        return Example(inputs_NG[rows], targets_N1[rows], ones, ones, {})

    net, optimizer = judge_net(), optax.adam(1e-2)
    stretch = jax.jit(repeat(make_step(net, binary(), optimizer, draw)))
    params = stretch(init_state(net, optimizer, jax.random.key(seed)), None, steps)[0].params

    def probabilities(parts: Sequence[str]) -> np.ndarray:
        inputs_BG = np.stack([features(part) for part in parts])
        batch = Example(inputs_BG, inputs_BG, inputs_BG, inputs_BG, {})
        return np.asarray(jax.nn.sigmoid(net.apply(params, batch).features[:, 0, 0]))

    def judge(documents: Sequence[str]) -> np.ndarray:
        parts = [passages(document) for document in documents]
        scores = np.split(probabilities([p for part in parts for p in part]), np.cumsum([len(p) for p in parts])[:-1])
        return np.array([score.mean() for score in scores])

    held_out, good_H = labelled([text for text in texts if text.split != "train"], rng)
    return judge, auroc(good_H, probabilities(held_out))
