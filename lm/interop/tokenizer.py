"""Tokenizers of other libraries as codecs: from a .gguf file, or from a folder with tokenizer.json.

codec = load_codec("model.gguf")
codec.decode(codec.encode("x = 12\\n")), codec.specials["<|im_end|>"]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from lm.data.codec import known
from lm.exits import Unusable, UserError
from lm.interop.gguf import GGUF, read_gguf
from lm.strict import ConfigError, nearest

# Marks before a program and before a solution in words: the first pair that the vocabulary has among its special
# tokens. Ours, those of models that read notebooks, then ones that were reserved and never trained.
MARKS = (
    ("<|code|>", "<|text|>"),
    ("<jupyter_code>", "<jupyter_text>"),
    ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    ("<|placeholder1|>", "<|placeholder2|>"),
)
CONTROL, USER_DEFINED = 3, 4  # token types in GGUF
LARGEST_FILE = 1 << 27  # bytes; a vocabulary of 262,144 tokens takes a quarter of it

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# tokenizer.ggml.pre: what splits a text before the split of GPT-2 (digits), or the pattern in place of that split.
GPT2, DIGITS = "gpt2", "digits"
SPLITS = {
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "llama-bpe": rf"{WORDS}|\p{{N}}{{1,3}}|{SIGNS}",
    "qwen2": rf"{WORDS}|\p{{N}}|{SIGNS}",
}


class PretrainedCodec:
    """Turn text into the ids of a model's own tokenizer and back, with the methods of `lm.data.Codec`.

    `encode` writes special tokens as the plain text that they are, so that no text can spell one: the caller puts
    `bos`, `eos`, `code`, `text` and others of `specials` where they belong. `bos` is `eos` where the model has none,
    as its documents then begin behind the end of another; `begins` says whether the model wants it before every text.
    """

    def __init__(self, tokenizer: Any, *, eos: str | None, bos: str | None, pad: str | None, begins: bool, origin: str):
        self._tokenizer, self._origin = tokenizer, origin
        self._tokenizer.encode_special_tokens = True
        added = tokenizer.get_added_tokens_decoder()
        self.specials: Mapping[str, int] = {token.content: i for i, token in sorted(added.items()) if token.special}
        if eos is None:
            raise Unusable(f"{origin} names no token that ends a text")
        self.eos = self._id(eos)
        self.bos = self.eos if bos is None else self._id(bos)
        self.pad = self.eos if pad is None else self._id(pad)
        self.begins = begins
        ids = tokenizer.get_vocab().values()
        if len(set(ids)) < len(ids) or max(ids) >= 2 * len(ids):  # files of some families leave out a few ids
            raise Unusable(f"{origin} gives {len(ids)} tokens {len(set(ids))} different ids, the largest {max(ids)}")
        self.vocabulary: int = max(ids) + 1

    @cached_property
    def code(self) -> int:
        """The mark before a program; ConfigError where no special token can be one."""
        return self._marks[0]

    @cached_property
    def text(self) -> int:
        """The mark before a solution in words; ConfigError where no special token can be one."""
        return self._marks[1]

    @cached_property
    def _marks(self) -> tuple[int, int]:
        for code, text in MARKS:
            if code in self.specials and text in self.specials:
                return self.specials[code], self.specials[text]
        wanted = ", ".join(f"{code} with {text}" for code, text in MARKS)
        raise ConfigError(f"{self._origin} has no special tokens to mark programs and words with: {wanted}")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; a lone surrogate, which is no character, is a UnicodeEncodeError."""
        text.encode()  # the library would say of a lone surrogate that it is not a string
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of every text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids without the special ones; bytes that are no UTF-8 become U+FFFD."""
        return self._tokenizer.decode(known(ids, self.vocabulary), skip_special_tokens=True)

    def tokenizer_json(self) -> str:
        """Return the tokenizer as a tokenizer.json."""
        return self._tokenizer.to_str(pretty=True)

    @cached_property
    def digest(self) -> str:
        """The sha256 of tokenizer and special ids, in hex."""
        ids = json.dumps([self.bos, self.eos, self.pad])
        return hashlib.sha256((self._tokenizer.to_str() + ids).encode()).hexdigest()

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise Unusable(f"{self._origin} names the special token {token!r}, which it does not have")
        return found


def load_codec(path: Path | str) -> PretrainedCodec:
    """Read the tokenizer of a .gguf file, or of a folder with tokenizer.json and tokenizer_config.json.

    Raises UserError where there is none and Unusable where it cannot be read.
    """
    path = Path(path)
    return _from_gguf(read_gguf(path)) if path.suffix == ".gguf" else _from_folder(path)


def _from_gguf(file: GGUF) -> PretrainedCodec:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    def value(name: str, kind: type, default: Any = None) -> Any:
        return file.value(f"tokenizer.ggml.{name}", kind, default)

    if value("model", str) != "gpt2":
        raise Unusable(f"{file.path} has a tokenizer of kind {value('model', str)}; read is gpt2, byte-level BPE")
    tokens, types = value("tokens", list), value("token_type", list)
    merges = [tuple(merge.split(" ")) for merge in value("merges", list)]
    if len(tokens) != len(types) or len(set(tokens)) != len(tokens):
        raise Unusable(f"{file.path} has {len(set(tokens))} distinct tokens, {len(tokens)} in all, {len(types)} types")
    split = value("pre", str, "gpt-2")
    if split not in SPLITS:
        raise Unusable(f"{file.path} splits text as {split!r}{nearest(split, SPLITS)} (read are {', '.join(SPLITS)})")
    ids = {token: i for i, token in enumerate(tokens)}
    try:
        model = models.BPE(vocab=ids, merges=merges, ignore_merges=split == "llama-bpe")
    except Exception as error:  # the library has no type for it
        raise Unusable(f"{file.path}: its merges do not make its tokens: {error}") from None
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = _splitter(SPLITS[split])
    tokenizer.decoder = decoders.ByteLevel()
    added = [(token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)]
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=kind == CONTROL) for token, kind in added])

    def named(name: str) -> str | None:
        i = value(f"{name}_token_id", int, -1)
        if i >= len(tokens):
            raise Unusable(
                f"{file.path}: metadata tokenizer.ggml.{name}_token_id is {i}, there are {len(tokens)} tokens"
            )
        return None if i < 0 else tokens[i]

    return PretrainedCodec(
        tokenizer,
        eos=named("eos"),
        bos=named("bos"),
        pad=named("padding"),
        begins=value("add_bos_token", bool, False),
        origin=str(file.path),
    )


def _splitter(split: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in (GPT2, DIGITS))
    if split == GPT2:
        return words
    if split == DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), words])


def _from_folder(folder: Path) -> PretrainedCodec:
    from tokenizers import Tokenizer

    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    for needed in (path, settings):
        if not needed.is_file():
            held = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
            raise UserError(f"no {needed.name} in {folder} (found: {held[:300] or 'nothing'})")
        if needed.stat().st_size > LARGEST_FILE:
            raise Unusable(f"{needed} has {needed.stat().st_size} bytes, more than any {needed.name}")
    try:
        tokenizer = Tokenizer.from_str(path.read_text("utf-8"))
        given = json.loads(settings.read_text("utf-8"))
        named = {name: given.get(f"{name}_token") for name in ("eos", "bos", "pad")}
        texts = {name: token["content"] if isinstance(token, dict) else token for name, token in named.items()}
    except Exception as error:  # the library has no type for it
        raise Unusable(f"{folder} holds no tokenizer that can be read: {error}") from None
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise Unusable(f"{settings}: {name}_token must be a text, it is {text!r:.40}")
    begun = tokenizer.encode("a").ids[:1]  # with what the file itself says to put around a text
    begins = texts["bos"] is not None and begun == [tokenizer.token_to_id(texts["bos"])]
    return PretrainedCodec(tokenizer, **texts, begins=begins, origin=str(folder))
