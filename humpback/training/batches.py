"""Which examples a step has and how they lie in rows: pure functions of (seed, purpose, step), the same in every process."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from humpback.config import Finetune
from humpback.keys import key_for
from humpback.rounding import ceil_div, round_up
from humpback.tokens import packing
from humpback.tokens.examples import TokenExample
from humpback.training import optimizer as optimizers
from humpback.training import placement

_TARGETS_MULTIPLE = 64


@dataclass(frozen=True, order=True)
class Shape:
    """The shape of many steps, so that one program does for them."""

    length: int  # T
    rows: int  # of a step, on all devices
    parts: int  # A, in which they go through the model one after the other
    targets: int  # M, places with a loss in each group of a part's rows


@dataclass(frozen=True)
class Plan:
    """A whole training: how many steps, of how many examples, and the shape of each."""

    batch: int
    shapes: tuple[Shape, ...]  # of each step
    tokens: int  # of the examples of all steps

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.shapes)


def make_plan(examples: Sequence[TokenExample], ft: Finetune, seed: int, purpose: str, groups: int) -> Plan:
    """Steps and batch by the paper's table unless `ft` sets them. Steps have one of few shapes (packing.choose_shapes), which those with
    fewer rows or targets fill up with what has no loss.

    groups: into how many equal parts the mesh splits the rows.
    """
    steps, batch = optimizers.schedule(len(examples), ft)
    order = [step_examples(len(examples), batch, seed, purpose, step) for step in range(steps)]
    sizes = [[len(examples[i].ids) for i in chosen] for chosen in order]
    lengths = packing.row_lengths(ft.length)
    packed = [{length: _packed(tuple(of_step), length) for length in lengths if length >= max(of_step)} for of_step in sizes]
    shapes = packing.choose_shapes([{length: len(rows) for length, rows in of_step.items()} for of_step in packed], groups)
    targets: dict[tuple[int, int], list[list[int]]] = {}  # shape -> target tokens of each row, of each step
    for chosen, of_step, shape in zip(order, packed, shapes, strict=True):
        targets.setdefault(shape, []).append([sum(examples[chosen[i]].target_tokens for i in row) for row in of_step[shape[0]]])
    whole = {shape: _shape(shape[0], rows, ft.tokens_at_once, groups) for shape, rows in targets.items()}
    return Plan(batch, tuple(whole[shape] for shape in shapes), sum(map(sum, sizes)))


@functools.lru_cache(maxsize=8_192)  # the planner asks for many numbers of groups, with the same steps
def _packed(sizes: tuple[int, ...], length: int) -> list[list[int]]:
    return packing.pack(sizes, length)


def _shape(length: int, targets: list[list[int]], tokens_at_once: int, groups: int) -> Shape:
    needed = round_up(max(map(len, targets)), groups)
    at_once = max(1, tokens_at_once // length) * groups if tokens_at_once else needed
    parts = ceil_div(needed, at_once)
    rows = round_up(needed, parts * groups)
    share = rows // (parts * groups)
    most = max(sum(step[start : start + share]) for step in targets for start in range(0, rows, share))
    return Shape(length, rows, parts, round_up(most, _TARGETS_MULTIPLE))


def step_examples(num_examples: int, batch: int, seed: int, purpose: str, step: int) -> list[int]:
    """The indices of one step's examples (step from 0): every epoch has its own order, none comes twice in one."""
    places = range(step * batch, (step + 1) * batch)
    return [int(_epoch_order(num_examples, seed, purpose, p // num_examples)[p % num_examples]) for p in places]


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, purpose: str, epoch: int) -> np.ndarray:
    # Sorting random words rather than calling a `permutation`, whose method no library promises to keep.
    words = jax.random.bits(key_for(seed, f"order {purpose}", epoch), (num_examples,), "uint32")
    return np.argsort(np.asarray(words), kind="stable")


def step_rows(chosen: Sequence[TokenExample], shape: Shape, mesh: Mesh) -> placement.Rows:
    """One step's arrays on the mesh."""
    rows = _packed(tuple(len(example.ids) for example in chosen), shape.length)
    return placement.make_rows(packing.to_rows(chosen, rows, shape.rows, shape.length), mesh, shape.targets, shape.parts)
