"""Run a solution program over its syntax tree with fuel; Python itself never executes any of it.

>>> run("def solve():\\n    apples = 12 * 3\\n    return apples / 4")
Outcome(status='ok', value=9.0)

A node that has no method on the machine below does not exist for a program. Every node costs fuel, and integers,
strings and lists are bounded, so that any text at all ends soon, and in the same way on every machine.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

LONGEST_SOURCE = 4096  # characters
DEEPEST = 100  # levels of the syntax tree
LONGEST_LINE = 500  # characters of a logical line
DEEPEST_BRACKETS = 30
MOST_BITS = 4096  # of an integer
LONGEST = 1000  # items of a list, characters of a string
LONGEST_LITERAL = 200  # characters of a string in the source
LARGEST_POWER = 64  # of an exponent in the source
MOST_DIGITS = 20  # of round


class Outcome(NamedTuple):
    """How a program ended: ok with its number, or syntax, forbidden, error, timeout, non_numeric with None."""

    status: str
    value: int | float | None = None


class _ForbiddenError(Exception):
    """The program uses what this interpreter does not know."""


class _FaultError(Exception):
    """The program does what Python answers with an exception, or outgrows a bound."""


class _TimeoutError(Exception):
    """The fuel is gone."""


class _Returned(Exception):  # noqa: N818 - control flow, not an error
    """Carries the value of a return statement up to `run`."""


def extract(completion: str) -> str:
    """Cut a completion after its function: at the first line after `def` that is neither empty nor indented."""
    lines = completion.split("\n")
    start = next((i for i, line in enumerate(lines) if line.startswith("def ")), len(lines))
    rest = range(start + 1, len(lines))
    end = next((i for i in rest if lines[i].strip() and not lines[i].startswith((" ", "\t"))), len(lines))
    return "\n".join(lines[:end])


def run(source: str, fuel: int = 20_000) -> Outcome:
    """Run the one function of a program and return how it ended; any string is a fair input."""
    try:
        body = _parse(source)
    except _ForbiddenError:
        return Outcome("forbidden")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Outcome("syntax")
    value = None
    try:
        _Machine(fuel).block(body)
    except _Returned as returned:
        (value,) = returned.args
    except _TimeoutError:
        return Outcome("timeout")
    except (_FaultError, ArithmeticError, ValueError, TypeError, IndexError):
        return Outcome("error")
    if not _is_number(value) or isinstance(value, bool) or not math.isfinite(value):
        return Outcome("non_numeric")
    return Outcome("ok", value)


def _parse(source: str) -> list[ast.stmt]:
    """Return the body of the one function, once every node of it is known."""
    if not _parseable(source):
        raise _ForbiddenError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape is the program's matter, not the caller's
        module = ast.parse(source)
    match _without_import(module.body):
        case [ast.FunctionDef(args=signature, decorator_list=[], body=body)] if not any(vars(signature).values()):
            body = _without_import(body)
        case _:
            raise _ForbiddenError
    _check(body)
    return body


def _without_import(body: list[ast.stmt]) -> list[ast.stmt]:
    """Drop `import math`, which is there anyway."""
    return [node for node in body if not _imports_math(node)]


def _imports_math(node: ast.stmt) -> bool:
    match node:
        case ast.Import(names=[ast.alias(name="math", asname=None)]):
            return True
    return False


def _parseable(source: str) -> bool:
    """Return whether Python's parser, which recurses in C, can take this: lines and brackets within bounds.

    Counts as if there were no string literals, so it refuses a little more than it must.
    """
    if len(source) > LONGEST_SOURCE:
        return False
    depth = length = 0
    for character, previous in zip(source, "\n" + source, strict=False):
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
        length = 0 if character == "\n" and depth == 0 and previous != "\\" else length + 1
        if depth > DEEPEST_BRACKETS or length > LONGEST_LINE:
            return False
    return True


def _check(body: list[ast.stmt]) -> None:
    """Raise _ForbiddenError unless every node is known and none lies too deep. Does not recurse."""
    stack: list[tuple[ast.AST, int]] = [(node, 1) for node in body]
    while stack:
        node, depth = stack.pop()
        if depth > DEEPEST or not (isinstance(node, PARTS) or hasattr(_Machine, type(node).__name__)):
            raise _ForbiddenError
        if not _allowed(node):
            raise _ForbiddenError
        stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))


def _allowed(node: ast.AST) -> bool:
    """Return whether a node of a known type keeps to the rules of its type."""
    if isinstance(getattr(node, "ctx", None), ast.Store) and not isinstance(node, ast.Name):
        return False
    match node:
        case ast.Name(id=name):
            return "__" not in name
        case ast.Constant(value=value):
            return len(value) <= LONGEST_LITERAL if isinstance(value, str) else isinstance(value, int | float)
        case ast.Attribute(value=value, attr=name):
            return isinstance(value, ast.Name) and value.id == "math" and f"math.{name}" in FUNCTIONS
        case ast.Call(func=function):
            named = isinstance(function, ast.Name) and function.id in FUNCTIONS
            return named or isinstance(function, ast.Attribute)
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(power))):
            return power <= LARGEST_POWER
        case ast.For(orelse=orelse) | ast.While(orelse=orelse):
            return not orelse
        case ast.ListComp(generators=generators) | ast.GeneratorExp(generators=generators):
            return len(generators) <= 2
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _bounded(value: Any) -> Any:
    """Return the value unless it outgrows what programs may hold."""
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise _FaultError
    if isinstance(value, str | list | tuple) and len(value) > LONGEST:
        raise _FaultError
    if isinstance(value, complex):
        raise _FaultError
    return value


def _numbers(*values: Any) -> tuple[Any, ...]:
    if not all(map(_is_number, values)):
        raise _FaultError
    return values


def _spread(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the numbers of one sequence, or of several arguments, as min and max take them."""
    return _numbers(*(values[0] if len(values) == 1 and isinstance(values[0], SEQUENCES) else values))


