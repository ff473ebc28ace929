"""Language models on STEM text, by itself or with generated problems, in phases as in the Phi recipes.

Abdin et al. 2024 (arXiv 2404.14219): general text first, then filtered text with synthetic problems. The examination is
bits per character of held-out text by source, and the accuracy on held-out problems where the mixture has them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import OptimizerConfig, Recipe, TrainConfig, TransformerConfig
from lm.data import Codec, Corpus, Document, build_corpus, pack, read_json, read_jsonl
from lm.data.mixture import Mixture, Phase
from lm.files import write_rows, write_whole
from lm.losses import cross_entropy
from lm.strict import ConfigError, require_choice, require_positive
from lm.types import Evaluation, Example, Key, Net, Params, Rate, Source
from tasks.math.data import MathData, document, held_out, solution_of, training_problems
from tasks.math.grammar.generator import problem
from tasks.math.tinygsm import Asked, TinyGSM, examine
from tasks.stem.corpora import Folders, Text, digests, prepare
from tasks.task import Task

SOURCES = ("text", "exercises", "filtered", "problems")
CODEC_CHARACTERS = 4_000_000  # that the codec learns from, with so many problems
CODEC_PROBLEMS = 1000


@dataclass(frozen=True)
class StemData(Folders):
    """The corpora by folder, how they are mixed and how they are written as tokens.

    `phases` weigh the sources text (textbooks, lectures, articles), exercises, filtered (of the text what the
    quality filter gives more than `quality`) and problems (so many generated ones).
    """

    phases: tuple[Phase, ...] = (Phase(1.0, (("text", 1.0),)),)
    problems: int = 20_000
    quality: float = 0.9
    vocabulary: int = 2048
    length: int = 256
    seed: int = 0
    prepared: str | None = None  # folder of the built corpora, for several runs; None: the run folder

    def __post_init__(self):
        for name in ("problems", "vocabulary", "length"):
            require_positive(f"data.{name}", getattr(self, name))
        if not 0 <= self.quality < 1:
            raise ConfigError(f"data.quality must lie in 0..1, got {self.quality}")
        for phase in self.phases:
            for name, _ in phase.weights:
                require_choice("data.phases.weights", name, SOURCES)

    @property
    def used(self) -> tuple[str, ...]:
        """The sources that some phase takes examples from."""
        return tuple(s for s in SOURCES if any(name == s and w > 0 for p in self.phases for name, w in p.weights))


@dataclass(frozen=True)
class Stem(Task):
    """Continue STEM text; where the mixture holds problems of `generator`, answer new ones with programs too."""

    name: ClassVar[str] = "stem"
    size_name: ClassVar[str] = "steps"

    generator: TinyGSM = field(default_factory=lambda: TinyGSM(max_steps=1, test_count=200))
    test_characters: int = 150_000  # of each source that are examined at most

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.generator.train_sizes

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return self.generator.test_sizes

    def show(self, seed: int, index: int, size: int) -> str:
        return self.generator.show(seed, index, size)

    def source(self, recipe: Recipe, folder: Path) -> Source:
        """Build or find the corpora in the run folder; examine held-out text and problems."""
        data = recipe.data
        if not isinstance(data, StemData):
            raise ConfigError(f"data must be StemData for stem, got {data!r}")
        if recipe.model.vocabulary < data.vocabulary:
            raise ConfigError(
                f"model.vocabulary {recipe.model.vocabulary} is smaller than data.vocabulary {data.vocabulary}"
            )
        folder = folder if data.prepared is None else Path(data.prepared)
        codec, held, facts = build(data, self.generator, folder)
        seeds = {name: recipe.train.seed + number for number, name in enumerate(data.used)}
        corpora = {name: Corpus(folder / "corpora" / name, "train", 1, seed) for name, seed in seeds.items()}
        mixture = Mixture(corpora, data.phases, recipe.train.batch_size, recipe.train.steps)
        asked = self._questions(data) if "problems" in data.used else []

        def evaluate(net: Net, params: Params, key: Key) -> Evaluation:
            found = bits_per_character(net, params, codec, held, data.length, self.test_characters)
            answered = examine(net, params, codec, asked, True, key) if asked else Evaluation({}, {}, [])
            return answered._replace(metrics=found | answered.metrics)

        facts = facts | {"windows": {name: corpus.size for name, corpus in corpora.items()}, "taken": mixture.counts()}

        def ask(text: str) -> list[int]:
            return [codec.bos, *codec.encode(text)]

        return Source(None, mixture.at, evaluate, facts, codec, prompt=ask, ids=mixture.ids)

    def _questions(self, data: StemData) -> list[Asked]:
        splits = held_out(MathData(seed=data.seed), self.generator.settings, self.generator.test_count)
        return [Asked(p.question, p.answer, split, p) for split, problems in splits.items() for p in problems]


def build(
    data: StemData, generator: TinyGSM, folder: Path
) -> tuple[Codec, Mapping[str, Sequence[str]], dict[str, Any]]:
    """Build codec and corpora in a folder, or use those that it holds; return codec, held-out texts by source, facts.

    The facts say how many documents and characters pass each filter.
    """
    texts, found = prepared(data, folder)
    path = folder / "codec.json"
    if not path.exists():
        _learn_codec(texts, data, generator).save(path)
    codec = Codec.load(path)
    origin = found["origin"] | {"codec": codec.digest, "generator": generator.settings, "problems": data.problems}
    for name in data.used:
        documents = partial(_documents, name, texts, data, generator, codec)
        build_corpus(folder / "corpora" / name, name, {"train": documents}, data.length, origin)
    held: dict[str, list[str]] = {}
    for text in texts:
        if text.split == "valid":
            held.setdefault(text.source, []).append(text.text)
    return codec, held, found | {"codec_sha256": codec.digest}


def prepared(data: StemData, folder: Path) -> tuple[list[Text], dict[str, Any]]:
    """Return the filtered documents and where they are from, how many pass each filter, what the judge of quality does.

    Good training documents stand once more as source `filtered`. The documents are kept in the folder, and read
    from there where they were made of the same files with the same settings.
    """
    kept, about = folder / "documents.jsonl", folder / "documents.json"
    origin = {"files": digests(data), "quality": data.quality, "seed": data.seed}
    if about.exists() and (found := read_json(about))["origin"] == origin:
        return [Text(**row) for row in read_jsonl(kept)], found
    texts, counts = prepare(data)
    found = {"origin": origin, "documents": counts}
    if data.textbooks is not None:
        good, found["quality"] = _judged(texts, data)
        texts += good
    elif "filtered" in data.used:
        raise ConfigError("data.phases.weights: the source filtered needs data.textbooks, which its judge learns from")
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(kept, (text._asdict() for text in texts))
    write_whole(about, json.dumps(found, indent=1))
    return texts, found


def _judged(texts: Sequence[Text], data: StemData) -> tuple[list[Text], dict[str, Any]]:
    from tasks.stem.quality import train_judge

    judge, reached = train_judge(texts, data.seed)
    asked = [text for text in texts if text.split == "train" and text.source != "exercises"]
    scores = judge([text.text for text in asked])
    good = [t._replace(source="filtered") for t, score in zip(asked, scores, strict=True) if score > data.quality]
    sizes = [{"documents": len(part), "characters": sum(len(t.text) for t in part)} for part in (asked, good)]
    return good, {"held_out_auroc": reached, "threshold": data.quality, "judged": sizes[0], "passed": sizes[1]}


def _documents(
    name: str, texts: Sequence[Text], data: StemData, generator: TinyGSM, codec: Codec
) -> Iterator[Document]:
    if name == "problems":
        math, settings = MathData(seed=data.seed), generator.settings
        tests = {p.question for split in held_out(math, settings, generator.test_count).values() for p in split}
        for p in islice(training_problems(math, settings, tests), data.problems):
            made = document(codec, solution_of(p, "program"), 0.5)
            if len(made.tokens) <= data.length + 1:
                yield made
    else:
        members = ("textbooks", "markdown", "asl") if name == "text" else (name,)
        for text in texts:
            if text.split == "train" and text.source in members:
                tokens = [codec.bos, *codec.encode(text.text), codec.eos]
                yield Document(tokens, [1.0] * len(tokens))


def _learn_codec(texts: Sequence[Text], data: StemData, generator: TinyGSM) -> Codec:
    """Learn from a part of the training documents of all sources, and from problems where there are any."""
    training = [text.text for text in texts if text.split == "train" and text.source != "filtered"]
    rng = np.random.default_rng(data.seed)
    chosen, characters = [], 0
    for i in rng.permutation(len(training)):
        if characters > CODEC_CHARACTERS:
            break
        chosen.append(training[i])
        characters += len(training[i])
    problems = [problem(data.seed, index, **generator.settings) for index in range(CODEC_PROBLEMS)]
    chosen += [text for p in problems for text in (p.question, p.code)]
    return Codec.train(chosen, data.vocabulary)


def bits_per_character(
    net: Net, params: Params, codec: Codec, held: Mapping[str, Sequence[str]], length: int, most: int
) -> dict[str, Rate]:
    """Return the bits that a character of each source costs, of so many characters at most, from first documents on.

    The 95 % interval is that of a mean over windows. Documents longer than a window are cut; their end is asked too.
    """

    @jax.jit
    def nats(batch: Example) -> jax.Array:
        losses_BL = cross_entropy(net.apply(params, batch, None).logits, batch.targets)
        return jnp.sum(losses_BL * batch.weights, axis=1)

    found = {}
    for source, texts in held.items():
        shown = _first(texts, most)
        encoded = ([codec.bos, *codec.encode(text), codec.eos] for text in shown)
        windows = [Example(**w, info={}) for w in pack((Document(t, [1.0] * len(t)) for t in encoded), length)]
        count = len(windows)
        windows += [windows[0]] * (-count % 16)
        batches = [jax.tree.map(lambda *x: np.stack(x), *windows[i : i + 16]) for i in range(0, len(windows), 16)]
        bits = np.concatenate([np.asarray(nats(batch)) for batch in batches])[:count] / math.log(2)
        characters = sum(map(len, shown))
        value, spread = float(bits.sum()) / characters, 1.96 * float(bits.std()) * math.sqrt(count) / characters
        found[f"bits_per_character_{source}"] = Rate(value, value - spread, value + spread, characters, "bits")
    return found


def _first(texts: Sequence[str], most: int) -> list[str]:
    shown, characters = [], 0
    for text in texts:
        if characters >= most:
            break
        shown.append(text[: most - characters])
        characters += len(shown[-1])
    return shown


def stem_cpu() -> Recipe:
    """A decoder of 4 layers, about a million parameters, on open textbooks.

    With seed 0, 1.88 bits a character of held-out sections and 2.54 of exercises, which are not in its training
    text, after 3 min 48 s on one CPU core.
    The corpora are named by --data.textbooks DIR --data.markdown DIR --data.asl DIR --data.gsm8k DIR.
    python scripts/train.py stem_cpu
    """
    return Recipe(
        name="stem_cpu",
        task=Stem(),
        data=StemData(),
        model=TransformerConfig(vocabulary=2048, depth=4, width=128, heads=4, activation="swiglu"),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=50, beta2=0.98, final_fraction=0.01),
        train=TrainConfig(steps=300, batch_size=16),
    )


def stem_phases_cpu() -> Recipe:
    """The same decoder, two fifths general text, then filtered text and problems of one step, two to three.

    The rate stays at its peak until the last fifth, so that what comes last is not learned at a small one.
    python scripts/train.py stem_phases_cpu
    """
    plain = stem_cpu()
    phases = (Phase(0.4, (("text", 1.0),)), Phase(0.6, (("filtered", 0.4), ("problems", 0.6))))
    return replace(
        plain,
        name="stem_phases_cpu",
        data=replace(plain.data, phases=phases),
        optimizer=replace(plain.optimizer, schedule="wsd"),
        train=replace(plain.train, steps=400),
    )


def uniform(phases: Sequence[Phase]) -> tuple[Phase]:
    """Return one phase that takes as much of every source as these do."""
    total = sum(phase.share for phase in phases)
    weights: dict[str, float] = {}
    for name, part in chain.from_iterable(
        ((name, phase.share / total * weight / sum(w for _, w in phase.weights)) for name, weight in phase.weights)
        for phase in phases
    ):
        weights[name] = weights.get(name, 0.0) + part
    return (Phase(1.0, tuple(weights.items())),)
