"""Floating-point operations of a function, counted from its own trace: matrix products and convolutions.

One multiply-add counts as two. The count is of what is written and wanted, backward pass included, before any compiler;
loops count as often as they run, one whose length is traced once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Return the operations of one call; the arguments may be jax.ShapeDtypeStruct."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total, wanted = 0, set(map(id, jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not wanted.isdisjoint(map(id, equation.outvars)):
            total += _equation(equation)
            wanted.update(map(id, equation.invars))
    return total


def _equation(equation: Any) -> int:
    name = equation.primitive.name
    made = [out.aval.shape for out in equation.outvars]  # a call whose results nobody wants has none
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(made[0]) * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, spec = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec
        return 2 * math.prod(made[0]) * math.prod(kernel) // kernel[spec[0]]
    inner = [_count(each) for value in equation.params.values() for each in _jaxprs(value)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _jaxprs(value: Any) -> list[Any]:
    """Return the traces that a parameter of an equation holds."""
    if isinstance(value, list | tuple):
        return [each for part in value for each in _jaxprs(part)]
    inner = getattr(value, "jaxpr", value)
    return [inner] if hasattr(inner, "eqns") else []
