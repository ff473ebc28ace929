"""Laws of the STEM corpora: what is read, cleaned, removed and split, and what is spelled."""

import itertools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from lm.candidates import auroc
from lm.data.clean import clean, clean_markdown, is_prose, remove_repeated, split_of
from lm.data.minhash import jaccard, remove_near_duplicates, shingles, signature
from lm.exits import UserError
from tasks.stem.asl import (
    Article,
    Section,
    alignment_iou,
    find_phrases,
    iou,
    mask,
    most,
    rarity,
    read_articles,
    read_counts,
    read_sentences,
    rebuild,
    split,
    words,
)
from tasks.stem.asl_study import f1
from tasks.stem.corpora import Folders, Text, article_text, prepare
from tasks.stem.fingerspelling import Simulator, align, alignment_top1, draw_clips, frame_iou, train_frames
from tasks.stem.quality import disordered, train_judge
from tasks.stem.tagger import TaggerConfig, cross_validate, describe, encode, spelled

DATA = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir() and os.environ.get("CI") != "true", reason="no data sets at ../shared/data")

CSV = """user,articleName,sectionIndex,sentenceIndex,filename,sentence,fs_span,fs_text
u1,Acid,0,0,a.mp4,"An acid is, as
Lowry said, a donor.","[(1, 9), (20, 44)]","['acid ', 'Lowry']"
u1,Acid,1,1,a.mp4,It gives.,[],[]
u1,Acid,1,0,a.mp4,Uses,"[(3, 8)]",[True]
u2,Acid,1,1,a.mp4,It gives.,[],[]
u2,Base,0,0,b.mp4,A base takes a proton.,[],[]
"""


@pytest.fixture
def annotations(tmp_path):
    (tmp_path / "train.csv").write_text(CSV)
    return tmp_path


def test_annotations_are_read_as_published(annotations):
    first, _, heading, *_ = read_sentences(annotations / "train.csv")
    assert first.text == "An acid is, as\nLowry said, a donor."
    assert (first.spans, first.phrases) == (((1, 9), (20, 44)), ("acid", "Lowry"))
    assert heading.phrases == ("True",)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("sentence,fs_span", "text,fs_span", "no column 'sentence' .columns: user, articleName"),
        ("[(3, 8)]", "[(3, x)]", "row 3: malformed"),
        ("Acid,1,0", "Acid,one,0", "row 3: invalid literal"),
        ("A base takes a proton.", "A base, it takes", "row 5 has not one field a column"),
    ],
)
def test_a_bad_annotation_is_named_by_its_row(annotations, old, new, message):
    (annotations / "train.csv").write_text(CSV.replace(old, new))
    with pytest.raises(UserError, match=message):
        read_sentences(annotations / "train.csv")


