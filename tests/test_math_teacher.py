"""Laws of the teacher's client, against a real server that is slow, wrong, repetitive and sometimes down."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lm.exits import UserError
from lm.strict import ConfigError
from tasks.math.benchmarks import read
from tasks.math.teacher import Lesson, prompt, teach

ROOT = Path(__file__).parent.parent
KEY = "sk-a-secret-of-the-test"


def function(question, body="result = 3\n    return result"):
    return f'def simple_math_problem() -> int:\n    """{question}"""\n    {body}\n'


GOOD = function("Ann has 3 red apples and no pear. How many apples?")
# Why each function of the broken reply is dropped.
BROKEN = {
    "program: error": function("A train runs for 5 hours at 0 km/h. When?", "return 1 / 0"),
    "program: forbidden": function("There are 5 files on the disk. Which?", "import os\n    return os.getpid()"),
    "program: timeout": function("There are 5 loops in the yarn. When?", "while True:\n        x = 1\n    return x"),
    "short question": function("How many are 3?"),
    "question without a digit": function("How many apples are there in all?"),
    "no question": "def simple_math_problem():\n    return 3\n",
}
# Seed question: what the teacher answers.
REPLIES = {
    "Seed of good ones": f"Sure!\n```python\n{GOOD}```\n2.\n{function('Bob has 4 books and buys 1 more. How many?')}",
    "Seed of repetitions": function("Carl has 2 cats and 1 dog. Count!")
    + GOOD
    + "\n"
    + GOOD.replace("Ann", "ANN").replace(" = ", "  =  "),
    "Seed of refusals": "I cannot help with that.",
    "Seed of broken ones": "".join(BROKEN.values()),
}


class Teacher(ThreadingHTTPServer):
    """Answers by the seed question in the request; the first requests meet `faults`, one each."""

    daemon_threads = True

    def __init__(self, faults=(), pause=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.pause, self.lock = list(faults), pause, threading.Lock()
        self.requests, self.times, self.now, self.most = [], [], 0, 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        teacher, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with teacher.lock:
            fault = teacher.faults.pop(0) if teacher.faults else None
            teacher.requests.append((self.path, self.headers["Authorization"], body))
            teacher.times.append(time.monotonic())
            teacher.now += 1
            teacher.most = max(teacher.most, teacher.now)
        time.sleep(2.5 if fault == "slow" else teacher.pause)
        with teacher.lock:
            teacher.now -= 1
        with contextlib.suppress(OSError):  # the client has gone
            self.answer(fault, body)

    def answer(self, fault, body):
        status, headers = fault if isinstance(fault, tuple) else (200, {})
        text = "".join(reply for seed, reply in REPLIES.items() if seed in body["messages"][0]["content"])
        content = {
            "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        }
        data = b'{"choices": [' if fault == "malformed" else json.dumps(content).encode()
        if status != 200:
            data = f"no: {self.headers['Authorization']}".encode()
        if fault == "cut":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Return a function (faults, pause) -> Teacher; every server is down after the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    servers = []

    def start(*faults, pause=0.0):
        servers.append(Teacher(faults, pause))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def lesson(server, **changes):
    settings = {"prompts": 12, "variants": 0.0, "workers": 3, "timeout": 2.0, "first_wait": 0.01}
    return Lesson(url=server.url, model="m", **settings | changes)


def drawn_seeds(prompts):
    """Return how often each seed question is shown."""
    return Counter(seed for said in prompts for seed in REPLIES if seed in said[0])


def test_faults_pass_and_filters_count_what_they_drop(serve, tmp_path):
    server = serve((429, {}), (500, {}), "malformed", "slow", "cut")
    asked = lesson(server, input_price=1.0, output_price=20.0)
    report = teach(asked, list(REPLIES), tmp_path)
    drawn = drawn_seeds(prompt(asked, i, list(REPLIES)) for i in range(12))
    good, repeated, broken = (
        drawn[seed] for seed in ("Seed of good ones", "Seed of repetitions", "Seed of broken ones")
    )
    assert min(drawn.values()) >= 1 and len(drawn) == 4
    assert report["retries"] == {
        "HTTP 429": 1, "HTTP 500": 1, "malformed answer": 1, "timeout": 1, "connection broken": 1
    }  # fmt: skip
    assert report["replies"] == report["calls"] == 12 and len(server.requests) == 17
    assert report["without_program"] == drawn["Seed of refusals"]
    dropped = dict(report["dropped"])
    assert [dropped.pop(reason) for reason in BROKEN] == [broken] * len(BROKEN)
    # Which of two equal rows comes first is a matter of the prompts' order, not of their arrival.
    assert sum(dropped.values()) == 2 * good + 3 * repeated - 3 and set(dropped) == {"duplicate", "near duplicate"}
    assert report["kept"] == report["unique_questions"] == 3
    assert report["cost"] == pytest.approx(12 * (100 * 1.0 + 10 * 20.0) / 1e6)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert {item.question.split()[0] for item in read("tinygsm", tmp_path)} == {"Ann", "Bob", "Carl"}
    assert server.most <= 3 and {key for _, key, _ in server.requests} == {f"Bearer {KEY}"}
    assert {path for path, _, _ in server.requests} == {"/v1/chat/completions"}
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


def test_a_torn_reply_is_asked_again_and_nothing_else(serve, tmp_path):
    server = serve()
    once, torn = tmp_path / "once", tmp_path / "torn"
    for folder in (once, torn):
        teach(lesson(server), list(REPLIES), folder)
    lines = (torn / "replies.jsonl").read_bytes().splitlines(keepends=True)
    (torn / "replies.jsonl").write_bytes(b"".join(lines[8::-1]) + lines[9][:20])  # in another order of arrival, too
    before = len(server.requests)
    report = teach(lesson(server), list(REPLIES), torn)
    assert report["session"] == {"already_answered": 9, "asked": 3} and len(server.requests) == before + 3
    assert (torn / "data.jsonl").read_bytes() == (once / "data.jsonl").read_bytes()
    assert len((torn / "replies.jsonl").read_text().splitlines()) == 12
    with pytest.raises(UserError, match="was asked with another model"):
        teach(lesson(server, seed=1), list(REPLIES), torn)


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_blow_loses_no_reply_that_was_written(blow, serve, tmp_path):
    server = serve(pause=0.1)
    rows = [json.dumps({"question": seed, "answer": "#### 1"}) + "\n" for seed in REPLIES]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    command = [sys.executable, "scripts/teach.py", "--url", server.url, "--model", "m", "--gsm8k", str(tmp_path)]
    command += ["--out", str(tmp_path / "out"), "--prompts", "200", "--workers", "2", "--timeout", "5"]
    replies = tmp_path / "out" / "replies.jsonl"
    # Behind a shell's & the tests inherit that interrupts are ignored, and so would the script.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"no_proxy": "127.0.0.1"}) as process:
        signal.signal(signal.SIGINT, before)
        deadline = time.monotonic() + 60
        written = 0
        while written < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
            asked = len(server.requests)  # before the count of replies, so that a slow machine changes nothing
            written = replies.read_bytes().count(b"\n") if replies.exists() else 0
        process.send_signal(blow)
    assert process.returncode == (1 if blow == signal.SIGINT else -blow)
    answered = replies.read_bytes().count(b"\n")
    assert 4 <= answered < 200
    assert asked <= 2 * (written + 4)  # two calls a prompt at most, two prompts under way and two on their way to disk
    assert (tmp_path / "out" / "report.json").exists() == (blow == signal.SIGINT)
    report = teach(Lesson(url=server.url, model="m", prompts=answered + 1), list(REPLIES), tmp_path / "out")
    assert report["session"]["already_answered"] == answered <= report["replies"]


def test_the_server_says_how_long_to_wait(serve, tmp_path):
    server = serve((429, {"Retry-After": "1"}))
    teach(lesson(server, prompts=1), list(REPLIES), tmp_path)
    assert 1.0 <= server.times[1] - server.times[0] < 3
    late = serve((503, {"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}))
    with pytest.raises(UserError, match="asks to wait .* seconds"):
        teach(lesson(late, prompts=1), list(REPLIES), tmp_path / "late")


def test_what_cannot_pass_stops_at_once_and_tells_no_key(serve, tmp_path):
    server = serve(*[(401, {})] * 9)
    with pytest.raises(UserError, match=r"refuses the request: HTTP 401 .*: no: Bearer \[key\]"):
        teach(lesson(server, workers=1), list(REPLIES), tmp_path / "refused")
    assert len(server.requests) == 1
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="is unreachable: .*the same command goes on"):
        teach(lesson(server, attempts=2), list(REPLIES), tmp_path / "down")
    with pytest.raises(ConfigError, match="url must start with"):
        Lesson(url="file:///x", model="m")


def test_a_prompt_without_an_answer_is_left_to_the_next_call(serve, tmp_path):
    server = serve((500, {}), (500, {}))
    report = teach(lesson(server, prompts=2, attempts=2, workers=1), list(REPLIES), tmp_path)
    assert report["session"] == {"already_answered": 0, "unanswered: HTTP 500": 1, "asked": 2}
    assert teach(lesson(server, prompts=2), list(REPLIES), tmp_path)["replies"] == 2


def test_variants_take_two_calls_of_one_conversation(serve, tmp_path):
    server = serve()
    asked = lesson(server, prompts=1, variants=1.0)
    report = teach(asked, ["Seed of good ones"], tmp_path)
    first, second = (body["messages"] for _, _, body in server.requests)
    assert [m["role"] for m in second] == ["user", "assistant", "user"] and second[:1] == first
    assert report["calls"] == 2 and report["input_tokens"] == 200 and report["kept"] == 2


def test_prompts_are_a_function_of_seed_and_index():
    def asked(**changes):
        return [prompt(Lesson(url="http://x", model="m", **changes), i, list(REPLIES)) for i in range(200)]

    assert asked() == asked(workers=1) != asked(seed=1)
    assert [len(said) for said in asked()].count(2) == pytest.approx(66, abs=20)
    assert min(drawn_seeds(asked()).values()) > 30
