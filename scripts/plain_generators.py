"""Plain generators of the tasks' sequences, to measure those on the device against.

They are written as published generators are: a Python function that makes one sequence with a NumPy generator and hands
out inputs, targets and weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Sequence = tuple[np.ndarray, np.ndarray, np.ndarray]
Plain = Callable[[np.random.Generator, Any], Sequence]


def flip_flop(rng: np.random.Generator, task: Any) -> Sequence:
    """Write instructions and bits from left to right with a memory."""
    tokens, asked, memory = np.zeros(task.length, np.int32), np.zeros(task.length, np.float32), 0
    p = task.ignore[rng.integers(len(task.ignore))] / 100
    for i in range(0, task.length, 2):
        word = 0 if i == 0 else 1 if i == task.length - 2 else rng.choice(3, p=[(1 - p) / 2, (1 - p) / 2, p])
        bit = memory if word == 1 else rng.integers(2)
        memory = bit if word == 0 else memory
        tokens[i : i + 2], asked[i + 1] = (word, 3 + bit), word == 1
    return tokens[:-1], tokens[1:], asked[1:]


def automaton(rng: np.random.Generator, task: Any) -> Sequence:
    """Follow a random word through the transition table."""
    moves, state = task.automaton.generators(), task.automaton.start
    word = rng.integers(0, task.automaton.symbols, task.length).astype(np.int32)
    states = np.zeros(task.length, np.int32)
    for i, symbol in enumerate(word):
        states[i] = state = moves[symbol][state]
    return word, states, np.ones(task.length, np.float32)


def dyck(rng: np.random.Generator, task: Any) -> Sequence:
    """Open and close brackets from left to right with a stack."""
    from tasks.formal.dyck.brackets import BRACKETS, START

    stack: list[int] = []
    tokens = np.full(task.length + 1, START, np.int32)
    for i in range(1, task.length + 1):
        opens = not stack or (len(stack) < task.depth and rng.random() < 0.5)
        if opens:
            stack.append(int(rng.integers(task.kinds)))
            tokens[i] = BRACKETS + stack[-1]
        else:
            tokens[i] = BRACKETS + task.kinds + stack.pop()
    return tokens[:-1], tokens[1:], np.ones(task.length, np.float32)


def sparse_parity(rng: np.random.Generator, task: Any) -> Sequence:
    """Draw bits; the parity of the first ones, which stand for the hidden ones."""
    bits = rng.integers(0, 2, task.bits).astype(np.int32)
    return bits, bits[: task.degree].sum(keepdims=True, dtype=np.int32) % 2, np.ones(1, np.float32)


def boolean_functions(rng: np.random.Generator, task: Any) -> Sequence:
    """Draw a conjunction, then points with labels, a share of which is made to satisfy it."""
    weights = rng.choice([1, -1, 0], size=task.width, p=[0.15, 0.15, 0.7])
    inputs = np.zeros((2 * task.points, task.width), np.float32)
    targets, asked = np.zeros(2 * task.points, np.int32), np.zeros(2 * task.points, np.float32)
    for i in range(task.points):
        point = rng.choice([-1, 1], size=task.width)
        if rng.random() < 0.3:
            point = np.where(weights != 0, weights, point)
        label = int(np.all((weights == 0) | (weights == point)))
        inputs[2 * i], inputs[2 * i + 1, 0] = point, 2 * label - 1
        targets[2 * i], asked[2 * i] = label, 1
    return inputs[:-1], targets[:-1], asked[:-1]


def modular_arithmetic(rng: np.random.Generator, task: Any) -> Sequence:
    """Draw two operands and add them."""
    a, b = rng.integers(0, task.modulus, 2)
    tokens = np.array([task.modulus, a, task.modulus + 1, b, task.modulus + 2, (a + b) % task.modulus, task.modulus])
    return tokens[:-1].astype(np.int32), tokens[1:].astype(np.int32), (np.arange(6) > 3).astype(np.float32)


def retrieval(rng: np.random.Generator, task: Any) -> Sequence:
    """Draw a cycle, write its pairs in random order, and follow it."""
    cycle = rng.permutation(task.symbols)
    successor = {int(a): int(b) for a, b in zip(cycle, np.roll(cycle, -1), strict=True)}
    pairs = [(key, successor[key]) for key in map(int, rng.permutation(task.symbols))]
    inputs = np.array([*np.ravel(pairs), *[cycle[0]] * task.hops], np.int32)
    found, here = [], int(cycle[0])
    for _ in range(task.hops):
        here = successor[here]
        found.append(here)
    targets = np.zeros(len(inputs), np.int32)
    targets[-task.hops :] = found[::-1]
    return inputs, targets, (np.arange(len(inputs)) >= 2 * task.symbols).astype(np.float32)


def addition(rng: np.random.Generator, task: Any) -> Sequence:
    """Write two numbers and their sum as text, then as tokens."""
    size = int(rng.integers(1, task.longest_train + 1, 2).max())
    a, b = (int(rng.integers(0, 10**size)) for _ in range(2))
    text = f"${a:0{size}d}+{b:0{size}d}={str(a + b).zfill(size + 1)[::-1]}$"
    return _shifted(task, text, "_?$0123456789+=")


def copying(rng: np.random.Generator, task: Any) -> Sequence:
    """Write digits and then the same again."""
    size = int(rng.integers(1, task.longest_train + 1))
    digits = "".join(map(str, rng.integers(0, 10, size)))
    return _shifted(task, f"${digits}={digits}$", task.spellings)


def multiplication(rng: np.random.Generator, task: Any) -> Sequence:
    """Write a number, one of two digits, and their product."""
    size = int(rng.integers(1, task.longest_train + 1))
    a, b = int(rng.integers(10 ** (size - 1) if size > 1 else 0, 10**size)), int(rng.integers(100))
    return _shifted(task, f"${a}*{b:02d}={str(a * b).zfill(size + 2)[::-1]}$", task.spellings)


def board(rng: np.random.Generator, task: Any) -> Sequence:
    """Lay mines in a field and count those around each empty cell."""
    height, width = rng.integers(task.shortest_train, task.longest_train + 1, 2)
    mines = rng.random((height, width)) < rng.uniform(0.1, 0.25)
    asked = "".join("EM"[int(mine)] for mine in mines.ravel())
    answered = ""
    for row in range(height):
        for column in range(width):
            around = mines[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].sum()
            answered += "M" if mines[row, column] else str(around)
    return _shifted(task, f"^{asked}={answered}$", task.spellings)


def aggregates(rng: np.random.Generator, task: Any) -> Sequence:
    """Draw numbers between two random ends and add them up from left to right."""
    low, high = sorted(rng.uniform(-2, 2, 2))
    inputs, targets = np.zeros((task.numbers + 1, 1), np.float32), np.zeros(task.numbers + 1, np.float32)
    total = 0.0
    for i in range(task.numbers):
        inputs[i] = rng.uniform(low, high)
        total += inputs[i, 0]
        targets[i] = total
    return inputs, targets, (np.arange(task.numbers + 1) < task.numbers).astype(np.float32)


def _shifted(task: Any, text: str, letters: str) -> Sequence:
    """Return a text whose part behind `=` is asked, as tokens."""
    tokens = np.zeros(task.train_length + 1, np.int32)
    tokens[: len(text)] = [letters.index(letter) for letter in text]
    order = np.arange(len(tokens))
    asked = ((order > text.index("=")) & (order < len(text))).astype(np.float32)
    return tokens[:-1], tokens[1:], asked[1:]


def sorting(rng: np.random.Generator, task: Any) -> Sequence:
    """Write a list of random numbers, then the same sorted."""
    size = int(rng.integers(2, task.longest_train + 1))
    numbers = rng.integers(0, task.values, size)
    written = [1, *(4 + numbers), 2, *(4 + np.sort(numbers)), 3]
    tokens = np.zeros(task.train_length + 1, np.int32)
    tokens[: len(written)] = written
    order = np.arange(len(tokens))
    asked = ((order > size + 1) & (order < len(written))).astype(np.float32)
    return tokens[:-1], tokens[1:], asked[1:]


def unseen(rng: np.random.Generator, task: Any) -> Sequence:
    """Draw points of the cube until one is among those seen, and multiply the signs that count."""
    while True:
        bits = rng.integers(0, 2, task.bits).astype(np.int32)
        if not (bits[0] and bits[1]):
            break
    value = (1 - 2 * bits[0]) * (1 - 2 * bits[1])
    return bits, np.array([value > 0], np.int32), np.ones(1, np.float32)


def cycles(rng: np.random.Generator, task: Any) -> Sequence:
    """Join nodes to one cycle or to two, write the edges in random order, and follow them from state to state."""
    from tasks.formal.scratchpad import inductive as text

    size, names = task.longest, text.FIRST + rng.permutation(task.names)[: task.nodes]
    joined = bool(rng.integers(2))
    after = [*range(1, task.nodes), 0] if joined else [*range(1, size), 0, *range(size + 1, task.nodes), size]
    question: list[int] = []
    for node in rng.permutation(task.nodes):
        question += [names[node], names[after[node]]]
    question += [names[0], text.ASK, names[size], text.THEN, text.BEGIN]
    states, here = [], 0
    for step in range(size + 1):
        states.append([names[here], text.NEXT if step < size else text.THEN])
        here = after[here]
    states[-1] += [text.ZERO + joined, text.END]
    return _inductive(task, question, states)


def spaced_parity(rng: np.random.Generator, task: Any) -> Sequence:
    """Put bits at random places and write the parity after each of them."""
    from tasks.formal.scratchpad import inductive as text

    count, parity = int(rng.integers(1, task.longest_train + 1)), 0
    places, bits = np.sort(rng.permutation(task.width)[:count]), rng.integers(0, 2, count)
    question, states = [text.BLANK] * task.width + [text.BEGIN], []
    for number, (place, bit) in enumerate(zip(places, bits, strict=True), start=1):
        parity = (parity + bit) % 2
        question[place] = text.ZERO + bit
        mark = text.END if number == count else text.NEXT
        states.append([text.FIRST + place, text.ZERO + bit, text.ZERO + parity, mark])
    return _inductive(task, question, states)


def spaced_addition(rng: np.random.Generator, task: Any) -> Sequence:
    """Put the digits of two numbers at random places, and add them from the right with a carry."""
    from tasks.formal.scratchpad import inductive as text

    count, carry = int(rng.integers(1, task.longest_train + 1)), 0
    places = [np.sort(rng.permutation(task.width)[:count])[::-1] for _ in range(2)]
    least = 10 ** (count - 1) if count > 1 else 0
    digits = [[int(d) for d in str(rng.integers(least, 10**count))[::-1]] for _ in range(2)]
    fields, states = [[text.BLANK] * task.width for _ in range(2)], []
    for number in range(count):
        state = []
        for operand, before in enumerate((0, task.width + 1)):
            fields[operand][places[operand][number]] = text.ZERO + digits[operand][number]
            state += [text.FIRST + before + places[operand][number], text.ZERO + digits[operand][number]]
        carry, digit = divmod(digits[0][number] + digits[1][number] + carry, 10)
        mark = text.END if number == count - 1 else text.NEXT
        states.append([*state, text.ZERO + carry, text.ZERO + digit, mark])
    return _inductive(task, [*fields[0], text.PLUS, *fields[1], text.BEGIN], states)


def _inductive(task: Any, question: list[int], states: list[list[int]]) -> Sequence:
    """Return a question and its states, each but the last written twice and asked the first time."""
    tokens, asked = list(question), [0] * len(question)
    for number, state in enumerate(states, start=1):
        copies = 1 + (number < len(states))
        tokens += state * copies
        asked += [1] * len(state) + [0] * (len(state) * (copies - 1))
    padded, weights = np.zeros(task.train_length + 1, np.int32), np.zeros(task.train_length + 1, np.float32)
    padded[: len(tokens)], weights[: len(asked)] = tokens, asked
    return padded[:-1], padded[1:], weights[1:]


def graph_search(rng: np.random.Generator, task: Any) -> Sequence:
    """Build chains, attach vertices, and try again until the look-ahead by breadth-first search is right."""
    ahead = int(rng.integers(task.longest + 1))
    while True:
        children, goal, count = _graph(rng, ahead, task.vertices)
        edges = [(a, b) for a in range(count) for b in children[a]]
        if len(edges) <= task.vertices and _look_ahead(children, 0, goal) == ahead:
            break
    names = 1 + rng.permutation(task.vertices)
    mark = task.marks
    path = [0]
    room = task.inputs - 5 - 3 * len(edges)
    parents = [a for a, b in edges if b == 0]
    while parents and len(path) <= room and rng.random() < 0.5:
        path.insert(0, parents[rng.integers(len(parents))])
        parents = [a for a, b in edges if b == path[0]]
    written = []
    for i in rng.permutation(len(edges)):
        written += [mark["edge"], names[edges[i][0]], names[edges[i][1]]]
    written += [mark["query"], names[path[0]], names[goal], mark["path"], *(names[v] for v in path)]
    inputs = np.full(task.inputs, mark["pad"], np.int32)
    inputs[-len(written) :] = written
    useful = [child for child in children[0] if goal in _reached(children, child)]
    targets = np.zeros(task.inputs, np.int32)
    targets[-1] = names[useful[rng.integers(len(useful))]]
    return inputs, targets, (np.arange(task.inputs) == task.inputs - 1).astype(np.float32)


def _graph(rng: np.random.Generator, ahead: int, vertices: int) -> tuple[list[list[int]], int, int]:
    length = max(ahead, 1)
    branches = 1 if ahead == 0 else 2 + int(rng.integers((vertices - 1) // length - 1))
    count = min(length * branches + 1 + int(rng.integers(6)), vertices)
    children: list[list[int]] = [[] for _ in range(vertices)]
    last = 0
    for branch in range(branches):
        spare = count - last - 1 - length * (branches - branch)
        here = 0
        for _ in range(length + int(branch > 0 and spare > 0 and rng.random() < 0.5)):
            last += 1
            children[here].append(last)
            here = last
    here = 0
    for _ in range(int(rng.integers(count - last))):
        last += 1
        children[last].append(here)
        here = last
    for vertex in range(last + 1, count):
        weights = np.array(
            [0.5 + len(c) + sum(v in d for d in children[:vertex]) for v, c in enumerate(children[:vertex])]
        )
        below = int(rng.integers(4))
        above = int(rng.integers(4)) if below else 1 + int(rng.integers(3))
        chosen = rng.choice(vertex, size=min(below, vertex), replace=False, p=weights / weights.sum())
        children[vertex] = [int(v) for v in chosen]
        behind = _reached(children, vertex)
        allowed = np.array([v not in behind for v in range(vertex)])
        if allowed.any():
            p = weights * allowed / (weights * allowed).sum()
            for parent in rng.choice(vertex, size=min(above, int(allowed.sum())), replace=False, p=p):
                children[parent].append(vertex)
    return children, length, count


def _reached(children: list[list[int]], vertex: int) -> set[int]:
    found, queue = {vertex}, [vertex]
    while queue:
        for child in children[queue.pop()]:
            if child not in found:
                found.add(child)
                queue.append(child)
    return found


def _look_ahead(children: list[list[int]], current: int, goal: int) -> int:
    frontier = {child: {child} for child in children[current]}
    useful = {child for child in frontier if goal in _reached(children, child)}
    seen, ahead = {current, *frontier}, 0
    while not all(steps <= useful for steps in frontier.values()):
        ahead += 1
        if goal in frontier:
            break
        further: dict[int, set[int]] = {}
        for vertex, steps in frontier.items():
            for child in children[vertex]:
                if child not in seen:
                    further.setdefault(child, set()).update(steps)
        seen |= set(further)
        frontier = further
    return ahead


def pairs() -> dict[str, tuple[Any, Plain]]:
    """Return the plain generators by recipe, each with the task whose sequences it makes."""
    from tasks.arithmetic.addition import Addition
    from tasks.arithmetic.aggregates import Aggregates
    from tasks.arithmetic.board import Board
    from tasks.arithmetic.copying import Copying
    from tasks.arithmetic.multiplication import Multiplication
    from tasks.arithmetic.sorting import Sorting
    from tasks.formal.automata.simulation import Automaton
    from tasks.formal.boolean.functions import BooleanFunctions
    from tasks.formal.boolean.unseen import Unseen
    from tasks.formal.dyck.brackets import Dyck
    from tasks.formal.flip_flop.language import FlipFlop
    from tasks.formal.groups.modular_arithmetic import ModularArithmetic
    from tasks.formal.parity.sparse_parity import SparseParity
    from tasks.formal.scratchpad.cycles import Cycles
    from tasks.formal.scratchpad.spaced_addition import SpacedAddition
    from tasks.formal.scratchpad.spaced_parity import SpacedParity
    from tasks.formal.search.graph_search import GraphSearch
    from tasks.formal.search.retrieval import Retrieval

    return {
        "flip_flop_cpu": (FlipFlop(), flip_flop),
        "automaton_cpu": (Automaton(family="symmetric", order=5, length=128), automaton),
        "dyck_cpu": (Dyck(), dyck),
        "sparse_parity_cpu": (SparseParity(), sparse_parity),
        "boolean_conjunction_cpu": (BooleanFunctions(), boolean_functions),
        "modular_arithmetic_cpu": (ModularArithmetic(form="sequence"), modular_arithmetic),
        "unseen_cpu": (Unseen(), unseen),
        "cycles_cpu": (Cycles(nodes=6), cycles),
        "spaced_parity_cpu": (SpacedParity(), spaced_parity),
        "spaced_addition_cpu": (SpacedAddition(), spaced_addition),
        "retrieval_cpu": (Retrieval(), retrieval),
        "graph_search_cpu": (GraphSearch(), graph_search),
        "addition_cpu": (Addition(), addition),
        "multiplication_cpu": (Multiplication(), multiplication),
        "copy_cpu": (Copying(), copying),
        "board_cpu": (Board(), board),
        "aggregates_cpu": (Aggregates(), aggregates),
        "sorting_cpu": (Sorting(values=30, longest_train=10, longest_test=50), sorting),
    }
