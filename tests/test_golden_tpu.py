"""Golden counts of the TPU compiler: memory, cycles and what is sent change on purpose, or not at all."""

import pytest
from golden.counts import differences
from golden.tpu_counts import PROGRAM, kept, measured

from lm.versions import version_of

LEGITIMATE = """
A change is legitimate where the commit means to change what a step on TPU computes, keeps or sends, and says which
counts rise and why: cycles by more than a percent are a slower step on a slice. To keep the counts of today:
    python -m tests.golden.tpu_counts --renew
"""


def test_a_step_on_tpu_does_what_it_did():
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed (extra tpu)")
    libtpu, was = kept()
    if version_of("libtpu") != libtpu:
        pytest.skip(f"the counts are of libtpu {libtpu}, installed is {version_of('libtpu')}")
    changed = differences({PROGRAM: was}, {PROGRAM: measured()})
    assert not changed, "\n".join(["", *changed, LEGITIMATE])
