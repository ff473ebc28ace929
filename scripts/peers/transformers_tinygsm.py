"""A peer: the same generator in transformers; its programs are executed by Python, a process a batch.

Settings: model (folder), questions (file), candidates, temperature, longest, precision, seed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.peers.serve import cores, serve, settings, versions

BATCH = 32  # problems; 16 take a tenth longer, 64 a little and 128 a quarter
RUNNER = """
import json, signal, sys

def late(*_):
    raise TimeoutError

def run(program):
    names = {}
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        exec(program, names)
        return float(names["solve"]())
    except Exception:
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)

signal.signal(signal.SIGALRM, late)
print(json.dumps([run(program) for program in json.load(sys.stdin)]))
"""


def executed(programs: list[str]) -> list[float | None]:
    """Return what each program's function returns, None where it fails."""
    line = [sys.executable, "-c", RUNNER]
    done = subprocess.run(line, input=json.dumps(programs), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main(
    model: str, questions: str, candidates: int, temperature: float, longest: int, precision: str, seed: int
) -> None:
    """Load the generator and serve passes over all questions."""
    torch.set_num_threads(cores())
    torch.manual_seed(seed)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, precision)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = sorted(json.loads(Path(questions).read_text(encoding="utf-8")), key=lambda row: len(row["prompt"]))
    options: dict[str, Any] = {"max_new_tokens": longest, "num_return_sequences": candidates, "top_k": 0}
    options |= {"do_sample": True, "temperature": temperature, "pad_token_id": 0, "eos_token_id": 2}
    shares: list[float] = []

    @torch.inference_mode()
    def write(batch: list[dict[str, Any]]) -> list[str]:
        length = max(len(row["prompt"]) for row in batch)
        tokens = torch.tensor([[0] * (length - len(row["prompt"])) + row["prompt"] for row in batch])
        found = net.generate(tokens, attention_mask=(tokens != 0).long(), **options)
        return tokenizer.batch_decode(found[:, length:], skip_special_tokens=True)

    def step() -> int:
        right = []
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            answers = [float(Fraction(row["answer"])) for row in batch for _ in range(candidates)]
            values = executed(write(batch))
            right += [v is not None and abs(v - a) <= 1e-3 for v, a in zip(values, answers, strict=True)]
        shares.append(sum(right) / len(right))
        return len(rows)

    serve(step, lambda: {"right": shares, "versions": versions("torch", "transformers")})


if __name__ == "__main__":
    main(**settings())
