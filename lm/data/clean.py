"""Text made plain for language models, and the laws by which documents are told apart and split.

clean("Acids [12] – H₂O")         # "Acids - H₂O"
split_of("m81243", 40)            # "train", "valid" or "test", from the id alone
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

CITATION = re.compile(r"[ \t]?\[(?:\d+(?:[,\-]\s?\d+)*|citation needed|note \d+)\]")
DASH = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")
# All but raised and lowered signs.
PIECE = re.compile("[^\u00aa\u00b2\u00b3\u00b9\u00ba\u02b0-\u02ff\u1d2c-\u1d6a\u2070-\u209f]+")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
FENCE = re.compile(r"(^(```+|~~~+)[^\n]*\n.*?^\2[^\n]*$)", re.S | re.M)
IMAGE = re.compile(r"!\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
LINK = re.compile(r"(?<!\!)\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])")
TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^<>\n]*>", re.S)
BARE = re.compile(r"<(https?://[^>\s]+)>|^\[[^\]]+\]:[ \t]+\S+.*$", re.M)


def clean(text: str) -> str:
    """Return text in NFKC but for raised and lowered signs, with plain dashes and without citation marks.

    Blanks at line ends and blank lines behind the first go too; formulas stay as they are.
    """
    text = PIECE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text.replace("\r\n", "\n"))
    text = CITATION.sub("", INVISIBLE.sub("", DASH.sub("-", text)))
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+(?=\n|\Z)", "", text)).strip()


def clean_markdown(text: str) -> str:
    """Return Markdown without front matter, images, link targets, comments and tags; code blocks stay as they are."""
    text = FRONT_MATTER.sub("", text.replace("\r\n", "\n").removeprefix("\ufeff"))
    parts = FENCE.split(text)
    # Every third part is a fenced block; behind it stands its fence, which is in the block already.
    texts = [part if i % 3 == 1 else _prose(part) for i, part in enumerate(parts) if i % 3 != 2]
    return re.sub(r"\n{3,}", "\n\n", "".join(texts)).strip()


def _prose(text: str) -> str:
    text = BARE.sub("", text)
    text = LINK.sub(r"\1", IMAGE.sub("", text))
    return clean_lines(TAG.sub("", text))


def clean_lines(text: str) -> str:
    """Return `clean` of a text that keeps the blank lines at its ends."""
    body = text.strip("\n")
    start = text[: len(text) - len(text.lstrip("\n"))]
    return start + clean(body) + text[len(text.rstrip("\n")) :] if body else text


def is_prose(sentence: str, least_words: int = 3, most_other: float = 0.6) -> bool:
    """Say whether a sentence has enough words, and among its characters, blanks aside, enough letters."""
    parts = sentence.split()
    other = sum(not c.isalpha() for part in parts for c in part)
    return len(parts) >= least_words and other <= most_other * sum(map(len, parts))


def remove_repeated(items: Iterable[T], text: Callable[[T], str]) -> tuple[list[T], int]:
    """Return the items whose text, blanks aside, stands for the first time, and how many others there were."""
    seen: set[bytes] = set()
    kept, count = [], 0
    for item in items:
        count += 1
        digest = hashlib.sha256(" ".join(text(item).split()).encode()).digest()
        if digest not in seen:
            seen.add(digest)
            kept.append(item)
    return kept, count - len(kept)


def split_of(identity: str, held_out: int = 25) -> str:
    """Return "valid" or "test" for one id in `held_out` each and "train" for the others, from a hash of the id."""
    place = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") % held_out
    return {0: "valid", 1: "test"}.get(place, "train")