def test_articles_are_rebuilt_and_split_again(annotations):
    sentences = read_sentences(annotations / "train.csv")
    articles = rebuild(sentences[::-1])
    assert [a.title for a in articles] == ["Acid", "Base"] and articles[0].sections[1].heading == "Uses"
    once = sorted({s[:4] for s in sentences})
    assert list(split(articles)) == [(s[0], s[1], s[3]) for s in once]
    rows = [{"title": a.title, "sections": [s._asdict() for s in a.sections]} for a in articles]
    (annotations / "articles.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert list(split(read_articles(annotations / "articles.jsonl"))) == list(split(articles))
    with pytest.raises(UserError, match="articles.jsonl:1: section 0 has no list of texts 'sentences'"):
        (annotations / "articles.jsonl").write_text('{"title": "A", "sections": [{"heading": "H"}]}')
        read_articles(annotations / "articles.jsonl")


def test_an_article_becomes_prose_with_headings():
    text = "A base takes a proton – always [12]."
    sections = Section(0, None, (text, "1 = 2", "Too few")), Section(1, "References", ("A book is a book.",))
    assert article_text(Article("Base", sections)) == "# Base\n\nA base takes a proton - always."


def test_iou_and_marked_words():
    a, b = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert iou(a, a) == 1 and iou(a, ~a) == 0 and iou(a, b) == iou(b, a) == 1 / 3 and iou(a & ~a, a & ~a) == 0
    text = "The acid, the Acid and THE base"
    assert [text[slice(*span)] for span in words(text)] == text.replace(",", "").split()
    scores = rarity(text, {"the": 9, "and": 5})
    for k in range(6):
        spans = most(text, scores, k)
        assert len({text[slice(*span)].lower() for span in spans}) == len(spans) == min(k, 4)
    assert most(text, scores, 2) == [(4, 8), (27, 31)]  # equally rare: the first one first
    assert find_phrases(text, ["ACID", "none", ""]) == [(4, 8)]
    assert mask(text, [(4, 8)]).nonzero()[0].tolist() == [4, 5, 6, 7]


def test_auroc_and_f1_in_closed_form():
    positive = np.array([0, 1, 0, 1], bool)
    assert auroc(positive, np.array([1, 2, 3, 4])) == 0.75 and auroc(positive, np.zeros(4)) == 0.5
    assert auroc(positive, positive) == 1
    assert f1(np.array([1, 1, 0, 0], bool), positive) == 0.5 and f1(~positive, positive) == 0


@real
def test_published_counts_and_baselines():
    folder = DATA / "asl_stem_wiki_fs"
    everything = read_sentences(folder / "all.csv")
    train, test = (read_sentences(folder / f"{name}.csv") for name in ("train", "test"))
    assert [len(part) for part in (everything, train, test)] == [508, 493, 15]
    assert sum(len(s.spans) for s in everything) == 1763 and sum(not s.spans for s in everything) == 63
    assert sum(len(s.spans) != len(s.phrases) for s in everything) == 3
    assert len({s.article for s in train}) == 5 and not {s.article for s in train} & {s.article for s in test}
    once = list(dict.fromkeys(s[:2] + s[3:4] for s in sorted(everything, key=lambda s: s[:3])))
    assert [key for key in split(rebuild(everything)) if key in once] == list(split(rebuild(everything)))
    counts = read_counts(folder / "wikipedia_words.json")
    single = read_sentences(folder / "train-onespan.csv")
    assert len(single) == 1721 and sum(bool(find_phrases(s.text, s.phrases)) for s in single) == 1719
    assert alignment_iou(single, [rarity(s.text, counts) for s in single]) == pytest.approx(0.148, abs=0.002)
    spelled_ones = [s for s in everything if s.phrases]
    assert alignment_iou(spelled_ones, [rarity(s.text, counts) for s in spelled_ones]) == pytest.approx(0.391, abs=2e-3)


def test_the_tagger_learns_what_marks_a_word_and_never_sees_the_article_it_scores(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["articleName,sectionIndex,sentenceIndex,sentence,fs_span,fs_text"]
    for i in range(90):
        text = [f"{rng.choice(['the', 'of', 'is', 'we'])}" for _ in range(6)]
        place = rng.integers(6)
        text[place] = rng.choice(["Boron", "Radon", "Xenon", "Argon"])
        lines.append(f"""{"PQR"[i % 3]},0,{i},{" ".join(text)},"[(1, 2)]","['{text[place]}']" """.strip())
    (tmp_path / "train.csv").write_text("\n".join(lines))
    sentences = read_sentences(tmp_path / "train.csv")
    counts = {"the": 900, "of": 800, "is": 700, "we": 600}
    data = encode(sentences, counts, frozenset({"argon"}))
    assert data.targets.sum() == 90 and data.inputs.features.shape == (90, 6, 6)
    assert describe("An Argon", counts, {"argon"})[:, 4:].tolist() == [[0, 0], [1, 1]]
    config = TaggerConfig(channels=4, hidden=8, epochs=15, learning_rate=3e-2)
    found, watched = cross_validate(data, [s.article for s in sentences], 0, config)
    assert auroc(np.concatenate([spelled(s) for s in sentences]), np.concatenate(found)) > 0.95
    assert all(held_out != other for held_out, other in watched.items()) and set(watched) == {"P", "Q", "R"}
    # A label of the article that is held out changes nothing of its scores.
    changed = data._replace(targets=np.where((np.arange(90) % 3 == 0)[:, None], 1 - data.targets, data.targets))
    again, _ = cross_validate(changed, [s.article for s in sentences], 0, config)
    assert found[0::3] == again[0::3] and found[1::3] != again[1::3]


def test_clips_show_the_words_that_they_say():
    vocabulary = ["acid", "proton", "electrophile", "base", "lemma"]
    quiet = Simulator(noise=0.01, frames=200, spelled=2)
    clips = jax.jit(lambda key: draw_clips(quiet, vocabulary, key, 8))(jax.random.key(0))
    for frames_TS, spelled_T, shown, spans in zip(*map(np.asarray, clips), strict=True):
        marked = mask("x" * 200, spans)
        assert np.array_equal(marked, spelled_T) and len(set(shown)) == 2
        for word, (start, end) in zip(shown, spans, strict=True):
            letters = "".join(chr(97 + i) for i in frames_TS[start:end].argmax(axis=1))
            squeezed = "".join(c for i, c in enumerate(letters) if i == 0 or c != letters[i - 1])
            assert squeezed in vocabulary[word].replace("mm", "m") or end == 200
    assert alignment_top1(quiet, clips, vocabulary, 4, 4, 0) == 1
    probabilities = align(np.asarray(clips.frames)[0][slice(*np.asarray(clips.spans)[0, 0])], vocabulary, 1.0)
    assert probabilities.sum() == pytest.approx(1) and probabilities.argmax() == np.asarray(clips.words)[0, 0]
    with pytest.raises(ValueError, match="2 frames are too few"):
        align(np.zeros((2, 27)), vocabulary, 1.0)
    net, params = train_frames(quiet, vocabulary, seed=0, steps=20, batch_size=4)
    assert frame_iou(net, params, clips) > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_the_best_alignment_is_the_best_of_all(seed):
    frames_TS = np.random.default_rng(seed).normal(size=(6, 27))
    frames_TS[:, 2] += 2  # who may skip letters stays on the c
    candidates = ["abc", "ca", "b"]

    def by_hand(word):
        cuts = itertools.combinations(range(1, 6), len(word) - 1)  # the frames in which the next letter begins
        letters = ([ord(word[sum(t >= cut for cut in chosen)]) - 97 for t in range(6)] for chosen in cuts)
        return max(frames_TS[np.arange(6), places].sum() for places in letters)

    expected = np.exp([by_hand(word) for word in candidates])
    np.testing.assert_allclose(align(frames_TS, candidates, 1.0), expected / expected.sum(), rtol=1e-6)


def test_minhash_estimates_jaccard_and_finds_near_copies():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(500)]
    base = rng.choice(vocabulary, 400)
    texts, exact, estimated = [], [], []
    for changed in (0, 2, 5, 10, 20, 60, 400):
        other = base.copy()
        other[rng.choice(400, changed, replace=False)] = "other"
        texts.append(" ".join(other))
        a, b = shingles(texts[0]), shingles(texts[-1])
        exact.append(jaccard(a, b))
        estimated.append(np.mean(signature(a, 512) == signature(b, 512)))
    np.testing.assert_allclose(estimated, exact, atol=3 * 0.5 / 512**0.5)
    kept, removed = remove_near_duplicates(texts)
    assert [d.item for d in removed] == [i for i, s in enumerate(exact) if i and s > 0.8] and len(removed) >= 2
    assert all(d.of == 0 and d.similarity == exact[d.item] for d in removed)
    assert kept == [t for t, s in zip(texts, exact, strict=True) if s <= 0.8 or t is texts[0]]
    assert len(shingles("two words")) == 1 and remove_near_duplicates(["Two words.", "two WORDS"])[0] == ["Two words."]


def test_text_is_cleaned():
    assert clean("ﬁne – x² [12] H₂O\u200b [3, 4]  \n\n\n\n½") == "fine - x² H₂O\n\n1⁄2"
    front = "---\ntitle: x\n---\n"
    page = front + "# A [link](u) ![i](p.png)\n\n<b>x</b> $a_1 < b$ [r]\n\n```py\nx = [1](2)  # <b>\n```\nEnd\n\n[r]: u"
    assert clean_markdown(page) == "# A link\n\nx $a_1 < b$ [r]\n\n```py\nx = [1](2)  # <b>\n```\nEnd"
    assert is_prose("A base takes one.") and not is_prose("x = 1 + 2 - 33 / 444") and not is_prose("Two words")
    assert remove_repeated(["a  b", "a b", "c"], text=str) == (["a  b", "c"], 1)
    splits = [split_of(f"m{i}") for i in range(5000)]
    assert {s: splits.count(s) for s in splits} == {
        "train": pytest.approx(4600, abs=60), "valid": pytest.approx(200, abs=45), "test": pytest.approx(200, abs=45)
    }  # fmt: skip


@pytest.fixture
def folders(annotations, tmp_path):
    draw = np.random.default_rng(0).choice
    lexicon = [f"{a}{b}" for a in "bcdfg" for b in ("ase", "ond", "ate", "ium")]
    rows = []
    for i in range(40):
        text = " ".join(f"The {draw(lexicon)} holds {draw(lexicon)} and so on." for _ in range(30))
        rows.append({"book": "B", "module": f"m{i}", "title": f"T{i}", "text": text, "glossary": [["ion", "x"]]})
    rows[1]["text"] = rows[0]["text"].replace("holds", "HOLDS", 1)  # a near copy
    rows[2]["text"] += " " + "one two three four five six seven eight nine ten eleven twelve thirteen"
    (tmp_path / "sections.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks = [{"module": f"m{i}", "problem": f"Find {i} of {lexicon[i % 20]}?", "solution": str(i)} for i in range(60)]
    (tmp_path / "exercises.jsonl").write_text("\n".join(map(json.dumps, [*tasks, tasks[0]])))
    question = "One two three four five six seven eight nine ten eleven twelve thirteen?"
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": question, "answer": "#### 3"}))
    return Folders(textbooks=str(tmp_path), asl=str(tmp_path), gsm8k=str(tmp_path))


def test_filters_count_what_passes_and_splits_follow_documents(folders, tmp_path):
    texts, counts = prepare(folders)
    stages = {stage: of["documents"] for stage, of in counts["textbooks"].items()}
    assert stages == {"read": 40, "not_empty": 40, "no_exact_copy": 40, "no_near_copy": 39, "no_test_text": 38}
    assert counts["exercises"]["read"]["documents"] == counts["exercises"]["no_exact_copy"]["documents"] + 1
    assert counts["textbooks"]["no_test_text"]["characters"] == sum(
        len(t.text) for t in texts if t.source == "textbooks"
    )
    assert all(t.split == split_of(t.id.partition("/")[0]) for t in texts)
    (tmp_path / "lectures").mkdir()
    with pytest.raises(UserError, match="data.markdown: .* holds no .md files"):
        prepare(Folders(markdown=str(tmp_path / "lectures")))
    (tmp_path / "lectures" / "week1.md").write_text("---\nx: y\n---\n# Acids\n\nAn [acid](a.md) gives a proton.")
    lectures, _ = prepare(Folders(markdown=str(tmp_path / "lectures")))
    assert lectures == [Text("week1.md", "# Acids\n\nAn acid gives a proton.", "markdown", split_of("week1.md"))]
    with pytest.raises(UserError, match="data.asl: no folder nowhere"):
        prepare(Folders(asl="nowhere"))
    with pytest.raises(UserError, match="give --data.textbooks DIR, --data.markdown DIR or --data.asl DIR"):
        prepare(Folders())


def test_the_judge_tells_passages_from_disorder(folders):
    texts, _ = prepare(folders)
    judge, reached = train_judge(texts, seed=0, steps=60, batch_size=32)
    assert reached > 0.9
    good = next(t.text for t in texts if t.source == "textbooks")
    scores = judge([good, disordered(good, np.random.default_rng(0))])
    assert scores[0] > scores[1]


def test_stem_trains_on_phases_and_examines_each_source(folders, tmp_path, monkeypatch):
    from lm.strict import ConfigError, override
    from lm.train import fit
    from tasks.registry import RECIPES
    from tasks.stem.text import uniform

    small = {
        "data.textbooks": folders.textbooks, "data.vocabulary": 300, "data.length": 400, "data.problems": 20,
        "data.quality": 0.01, "task.generator.test_count": 2, "model.width": 16, "model.depth": 1,
        "model.vocabulary": 300, "train.steps": 5, "train.batch_size": 2,
    }  # fmt: skip
    recipe = override(RECIPES["stem_phases_cpu"](), small)
    result = fit(recipe, tmp_path / "run", quiet=True)
    metrics = result.evaluation.metrics
    assert {"bits_per_character_textbooks", "execution_accuracy"} <= set(metrics)
    assert 1 < metrics["bits_per_character_textbooks"].value < 12
    assert result.source.facts["taken"] == {"text": 4, "filtered": 2, "problems": 4}
    mixed = override(recipe, {"data.phases": uniform(recipe.data.phases), "data.prepared": str(tmp_path / "run")})
    assert mixed.task.source(mixed, tmp_path / "other").facts["taken"] == result.source.facts["taken"]
    with pytest.raises(ConfigError, match="data.phases.weights must be one of text, exercises"):
        override(recipe, {"data.phases": (type(recipe.data.phases[0])(1.0, (("txt", 1.0),)),)})
