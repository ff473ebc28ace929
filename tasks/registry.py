"""Every task, recipe and experiment by name, and every configuration class that a recipe may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lm.config import KINDS as LIBRARY_KINDS
from lm.config import Recipe
from lm.data.mixture import Phase
from tasks.arithmetic.addition import (
    Addition,
    addition_cpu,
    addition_full,
    addition_plain_cpu,
    addition_plain_full,
    addition_random_start_cpu,
    addition_random_start_full,
    addition_three_cpu,
    addition_three_full,
)
from tasks.arithmetic.aggregates import Aggregates, aggregates_cpu, aggregates_full
from tasks.arithmetic.board import Board, board_cpu, board_full
from tasks.arithmetic.board_study import COUPLED_BOARDS
from tasks.arithmetic.copying import Copying, copy_cpu, copy_full, reverse_cpu, reverse_full
from tasks.arithmetic.copying_study import COUPLED_COPYING
from tasks.arithmetic.coupling_schemes import COUPLING_SCHEMES, COUPLING_TASKS
from tasks.arithmetic.multiplication import Multiplication, multiplication_cpu, multiplication_full
from tasks.arithmetic.position_coupling import COUPLING_CONSTRUCTION, POSITION_COUPLING
from tasks.arithmetic.positional_attention import POSITIONAL_ATTENTION
from tasks.arithmetic.sorting import (
    Sorting,
    sorting_count_full,
    sorting_cpu,
    sorting_full,
    sorting_hinted_cpu,
    sorting_successor_full,
    sorting_tempered_full,
)
from tasks.arithmetic.sorting_construction import TASK_HINTING_CONSTRUCTION
from tasks.arithmetic.task_hinting import TASK_HINTING
from tasks.arithmetic.task_hinting_lengths import TASK_HINTING_LENGTHS
from tasks.formal.automata.depth_study import AUTOMATA_DEPTH, automaton_table_cpu
from tasks.formal.automata.simulation import (
    Automaton,
    automaton_cpu,
    automaton_full,
    automaton_lstm_cpu,
    automaton_parity_cpu,
    automaton_scratchpad_cpu,
    automaton_shifted_cpu,
)
from tasks.formal.automata.study import AUTOMATA, AUTOMATA_SHORTCUTS
from tasks.formal.boolean.degree_curriculum import (
    DEGREE_CURRICULUM,
    degree_curriculum_cpu,
    degree_curriculum_full,
)
from tasks.formal.boolean.functions import (
    BooleanFunctions,
    boolean_conjunction_cpu,
    boolean_conjunction_full,
    boolean_parity_cpu,
    boolean_taught_cpu,
)
from tasks.formal.boolean.study import ICL_BOOLEAN
from tasks.formal.boolean.unseen import Unseen
from tasks.formal.boolean.unseen_lengths import UNSEEN_LENGTHS
from tasks.formal.boolean.unseen_study import (
    UNSEEN,
    unseen_cpu,
    unseen_full,
    unseen_transformer_cpu,
    unseen_transformer_full,
)
from tasks.formal.dyck.brackets import (
    Dyck,
    dyck_balanced_cpu,
    dyck_balanced_full,
    dyck_cpu,
    dyck_full,
    dyck_two_layer_cpu,
    dyck_two_layer_full,
)
from tasks.formal.dyck.study import DYCK
from tasks.formal.flip_flop.language import FlipFlop, flip_flop_attention_cpu, flip_flop_cpu, flip_flop_full
from tasks.formal.flip_flop.mitigations import MITIGATIONS, flip_flop_lstm_full
from tasks.formal.flip_flop.population import FLIP_FLOP_MITIGATIONS
from tasks.formal.flip_flop.study import FLIP_FLOP
from tasks.formal.groups.grokking import GROKKING
from tasks.formal.groups.modular_arithmetic import ModularArithmetic, modular_arithmetic_cpu, modular_arithmetic_full
from tasks.formal.groups.study import GROUP_GROKKING
from tasks.formal.groups.tables import GroupTable, group_table_cpu, group_table_full, group_text_full
from tasks.formal.parity.rcnn_study import RCNN, recurrent_parity_cpu
from tasks.formal.parity.sparse_parity import SparseParity, sparse_parity_cpu, sparse_parity_full
from tasks.formal.parity.study import SPARSE_PARITY
from tasks.formal.parity.tabular_study import TABULAR
from tasks.formal.scratchpad.cycles import (
    Cycles,
    cycles_cpu,
    cycles_curriculum_cpu,
    cycles_full,
    cycles_path_cpu,
    cycles_plain_cpu,
    cycles_plain_full,
)
from tasks.formal.scratchpad.shifted_addition import ShiftedAddition, shifted_addition_full
from tasks.formal.scratchpad.spaced_addition import (
    SpacedAddition,
    spaced_addition_cpu,
    spaced_addition_full,
    spaced_addition_plain_cpu,
)
from tasks.formal.scratchpad.spaced_parity import (
    SpacedParity,
    spaced_parity_cpu,
    spaced_parity_full,
    spaced_parity_plain_cpu,
)
from tasks.formal.scratchpad.study import INDUCTIVE_SCRATCHPAD, SCRATCHPAD_LENGTHS
from tasks.formal.search.graph_search import GraphSearch, graph_search_cpu, graph_search_full
from tasks.formal.search.graph_study import GRAPH_SEARCH
from tasks.formal.search.retrieval import Retrieval, retrieval_cpu, retrieval_full
from tasks.formal.search.retrieval_study import RETRIEVAL
from tasks.interop.parity import INTEROP
from tasks.math.data import MathData
from tasks.math.duo_study import TINYGSM_VERIFIER
from tasks.math.recipes import (
    tinygsm_125m_full,
    tinygsm_350m_full,
    tinygsm_1300m_full,
    tinygsm_cpu,
    tinygsm_grown_cpu,
    tinygsm_varied_cpu,
)
from tasks.math.smollm2 import smollm2_gsm8k_cpu
from tasks.math.smollm2_study import SMOLLM2
from tasks.math.tinygsm import TinyGSM
from tasks.math.tinygsm_study import TINYGSM
from tasks.math.varied_study import VARIED
from tasks.math.verifier import Verifier
from tasks.mixture import TaskMixture
from tasks.stem.asl_study import ASL_STEM_WIKI
from tasks.stem.phi import phi3_mini_full, phi4_full
from tasks.stem.phi_study import PHI
from tasks.stem.text import Stem, StemData, stem_cpu, stem_phases_cpu
from tasks.task import Experiment, Task
from tasks.training.majority import (
    cifar10_resnet20_majority_full,
    cifar10_resnet56_majority_full,
    tinygsm_60m_full,
    tinygsm_60m_majority_full,
)
from tasks.training.majority_study import MAJORITY_KERNELS
from tasks.training.stacking import stacking_cpu, stacking_full
from tasks.training.stacking_study import STACKING
from tasks.vision.augment import Augment
from tasks.vision.digits import Digits, digits_resnet_cpu
from tasks.vision.shapes import Shapes, shapes_resnet_cpu
from tasks.vision.stored import (
    Cifar,
    ImageFolder,
    cifar10_resnet20_full,
    cifar10_resnet56_full,
    cifar10_wrn_full,
    imagenet_resnet50_full,
)

TASKS: Mapping[str, type[Task]] = MappingProxyType(
    {
        task.name: task
        for task in (
            FlipFlop,
            Automaton,
            Dyck,
            ModularArithmetic,
            GroupTable,
            SparseParity,
            Unseen,
            BooleanFunctions,
            GraphSearch,
            Retrieval,
            Cycles,
            SpacedParity,
            SpacedAddition,
            ShiftedAddition,
            Addition,
            Multiplication,
            Copying,
            Board,
            Sorting,
            Aggregates,
            TaskMixture,
            TinyGSM,
            Verifier,
            Digits,
            Shapes,
            Cifar,
            ImageFolder,
            Stem,
        )
    }
)

RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {
        recipe.__name__: recipe
        for recipe in (
            flip_flop_cpu,
            flip_flop_attention_cpu,
            flip_flop_full,
            flip_flop_lstm_full,
            *MITIGATIONS["cpu"].values(),
            *MITIGATIONS["full"].values(),
            automaton_cpu,
            automaton_parity_cpu,
            automaton_shifted_cpu,
            automaton_scratchpad_cpu,
            automaton_lstm_cpu,
            automaton_table_cpu,
            automaton_full,
            dyck_cpu,
            dyck_balanced_cpu,
            dyck_two_layer_cpu,
            dyck_full,
            dyck_balanced_full,
            dyck_two_layer_full,
            modular_arithmetic_cpu,
            modular_arithmetic_full,
            sparse_parity_cpu,
            sparse_parity_full,
            recurrent_parity_cpu,
            group_table_cpu,
            group_table_full,
            group_text_full,
            boolean_conjunction_cpu,
            boolean_parity_cpu,
            boolean_taught_cpu,
            boolean_conjunction_full,
            cycles_cpu,
            cycles_path_cpu,
            cycles_plain_cpu,
            cycles_curriculum_cpu,
            cycles_full,
            cycles_plain_full,
            spaced_parity_cpu,
            spaced_parity_plain_cpu,
            spaced_parity_full,
            spaced_addition_cpu,
            spaced_addition_plain_cpu,
            spaced_addition_full,
            shifted_addition_full,
            graph_search_cpu,
            graph_search_full,
            retrieval_cpu,
            retrieval_full,
            unseen_cpu,
            unseen_transformer_cpu,
            unseen_full,
            unseen_transformer_full,
            degree_curriculum_cpu,
            degree_curriculum_full,
            addition_cpu,
            addition_plain_cpu,
            addition_random_start_cpu,
            addition_three_cpu,
            addition_full,
            addition_plain_full,
            addition_random_start_full,
            addition_three_full,
            multiplication_cpu,
            multiplication_full,
            copy_cpu,
            reverse_cpu,
            copy_full,
            reverse_full,
            board_cpu,
            board_full,
            sorting_cpu,
            sorting_hinted_cpu,
            sorting_full,
            sorting_count_full,
            sorting_successor_full,
            sorting_tempered_full,
            aggregates_cpu,
            aggregates_full,
            tinygsm_cpu,
            tinygsm_grown_cpu,
            tinygsm_varied_cpu,
            tinygsm_125m_full,
            tinygsm_350m_full,
            tinygsm_1300m_full,
            smollm2_gsm8k_cpu,
            stem_cpu,
            stem_phases_cpu,
            phi3_mini_full,
            phi4_full,
            digits_resnet_cpu,
            shapes_resnet_cpu,
            cifar10_resnet20_full,
            cifar10_resnet56_full,
            cifar10_wrn_full,
            imagenet_resnet50_full,
            stacking_cpu,
            stacking_full,
            cifar10_resnet20_majority_full,
            cifar10_resnet56_majority_full,
            tinygsm_60m_full,
            tinygsm_60m_majority_full,
        )
    }
)

EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        experiment.name: experiment
        for experiment in (
            FLIP_FLOP,
            FLIP_FLOP_MITIGATIONS,
            AUTOMATA,
            AUTOMATA_SHORTCUTS,
            AUTOMATA_DEPTH,
            DYCK,
            UNSEEN,
            UNSEEN_LENGTHS,
            DEGREE_CURRICULUM,
            POSITION_COUPLING,
            COUPLED_COPYING,
            COUPLED_BOARDS,
            COUPLING_SCHEMES,
            COUPLING_TASKS,
            COUPLING_CONSTRUCTION,
            TASK_HINTING,
            TASK_HINTING_LENGTHS,
            TASK_HINTING_CONSTRUCTION,
            POSITIONAL_ATTENTION,
            GROKKING,
            GROUP_GROKKING,
            SPARSE_PARITY,
            TABULAR,
            RCNN,
            ICL_BOOLEAN,
            INDUCTIVE_SCRATCHPAD,
            SCRATCHPAD_LENGTHS,
            GRAPH_SEARCH,
            RETRIEVAL,
            TINYGSM,
            VARIED,
            TINYGSM_VERIFIER,
            SMOLLM2,
            STACKING,
            MAJORITY_KERNELS,
            INTEROP,
            ASL_STEM_WIKI,
            PHI,
        )
    }
)

KINDS: Mapping[str, type] = MappingProxyType(
    {**LIBRARY_KINDS, **{kind.__name__: kind for kind in (*TASKS.values(), MathData, Augment, StemData, Phase)}}
)
