"""What a little fine-tuning on programs does to a real pretrained model, on a fixed part of GSM8K's test."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lm.decode import sample
from lm.evaluate import rate
from lm.files import write_whole
from lm.strict import override
from lm.train import fit
from lm.types import Key, Net, Params, Rate
from tasks.math import gsm8k
from tasks.math.scorers import grade_text
from tasks.math.smollm2 import chat_prompt, smollm2_file, smollm2_gsm8k_cpu
from tasks.math.tinygsm import Asked, examine
from tasks.task import Claim, Experiment

PAPER = "TinyGSM (Liu et al. 2023), with SmolLM2 (Allal et al. 2025)"
FOLDER = "CAMBIUM_DATA"  # environment variable: the folder that holds gsm8k/train.jsonl and gsm8k/test.jsonl
ASKED = 128  # test questions
LONGEST_REPLY = 256  # tokens


def first_by_hash(path: Path, count: int) -> list[str]:
    """Return `count` lines of a file, those with the smallest sha256: the same ones wherever they stand."""
    lines = path.read_text("utf-8").splitlines()
    return sorted(lines, key=lambda line: hashlib.sha256(line.encode()).hexdigest())[:count]


def run(workdir: Path, scale: str, seed: int) -> Mapping[str, float]:
    """Ask the model as it is, in chat and for programs, then fine-tune it and ask for programs again."""
    from lm.interop import load_codec, load_model
    from lm.models import build

    source, folder = Path(os.environ.get(FOLDER, "../shared/data")) / "gsm8k", workdir / "gsm8k"
    gsm8k.load(source)  # says what is missing
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "train.jsonl", folder)
    write_whole(folder / "test.jsonl", "\n".join(first_by_hash(source / "test.jsonl", ASKED)) + "\n")
    questions, file = gsm8k.load(folder)[1], str(smollm2_file())
    changes = {"weights": file, "data.tokenizer": file, "data.gsm8k": str(folder), "train.seed": seed}
    recipe = override(smollm2_gsm8k_cpu(), changes)

    config, params = load_model(file)
    net, codec = build(config), load_codec(file)
    asked = [Asked(q.question, q.answer, "gsm8k") for q in questions]
    key = jax.random.key(seed)
    begun = time.monotonic()
    chat = _chat(net, params, codec, asked, key)
    told = time.monotonic()
    programs = examine(net, params, codec, asked, True, key).metrics
    written = time.monotonic()
    tuned = fit(recipe, workdir / "tuned", quiet=True)
    done = time.monotonic()
    rates = {"before_chat": chat} | {f"before_{name}": rate for name, rate in programs.items()}
    rates |= {f"after_{name}": rate for name, rate in tuned.evaluation.metrics.items()}
    ends = {f"{name}_{end}": getattr(rate, end) for name, rate in rates.items() for end in ("low", "high")}
    after = rates["after_gsm8k_strict"].value
    return (
        {name: rate.value for name, rate in rates.items()}
        | ends
        | {"gain_over_chat": after - chat.value, "gain_over_programs": after - rates["before_gsm8k_strict"].value}
        | {"seconds_chat": told - begun, "seconds_programs": written - told, "seconds_tuning_and_after": done - written}
    )


def _chat(net: Net, params: Params, codec: Any, asked: Sequence[Asked], key: Key) -> Rate:
    """Return how often the last number of the reply to a question, asked as a user would, is right."""
    prompts = [chat_prompt(codec, a.question) for a in asked]
    found = sample(net, params, prompts, max_new=LONGEST_REPLY, stop=codec.eos, key=key, pad=codec.pad)
    replies = [codec.decode(row[0, : n[0]]) for row, n in zip(found.tokens, found.lengths, strict=True)]
    return rate(sum(grade_text(reply, a.answer).lenient for reply, a in zip(replies, asked, strict=True)), len(asked))


SMOLLM2 = Experiment(
    name="smollm2",
    paper=PAPER,
    claims=(
        Claim(
            PAPER,
            "A pretrained model tuned on program solutions answers more of GSM8K by execution than it did in words: "
            "SmolLM2-135M-Instruct, 40 steps of 1,024 tokens, 128 test questions, points gained",
            "gain_over_chat",
            at_least=0.01,
            paper_value="44.6 % to 68.2 % (1.3B, the whole of TinyGSM)",
        ),
    ),
    run=run,
    seeds={"cpu": (0,), "full": (0, 1, 2)},
)
