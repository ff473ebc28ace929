"""The exit codes are a contract, and a user's mistake is one line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lm.exits import Diverged, Preempted, Unusable, UserError, main_guard
from lm.strict import ConfigError

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (UserError("no file x;\n  there is y"), 2, "error: no file x; there is y\n"),
        (ConfigError("train.steps must be positive, got 0"), 2, "error: train.steps must be positive, got 0\n"),
        (Diverged("at step 7"), 3, "diverged: at step 7\n"),
        (Unusable("step 7 is damaged"), 4, "unusable: step 7 is damaged\n"),
        (Preempted("saved step 7"), 75, "preempted: saved step 7\n"),
        (KeyboardInterrupt(), 1, "interrupted\n"),
    ],
)
def test_an_end_has_one_line_and_its_code(monkeypatch, capsys, error, code, line):
    seen = []

    def main(argv):
        seen.append(argv)
        if error is not None:
            raise error

    for flags in ([], ["--debug"]):
        monkeypatch.setattr(sys, "argv", ["train.py", "copy", *flags, "--until", "3"])
        with pytest.raises(SystemExit) as end:
            main_guard(main)
        assert end.value.code == code
        text = capsys.readouterr().err
        assert text.endswith(line)
        assert ("Traceback" in text) == (bool(flags) and code > 1)
    assert seen == [["copy", "--until", "3"]] * 2


def test_a_defect_keeps_its_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as end:
        main_guard(lambda argv: 1 / 0)
    assert end.value.code == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_signal_outside_of_a_run_cleans_up_and_is_code_75(monkeypatch, capsys):
    cleaned = []

    def main(argv):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append("half a file")

    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        main_guard(main)
    assert (end.value.code, cleaned, signal.getsignal(signal.SIGTERM)) == (75, ["half a file"], before)
    assert capsys.readouterr().err.startswith("preempted: stopped by a signal; what is complete stands")


def test_a_reader_who_leaves_early_gets_no_traceback():
    program = "from lm.exits import main_guard\nmain_guard(lambda _: [print('x' * 99) for _ in range(9999)])"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 1 and said == b""
