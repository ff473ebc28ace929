"""Escapes are tried for real: stopped inside the jail, and seen to work where the layers that guard are left out."""

import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm.exits import UserError
from tasks.math import jail, jailed
from tasks.math.scorers import grade

ONE = "def solve():\n    return 1"
HONEST = {
    "import math\ndef solve():\n    return math.comb(5, 2)": 10,
    "from fractions import Fraction\ndef solve():\n    return Fraction(1, 2) + Fraction(1, 4)": 0.75,
    "import datetime as d\ndef solve():\n    return (d.date(2024, 3, 1) - d.date(2024, 2, 1)).days": 29,
    "import itertools\ndef solve():\n    return len(list(itertools.permutations(sorted([3, 1, 2]))))": 6,
    "import decimal\ndef solve():\n    return decimal.Decimal('1.5')": 1.5,
    "import os\ndef solve():\n    os.write(1, b'\\xff\\n=9\\n')\n    return 2": 2,
}
BOTH = ("namespaces", "landlock")
HOG = (
    "    import os, time\n    born = [os.fork() for _ in range(3)]\n"
    "    held = bytearray(1 << 24)\n    return 1 if all(born) else time.sleep(9)"
)
DAEMON = (
    "    import os, time\n    if os.fork(): return 1\n    os.setsid()\n    os.fork() or time.sleep(3)\n    os._exit(0)"
)
ESCAPES = {  # the body, and the layers that stop it, the first of them even without the others
    "read": ("    return len(open('SECRET').read())", ("landlock",)),
    "write": ("    import os\n    return os.open('MARK', os.O_CREAT)", BOTH),
    "mode": ("    import os\n    os.chmod('SECRET', 0o600)\n    return 1", ("namespaces",)),
    "subclasses": (
        "    found = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close']\n"
        "    return found[0].__init__.__globals__['open']('SECRET', 0)",
        ("landlock",),
    ),
    "environ": ("    return len(open('/proc/VICTIM/environ').read())", BOTH),
    "memory of others": ("    return open('/proc/VICTIM/mem', 'rb').fileno()", BOTH),
    "signal": ("    import os\n    os.kill(VICTIM, 0)\n    return 1", BOTH),
    "tcp": ("    import socket\n    return socket.create_connection(('127.0.0.1', PORT), 1).fileno()", BOTH),
    "udp": ("    import socket\n    return socket.socket(2, 2).sendto(b'x', ('127.0.0.1', PORT))", ("namespaces",)),
    "fork": ("    import os\n    return 1 if os.fork() else os._exit(0)", ("seccomp",)),
    "forks that hoard": (HOG, ("seccomp",)),
    "thread": ("    import _thread\n    return _thread.start_new_thread(print, ())", ("seccomp",)),
    "shared memory": (
        "    import ctypes\n    made = ctypes.CDLL(None).shmget(0, 9, 0o1600)\n    assert made >= 0\n    return made",
        ("seccomp",),
    ),
    "memory file": ("    import os\n    return os.memfd_create('x')", ("seccomp",)),
}
FAULTS = {
    "memory": ("    return len(bytearray(1 << 30))", "error"),
    "segfault": ("    import ctypes\n    return ctypes.string_at(0)", "error"),
    "recursion": ("    return solve()", "error"),
    "recursion in C": (
        "    import sys\n    sys.setrecursionlimit(1 << 30)\n    return max([1], key=lambda _: solve())",
        "error",
    ),
    "nesting": (f"    return {'(' * 300}1{')' * 300}", "syntax"),
    "nesting of signs": (f"    return {'-' * 3000}1", "syntax"),
    "syntax": ("    return (", "syntax"),
    "nul": ("    return 1\0", "syntax"),
    "surrogate in the source": ("    return '\ud800'", "syntax"),
    "surrogate printed": ("    print('\\ud800')\n    return 1", "error"),
    "surrogate returned": ("    return '\\ud800'", "non_numeric"),
    "truth": ("    return True", "non_numeric"),
    "not finite": ("    return 1e999", "non_numeric"),
    "too many digits": ("    return 10 ** 5000", "error"),
    "exit": ("    raise SystemExit(0)", "error"),
    "exit with a code": ("    import os\n    os._exit(70)", "error"),
    "early exit": ("    import os\n    os._exit(0)", "error"),
    "early answer": ("    import os\n    print('=5', flush=True)\n    os._exit(0)", "error"),
    "forged answer": ("    import os\n    os.write(3, b'=' * 33 + b'5')\n    os._exit(0)", "error"),
    "forged answer first": ("    import os\n    os.write(3, b'=' * 33 + b'5\\n')\n    return 1", "error"),
    "forged number": (
        "    class Five(int):\n        __repr__ = lambda self: '\\nended\\n5'\n    return Five(1)",
        "error",
    ),
    "breakpoint": ("    breakpoint()\n    return 1", "error"),
    "site packages": ("    import numpy\n    return 1", "error"),
    "too long": (f"    return {'1 + ' * 2000}1", "forbidden"),
}
ENDLESS = {
    "loop": "    while True: pass",
    "sleep": "    import time\n    time.sleep(99)",
    "flood": "    while True: print('x' * 999)",
    "flood of answers": "    import os\n    while True: os.write(3, b'x' * 9999)",
    "fork bomb": "    import os\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "deaf": "    import signal\n    [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]\n    while True: pass",
    "catch all": "    while True:\n        try: raise KeyboardInterrupt\n        except BaseException: pass",
    "regex": "    import re\n    return re.match('(a+)+b', 'a' * 99)",
    "power": "    return 9 ** 9 ** 8",
}
BREAKS = {  # by layer, a change that has its set-up fail
    "namespaces": ("NAMESPACES = 0x10000000", "NAMESPACES = 0x10000001"),
    "landlock": (
        "CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 442, 444",
        "CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 442, 9444",
    ),
    "seccomp": ("prctl(22, 2,", "prctl(9922, 2,"),
}