def _multiply(a: Any, b: Any) -> Any:
    for sequence, count in ((a, b), (b, a)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int) and len(sequence) * count > LONGEST:
            raise _FaultError
    return a * b


def _add(a: Any, b: Any) -> Any:
    return a + b if type(a) is type(b) else operator.add(*_numbers(a, b))


def _power(base: Any, exponent: Any) -> Any:
    _numbers(base, exponent)
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > MOST_BITS:
        raise _FaultError
    return base**exponent


def _round(value: Any, digits: Any = None) -> Any:
    _numbers(value)
    if digits is not None and not (isinstance(digits, int) and abs(digits) <= MOST_DIGITS):
        raise _FaultError
    return round(value, digits)


def _comparable(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """Restrict a comparison to numbers and strings; nested lists could take for ever."""
    return lambda a, b: compare(a, b) if isinstance(a, str) and isinstance(b, str) else compare(*_numbers(a, b))


def _numeric(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: function(*_numbers(*values))


SEQUENCES = (str, list, tuple, range)
OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: _add, ast.Sub: _numeric(operator.sub), ast.Mult: _multiply, ast.Div: _numeric(operator.truediv),
    ast.FloorDiv: _numeric(operator.floordiv), ast.Mod: _numeric(operator.mod), ast.Pow: _power,
    ast.UAdd: _numeric(operator.pos), ast.USub: _numeric(operator.neg), ast.Not: operator.not_,
    ast.Eq: _comparable(operator.eq), ast.NotEq: _comparable(operator.ne), ast.Lt: _comparable(operator.lt),
    ast.LtE: _comparable(operator.le), ast.Gt: _comparable(operator.gt), ast.GtE: _comparable(operator.ge),
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": lambda value: int(value), "float": lambda value: float(value), "round": _round, "abs": _numeric(abs),
    "min": lambda *values: min(_spread(values)), "max": lambda *values: max(_spread(values)),
    "sum": lambda values: sum(_numbers(*values)), "len": len, "range": range,
    "math.ceil": _numeric(math.ceil), "math.floor": _numeric(math.floor), "math.sqrt": _numeric(math.sqrt),
    "math.gcd": _numeric(math.gcd),
}  # fmt: skip
PARTS = (ast.Load, ast.Store, ast.And, ast.Or, ast.comprehension, ast.Attribute, *OPERATORS)  # never run alone


class _Machine:
    """The state of a run: names and fuel. A method is named after the node that it runs."""

    def __init__(self, fuel: int):
        self.fuel = fuel
        self.names: dict[str, Any] = {}

    def spend(self, amount: int = 1) -> None:
        self.fuel -= amount
        if self.fuel < 0:
            raise _TimeoutError

    def visit(self, node: ast.AST) -> Any:
        self.spend()
        return getattr(self, type(node).__name__)(node)

    def block(self, body: list[ast.stmt]) -> None:
        for node in body:
            self.visit(node)

    def Return(self, node: ast.Return) -> None:
        raise _Returned(None if node.value is None else self.visit(node.value))

    def Expr(self, node: ast.Expr) -> None:
        self.visit(node.value)

    def Assign(self, node: ast.Assign) -> None:
        value = self.visit(node.value)
        self.names |= {target.id: value for target in node.targets}

    def AugAssign(self, node: ast.AugAssign) -> None:
        old, new = self._look_up(node.target.id), self.visit(node.value)
        self.names[node.target.id] = _bounded(OPERATORS[type(node.op)](old, new))

    def If(self, node: ast.If) -> None:
        self.block(node.body if self.visit(node.test) else node.orelse)

    def While(self, node: ast.While) -> None:
        while self.visit(node.test):
            self.block(node.body)

    def For(self, node: ast.For) -> None:
        for item in self._items(node.iter):
            self.names[node.target.id] = item
            self.block(node.body)

    def Constant(self, node: ast.Constant) -> Any:
        return _bounded(node.value)

    def Name(self, node: ast.Name) -> Any:
        return self._look_up(node.id)

    def List(self, node: ast.List) -> list[Any]:
        return [self.visit(item) for item in node.elts]

    def Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.List(node))

    def Subscript(self, node: ast.Subscript) -> Any:
        sequence, index = self.visit(node.value), self.visit(node.slice)
        if not isinstance(sequence, SEQUENCES):
            raise _FaultError
        return sequence[index]

    def UnaryOp(self, node: ast.UnaryOp) -> Any:
        return OPERATORS[type(node.op)](self.visit(node.operand))

    def BinOp(self, node: ast.BinOp) -> Any:
        return _bounded(OPERATORS[type(node.op)](self.visit(node.left), self.visit(node.right)))

    def BoolOp(self, node: ast.BoolOp) -> Any:
        for operand in node.values:
            value = self.visit(operand)
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def Compare(self, node: ast.Compare) -> bool:
        left = self.visit(node.left)
        for sign, operand in zip(node.ops, node.comparators, strict=True):
            right = self.visit(operand)
            if not OPERATORS[type(sign)](left, right):
                return False
            left = right
        return True

    def IfExp(self, node: ast.IfExp) -> Any:
        return self.visit(node.body if self.visit(node.test) else node.orelse)

    def Call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else f"math.{node.func.attr}"
        if name.split(".")[0] in self.names:
            raise _FaultError  # the program gave the name away
        values = [self.visit(value) for value in node.args]
        self.spend(sum(len(value) for value in values if isinstance(value, SEQUENCES)))
        return _bounded(FUNCTIONS[name](*values))

    def ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> list[Any]:
        outer, made = dict(self.names), []
        self._comprehend(node, 0, made)
        self.names = outer
        return _bounded(made)

    GeneratorExp = ListComp

    def _comprehend(self, node: ast.ListComp | ast.GeneratorExp, level: int, made: list[Any]) -> None:
        if level == len(node.generators):
            made.append(self.visit(node.elt))
            return
        generator = node.generators[level]
        for item in self._items(generator.iter):
            self.names[generator.target.id] = item
            if all(self.visit(test) for test in generator.ifs):
                self._comprehend(node, level + 1, made)

    def _items(self, node: ast.AST) -> Any:
        """Yield the items of a sequence, each for one unit of fuel."""
        sequence = self.visit(node)
        if not isinstance(sequence, SEQUENCES):
            raise _FaultError
        for item in sequence:
            self.spend()
            yield item

    def _look_up(self, name: str) -> Any:
        if name not in self.names:
            raise _FaultError
        return self.names[name]
