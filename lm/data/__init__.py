"""Text, tokens and images on disk: what turns files into batches. Names load when they are first used.

codec:          Codec, SPECIALS
packing:        Document, pack
corpus:         build_corpus, Corpus
jsonl:          read_jsonl, read_json, require_texts
decontaminate:  Contamination, remove_contaminated, Collision
clean:          clean_markdown, is_prose, remove_repeated, split_of
minhash:        remove_near_duplicates
mixture:        Mixture, Phase
images:         Images, cifar, digits, open_images, shuffled
"""

from importlib import import_module
from typing import Any

SURFACE = {
    "Codec": "codec",
    "SPECIALS": "codec",
    "Document": "packing",
    "pack": "packing",
    "build_corpus": "corpus",
    "Corpus": "corpus",
    "read_jsonl": "jsonl",
    "read_json": "jsonl",
    "require_texts": "jsonl",
    "Contamination": "decontaminate",
    "remove_contaminated": "decontaminate",
    "Collision": "decontaminate",
    "clean_markdown": "clean",
    "is_prose": "clean",
    "remove_repeated": "clean",
    "split_of": "clean",
    "remove_near_duplicates": "minhash",
    "Mixture": "mixture",
    "Phase": "mixture",
    "Images": "images",
    "cifar": "images",
    "digits": "images",
    "open_images": "images",
    "shuffled": "images",
}


def __getattr__(name: str) -> Any:
    if name in SURFACE:
        return getattr(import_module(f"lm.data.{SURFACE[name]}"), name)
    raise AttributeError(f"module 'lm.data' has no attribute {name!r} (names: {', '.join(SURFACE)})")


def __dir__() -> list[str]:
    return list(SURFACE)
