"""A teacher model writes the data: prompts of TinyGSM to a chat endpoint, replies kept, rows and figures from them.

Liu et al. 2023, arXiv 2312.09241: a reply holds ten problems like a seed question, each with its program.

    work = Lesson(url="http://localhost:8000/v1", model="name", prompts=100)
    teach(work, questions, folder)  # folder: replies.jsonl, data.jsonl (a TinyGSM set), report.json

Prompt i of seed s is a function of (s, i, questions). replies.jsonl is only appended to, a line a prompt, so a
kill loses at most the line being written and the same call goes on; the other two files follow from it.
"""

from __future__ import annotations

import hashlib
import json
import queue
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from random import Random
from typing import Any

from lm.data import read_jsonl
from lm.exits import UserError
from lm.files import write_rows, write_whole
from lm.strict import ConfigError, require_positive
from tasks.math.benchmarks import split_program
from tasks.math.chat import Chat, NoAnswerError
from tasks.math.interpreter import extract, run

SHORTEST_QUESTION = 6  # words
QUESTION_TOKEN, PROGRAM_TOKEN = r"\w+", r"\w+|[^\w\s]"
FORMAT = (
    "Write each problem as one Python function, and nothing else:\n\n"
    "def simple_math_problem() -> int:\n"
    '    """\n    the whole problem in plain words\n    """\n'
    "    first_quantity = 5\n    result = first_quantity * 2\n    return result\n\n"
    "The body is straight-line arithmetic on named quantities. It ends with `result = ...` and `return result`."
)
SIMILAR = (
    "Here is a grade-school math word problem:\n\n{question}\n\n"
    "Write 10 different problems that are similar to it, each of several sentences and several steps, and solve "
    "each with a complete program. " + FORMAT
)
VARIANTS = (
    "Here is a grade-school math word problem:\n\n{question}\n\n"
    "Write 10 variants of it with other people, things and numbers. Put into each one sentence with a number that "
    "does not matter for the answer. Number them 1 to 10 and give no solutions."
)
PROGRAMS = "Now solve each of these problems with a complete program that ignores what does not matter. " + FORMAT


