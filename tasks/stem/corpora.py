"""Open textbooks, Markdown lectures and ASL STEM Wiki as documents: read, cleaned, once each, free of test text.

texts, counts = prepare(Folders(textbooks="DIR", gsm8k="DIR"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lm.data import read_jsonl, remove_contaminated, require_texts
from lm.data.clean import clean, clean_markdown, is_prose, remove_repeated, split_of
from lm.data.minhash import remove_near_duplicates
from lm.exits import UserError
from tasks.math import gsm8k
from tasks.stem.asl import REFERENCES, Article, read_articles, read_sentences, rebuild

SPLITS = ("train", "valid", "test")
GLOSSARY = "glossary"


class Text(NamedTuple):
    """A document: what it is called, its text, where it comes from (textbooks, exercises, markdown, asl), its split."""

    id: str
    text: str
    source: str
    split: str


@dataclass(frozen=True)
class Folders:
    """Where the corpora lie; None leaves one out.

    `textbooks` holds sections.jsonl and, where there are any, exercises.jsonl; `markdown` files of lectures; `asl`
    articles.jsonl, videos.csv or train.csv, and test.csv, whose articles stay out of all training text; `gsm8k`
    test.jsonl, whose questions do.
    """

    textbooks: str | None = None
    markdown: str | None = None
    asl: str | None = None
    gsm8k: str | None = None


def read_all(folders: Folders) -> list[Text]:
    """Read and clean every corpus that has a folder; UserError where there is none, or one is not there."""
    readers = {"textbooks": textbooks, "markdown": markdown, "asl": asl}
    named = {name: Path(folder) for name in readers if (folder := getattr(folders, name)) is not None}
    if not named:
        raise UserError("no corpus: give --data.textbooks DIR, --data.markdown DIR or --data.asl DIR")
    for name, folder in named.items():
        if not folder.is_dir():
            raise UserError(f"data.{name}: no folder {folder}")
    return list(chain.from_iterable(readers[name](folder) for name, folder in named.items()))


def textbooks(folder: Path) -> Iterator[Text]:
    """Yield the sections of open textbooks and their exercises, one document each, in the split of their module."""

    def section(row: dict[str, Any]) -> Text:
        require_texts(row, ("module", "title", "text"))
        text = clean(f"# {row['title']}\n\n{row['text']}")
        return Text(row["module"], text, "textbooks", _split(row))

    def exercise(row: dict[str, Any]) -> Text:
        require_texts(row, ("module", "problem", "solution"))
        return Text(row["module"], clean(f"{row['problem']}\n\n{row['solution']}"), "exercises", _split(row))

    yield from read_jsonl(folder / "sections.jsonl", make=section)
    if (folder / "exercises.jsonl").exists():
        for number, text in enumerate(read_jsonl(folder / "exercises.jsonl", make=exercise)):
            yield text._replace(id=f"{text.id}/{number}")


def _split(row: Mapping[str, Any]) -> str:
    if "split" not in row:
        return split_of(row["module"])
    if row["split"] not in SPLITS:
        raise ValueError(f"field 'split' is {row['split']!a}, none of {', '.join(SPLITS)}")
    return row["split"]


def glossary(folder: Path | str) -> frozenset[str]:
    """Return the words of all terms that the sections of open textbooks explain, in lower case."""

    def terms(row: dict[str, Any]) -> list[str]:
        entries = row.get(GLOSSARY)
        if not isinstance(entries, list) or not all(isinstance(e, list) and len(e) == 2 for e in entries):
            raise ValueError(f"field {GLOSSARY!r} is not a list of terms with their meanings")
        return [str(term) for term, _ in entries]

    rows = read_jsonl(Path(folder) / "sections.jsonl", make=terms)
    return frozenset(word for row in rows for term in row for word in term.lower().split())


def markdown(folder: Path) -> Iterator[Text]:
    """Yield the lectures of a folder and its sub-folders, code and formulas kept."""
    paths = sorted(folder.rglob("*.md"))
    if not paths:
        raise UserError(f"data.markdown: {folder} holds no .md files")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            text = clean_markdown(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start + 1}") from None
        yield Text(name, text, "markdown", split_of(name))


def asl(folder: Path) -> Iterator[Text]:
    """Yield the articles of ASL STEM Wiki; those with a sentence in test.csv are test documents."""
    files = [folder / name for name in ("articles.jsonl", "videos.csv", "train.csv") if (folder / name).exists()]
    if not files:
        raise UserError(f"data.asl: {folder} must hold articles.jsonl, videos.csv or train.csv")
    articles = read_articles(files[0]) if files[0].suffix == ".jsonl" else rebuild(read_sentences(files[0]))
    examined = {article for article, _ in _test_sentences(folder)}
    for article in articles:
        split = "test" if article.title in examined else split_of(article.title)
        yield Text(article.title, article_text(article), "asl", split)


def _test_sentences(folder: Path) -> list[tuple[str, str]]:
    path = folder / "test.csv"
    return [(s.article, s.text) for s in read_sentences(path)] if path.exists() else []


def article_text(article: Article) -> str:
    """Return an article as one text with its headings, without lists of references and what is no prose."""
    parts = [f"# {article.title}"]
    for section in article.sections:
        if (section.heading or "").strip().casefold() in REFERENCES:
            continue
        sentences = [s for s in map(clean, section.sentences) if is_prose(s)]
        if sentences:
            parts += ([f"## {clean(section.heading)}"] if section.heading else []) + [" ".join(sentences)]
    return "\n\n".join(parts)


def prepare(folders: Folders) -> tuple[list[Text], dict[str, Any]]:
    """Return the documents that pass all filters, and how many, with how many characters, pass each by source.

    In turn: empty documents go, exact copies, near copies (Jaccard similarity of 5-word shingles above 0.8), and
    training documents that share 13 words in a row with a question of GSM8K's test or an annotated test sentence.
    """
    counts: dict[str, dict[str, Any]] = {}
    texts = read_all(folders)
    _count(counts, "read", texts)
    texts = [text for text in texts if len(text.text.split()) >= 3]
    # Documents that are examined come first, so that of two copies the one in training goes.
    texts.sort(key=lambda text: SPLITS[::-1].index(text.split))
    _count(counts, "not_empty", texts)
    texts, _ = remove_repeated(texts, text=lambda text: text.text)
    _count(counts, "no_exact_copy", texts)
    texts, _ = remove_near_duplicates(texts, text=lambda text: text.text)
    _count(counts, "no_near_copy", texts)
    training, others = _parted(texts)
    training, _ = remove_contaminated(training, tests_of(folders), text=lambda text: text.text)
    texts = others + training
    _count(counts, "no_test_text", texts)
    return texts, counts


def tests_of(folders: Folders) -> list[str]:
    """Return the texts that no training document may share 13 words in a row with."""
    found = [] if folders.gsm8k is None else [item.question for item in gsm8k.load(folders.gsm8k)[1]]
    return found + ([] if folders.asl is None else [text for _, text in _test_sentences(Path(folders.asl))])


def digests(folders: Folders) -> dict[str, str]:
    """Return the sha256 of every file that `prepare` reads."""
    patterns = {
        "textbooks": ("sections.jsonl", "exercises.jsonl"),
        "markdown": ("**/*.md",),
        "asl": ("articles.jsonl", "videos.csv", "train.csv", "test.csv"),
        "gsm8k": ("test.jsonl",),
    }
    return {
        f"{name}/{path.relative_to(folder).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for name, globs in patterns.items()
        if (folder := getattr(folders, name)) is not None
        for pattern in globs
        for path in sorted(Path(folder).glob(pattern))
    }


def _parted(texts: Sequence[Text]) -> tuple[list[Text], list[Text]]:
    return [text for text in texts if text.split == "train"], [text for text in texts if text.split != "train"]


def _count(counts: dict[str, dict[str, Any]], stage: str, texts: Iterable[Text]) -> None:
    for text in texts:
        of = counts.setdefault(text.source, {}).setdefault(stage, {"documents": 0, "characters": 0})
        of["documents"] += 1
        of["characters"] += len(text.text)
