"""The doctor: facts become advice, one line a mismatch, and a healthy machine gets none."""

import dataclasses
import json

import pytest

from lm.doctor import GIB, Facts, advise, main, shown, start_jax

HEALTHY = Facts(
    python="3.11.7",
    glibc="glibc 2.36",
    versions={"jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4"},
    required={"jax": "0.10.2", "numpy": "2.0"},
    devices={"platform": "cpu", "kind": "cpu", "count": 1, "local": 1},
    failure=None,
    start_seconds=1.5,
    tpus=(),
    gpus=(),
    tpu_holders=(),
    tpu_lock=None,
    cores=8,
    usable_cores=8.0,
    memory=32 * GIB,
    memory_available=30 * GIB,
    memory_limit=None,
    open_files=65536,
    open_files_most=65536,
    shared_memory=8 * GIB,
    environment={},
    proxies=(),
    cache_writable=None,
    workdir="runs",
    workdir_error=None,
    workdir_free=100 * GIB,
    wanted=None,
)
CHIPS = {"tpus": ("/dev/accel0", "/dev/accel1")}
LIBTPU = {"versions": {**HEALTHY.versions, "libtpu": "0.0.51"}}
CUDA = {"versions": {**HEALTHY.versions, "jax-cuda12-plugin": "0.10.2"}}
ON_TPU = {"devices": {"platform": "tpu", "kind": "TPU v5e", "count": 4, "local": 4}, **CHIPS, **LIBTPU}
FORCED = "--xla_force_host_platform_device_count"
CPU = {"environment": {"JAX_PLATFORMS": "cpu"}}


@pytest.mark.parametrize(
    ("changed", "advice"),
    [
        ({}, []),
        ({**LIBTPU, **CPU}, []),
        (LIBTPU, ["libtpu is installed and there is no TPU"]),
        (CHIPS, ["TPU chips are here (2) and JAX does not use them: libtpu is not installed"]),
        ({**CHIPS, **LIBTPU, **CPU}, ["JAX_PLATFORMS is cpu; unset it"]),
        ({**CHIPS, **LIBTPU, "tpu_holders": ("process 7 (python)",)}, ["process 7 (python) holds them; end it"]),
        ({**CHIPS, **LIBTPU, "tpu_lock": "/tmp/libtpu_lockfile, of user 0"}, ["if no process uses the TPU, delete it"]),
        ({**CHIPS, **LIBTPU}, ["says what libtpu met"]),
        (ON_TPU, ["every start compiles anew"]),
        ({**ON_TPU, "cache_writable": True, "wanted": "tpu"}, []),
        ({**ON_TPU, "cache_writable": False}, ["the compilation cache None cannot be written"]),
        ({"gpus": ("/dev/nvidia0",)}, ["GPUs are here (1) and JAX does not use them: the CUDA plugin is"]),
        ({"gpus": ("/dev/nvidia0",), **CUDA, **CPU}, ["JAX_PLATFORMS is cpu"]),
        ({"gpus": ("/dev/nvidia0",), **CUDA, "environment": {"CUDA_VISIBLE_DEVICES": ""}}, ["CUDA_VISIBLE_DEVICES"]),
        ({"wanted": "gpu"}, ["platform gpu was asked for and JAX found cpu"]),
        ({"devices": {}, "failure": "no answer within 9 s", **CHIPS, **LIBTPU}, ["does not start", "slice", "chips"]),
        ({"open_files": 1024, "open_files_most": 4096}, ["may open 1024 files, which"]),
        ({"memory_limit": GIB}, ["1.0 GiB of memory are free"]),
        ({"shared_memory": 64 * 2**20}, ["/dev/shm has 64 MiB free"]),
        ({"usable_cores": 2.0}, ["may use 2 of 8 cores"]),
        ({"environment": {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_PROCESS_ID": "0"}}, ["without JAX_NUM_PROCESSES"]),
        ({"environment": {"JAX_NUM_CPU_DEVICES": "4", "XLA_FLAGS": f"{FORCED}=8"}}, [f"wins over {FORCED}"]),
        ({"environment": {"JAX_DISABLE_JIT": "True", "JAX_ENABLE_X64": "0"}}, ["JAX_DISABLE_JIT is on"]),
        ({"python": "3.10.2", "required": {"jax": "0.11"}}, ["Python is 3.10.2", "pip install 'jax>=0.11'"]),
        ({"versions": {"jax": "0.12.0", "jaxlib": "0.10.2", "numpy": "2.4"}}, ["jax is 0.12.0 and jaxlib 0.10.2"]),
        ({"workdir_error": "Read-only file system"}, ["runs cannot be written: Read-only file system"]),
        ({"workdir_free": GIB}, ["runs has 1.0 GiB free"]),
    ],
)  # fmt: skip
def test_each_mismatch_has_its_line(changed, advice):
    found = advise(dataclasses.replace(HEALTHY, **changed))
    assert len(found) == len(advice), found
    for line, part in zip(found, advice, strict=True):
        assert part in line


def test_the_doctor_looks_at_this_machine(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    with pytest.raises(SystemExit) as end:
        main(["--json", "--workdir", str(tmp_path / "not" / "yet"), "--platform", "tpu"])
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 1
    assert any("platform tpu was asked for and JAX found cpu" in line for line in found["advice"])
    assert any("programs are compiled fast" in line for line in found["advice"])
    assert (found["devices"]["platform"], found["environment"]["JAX_PLATFORMS"]) == ("cpu", "cpu")
    assert found["workdir_error"] is None and not list(tmp_path.iterdir())
    assert start_jax(0.01) == ({}, "no answer within 0.01 s")


def test_a_report_is_readable():
    lines = shown(HEALTHY, []).splitlines()
    assert "devices            platform cpu, kind cpu, count 1, local 1" in lines
    assert "memory             32.0 GiB" in lines
    assert lines[-1] == "- nothing needs attention"
