"""Golden counts: what compiled programs do and what a run compiles changes on purpose, or not at all."""

import os
import platform

import pytest
from golden.counts import PROGRAMS, RUN, compiled_by_a_run, differences, kept, measured, operations

from lm.versions import version_of

LEGITIMATE = """
A change is legitimate where the commit means to change what these programs compute, how they keep it in memory or what
they send, and says which counts rise and why. What is off must change nothing. To keep the counts of today:
    python -m tests.golden.counts --renew
"""


@pytest.fixture(scope="module")
def was():
    jaxlib, counts = kept()
    if jaxlib != version_of("jaxlib") or platform.machine() != "x86_64" or not hasattr(os, "sched_setaffinity"):
        pytest.skip(f"the counts are of jaxlib {jaxlib} on x86-64 and Linux")
    return counts


@pytest.fixture(scope="module")
def now(was):
    return measured()


def assert_unchanged(was, now):
    changed = differences(was, now)
    assert not changed, "\n".join(["", *changed, LEGITIMATE])


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_it_did(was, now, name):
    assert_unchanged({name: was.get(name, {})}, {name: now[name]})


def test_a_run_compiles_what_it_did(was):
    assert_unchanged({RUN: was.get(RUN, {})}, {RUN: compiled_by_a_run()})


# The loop runs five times; one dot stands in a fusion, one beside it.
TEXT = """
%fused (p: f32[8,4], q: f32[4,2]) -> f32[8,2] {
  %t = f32[4,8]{1,0} transpose(%p), dimensions={1,0}
  ROOT %d = f32[8,2]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
%body (b: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %i = s32[] get-tuple-element(%b), index=0
  %f = f32[8,2]{1,0} fusion(%i), kind=kOutput, calls=%fused
  %c = f32[8,2]{0,1} copy(%f)
}
%condition (b: (s32[], f32[8,4])) -> pred[] {
  ROOT %l = pred[] compare(%i, %n), direction=LT
}
ENTRY %main (p0: f32[8,4]) -> f32[8,2] {
  %w = (s32[], f32[8,4]{1,0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %k = (bf16[4]{0}, pred[3]{0}) custom-call(%w), custom_call_target="TopK"
  ROOT %d2 = f32[8,2]{1,0} dot(%k, %k), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


def test_operations_are_counted_as_often_as_they_run():
    assert operations(TEXT) == {
        "dot": 6,
        "copy": 5,
        "while": 1,
        "fusion": 5,
        "custom-call": 1,
        "bytes written": 5 * (64 + 64) + (8 + 3) + 64,
    }


def test_a_difference_names_program_and_count():
    was, now = {"a": {"dot": 1, "copy": 2}, "b": {"dot": 1}}, {"a": {"dot": 1200, "fusion": 1}, "b": {"dot": 1}}
    assert differences(was, now) == ["a: dot was 1, is 1,200", "a: copy was 2, is 0", "a: fusion was 0, is 1"]
