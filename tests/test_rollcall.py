"""A job begins with all its processes, or each of them ends with one sentence on why not."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lm.exits import Absent, ExitError
from lm.job import Job
from lm.processes import start_processes
from lm.rollcall import numbers, roll_call
from lm.strict import ConfigError


def said(address, count, index, limit=1.0):
    """Return what a roll call ends with in one process: a sentence, or nothing where the job begins."""
    try:
        roll_call(address, count, index, limit)
        return ""
    except ExitError as error:
        assert error.code == (1 if "did not arrive" in str(error) or "found no coordinator" in str(error) else 2)
        return str(error)


@pytest.mark.parametrize(
    ("started", "sentence"),
    [
        ([(3, 0), (3, 1), (3, 2)], ""),
        ([(1, 0)], ""),
        ([(4, 0), (4, 2)], "processes 1 and 3 of 4 did not arrive within 1 s"),
        ([(2, 0), (3, 1)], "process 1 was started as one of 3, process 0 as one of 2"),
        ([(3, 0), (3, 1), (3, 1)], "two processes were started as process 1 of 3"),
    ],
)
def test_all_arrive_or_all_hear_why_not(address, started, sentence):
    begun = time.monotonic()
    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(lambda process: said(address, *process), started))
    assert ends == [sentence] * len(started)
    assert time.monotonic() - begun < 3


def test_a_roll_call_that_nobody_can_answer_is_one_sentence(address):
    assert said(address, 2, 1, 0.3).startswith(f"process 1 of 2 found no coordinator at {address} within 0.3 s (")
    assert said(address, 2, 2) == "--process 2 of --processes 2: the numbers are 0..1"
    assert said("here", 2, 1) == "the coordinator's address must be HOST:PORT, got 'here'"
    host, port = address.split(":")
    with socket.create_server((host, int(port))):
        assert said(address, 2, 0) == f"process 0 cannot listen on port {port}: Address already in use"


def test_strangers_on_the_port_are_no_part_of_the_job(address):
    host, port = address.split(":")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(said, address, 2, 0, 10)
        for noise in (b"GET / HTTP/1.1\n", b"cambium 1\n", b""):
            while True:
                try:
                    with socket.create_connection((host, int(port)), timeout=5) as stranger:
                        stranger.sendall(noise)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.01)
        assert (said(address, 2, 1, 10), first.result()) == ("", "")


def test_numbers_of_processes_as_words():
    assert numbers([3]) == "process 3"
    assert numbers(range(300)) == "processes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 290 more"


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (Job(processes=2), "--processes and --process need --coordinator HOST:PORT"),
        (Job(coordinator="127.0.0.1:1", processes=2), "--process or JAX_PROCESS_ID must be a whole number, got None"),
        (Job(platform="tpu"), "platform tpu was asked for and JAX found cpu"),
    ],
)
def test_a_job_that_cannot_begin_is_one_sentence(job, sentence):
    with pytest.raises(ExitError, match=sentence) as end:
        start_processes(job)
    assert end.value.code == 2


def test_a_silent_process_is_noticed_before_jax_ends_the_others():
    with pytest.raises(ConfigError, match="patience.silence must be less than half of heartbeat 30, got 25"):
        Job(heartbeat=30)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (None, ""),
        (ValueError("coordinator_address should be defined."), ""),
        (OSError("no route to the metadata server"), "the processes could not be joined: no route to the metadata"),
        (RuntimeError("Failed to recognize coordinator\nand a page"), "not be joined: Failed to recognize coordinator"),
    ],
)
def test_the_hosts_of_a_slice_are_found_by_jax(error, sentence, monkeypatch):
    asked = []

    def initialize(**limits):
        asked.append(limits)
        if error is not None:
            raise error

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    monkeypatch.setattr("lm.processes.tpu_devices", lambda: ["/dev/accel0"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    start_processes()
    assert asked == []  # JAX_PLATFORMS is cpu
    monkeypatch.delenv("JAX_PLATFORMS")
    if sentence:
        with pytest.raises(Absent, match=sentence):
            start_processes()
    else:
        start_processes(Job(heartbeat=90))
        assert asked[0]["heartbeat_timeout_seconds"] == 90
