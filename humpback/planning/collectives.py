"""Which collectives a compiled program runs, and its cycles: read from its text (optimised HLO), loops multiplied by their trip counts."""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from humpback.rounding import ceil_div

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute", "collective-broadcast")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_OPCODE = re.compile(r"\s*([\w-]+)\(")
_PARENTHESIS = re.compile(r"[()]")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|true_computation|false_computation|branch_computations)=(\{[^}]*\}|%?[\w.-]+)")
_CONDITION = re.compile(r"\bcondition=%?([\w.-]+)")
_BODY = re.compile(r"\bbody=%?([\w.-]+)")
_NAME = re.compile(r"%([\w.-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_SOURCE = re.compile(r'\bop_name="([^"]*)"')


@dataclass(frozen=True)
class Collective:
    """One collective of a program: what kind, of what, how often.

    kind: one of KINDS. given: the arrays it works on, as the program's text has them, without layout. payload: bytes a chip of
    one run, of the arrays reduced or sent, or, for an all-gather, of those made. times: how often it runs when the program runs
    once. open: it is in a loop whose trips only the run knows, of which `times` counts one. source: its place in our code, in
    JAX's names.
    """

    kind: str
    given: str
    payload: int
    times: int
    open: bool
    source: str


@dataclass(frozen=True)
class _Instruction:
    shape: str
    opcode: str
    operands: str
    attributes: str

    @functools.cached_property
    def inputs(self) -> list[str]:
        """The names of the operands."""
        return _NAME.findall(self.operands)


@dataclass
class _Computation:
    instructions: dict[str, _Instruction]
    root: str = ""


_Program = Mapping[str, _Computation]


def read_collectives(text: str) -> tuple[Collective, ...]:
    """The collectives of a program's text, in its order. Raises ValueError when the text is not that of a compiled program."""
    program, entry = _parse(text)
    runs = _count_runs(program, entry)
    found: dict[str, Collective] = {}
    for name, computation in program.items():
        times, open_ = runs(name)
        for own, each in computation.instructions.items():
            kind = each.opcode.removesuffix("-start")
            if kind not in KINDS or not times:
                continue
            # The parts of one that is overlapped with other work stand in several computations and carry one channel number.
            channel = _CHANNEL.search(each.attributes)
            key = channel[1] if channel else f"{name}/{own}"
            if key not in found or times > found[key].times:
                found[key] = _collective(each, kind, computation, times, open_)
    return tuple(found.values())


def read_cycles(text: str) -> int:
    """The compiler's own estimate of a program's time, in cycles of a core, kernels (custom calls) apart, which it does not estimate.

    Loops of unknown length count once. Raises ValueError as `read_collectives`.
    """
    program, entry = _parse(text)
    runs, total = _count_runs(program, entry), 0
    for name, computation in program.items():
        for each in computation.instructions.values():
            if found := _CYCLES.search(each.attributes):
                total += runs(name)[0] * int(found[1])
    return total


def _collective(each: _Instruction, kind: str, around: _Computation, times: int, open_: bool) -> Collective:
    given = " ".join(around.instructions[name].shape for name in each.inputs)
    payload = _size(given)
    if kind == "all-gather":  # the result of a start holds what it was given, too
        payload = _size(each.shape) - (payload if each.opcode.endswith("-start") else 0)
    source = _SOURCE.search(each.attributes)
    arrays = ", ".join(f"{array[1]}[{array[3]}]" for array in _ARRAY.finditer(given))
    return Collective(kind, arrays, payload, times, open_, source[1] if source else "")


def _size(shape: str) -> int:
    """Bytes of all arrays of a shape."""
    total = 0
    for dtype, bits, dimensions in _ARRAY.findall(shape):
        elements = math.prod(int(size.removeprefix("<=")) for size in dimensions.split(",") if size)
        total += elements if dtype == "pred" else ceil_div(elements * int(bits), 8)
    return total


def _count_runs(program: _Program, entry: str) -> Callable[[str], tuple[int, bool]]:
    """A function from a computation's name to how often it runs, and whether a loop of unknown length is around it."""
    callers: defaultdict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for caller, computation in program.items():
        for each in computation.instructions.values():
            if each.opcode.endswith(("-done", "-update")):
                continue  # names the same computation as its start
            for called in _CALLED.findall(each.attributes):
                trips = _trips(each, computation, program) if each.opcode == "while" else 1
                for name in called.strip("{}").split(","):
                    callers[name.strip().removeprefix("%")].append((caller, trips))

    @functools.cache
    def runs(name: str) -> tuple[int, bool]:
        if name == entry:
            return 1, False
        around = [(trips, *runs(caller)) for caller, trips in callers[name]]
        times = sum(times if trips is None else trips * times for trips, times, _ in around)
        return times, any(times and (open_ or trips is None) for trips, times, open_ in around)

    return runs


def _trips(loop: _Instruction, around: _Computation, program: _Program) -> int | None:
    """How often a loop's body runs; None when that is known only at run time.

    TPU programs don't say it, so it is read from a counter: where it starts, what is added to it, and below what it stays.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition, body = program[_named(_CONDITION, loop)], program[_named(_BODY, loop)]
    test = condition.instructions[condition.root]
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (_source(condition, name) for name in test.inputs)
    if counter.opcode != "get-tuple-element":
        return None
    index = int(_named(_INDEX, counter))
    first, last = _constant(_element(around, loop.inputs[0], index)), _constant(limit)
    step = _element(body, body.root, index)
    added = [_constant(_source(body, name)) for name in step.inputs] if step and step.opcode == "add" else []
    steps = [value for value in added if value]
    if first is None or last is None or len(steps) != 1:
        return None
    return max(0, ceil_div(last - first, steps[0]))


def _named(attribute: re.Pattern[str], instruction: _Instruction) -> str:
    """What an attribute says that every instruction of this kind has."""
    if found := attribute.search(instruction.attributes):
        return found[1]
    raise ValueError(f"no {attribute.pattern} in {instruction.attributes!r}; another compiler's text?")


def _source(computation: _Computation, name: str) -> _Instruction:
    """The instruction that a value comes from, copies apart."""
    each = computation.instructions[name]
    while each.opcode in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        each = computation.instructions[each.inputs[0]]
    return each


def _element(computation: _Computation, name: str, index: int) -> _Instruction | None:
    """Where element `index` of a tuple comes from, when the tuple is made in the same computation."""
    made = _source(computation, name)
    return _source(computation, made.inputs[index]) if made.opcode == "tuple" else None


def _constant(each: _Instruction | None) -> int | None:
    return int(each.operands) if each and each.opcode == "constant" and each.operands.lstrip("-").isdigit() else None


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    """(name -> computation, name of the entry computation)."""
    program: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = program.setdefault(match[2], _Computation({}))
            entry = match[2] if match[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.instructions[match[2]] = _instruction(line[match.end() :])
            current.root = match[2] if match[1] else current.root
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY computation")
    return program, entry


def _instruction(text: str) -> _Instruction:
    """Splits `SHAPE OPCODE(OPERANDS), ATTRIBUTES`."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text, end)
    if not opcode:
        raise ValueError(f"cannot read this instruction of the program: {text[:200]}")
    last = _closing(text, opcode.end() - 1)
    return _Instruction(text[:end], opcode[1], text[opcode.end() : last], text[last + 1 :])


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for found in _PARENTHESIS.finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise ValueError(f"a parenthesis is not closed in this instruction of the program: {text[:200]}")