@dataclass(frozen=True)
class Lesson:
    """What is asked of whom. Prices are per million tokens; a share `variants` is asked in two calls (GSM-IC)."""

    url: str
    model: str
    prompts: int = 100
    seed: int = 0
    variants: float = 0.33
    temperature: float = 1.0
    max_tokens: int = 4096  # of a reply
    workers: int = 8
    timeout: float = 120.0  # seconds
    attempts: int = 6  # at each call
    first_wait: float = 1.0  # seconds, doubled with every attempt
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key, if one is needed
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self):
        if not re.match(r"https?://[^/]", self.url):
            raise ConfigError(f"url must start with http:// or https://, got {self.url!r}")
        for name in ("prompts", "max_tokens", "workers", "timeout", "attempts", "first_wait"):
            require_positive(name, getattr(self, name))
        for name in ("temperature", "input_price", "output_price"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.variants <= 1:
            raise ConfigError(f"variants must lie in 0..1, got {self.variants}")


def prompt(lesson: Lesson, index: int, questions: Sequence[str]) -> list[str]:
    """Return what is said to the teacher, a text for each call of one conversation."""
    draw = Random(f"{lesson.seed}:{index}")
    question, two_calls = draw.choice(questions), draw.random() < lesson.variants
    return [VARIANTS.format(question=question), PROGRAMS] if two_calls else [SIMILAR.format(question=question)]


def teach(lesson: Lesson, questions: Sequence[str], folder: Path) -> dict[str, Any]:
    """Ask what was not answered yet, then write data.jsonl and report.json, on an interrupt too; return the report.

    A prompt without an answer after all attempts is counted and left to the next call; an endpoint that cannot
    be reached or refuses the request is a UserError, and nothing is lost.
    """
    if not questions:
        raise UserError("the teacher needs at least one seed question, got none")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "replies.jsonl"
    replies = _resume(path, lesson, questions)
    missing = [i for i in range(lesson.prompts) if i not in replies]
    chat = Chat.open(lesson)
    session: Counter[str] = Counter(already_answered=len(replies))
    try:
        with open(path, "ab") as file:
            for index, answer in _ask_all(lesson, chat, questions, missing):
                if isinstance(answer, NoAnswerError):
                    session[f"unanswered: {answer}"] += 1
                    continue
                replies[index] = answer
                file.write(json.dumps(answer).encode() + b"\n")
                file.flush()
    finally:
        chat.stopped.set()
        rows, report = harvest((replies[i] for i in sorted(replies)), lesson)
        report["session"] = dict(session) | {"asked": len(missing)}
        write_rows(folder / "data.jsonl", rows)
        write_whole(folder / "report.json", json.dumps(report, indent=1))
    return report


def harvest(replies: Iterable[dict[str, Any]], lesson: Lesson) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Return the rows {question, code} that pass the filters, and yield, tokens and cost.

    Dropped: questions that are short or hold no digit, programs that do not run, rows that were there before
    exactly or up to case, punctuation and layout. Whether an answer is right is not asked, as in the paper.
    """
    count: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    retries: Counter[str] = Counter()
    rows: list[dict[str, str]] = []
    exact, plain = set(), set()
    for reply in replies:
        count.update(replies=1, calls=reply["calls"], input_tokens=reply["input"], output_tokens=reply["output"])
        retries.update(reply["retries"])
        found = functions(reply["text"])
        count.update(without_program=not found, written=len(found))
        for code in found:
            question, program = split_program(code)
            reason = _fault(question, program)
            normal = (_tokens(question or "", QUESTION_TOKEN), _tokens(program, PROGRAM_TOKEN))
            if reason is None and normal in plain:
                reason = "duplicate" if code in exact else "near duplicate"
            if reason is not None:
                dropped[reason] += 1
                continue
            exact.add(code)
            plain.add(normal)
            rows.append({"question": str(question), "code": code})
    cost = (count["input_tokens"] * lesson.input_price + count["output_tokens"] * lesson.output_price) / 1e6
    report: dict[str, Any] = dict(count) | {"kept": len(rows), "dropped": dict(dropped), "retries": dict(retries)}
    report["unique_questions"] = len({question for question, _ in plain})
    report["kept_share"] = len(rows) / count["written"] if rows else 0.0
    report["cost"] = cost
    report["cost_per_1000_kept"] = 1000 * cost / len(rows) if rows else None
    return rows, report


def functions(text: str) -> list[str]:
    """Return the functions without arguments in a reply, whatever stands around them."""
    text = text.replace("\r\n", "\n")
    starts = [match.start() for match in re.finditer(r"^def \w+\(\)", text, re.M)]
    return [extract(text[start:end]).rstrip() + "\n" for start, end in pairwise([*starts, len(text)])]


def _fault(question: str | None, program: str) -> str | None:
    if question is None:
        return "no question"
    if len(question.split()) < SHORTEST_QUESTION:
        return "short question"
    if not re.search(r"\d", question):
        return "question without a digit"
    status = run(program).status
    return None if status == "ok" else f"program: {status}"


def _tokens(text: str, token: str) -> tuple[str, ...]:
    return tuple(re.findall(token, text.casefold()))


def _digest(lesson: Lesson, said: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([lesson.model, lesson.temperature, *said]).encode()).hexdigest()[:16]


def _resume(path: Path, lesson: Lesson, questions: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return the replies by prompt, after a torn last line is dropped."""
    if not path.exists():
        return {}
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
    replies = {reply["index"]: reply for reply in read_jsonl(path, texts=("text", "prompt"))}
    for index, reply in replies.items():
        if reply["prompt"] != _digest(lesson, prompt(lesson, index, questions)):
            raise UserError(f"{path}: prompt {index} was asked with another model, temperature, seed or questions")
    return replies


def _ask(lesson: Lesson, chat: Chat, index: int, questions: Sequence[str]) -> dict[str, Any]:
    """Have one conversation; the reply is its last answer."""
    said = prompt(lesson, index, questions)
    messages: list[dict[str, str]] = []
    usage: Counter[str] = Counter()
    retries: list[str] = []
    for text in said:
        messages.append({"role": "user", "content": text})
        answer = chat.ask(messages, Random(f"{lesson.seed}:{index}:waits"))
        usage.update(calls=1, input=answer.input_tokens, output=answer.output_tokens)
        retries += answer.retries
        messages.append({"role": "assistant", "content": answer.text})
    made = {"index": index, "prompt": _digest(lesson, said), "text": messages[-1]["content"]}
    return made | {"retries": retries, **usage}


def _ask_all(lesson: Lesson, chat: Chat, questions: Sequence[str], indices: Iterable[int]) -> Iterable[tuple[int, Any]]:
    """Yield (prompt, reply or NoAnswerError) as they come in, at most `workers` asked at a time."""
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    indices = list(indices)
    for item in chain(indices, [None] * lesson.workers):
        waiting.put(item)

    def work() -> None:
        while (index := waiting.get()) is not None and not chat.stopped.is_set():
            try:
                done.put((index, _ask(lesson, chat, index, questions)))
            except NoAnswerError as error:
                done.put((index, error))
            except Exception as error:  # nothing that follows can pass either
                done.put((index, error))
                chat.stopped.set()

    for _ in range(min(lesson.workers, len(indices))):
        threading.Thread(target=work, daemon=True).start()  # an interrupt does not wait for a slow server
    for _ in indices:
        index, answer = done.get()
        if isinstance(answer, Exception) and not isinstance(answer, NoAnswerError):
            raise answer
        yield index, answer
