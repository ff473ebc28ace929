"""A byte-level BPE that loses nothing, splits numbers into digits and never reads a special token from text.

codec = Codec.train(texts, vocabulary=1024)
assert codec.decode(codec.encode("x = 12\\n")) == "x = 12\\n"
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import ClassVar

from lm.exits import Unusable, UserError
from lm.files import write_whole
from lm.strict import ConfigError

SPECIALS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|code|>", "<|text|>")

# The pieces that merges never leave: a newline with its indentation, a run of spaces, one digit, a word with the
# space or underscore before it (so that snake_case shares its words with the text), punctuation, other space.
PIECE = re.compile(r"\n *| {2,}|\d|[ _]?[^\W\d_]+| ?(?:[^\s\w]|_)+|\s")

# The same pieces for the `tokenizers` library, whose \w, \d and \s hold other characters than Python's.
SPACES = r"\s\x1c-\x1f"
PIECE_ELSEWHERE = rf"\n *| {{2,}}|\p{{Nd}}|[ _]?[\p{{L}}\p{{Nl}}\p{{No}}]+| ?[^{SPACES}\p{{L}}\p{{N}}]+|[{SPACES}]"

# How byte-level BPE writes a space and a newline; the first merges make 2, 4, newline + 4 and 8 spaces.
SPACE, NEWLINE = "\u0120", "\u010a"
INDENTS = ((SPACE, SPACE), (SPACE * 2, SPACE * 2), (NEWLINE, SPACE * 4), (SPACE * 4, SPACE * 4))

FORMAT = 1
LARGEST_FILE = 1 << 26  # bytes; a million merges take a third of it
REMEMBERED = 1 << 17  # pieces whose ids are kept: most text repeats few words, and looking up beats merging


class Codec:
    """Turn text into token ids and back. The merges decide everything, so they are all that is saved.

    Ids: the special tokens, the 256 bytes, then one token a merge. Special ids never come out of `encode`,
    whatever the text spells: the caller puts `bos`, `eos`, `code` and `text` where they belong.
    """

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 1
    eos: ClassVar[int] = 2
    code: ClassVar[int] = 3
    text: ClassVar[int] = 4

    def __init__(self, merges: Iterable[tuple[str, str]]):
        """Build from merges in order of rank; raise ValueError where one joins unknown or makes known tokens."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        self._merges = [(left, right) for left, right in merges]
        ids = {token: i for i, token in enumerate((*SPECIALS, *_alphabet()))}
        for left, right in self._merges:
            unknown = [part for part in (left, right) if part not in ids or part in SPECIALS]
            if unknown or left + right in ids:
                raise ValueError(f"merge {left!r} {right!r} joins unknown tokens or makes a known one")
            ids[left + right] = len(ids)
        self.vocabulary = len(ids)
        # The special tokens are rows of the vocabulary that no merge reaches, and not the library's "added
        # tokens", which it would look for in the text.
        self._tokenizer = Tokenizer(models.BPE(vocab=ids, merges=self._merges))
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._tokenizer.decoder = decoders.ByteLevel()
        self._piece_ids = lru_cache(REMEMBERED)(lambda piece: tuple(self._tokenizer.encode(piece).ids))

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int) -> Codec:
        """Learn merges from texts, the same ones every time.

        The codec has at most `vocabulary` tokens, and fewer where the texts hold too little to merge. Raises
        ConfigError where the vocabulary cannot even hold the bytes, the special tokens and the indentations.
        """
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        alphabet = _alphabet()
        smallest = len(SPECIALS) + len(alphabet) + len(INDENTS)
        if vocabulary < smallest:
            raise ConfigError(f"vocabulary must be at least {smallest} (special tokens and bytes), got {vocabulary}")
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary - len(SPECIALS), min_frequency=2, show_progress=False, initial_alphabet=alphabet
        )
        learner.train_from_iterator((PIECE.findall(text) for text in texts), trainer)
        learned = json.loads(learner.to_str())["model"]["merges"]
        products: dict[str, tuple[str, str]] = {}
        for left, right in chain(INDENTS, learned):
            products.setdefault(left + right, (left, right))
        return cls(list(products.values())[: vocabulary - len(SPECIALS) - len(alphabet)])

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; a lone surrogate, which is no character, is a UnicodeEncodeError."""
        text.encode()  # the library would say of a lone surrogate that it is not a string
        return [i for piece in PIECE.findall(text) for i in self._piece_ids(piece)]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of every text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids without the special ones; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode([i for i in known(ids, self.vocabulary) if i >= len(SPECIALS)])

    def tokenizer_json(self) -> str:
        """Return the codec as a tokenizer.json, which splits text into pieces by itself."""
        from tokenizers import Regex, Tokenizer, pre_tokenizers

        whole = Tokenizer.from_str(self._tokenizer.to_str())
        pieces = pre_tokenizers.Split(Regex(PIECE_ELSEWHERE), "isolated")
        whole.pre_tokenizer = pre_tokenizers.Sequence([pieces, self._tokenizer.pre_tokenizer])
        return whole.to_str(pretty=True)

    @property
    def digest(self) -> str:
        """The sha256 of the saved file, in hex."""
        return hashlib.sha256(self._serialise().encode()).hexdigest()

    def save(self, path: Path | str) -> None:
        """Write the codec, all of it or nothing."""
        write_whole(Path(path), self._serialise())

    @classmethod
    def load(cls, path: Path | str) -> Codec:
        """Read what `save` wrote; anything else is Unusable, a file that is not there a UserError."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no codec file at {path}")
        if path.stat().st_size > LARGEST_FILE:
            raise Unusable(f"{path} has {path.stat().st_size} bytes, more than any codec")
        try:
            data = json.loads(path.read_bytes())
            header = {name: data[name] for name in ("format", "pattern")}
            if header != {"format": FORMAT, "pattern": PIECE.pattern}:
                raise ValueError(f"format {header} is not the one of this version")
            return cls(tuple(merge.split(" ")) for merge in data["merges"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Unusable(f"{path} is not a codec that this version can read: {error}") from None

    def _serialise(self) -> str:
        data = {"format": FORMAT, "pattern": PIECE.pattern, "merges": [" ".join(merge) for merge in self._merges]}
        return json.dumps(data, indent=0, ensure_ascii=False)


def known(ids: Iterable[int], vocabulary: int) -> list[int]:
    """Return ids, of whatever integer type, as a list; ValueError where one lies outside the vocabulary."""
    ids = [int(i) for i in ids]
    for i in ids:
        if not 0 <= i < vocabulary:
            raise ValueError(f"token id {i} is not in 0..{vocabulary - 1}")
    return ids


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
