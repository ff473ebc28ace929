"""The table of tasks over whose every entry the laws of `test_tasks.py` run: small settings, one line each."""

from tasks.arithmetic.addition import Addition
from tasks.arithmetic.aggregates import Aggregates
from tasks.arithmetic.board import Board
from tasks.arithmetic.copying import Copying
from tasks.arithmetic.multiplication import Multiplication
from tasks.arithmetic.sorting import ASKS, Sorting
from tasks.formal.automata.simulation import Automaton
from tasks.formal.boolean.functions import BooleanFunctions
from tasks.formal.boolean.unseen import Unseen
from tasks.formal.dyck.brackets import Dyck
from tasks.formal.flip_flop.language import FlipFlop
from tasks.formal.groups.modular_arithmetic import ModularArithmetic
from tasks.formal.groups.tables import GroupTable
from tasks.formal.parity.sparse_parity import SparseParity
from tasks.formal.scratchpad.cycles import Cycles
from tasks.formal.scratchpad.shifted_addition import ShiftedAddition
from tasks.formal.scratchpad.spaced_addition import SpacedAddition
from tasks.formal.scratchpad.spaced_parity import SpacedParity
from tasks.formal.search.graph_search import GraphSearch
from tasks.formal.search.retrieval import Retrieval
from tasks.mixture import TaskMixture
from tasks.vision.augment import Augment
from tasks.vision.digits import Digits
from tasks.vision.shapes import Shapes

DRAWN = {
    "flip_flop": FlipFlop(length=32),
    "flip_flop noisy mixture": FlipFlop(length=32, mode="noisy", ignore=(80, 98, 10)),
    "flip_flop automaton": FlipFlop(length=16, form="automaton"),
    "flip_flop turning": FlipFlop(length=32, writes=0.3, last=98),
    "modular_arithmetic": ModularArithmetic(modulus=7),
    "modular_arithmetic sequence": ModularArithmetic(modulus=7, operation="divide", form="sequence"),
    "group_table": GroupTable(family="dihedral", order=3),
    "group_table sequence": GroupTable(order=3, operation="conjugate", form="sequence"),
    "addition": Addition(longest_train=4, longest_test=6, max_position=12),
    "addition random_start": Addition(longest_train=4, longest_test=6, scheme="random_start", max_position=40),
    "addition plain": Addition(longest_train=4, longest_test=6, scheme="plain"),
    "addition hinted": Addition(longest_train=4, longest_test=6, scheme="hinted", max_position=12),
    "multiplication": Multiplication(longest_train=4, longest_test=6, max_position=12),
    "addition of four": Addition(longest_train=4, longest_test=6, max_position=12, operands=4),
    "copying": Copying(4, 6, max_position=9),
    "copying backwards": Copying(4, 6, order="backwards", scheme="hinted", max_position=9),
    "board": Board(4, 5, max_position=8),
    "board random_start": Board(4, 5, scheme="random_start", max_position=60),
    "board hinted": Board(4, 5, scheme="hinted", max_position=8),
    "sorting": Sorting(values=9, longest_train=5, longest_test=8),
    **{f"sorting, {ask}": Sorting(values=9, longest_train=5, longest_test=8, ask=ask) for ask in ASKS[1:]},
    "mixture": TaskMixture((("sort", Sorting(9, 5, 8)), ("fill", Sorting(9, 5, 8, "fill")))),
    "aggregates": Aggregates(numbers=5, largest_scale=4),
    "aggregates, medians": Aggregates("median", numbers=6, largest_scale=3),
    "digits": Digits(),
    "digits altered": Digits(train_count=100, label_noise=0.5, augment=Augment(shift=2, flip=True, cutout=3)),
    "automaton": Automaton(length=20, longest=30),
    "automaton of stacks": Automaton(family="stack", order=2, length=16, revealed=0.5),
    "automaton with a scratchpad": Automaton(family="symmetric", order=3, length=12, longest=16, form="scratchpad"),
    "brackets": Dyck(length=12, longest=20),
    "whole strings of brackets": Dyck(length=12, longest=20, whole=True),
    "brackets as numbers": Dyck(length=12, longest=20, form="angles"),
    "brackets, pumped": Dyck(kinds=3, depth=3, length=12, longest=20, pumped=True),
    "conjunctions": BooleanFunctions(width=4, points=6),
    "taught formulas": BooleanFunctions("taught_dnf", width=6, points=10),
    "labels of the nearest neighbour": BooleanFunctions("nearest_neighbour", width=5, points=30),
    "graphs": GraphSearch(),
    "naive graphs": GraphSearch(graphs="naive"),
    "stars": GraphSearch(inputs=41, longest=4, graphs="star", tested="star"),
    "retrieval": Retrieval(),
    "retrieval, one of the hops": Retrieval(symbols=12, hops=5, ask="random"),
    "cycles": Cycles(),
    "cycles, ways of any length": Cycles(shortest=2, longest=4, names=12, tested=(4, 6), scratchpad="full"),
    "cycles, six nodes as arrows": Cycles(nodes=6, tested=(2, 3, 4), edges="arrows", names=40, scratchpad="none"),
    "spaced parity": SpacedParity(width=8, longest_train=3, longest_test=6),
    "spaced parity at once": SpacedParity(width=8, longest_train=3, longest_test=6, scratchpad="none"),
    "spaced addition": SpacedAddition(width=4, longest_train=2, longest_test=3),
    "spaced addition at once": SpacedAddition(width=4, longest_train=2, longest_test=3, scratchpad="none"),
    "shifted addition": ShiftedAddition(longest_train=2, longest_test=3),
    "unseen points": Unseen(bits=6),
    "unseen texts": Unseen("triples", bits=6, form="text"),
    "shapes": Shapes(),
    "sparse parity": SparseParity(bits=12),
    "sparse parity from a pool": SparseParity(bits=40, degree=4, samples=100),
    "shapes again": Shapes(side=12, kinds=4, noise=50, train_count=30, label_noise=0.5, augment=Augment(shift=1)),
}