missing = jail.missing_layers()
needs_jail = pytest.mark.skipif(bool(missing), reason=f"layers missing here: {missing}")


@pytest.fixture
def world(tmp_path):
    """Return a function that fills in a body's names: files, and a process and a port that listen to nobody."""
    (tmp_path / "secret").write_text("secret")
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen([sys.executable, "-c", "input()"], env={"A": "B"}, stdin=subprocess.PIPE) as victim,
    ):
        names = {"SECRET": tmp_path / "secret", "MARK": tmp_path / "mark"}
        names |= {"VICTIM": victim.pid, "PORT": listener.getsockname()[1]}

        def fill(body):
            for name, value in names.items():
                body = body.replace(name, str(value))
            return f"def solve():\n{body}"

        yield fill
        victim.kill()


def is_jailed(folder, mark):
    """Return whether the folder of a process shows one of the jail's with this last argument."""
    with contextlib.suppress(OSError):
        command = (folder / "cmdline").read_bytes().split(b"\0")
        return bytes(jail.INSIDE) in command and mark in command
    return False


def leave_out(monkeypatch, *layers):
    monkeypatch.setattr(jail, "LAYERS", tuple(layer for layer in jail.LAYERS if layer not in layers))


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
def test_escapes_are_stopped_by_their_layers(name, world, tmp_path, monkeypatch):
    body, layers = ESCAPES[name]
    assert jail.run(world(body), 10.0).status == "error"
    assert not (tmp_path / "mark").exists()
    with monkeypatch.context() as alone:
        leave_out(alone, *layers[1:])
        assert jail.run(world(body), 10.0).status == "error"
    leave_out(monkeypatch, *layers)
    assert jail.run(world(body), 10.0).status == "ok"
    assert (tmp_path / "mark").exists() == (name == "write")


@needs_jail
@pytest.mark.parametrize("name", FAULTS)
def test_faults_have_their_status(name):
    body, status = FAULTS[name]
    assert jail.run(f"def solve():\n{body}", 10.0) == (status, None)


@needs_jail
@pytest.mark.parametrize("name", ENDLESS)
def test_endless_programs_end_and_leave_nobody(name, monkeypatch):
    monkeypatch.setattr(jail, "MEGABYTES", 511)  # a mark of these processes
    start = time.monotonic()
    assert jail.run(f"def solve():\n{ENDLESS[name]}", 1.0) == ("timeout", None)
    while any(is_jailed(folder, b"511") for folder in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() - start < 5


@needs_jail
def test_limits_bind_whatever_the_layers(world, tmp_path, monkeypatch):
    leave_out(monkeypatch, *jail.LAYERS)
    assert jail.run(world("    return open('MARK', 'wb', 0).write(b'x')"), 10.0).status == "error"
    assert (tmp_path / "mark").stat().st_size == 0
    assert jail.run(world("    import os\n    os.kill(0, 9)"), 10.0).status == "error"  # the keeper is in another group
    monkeypatch.setattr(jail, "MEGABYTES", 2048)
    assert jail.run(world(FAULTS["memory"][0]), 10.0) == ("ok", 1 << 30)


@needs_jail
@pytest.mark.parametrize("layers", [("namespaces",), ()])
def test_a_daemon_dies_with_its_namespace(layers, monkeypatch):
    monkeypatch.setattr(jail, "LAYERS", layers)
    start = time.monotonic()
    assert jail.run(f"def solve():\n{DAEMON}", 10.0) == ("ok", 1)
    assert (time.monotonic() - start > 3) == (not layers)  # a survivor holds the pipe of the answer open


@pytest.mark.parametrize("layer", jail.LAYERS)
def test_a_layer_that_fails_is_named_and_refused(layer, tmp_path, monkeypatch):
    old, new = BREAKS[layer]
    text = jail.INSIDE.read_text()
    assert text.count(old) == 1
    (tmp_path / "jailed.py").write_text(text.replace(old, new))
    monkeypatch.setattr(jail, "INSIDE", tmp_path / "jailed.py")
    with pytest.raises(UserError, match=layer) as refusal:
        jail.run(ONE, 10.0)
    assert set(jail.missing_layers()) == {layer, *missing}
    assert not any(f"{other} (" in str(refusal.value) for other in jail.LAYERS if other not in (layer, *missing))


def test_only_python_itself_is_readable():
    paths = jailed.readable()
    files = [path for path, rights in paths.items() if rights & jailed.READ_FILE]
    assert all("/lib" in path or path == jailed.interpreter() for path in files)
    assert not any(path.endswith(jailed.PACKAGES) for path in files)
    assert all(Path(path).is_file() for path, rights in paths.items() if rights & jailed.EXECUTE)


@needs_jail
def test_a_jail_that_breaks_is_no_wrong_program_and_may_recover(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        (tmp_path / "jailed.py").write_text(jail.INSIDE.read_text().replace('"-S", "-c"', '"-S", "-none"'))
        broken.setattr(jail, "INSIDE", tmp_path / "jailed.py")
        with pytest.raises(UserError, match="does not start"):
            jail.run(ONE, 10.0)
        broken.setattr(jail, "INSIDE", tmp_path / "gone.py")
        with pytest.raises(UserError, match="broke with code 2"):
            jail.run(ONE, 10.0)
    assert jail.run(ONE, 10.0) == ("ok", 1)
