"""Escapes are tried for real inside the jail and seen to be stopped; honest programs run."""

import os
import time

import pytest

from lm.exits import UserError
from tasks.math import jail
from tasks.math.scorers import grade

HONEST = {
    "import math\ndef solve():\n    return math.comb(5, 2)": 10,
    "from fractions import Fraction\ndef solve():\n    return float(Fraction(1, 2) + Fraction(1, 4))": 0.75,
    "import datetime as d\ndef solve():\n    return (d.date(2024, 3, 1) - d.date(2024, 2, 1)).days": 29,
    "import itertools\ndef solve():\n    return len(list(itertools.permutations(sorted([3, 1, 2]))))": 6,
}
ESCAPES = {
    "read": "    return len(open('/etc/passwd').read())",
    "environ": "    import os\n    return len(open(f'/proc/{PARENT}/environ').read())",
    "write": "    return open('MARK', 'w').write('x')",
    "metadata": "    import socket\n    return bool(socket.create_connection(('169.254.169.254', 80), 1)) + 1",
    "udp": "    import socket\n    s = socket.socket(2, 2)\n    return s.sendto(b'x', ('169.254.169.254', 80))",
    "signal": "    import os\n    os.kill(PARENT, 0)\n    return 1",
    "memory": "    return len(bytearray(1 << 31))",
    "segfault": "    import ctypes\n    return ctypes.string_at(0)",
    "early exit": "    import os\n    os._exit(0)",
    "site packages": "    import numpy\n    return 1",
    "nul": "    return 1\0",
}
ENDLESS = {
    "loop": "    while True: pass",
    "sleep": "    import time\n    time.sleep(99)",
    "flood": "    while True: print('x' * 999)",
    "fork bomb": "    import os\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "deaf": "    import signal\n    [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]\n    while True: pass",
}

needs_jail = pytest.mark.skipif(jail.active_layers() != jail.LAYERS, reason=f"layers here: {jail.active_layers()}")


@needs_jail
@pytest.mark.parametrize("source", HONEST)
def test_honest_programs_run(source):
    assert jail.run(source, 10.0) == ("ok", HONEST[source])


@needs_jail
def test_batches_keep_their_order():
    assert jail.run_all(list(HONEST), 10.0) == [("ok", value) for value in HONEST.values()]


@needs_jail
def test_grades_take_either_executor():
    completion = "def solve():\n    return sum({1: 2, 3: 4}.values())"
    assert not grade(completion, 6).strict
    assert grade(completion, 6, run=jail.run).strict


@needs_jail
@pytest.mark.parametrize("name", ESCAPES)
def test_escapes_are_stopped(name, tmp_path):
    body = ESCAPES[name].replace("PARENT", str(os.getpid())).replace("MARK", str(tmp_path / "mark"))
    assert jail.run(f"def solve():\n{body}", 10.0).status == "error"
    assert not list(tmp_path.iterdir())


@needs_jail
def test_a_daemon_dies_with_its_program():
    fork = "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        time.sleep(60)\n"
    start = time.monotonic()
    jail.run(f"{fork}def solve():\n    return 1", 10.0)
    assert time.monotonic() - start < 5  # a survivor would hold the pipe open


@needs_jail
@pytest.mark.parametrize("name", ENDLESS)
def test_endless_programs_end(name):
    start = time.monotonic()
    assert jail.run(f"def solve():\n{ENDLESS[name]}", 1.0).status == "timeout"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("missing", jail.LAYERS)
def test_a_missing_layer_is_named_and_refused(missing, monkeypatch):
    monkeypatch.setattr(jail, "active_layers", lambda: tuple(layer for layer in jail.LAYERS if layer != missing))
    with pytest.raises(UserError, match=missing):
        jail.run("def solve():\n    return 1")
