"""Which words of a sentence are fingerspelled: a small tagger over characters and what is known of each word.

Characters of a word go through convolutions, words through a bidirectional GRU; `lm.step.make_step` trains both.

data = encode(sentences, counts, glossary)
probabilities = cross_validate(data, [s.article for s in sentences], seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.candidates import auroc
from lm.step import init_state, make_step, repeat
from lm.types import Array, Batch, Example, Key, Mean, Metrics, Net, Outputs, Params
from tasks.stem.asl import Sentence, find_phrases, mask, words

CHARACTERS = 16  # of a word; what is longer is cut
FIRST, LAST = 32, 126  # the printable characters of ASCII; every other one is `LAST + 1`
FEATURES = 6
PASSES = 64  # training batches that one dispatch may hold


class Words(NamedTuple):
    """Words as a tagger reads them: characters [..., L, CHARACTERS] and features [..., L, FEATURES]."""

    characters: Array | np.ndarray
    features: Array | np.ndarray


@dataclass(frozen=True)
class TaggerConfig:
    """Sizes of the tagger and how it is trained."""

    embedding: int = 8  # of a character
    channels: int = 16  # of each width of convolution
    widths: tuple[int, ...] = (3, 4, 5)
    hidden: int = 16  # of the GRU in each direction, and of what is known of a word
    dropout: float = 0.5
    learning_rate: float = 3e-3
    epochs: int = 10
    batch_size: int = 8


class Tagger(nn.Module):
    """Scores of words [B, L]; `lengths_B` says how many words each sentence has."""

    config: TaggerConfig

    @nn.compact
    def __call__(self, words: Words, lengths_B: Array, deterministic: bool = True) -> Array:
        config = self.config
        x_BLCE = nn.Embed(LAST + 2 - FIRST + 1, config.embedding)(words.characters)
        x_BLCE *= (words.characters > 0)[..., None]
        widest_BLE = [nn.relu(nn.Dense(config.channels)(windows(x_BLCE, w))).max(axis=-2) for w in config.widths]
        x_BLE = nn.Dense(config.hidden)(jnp.concatenate(widest_BLE, axis=-1))
        # A word's spelling goes as a whole: else the few words of an article are learned by heart.
        x_BLE = nn.Dropout(config.dropout, broadcast_dims=(-1,), deterministic=deterministic)(x_BLE)
        known_BLE = nn.relu(nn.Dense(config.hidden)(words.features))
        x_BLE = jnp.concatenate([x_BLE, known_BLE], axis=-1)
        both = nn.Bidirectional(nn.RNN(nn.GRUCell(config.hidden)), nn.RNN(nn.GRUCell(config.hidden)))
        x_BLE = jnp.concatenate([both(x_BLE, seq_lengths=lengths_B), known_BLE], axis=-1)
        x_BLE = nn.Dropout(config.dropout, deterministic=deterministic)(x_BLE)
        return nn.Dense(1)(x_BLE)[..., 0]


def windows(x_BLCE: Array, width: int) -> Array:
    """Return each place side by side with those behind it, [B, L, C, width * E]; past the end there are zeros.

    One product with these is a convolution, and on a CPU inside a loop many times faster than the real one.
    """
    padded = jnp.pad(x_BLCE, ((0, 0), (0, 0), (0, width - 1), (0, 0)))
    return jnp.concatenate([padded[:, :, i : i + x_BLCE.shape[2]] for i in range(width)], axis=-1)


def tagger_net(config: TaggerConfig, length: int) -> Net:
    """Return the tagger for sentences of at most `length` words; outputs are one logit a word, [B, L, 1]."""
    module = Tagger(config)

    def init(key: Key) -> Params:
        nothing = Words(jnp.zeros((1, length, CHARACTERS), jnp.int32), jnp.zeros((1, length, FEATURES)))
        return module.init(key, nothing, jnp.ones(1, jnp.int32))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        lengths_B = jnp.sum(batch.segments, axis=1)
        rngs = {} if key is None else {"dropout": key}
        logits_BL = module.apply({"params": params}, batch.inputs, lengths_B, key is None, rngs=rngs)
        return Outputs(logits_BL[..., None])

    return Net(init, apply)


def binary(positive_weight: float = 1.0) -> Callable[..., tuple[Array, Metrics]]:
    """Return the objective of yes-or-no targets [B, L]: mean cross-entropy in nats, `positive_weight` on yes."""

    def objective(
        apply: Callable[..., Outputs], params: Params, batch: Batch, key: Key | None
    ) -> tuple[Array, Metrics]:
        logits_BL = apply(params, batch, key).features[..., 0]
        losses_BL = optax.sigmoid_binary_cross_entropy(logits_BL, batch.targets)
        weights_BL = batch.weights * jnp.where(batch.targets == 1, positive_weight, 1.0)
        total, count = jnp.sum(losses_BL * weights_BL), jnp.sum(weights_BL)
        right = jnp.sum(((logits_BL > 0) == (batch.targets == 1)) * batch.weights)
        metrics = {"loss": Mean(total, count), "accuracy": Mean(right, jnp.sum(batch.weights))}
        return total / jnp.maximum(count, 1e-9), metrics

    return objective


def spelled(sentence: Sentence) -> list[bool]:
    """Return which words meet a phrase that was spelled."""
    marked = mask(sentence.text, find_phrases(sentence.text, sentence.phrases))
    return [bool(marked[start:end].any()) for start, end in words(sentence.text)]


def describe(text: str, counts: Mapping[str, int], glossary: AbstractSet[str]) -> np.ndarray:
    """Return what is known of each word: log count, its square, length, new, capitalised inside, in the glossary."""
    rows = []
    for number, (start, end) in enumerate(words(text)):
        word = text[start:end]
        count = counts.get(word.lower(), 0)
        common = (np.log1p(count) - 5) / 3
        inside = number > 0 and word[0].isupper()
        rows.append((common, common**2, (len(word) - 5) / 3, count == 0, inside, word.lower() in glossary))
    return np.array(rows, np.float32).reshape(-1, FEATURES)


def encode(sentences: Sequence[Sentence], counts: Mapping[str, int], glossary: AbstractSet[str]) -> Batch:
    """Return all sentences as one batch; targets are 1 on the words that were spelled."""
    length = max(len(words(s.text)) for s in sentences)
    size = len(sentences), length
    read = Words(np.zeros((*size, CHARACTERS), np.int32), np.zeros((*size, FEATURES), np.float32))
    targets_BL, segments_BL = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for row, sentence in enumerate(sentences):
        places = words(sentence.text)
        for column, (start, end) in enumerate(places):
            codes = [min(max(ord(c), FIRST), LAST + 1) - FIRST + 1 for c in sentence.text[start:end][:CHARACTERS]]
            read.characters[row, column, : len(codes)] = codes
        read.features[row, : len(places)] = describe(sentence.text, counts, glossary)
        targets_BL[row, : len(places)] = spelled(sentence)
        segments_BL[row, : len(places)] = 1
    weights_BL = segments_BL.astype(np.float32)
    return Example(read, targets_BL, weights_BL, np.zeros(size, np.int32), {}, segments_BL)


def cross_validate(
    data: Batch, articles: Sequence[str], seed: int, config: TaggerConfig | None = None
) -> tuple[list[list[float]], dict[str, str]]:
    """Score the words of every article by a tagger that never saw it, and stopped early on another one.

    Returns the probabilities of each sentence's words, and which article was held out for each.
    """
    config = config or TaggerConfig()
    names = sorted(set(articles))
    net = tagger_net(config, data.targets.shape[1])
    optimizer = optax.adam(config.learning_rate)
    stretch = jax.jit(repeat(make_step(net, binary(), optimizer)))
    score = jax.jit(lambda params: jax.nn.sigmoid(net.apply(params, data).features[..., 0]))
    found = np.zeros(data.targets.shape)
    watched = {}
    for number, held_out in enumerate(names):
        watched[held_out] = names[(number + 1) % len(names)]
        of = {name: np.flatnonzero([a == name for a in articles]) for name in names}
        rows = np.concatenate([of[name] for name in names if name not in (held_out, watched[held_out])])
        rng = np.random.default_rng((seed, number))
        state = init_state(net, optimizer, jax.random.fold_in(jax.random.key(seed), number))
        best = -1.0
        for _ in range(config.epochs):
            state, _ = stretch(state, *epoch(data, rng.permutation(rows), config.batch_size))
            probabilities_NL = np.asarray(score(state.params))
            reached = _auroc(data, probabilities_NL, of[watched[held_out]])
            if reached > best:
                best, found[of[held_out]] = reached, probabilities_NL[of[held_out]]
    counts = np.asarray(data.segments).sum(axis=1)
    return [found[row, :count].tolist() for row, count in enumerate(counts)], watched


def epoch(data: Batch, rows: np.ndarray, batch_size: int) -> tuple[Batch, int]:
    """Return the whole batches of these rows with a leading axis of PASSES, and how many of them there are."""
    count = len(rows) // batch_size
    if not 0 < count <= PASSES:
        raise ValueError(f"{len(rows)} rows make {count} batches of {batch_size}; 1 to {PASSES} are taken")
    places = np.resize(rows[: count * batch_size], (PASSES, batch_size))
    return jax.tree.map(lambda x: x[places], data), count


def _auroc(data: Batch, probabilities_NL: np.ndarray, rows: np.ndarray) -> float:
    asked = np.asarray(data.segments)[rows] > 0
    return auroc(np.asarray(data.targets)[rows][asked], probabilities_NL[rows][asked])
