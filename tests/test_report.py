"""Laws of what a run leaves behind: the lock, the metrics, the event file, the page."""

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lm.exits import Diverged, Preempted, Unusable, UserError
from lm.files import write_whole
from lm.report.folder import RunFolder, read_status
from lm.report.html import write_report
from lm.report.progress import Progress
from lm.report.svg import WIDTH, Series, bar_chart, line_chart, standalone, ticks
from lm.report.writer import Writer, crc32c, read_rows
from lm.strict import ConfigError
from lm.types import Rate

ROOT = Path(__file__).resolve().parent.parent
HOLD = "from lm.report.folder import RunFolder; f = RunFolder({!r}); f.__enter__(); print('held', flush=True); input()"


def test_a_folder_has_one_run_at_a_time_and_a_dead_one_lets_go(tmp_path):
    code = HOLD.format(str(tmp_path))
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert child.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"in use by process {child.pid} on "), RunFolder(tmp_path):
        pass
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with RunFolder(tmp_path) as folder:
        assert f"took over the lock that process {child.pid}" in folder.path("log.txt").read_text()
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "), RunFolder(tmp_path):
            pass
    assert (tmp_path / "run.lock").read_text() == ""
    (tmp_path / "run.lock").write_text("process 7 on elsewhere")
    with pytest.raises(UserError, match=r"in use by process 7 on elsewhere; .*delete .*run\.lock"), RunFolder(tmp_path):
        pass
    assert (tmp_path / "run.lock").read_text() == "process 7 on elsewhere"


def test_resume_says_what_it_expects(tmp_path):
    with pytest.raises(UserError, match="'must'.*holds no run"), RunFolder(tmp_path / "run", "must"):
        pass
    for mode in ("auto", "never"):
        with RunFolder(tmp_path / mode, mode) as folder:
            assert folder.read_recipe() is None
            folder.write_recipe('{"kind": "Recipe"}')
    with RunFolder(tmp_path / "auto", "must") as folder:
        assert folder.read_recipe() == '{"kind": "Recipe"}'
    with pytest.raises(UserError, match="'never'.*holds a run"), RunFolder(tmp_path / "auto", "never"):
        pass
    with pytest.raises(ConfigError, match="did you mean must"):
        RunFolder(tmp_path, "most")
    with pytest.raises(UserError, match="not a local path"):
        RunFolder("gs://bucket/run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), RunFolder(tmp_path / "file"):
        pass


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Preempted("saved"), "preempted"),
        (Diverged("nan"), "diverged"),
        (UserError("x"), "failed"),
        (OSError(), "failed"),
    ],
)
def test_the_status_of_an_end_is_written(tmp_path, error, state):
    with pytest.raises(type(error)), RunFolder(tmp_path) as folder:
        folder.status("running", step=3)
        raise error
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == state and status["error"]


