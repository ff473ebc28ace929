"""ASL STEM Wiki (Yin et al. 2024, arXiv 2411.05783), text side: signed sentences, articles, fingerspelled phrases.

sentences = read_sentences(folder / "all.csv")
articles = rebuild(sentences)                 # split(articles) gives the sentences back in order
spelled = mask(sentences[0].text, find_phrases(sentences[0].text, sentences[0].phrases))
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.data import read_json, read_jsonl, require_texts
from lm.exits import UserError

COLUMNS = ("articleName", "sectionIndex", "sentenceIndex", "sentence")
WORD = re.compile(r"\w+(?:['’]\w+)*")
REFERENCES = {"references", "external links", "see also", "further reading", "notes", "bibliography", "sources"}

Span = tuple[int, int]


class Sentence(NamedTuple):
    """A signed sentence with the phrases that were fingerspelled and the frames of each, half-open.

    Spans and phrases stand in the same order; three published rows have a span more than phrases, and do not say
    which. `user` is the interpreter, empty where the file does not say.
    """

    article: str
    section: int
    index: int
    text: str
    spans: tuple[Span, ...] = ()
    phrases: tuple[str, ...] = ()
    user: str = ""


class Section(NamedTuple):
    """Sentences under one heading; the text before the first heading has None."""

    number: int
    heading: str | None
    sentences: tuple[str, ...]


class Article(NamedTuple):
    """An article as it was read."""

    title: str
    sections: tuple[Section, ...]


def read_sentences(path: Path | str) -> list[Sentence]:
    """Read a file of annotations or of videos, one row a signed sentence; quoted fields may contain line breaks.

    A row that cannot be read is a UserError that names the file and the row.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: no column {missing[0]!r} (columns: {', '.join(rows.fieldnames or ())})")
            return [_sentence(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file: {error}") from None


def _sentence(row: dict[str, Any], where: str) -> Sentence:
    if None in row or None in row.values():
        raise UserError(f"{where} has not one field a column")
    try:
        spans = tuple((int(start), int(end)) for start, end in ast.literal_eval(row.get("fs_span") or "[]"))
        # A phrase may be any Python literal: the word "True" was written as one.
        phrases = tuple(str(phrase).strip() for phrase in ast.literal_eval(row.get("fs_text") or "[]"))
        section, index = int(row["sectionIndex"]), int(row["sentenceIndex"])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: {error}") from None
    return Sentence(row["articleName"], section, index, row["sentence"], spans, phrases, row.get("user", ""))


def read_counts(path: Path | str) -> dict[str, int]:
    """Read {word: count} of a large text, the measure of how common a word is."""
    counts = read_json(path)
    if not isinstance(counts, dict) or not all(isinstance(count, int) for count in counts.values()):
        raise UserError(f"{path}: an object of words and counts is needed")
    return counts


def rebuild(sentences: Iterable[Sentence]) -> list[Article]:
    """Put sentences back into articles; one that several interpreters signed counts once.

    The first sentence of a section behind the first is its heading where it does not end as a sentence does.
    """
    once = {(s.article, s.section, s.index): s.text for s in sorted(sentences, key=lambda s: s[:3])}
    articles = []
    for title, rows in groupby(once.items(), key=lambda item: item[0][0]):
        sections = []
        for number, part in groupby(rows, key=lambda item: item[0][1]):
            texts = [(key[2], text) for key, text in part]
            headed = number > 0 and texts[0][0] == 0 and not texts[0][1].rstrip().endswith((".", "!", "?", ":", '"'))
            heading = texts[0][1] if headed else None
            sections.append(Section(number, heading, tuple(text for _, text in texts[headed:])))
        articles.append(Article(title, tuple(sections)))
    return articles


def split(articles: Iterable[Article]) -> Iterator[tuple[str, int, str]]:
    """Yield (article, section, text) of every sentence and heading in order: the inverse of `rebuild`."""
    for article in articles:
        for section in article.sections:
            texts = section.sentences if section.heading is None else (section.heading, *section.sentences)
            yield from ((article.title, section.number, text) for text in texts)


def read_articles(path: Path | str) -> list[Article]:
    """Read JSON Lines of articles {title, sections: [{heading, sentences}]}."""

    def article(record: dict[str, Any]) -> Article:
        require_texts(record, ("title",))
        if not isinstance(record.get("sections"), list):
            raise ValueError("field 'sections' is not a list")
        return Article(record["title"], tuple(_section(i, part) for i, part in enumerate(record["sections"])))

    return list(read_jsonl(path, make=article))


def _section(number: int, part: Any) -> Section:
    sentences = part.get("sentences") if isinstance(part, dict) else None
    if not isinstance(sentences, list) or not all(isinstance(text, str) for text in sentences):
        raise ValueError(f"section {number} has no list of texts 'sentences'")
    heading = part.get("heading")
    if not isinstance(heading, str | None):
        raise ValueError(f"section {number} has a heading that is no text")
    return Section(number, heading or None, tuple(sentences))


def words(text: str) -> list[Span]:
    """Return where the words of a text stand: letters and digits, an apostrophe inside."""
    return [match.span() for match in WORD.finditer(text)]


def find_phrases(text: str, phrases: Iterable[str]) -> list[Span]:
    """Return where each phrase first stands in a text, case aside; one that is not there is left out."""
    low = text.lower()
    found = ((low.find(phrase.lower()), phrase) for phrase in phrases if phrase)
    return [(start, start + len(phrase)) for start, phrase in found if start >= 0]


def mask(text: str, spans: Iterable[Span]) -> np.ndarray:
    """Return which characters of a text lie in a span, bool [characters]."""
    marked = np.zeros(len(text), bool)
    for start, end in spans:
        marked[start:end] = True
    return marked


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return intersection over union of two masks; 0 where both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


def most(text: str, scores: Sequence[float], k: int) -> list[Span]:
    """Return the k distinct words with the highest score, each where it first stands; ties go to the first."""
    places: dict[str, tuple[float, Span]] = {}
    for score, (start, end) in zip(scores, words(text), strict=True):
        word = text[start:end].lower()
        if word not in places:
            places[word] = (score, (start, end))
    return [span for _, span in sorted(places.values(), key=lambda place: -place[0])[:k]]


def rarity(text: str, counts: Mapping[str, int]) -> list[float]:
    """Return the negative count of each word: the frequency baseline takes the rarest for the spelled ones."""
    return [-float(counts.get(text[start:end].lower(), 0)) for start, end in words(text)]


def alignment_iou(sentences: Sequence[Sentence], scores: Sequence[Sequence[float]]) -> float:
    """Return the mean IoU on characters of the best words with the spelled phrases, as many words as were spelled.

    Sentences whose phrases do not occur in their text are left out.
    """
    found = [
        iou(mask(s.text, most(s.text, score, len(s.phrases))), mask(s.text, spelled))
        for s, score in zip(sentences, scores, strict=True)
        if (spelled := find_phrases(s.text, s.phrases))
    ]
    return float(np.mean(found))
