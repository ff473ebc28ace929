"""A simulator of fingerspelled clips without video, a tagger of its frames, and the alignment of a clip with words.

A clip is signs, a spelled word, signs, a spelled word, ...: each frame is the one-hot vector of a letter or the centre
of a sign, with Gaussian noise. Letters last log-normally long, 5 frames on average (a word: 35.6, Yin et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.step import init_state, make_step, repeat
from lm.types import Array, Batch, Example, Key, Net, Outputs, Params
from tasks.stem.tagger import binary

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = len(LETTERS) + 1  # the last one is every other character
LONGEST = 16  # letters of a word


class Clip(NamedTuple):
    """Frames [T, SYMBOLS], which of them are spelled [T], the words shown [spelled] and where each starts and ends."""

    frames: Array
    spelled: Array
    words: Array
    spans: Array


@dataclass(frozen=True)
class Simulator:
    """How clips are drawn. Frames past the last word show signs."""

    noise: float = 0.5  # standard deviation of each entry of a frame
    frames: int = 256
    spelled: int = 3  # words in a clip
    letter: float = 5.0  # frames on average
    spread: float = 0.4  # standard deviation of the logarithm of a duration
    pause: float = 30.0  # frames of signs before a word, on average
    signs: int = 40  # centres of signs, drawn once
    centre: float = 0.5  # standard deviation of each entry of a centre
    sign: float = 10.0  # frames that one sign lasts

    def clip(self, key: Key, letters_WC: Array, lengths_W: Array) -> Clip:
        """Draw a clip that spells some of the words; pure and jittable."""
        key_words, key_times, key_signs, key_noise = jax.random.split(key, 4)
        words_S = jax.random.choice(key_words, len(lengths_W), (self.spelled,), replace=False)
        # Every word brings a pause and LONGEST letters, of which those behind its end last no time.
        present = jnp.arange(LONGEST)[None] < lengths_W[words_S][:, None]
        times = jnp.concatenate([jnp.full((self.spelled, 1), self.pause), jnp.full(present.shape, self.letter)], 1)
        draws = jnp.exp(self.spread * jax.random.normal(key_times, times.shape) - self.spread**2 / 2)
        lasting = jnp.maximum(1, jnp.round(times * draws)).astype(jnp.int32)
        lasting = lasting * jnp.concatenate([jnp.ones((self.spelled, 1), bool), present], axis=1)
        ends = jnp.cumsum(lasting.reshape(-1))
        symbols = jnp.concatenate([jnp.full((self.spelled, 1), -1), letters_WC[words_S]], axis=1).reshape(-1)
        place_T = jnp.searchsorted(ends, jnp.arange(self.frames), side="right")
        symbol_T = jnp.where(place_T < len(ends), symbols[jnp.minimum(place_T, len(ends) - 1)], -1)
        shown_TS = jnp.where((symbol_T >= 0)[:, None], jax.nn.one_hot(symbol_T, SYMBOLS), self._signs(key_signs))
        frames_TS = shown_TS + self.noise * jax.random.normal(key_noise, shown_TS.shape)
        ends_SL = ends.reshape(self.spelled, -1)
        spans = jnp.minimum(jnp.stack([ends_SL[:, 0], ends_SL[:, -1]], axis=1), self.frames)
        return Clip(frames_TS, symbol_T >= 0, words_S, spans)

    def _signs(self, key: Key) -> Array:
        """Return the centre of the sign in each frame, were all of them signs: one that changes now and then."""
        centres_KS = self.centre * jax.random.normal(jax.random.key(0), (self.signs, SYMBOLS))
        key_kind, key_change = jax.random.split(key)
        changed_T = jax.random.bernoulli(key_change, 1 / self.sign, (self.frames,))
        kinds_T = jax.random.randint(key_kind, (self.frames,), 0, self.signs)
        return centres_KS[kinds_T[jnp.cumsum(changed_T)]]


def spell(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return words as symbols [W, LONGEST], -1 behind the end, and their lengths [W]; what is longer is cut."""
    letters_WC = np.full((len(words), LONGEST), -1, np.int32)
    for row, word in enumerate(words):
        found = [LETTERS.find(c) for c in word.lower()[:LONGEST]]
        letters_WC[row, : len(found)] = [SYMBOLS - 1 if symbol < 0 else symbol for symbol in found]
    return letters_WC, np.count_nonzero(letters_WC >= 0, axis=1).astype(np.int32)


class FrameTagger(nn.Module):
    """Two convolutions over time and a score of each frame, [B, T, SYMBOLS] to [B, T]."""

    hidden: int = 64
    width: int = 9

    @nn.compact
    def __call__(self, frames_BTS: Array) -> Array:
        x = frames_BTS
        for _ in range(2):
            half = self.width // 2
            padded = jnp.pad(x, ((0, 0), (half, half), (0, 0)))
            # A convolution as one product: inside a compiled loop a CPU computes the real one many times slower.
            seen = jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(self.width)], axis=-1)
            x = nn.relu(nn.Dense(self.hidden)(seen))
        return nn.Dense(1)(x)[..., 0]