HELD = """
import sys, time
from lm.report.folder import RunFolder
with RunFolder(sys.argv[1]) as folder:
    folder.status("running", step=7)
    print("now", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_is_lost_and_not_running(tmp_path, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"now\n" and read_status(tmp_path)["state"] == "running"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_status(tmp_path)["state"] == "lost", "dead, and not yet buried"
    child.communicate()
    status = read_status(tmp_path)
    assert (status["state"], status["step"]) == ("lost", 7)
    assert f"process {child.pid} is gone" in write_report(tmp_path).read_text()
    (tmp_path / "status.json").write_text(json.dumps({**status, "state": "running", "pid": os.getpid()}))
    assert read_status(tmp_path)["state"] == "lost", "another process has its number"
    monkeypatch.setenv("CAMBIUM_HOST", "elsewhere")
    assert read_status(tmp_path)["state"] == "running", "nobody here can tell"


def test_the_stamp_says_where_a_run_comes_from(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.stamp({"seed": 1, "data": {"sha256": "a"}})
        folder.stamp({"seed": 2})
    stamp = json.loads((tmp_path / "stamp.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert stamp["commit"] == (head.stdout.strip() if head.returncode == 0 else None)
    kept = ["argv", "changed", "commit", "date", "dirty"]
    assert stamp["seed"] == 2 and [sorted(start) for start in stamp["earlier"]] == [kept]
    assert stamp["argv"] == sys.argv and stamp["devices"]["platform"] == "cpu" and "jax" in stamp["versions"]


def read_events(folder: Path) -> list[bytes]:
    """Return the records of the event files, checked frame by frame."""

    def unmask(masked):
        rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
        return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF

    records = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            length, crc = struct.unpack("<QI", data[:12])
            assert unmask(crc) == crc32c(data[:8])
            record, data = data[12 : 12 + length], data[12 + length :]
            assert unmask(struct.unpack("<I", data[:4])[0]) == crc32c(record)
            records.append(record)
            data = data[4:]
    return records


def fields(message: bytes) -> dict[int, list]:
    """Return {field number: values} of a protocol buffer message."""
    found: dict[int, list] = {}

    def varint():
        nonlocal message
        value = shift = 0
        while True:
            byte, message = message[0], message[1:]
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while message:
        tag = varint()
        size = {0: None, 1: 8, 5: 4}.get(tag & 7) or (varint() if tag & 7 == 2 else 0)
        value = varint() if tag & 7 == 0 else message[:size]
        message = message[size:]
        found.setdefault(tag >> 3, []).append(value)
    return found


def test_metrics_are_rows_and_events(tmp_path):
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the Castagnoli polynomial
    writer = Writer(tmp_path)
    writer.scalars(200, {"loss": 0.1, "test/exact match": 1})
    writer.scalars(300, {"loss": math.nan, "norm": -math.inf})
    writer.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == '{"step": 200, "loss": 0.1, "test/exact match": 1.0}'
    assert json.loads(lines[1], parse_constant=pytest.fail) == {"step": 300, "loss": "nan", "norm": "-inf"}
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[0]["loss"] == 0.1 and math.isnan(rows[1]["loss"]) and rows[1]["norm"] == -math.inf

    version, first, second = map(fields, read_events(tmp_path))
    assert version[3] == [b"brain.Event:2"]
    assert (first[2], second[2]) == ([200], [300])
    points = [fields(value) for value in fields(first[5][0])[1]]
    assert [point[1][0] for point in points] == [b"loss", b"test/exact match"]
    assert [struct.unpack("<f", point[2][0])[0] for point in points] == pytest.approx([0.1, 1.0])


def test_a_resumed_run_continues_its_metrics_without_a_seam(tmp_path):
    writer = Writer(tmp_path)
    for step in (10, 20, 30):
        writer.scalars(step, {"loss": step})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    writer = Writer(tmp_path)
    writer.truncate(20)
    writer.scalars(30, {"loss": 31})
    writer.close()
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl")] == [
        (10, 10),
        (20, 20),
        (30, 31),
    ]
    start = next(event for event in map(fields, read_events(tmp_path)) if 7 in event)
    assert start[2] == [21] and fields(start[7][0]) == {1: [1]}, "TensorBoard drops what it has from step 21 on"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo\n{"step": 3, "loss": 1}\n')
    with pytest.raises(Unusable, match="line 2: not a row"):
        read_rows(tmp_path / "metrics.jsonl")


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "kept.txt"
    write_whole(path, (text for text in ("old ", "text")))

    def cut_short():
        yield "new " * 10_000
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, cut_short())
    assert path.read_text() == "old text"
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old text"
    write_whole(path, "\ud800", errors="replace")
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"] and path.read_text() == "?"


def test_the_progress_line_speaks_of_the_last_lines_and_survives_a_clock_set_back():
    times = iter([100.0, 110.0, 110.0, *range(111, 118), 118.0, 50.0])
    progress = Progress(1000, 500, start=40, clock=lambda: next(times))
    assert progress.line(50, 2.0) == "step 50/1000  loss 2.0000  500 tokens/s  ETA 0:15:50"
    assert progress.line(60, 1.23456) == "step 60/1000  loss 1.2346  1k tokens/s  ETA 0:07:50"
    for step in range(70, 140, 10):
        progress.line(step, 1.0)
    assert progress.line(140, 1.0) == "step 140/1000  loss 1.0000  5k tokens/s  ETA 0:01:26"
    assert progress.line(150, 1.0).endswith("ETA 0:00:00")


@pytest.mark.parametrize("low,high", [(0, 1), (0, 5000), (0.1, 0.13), (-3, 7), (1e-9, 5e6), (999_990, 1_000_010)])
def test_ticks_are_round_even_and_inside(low, high):
    marks = ticks(low, high)
    steps = [b - a for a, b in zip(marks, marks[1:], strict=False)]
    assert 3 <= len(marks) <= 9 and low - 1e-8 <= marks[0] and marks[-1] <= high
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert f"{steps[0]:.0e}"[0] in "125"


def test_a_chart_puts_every_value_in_its_place():
    lines = [Series("a", [0, 5, 10], [1.0, math.nan, 100.0]), Series("<b>", [0, 10], [10.0, -1.0], [5, -2], [20, 0])]
    chart = ElementTree.fromstring(standalone(line_chart(lines, x_label="x & y", y_label="loss", log=True)))
    polylines = [line.get("points").split() for line in chart.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in polylines] == [2, 1], (
        "what is not finite, or not positive on a log axis, is left out"
    )
    (x0, y0), (x1, y1) = ([float(v) for v in point.split(",")] for point in polylines[0])
    x2, y2 = (float(v) for v in polylines[1][0].split(","))
    assert x0 == x2 and x0 < x1 <= WIDTH and y2 == pytest.approx((y0 + y1) / 2, abs=0.2), "10 lies midway from 1 to 100"
    texts = [text.text for text in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert "<b>" in texts and "x & y" in texts
    counted = line_chart([Series("a", [1, 2, 3], [10.0, 20.0, 30.0])], x_label="steps", y_label="y")
    assert re.findall(">([^<]+)</text>", counted) == ["10", "15", "20", "25", "30", "1", "2", "3", "steps", "y"]


@pytest.mark.parametrize("values", [[], [math.nan], [1.0], [2.0, 2.0], [0.0, 0.0], [-1e300, 1e300], [1e-320, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_a_chart_of_anything_is_drawn(values, log):
    chart = line_chart([Series("a", range(len(values)), values)], x_label="x", y_label="y", log=log, shaded=(0, 1))
    assert "nan" not in chart and "inf" not in chart.replace("no finite values", "")
    ElementTree.fromstring(chart)


def test_a_long_line_keeps_its_spike():
    values = [1.0] * 50_000
    values[31_234] = 9.0
    chart = line_chart([Series("a", range(50_000), values)], x_label="x", y_label="y")
    points = chart.split('points="')[1].split('"')[0].split()
    assert len({point.split(",")[1] for point in points}) == 2
    assert len(chart) < 30_000
    ElementTree.fromstring(bar_chart(["a", "b" * 99], [0.5, 0.0], [0.1, 0.0], [0.9, 1.0]))


EVIL = "</pre><script>alert(1)</script><img src=//evil onerror=x> & \"quoted\" 'text' \ud800"
EVIL_NAME = "<b onclick='x'>"


def make_run(folder: Path) -> None:
    rate = {"value": 0.5, "low": 0.25, "high": 0.75, "count": 1234}
    with RunFolder(folder) as run:
        run.write_recipe(json.dumps({"kind": "Recipe", "name": EVIL, "model": {"kind": "MLP", EVIL_NAME: [1, EVIL]}}))
        run.stamp({"seed": 0, EVIL_NAME: EVIL})
        run.stamp({"seed": 0, EVIL_NAME: EVIL})
        run.status("failed", error=EVIL)
        run.write_json(
            "summary.json",
            {
                "recipe": EVIL,
                "step": 30,
                "parameters": 12,
                "parameter_table": [[EVIL_NAME, [3, 4], 12]],
                "loss": None,
                "wall_seconds": 3700.0,
                "tokens_per_second": 5.0,
                "metrics": {EVIL_NAME: rate, "cost": Rate(2.5, 2.25, 2.75, 8, f"bits{EVIL}").figures()},
                "slices": {
                    "size": {str(i): {EVIL_NAME: rate, "tokens": {**rate, "count": 98765}} for i in range(3)},
                    EVIL_NAME: {EVIL: {EVIL_NAME: rate}},
                },
                "trained": {"size": [0, 1]},
            },
        )
    writer = Writer(folder)
    writer.scalars(10, {"loss": 2.0, "test/loss": 3.0, EVIL_NAME: math.nan})
    writer.scalars(20, {"loss": 0.1})
    writer.close()
    samples = [
        {"question": EVIL, "target": "1\n2", "prediction": EVIL, "right": r, EVIL_NAME: 3} for r in (True, False)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples) + '{"torn')


class Page(HTMLParser):
    """Collects the tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_page_that_loads_nothing_and_escapes_everything(tmp_path):
    make_run(tmp_path)
    path = write_report(tmp_path)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == tmp_path / "report.html"
    assert not page.tags & {"script", "img", "link", "iframe", "object", "a", "base", "form", "b onclick"}
    assert not {name for name in page.attributes if name.startswith("on")} | (page.attributes & {"src", "href"})
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text
    assert page.text.count(EVIL.replace("\ud800", "?")) >= 8, (
        "name, error, question and prediction twice, configuration, stamp"
    )
    assert "98,765" not in page.text, "the table counts examples"
    assert text.count("by size over size") == 1, "all metrics of numbered slices share a chart"
    for words in (
        "50.0 %",
        "95 % interval 25.0 – 75.0 %",
        "2.5 bits",
        "95 % interval 2.25 – 2.75",
        "1,234 counted",
        "1 h 1 min",
        "3 × 4",
        "trained on",
        "Wrong",
    ):
        assert words in page.text, words


FILES = ("recipe.json", "stamp.json", "status.json", "summary.json", "metrics.jsonl", "samples.jsonl")


@pytest.mark.parametrize("missing", [*((name,) for name in FILES), FILES])
def test_the_report_of_an_unfinished_run_is_written(tmp_path, missing):
    make_run(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    assert "</html>" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_damaged_file_of_the_run_is_named(tmp_path):
    make_run(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(Unusable, match=r"summary\.json is not valid JSON"):
        write_report(tmp_path)
