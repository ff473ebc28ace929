"""Write a run or a model file as a folder that `transformers` loads (export), or say what one holds (inspect)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # run as a file: the repository's root holds lm, tasks and scripts
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from lm.exits import main_guard
from scripts.cli import first_name, parse, pick


@dataclass(frozen=True)
class _Export:
    out: Path  # a new folder
    workdir: Path | None = None  # a run folder
    model: Path | None = None  # or a folder of Hugging Face, or a .gguf file
    family: str | None = None  # llama, qwen2, mistral, phi3, phi, gpt_neox, gpt2; None: the first that fits
    dtype: str = "float32"  # or bfloat16


@dataclass(frozen=True)
class _Inspect:
    model: Path  # a folder of Hugging Face, or a .gguf file


def _export(options: _Export) -> None:
    from lm.interop import export_model
    from scripts.runs import open_model

    config, params, codec, folder = open_model(options.workdir, options.model, options.dtype)
    settings = {"family": options.family, "dtype": options.dtype, "tokenizer_from": folder or codec}
    family = export_model(config, params, options.out, **settings)
    print(f"{options.workdir or options.model} as a {family} in {options.out}")


def _inspect(options: _Inspect) -> None:
    from lm.interop import load_model
    from lm.interop.layout import flat
    from lm.strict import to_json

    config, params = load_model(options.model)
    print(f"{to_json(config)}\n{sum(leaf.size for leaf in flat(params).values()):,} parameters")


def main(argv: list[str]) -> None:
    commands = {"export": (_Export, _export), "inspect": (_Inspect, _inspect)}
    name, rest = first_name(argv, commands, "convert.py", "COMMAND", __doc__)
    form, run = pick(commands, name, "command")
    run(parse(form, rest, f"convert.py {name}", __doc__))


if __name__ == "__main__":
    main_guard(main)
