"""Tasks for lm-evaluation-harness that read a folder: no download, no template of its own elsewhere.

lm_eval.simple_evaluate(model=..., tasks=[blimp(folder, count=10)])
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lm.data import read_jsonl
from lm.exits import UserError
from tasks.math.benchmarks import read
from tasks.math.scorers import gold_answer, is_right, last_number

Settings = dict[str, Any]
UNTIL = ["Question:", "\n\n"]


def blimp(folder: Path, count: int | None = None, shots: int = 0) -> Settings:
    """Return the task of BLiMP (Warstadt et al. 2020): is the good sentence likelier; `count` pairs a paradigm."""
    fields = ("uid", "good", "bad")
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(f"blimp: {folder} must hold a .jsonl file of pairs with uid, good and bad")
    paradigms: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in paths:
        for record in read_jsonl(path, texts=fields):
            paradigms[record["uid"]].append({name: record[name] for name in fields})
    return {
        "task": "blimp",
        "custom_dataset": _dataset(test=[pair for pairs in paradigms.values() for pair in pairs[:count]]),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[good, bad]}}",
        "target_delimiter": "",
        "num_fewshot": shots,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def gsm8k(folder: Path, count: int | None = None, shots: int = 0) -> Settings:
    """Return the task of GSM8K (Cobbe et al. 2021), answered in words: the first `count` test questions.

    strict: the number behind #### is right; lenient: the last number written is.
    """
    train, test = (
        [{"question": item.question, "answer": item.solution} for item in read(name, folder)]
        for name in ("gsm8k_train", "gsm8k_test")
    )
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("strict", "lenient")]
    return {
        "task": "gsm8k",
        "custom_dataset": _dataset(train=train, test=test[:count]),
        "training_split": "train",
        "fewshot_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": UNTIL, "do_sample": False, "max_gen_toks": 256},
        "num_fewshot": shots,
        "process_results": grade_worked,
        "metric_list": metrics,
    }


def grade_worked(document: Mapping[str, str], replies: list[str]) -> dict[str, float]:
    """Grade a worked solution both ways."""
    gold, reply = gold_answer(document["answer"]), replies[0]
    marked = reply.rpartition("####")
    strict = bool(marked[1]) and is_right(last_number(marked[2].split("\n")[0]), gold)
    return {"strict": float(strict), "lenient": float(is_right(last_number(reply), gold))}


def _dataset(**splits: list[dict[str, Any]]) -> Callable[..., Any]:
    def make(**_: Any) -> Any:
        from datasets import Dataset

        return {name: Dataset.from_list(rows) for name, rows in splits.items()}

    return make


LOCAL: Mapping[str, Callable[..., Settings]] = MappingProxyType({"blimp": blimp, "gsm8k": gsm8k})