def frame_net(frames: int) -> Net:
    """Return the frame tagger for clips of so many frames; outputs are [B, T, 1]."""
    module = FrameTagger()

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((1, frames, SYMBOLS)))["params"]

    def apply(params: Params, batch: Batch, key: Key | None = None) -> Outputs:
        del key  # nothing here is random
        return Outputs(module.apply({"params": params}, batch.inputs)[..., None])

    return Net(init, apply)


def draw_clips(simulator: Simulator, words: Sequence[str], key: Key, count: int) -> Clip:
    """Return so many clips with a leading axis."""
    letters_WC, lengths_W = map(jnp.asarray, spell(words))
    return jax.vmap(lambda key: simulator.clip(key, letters_WC, lengths_W))(jax.random.split(key, count))


def train_frames(
    simulator: Simulator, words: Sequence[str], seed: int, steps: int = 300, batch_size: int = 16
) -> tuple[Net, Params]:
    """Train the frame tagger on clips that are drawn inside the step."""

    def draw(key: Key, step: Array) -> Batch:
        clips = draw_clips(simulator, words, jax.random.fold_in(key, step), batch_size)
        labels_BT = clips.spelled.astype(jnp.int32)
        return Example(clips.frames, labels_BT, jnp.ones(labels_BT.shape), jnp.zeros(labels_BT.shape, jnp.int32), {})

    net, optimizer = frame_net(simulator.frames), optax.adam(3e-3)
    stretch = jax.jit(repeat(make_step(net, binary(positive_weight=2.0), optimizer, draw)))
    state, _ = stretch(init_state(net, optimizer, jax.random.key(seed)), None, steps)
    return net, state.params


def frame_iou(net: Net, params: Params, clips: Clip) -> float:
    """Return the mean over clips of the IoU of tagged and spelled frames."""
    batch = Example(clips.frames, clips.spelled, clips.spelled, clips.spelled, {})
    predicted_BT = np.asarray(net.apply(params, batch).features[..., 0] > 0)
    spelled_BT = np.asarray(clips.spelled)
    both, either = (predicted_BT & spelled_BT).sum(axis=1), (predicted_BT | spelled_BT).sum(axis=1)
    return float(np.mean(both / np.maximum(either, 1)))


def align(frames_TS: np.ndarray, candidates: Sequence[str], noise: float) -> np.ndarray:
    """Return the probability of each candidate: the softmax of its best monotone alignment with the frames, [W].

    Every frame shows a letter and every letter takes at least one frame. A one-hot frame under Gaussian noise
    has log-likelihood frame[letter] / noise^2, but for what all candidates share; -inf where a word has more
    letters than the clip has frames.
    """
    letters_WC, lengths_W = spell(candidates)
    scores_TWC = np.where(letters_WC >= 0, frames_TS[:, letters_WC] / noise**2, -np.inf)
    best_WC = np.full(letters_WC.shape, -np.inf)
    best_WC[:, 0] = scores_TWC[0, :, 0]
    for scores_WC in scores_TWC[1:]:
        moved_WC = np.pad(best_WC[:, :-1], ((0, 0), (1, 0)), constant_values=-np.inf)
        best_WC = np.maximum(best_WC, moved_WC) + scores_WC
    total_W = best_WC[np.arange(len(candidates)), lengths_W - 1]
    if np.all(np.isneginf(total_W)):
        raise ValueError(f"{len(frames_TS)} frames are too few for any of {len(candidates)} words")
    likely_W = np.exp(total_W - total_W.max())
    return likely_W / likely_W.sum()


def alignment_top1(
    simulator: Simulator, clips: Clip, words: Sequence[str], shortest: int, distractors: int, seed: int
) -> float:
    """Return how often the word that a span shows wins over other words; only words of `shortest` letters or more."""
    rng = np.random.default_rng(seed)
    right = []
    frames_BTS, spans_BS2 = np.asarray(clips.frames), np.asarray(clips.spans)
    for frames_TS, shown, spans in zip(frames_BTS, np.asarray(clips.words), spans_BS2, strict=True):
        for word, (start, end) in zip(shown, spans, strict=True):
            if len(words[word]) >= shortest and end - start >= len(words[word]):
                others = rng.choice(len(words), distractors, replace=False)
                candidates = [words[word], *(words[i] for i in others if i != word)]
                right.append(align(frames_TS[start:end], candidates, simulator.noise).argmax() == 0)
    return float(np.mean(right))
