"""How long a program should take on a chip, from what it computes, reads and sends. This is a model: nothing was timed on a TPU.

    seconds = max(operations / (C · peak), bytes / (M · HBM bandwidth), gathered / (I · interconnect))
            + waited for / (I · interconnect) + between slices / (I · network)

C, M and I are the shares of the published figures that runs reach (COMPUTE, MEMORY, INTERCONNECT below). A training step counts

  operations   of all tokens of all rows, padding too: 6 a weight of the layers' matrices (4 a frozen one, 6 of its adapter's), with full
               rematerialisation 2 more for all of them but the down projection; 6 · D · V (frozen: 4) a target place;
               attention 2 · N · H · pairs for each product, of which there are 2 forward, 7 backward (the kernel computes scores twice
               there), and 2 again with rematerialisation. pairs: those that the kernel's blocks (kernels.block_for) do not skip,
               T · (T + 512) / 2 for multiples of 512
  bytes        28 a weight that trains, of the chip's share (weights, two moments and the gradient in float32 through AdamW); of each
               layer's matrices in bfloat16 (frozen: or int8) what is gathered, read in each pass, and its gradient, where there is one;
               inputs and outputs of each product in each pass; logits
  gathered     what the compiled program's collectives carry (planning/collectives.py), weights to be gathered and gradients to be
               scattered: payload · (n - 1) / n, and 5 µs for each. It goes on beside the products
  waited for   the reductions of activations among `tensor` chips, whose result the next product needs: twice that; in decoding, all

and a step of decoding its arguments, as it reads all weights and the whole cache, and 32 passes over the logits to find the nucleus.
A visit of the host after each few steps costs HOST_SECONDS.

Of a compiled program of decoding there is a second figure, and the larger one holds:

    seconds = cycles / clock + kernels + waited for / (I · interconnect)

cycles are the compiler's own estimate, loops multiplied out, which is good to a factor of two. A kernel, which it does not estimate,
takes the larger of its bytes / HBM bandwidth and its operations / peak, and STEP_SECONDS for each step of its grid.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from humpback.decoding.executables import cache_bytes
from humpback.model import kernels
from humpback.model.adapters import Lora
from humpback.model.weights import WEIGHTS, LlamaConfig, layer_names, parameter_count
from humpback.planning.jobs import Answer, Decode, Place, Step
from humpback.planning.tpu_slices import Slice
from humpback.rounding import ceil_div, round_up
from humpback.training.flops import layer_weights

# C by generation. v4, v5e, v5p: MaxText's published runs of its own sizes (v4 56.7 and 56.0, v5e 59.9 to 66.9, v5p 70.3 and 71.5 % MFU),
# times 8/6 for the two that compute their products again (v4, v5e: remat_policy=full; v5p: minimal), rounded down because they count
# attention in full. v6e has no such run: the LLaMA runs of MaxText's tiering.md and tpu-recipes (43.8 to 50.3 %), taken with full
# rematerialisation, so for it the comparison in tests/planning/test_published.py is no independent check.
COMPUTE = {"v4": 0.72, "v5e": 0.78, "v5p": 0.70, "v6e": 0.60}
MEMORY, INTERCONNECT = 0.75, 0.75  # M and I: assumed
COLLECTIVE_SECONDS = 5e-6  # the least that one takes: assumed, a microsecond a hop
STEP_SECONDS = 0.5e-6  # of a kernel's grid: assumed
HOST_SECONDS = 2e-3  # between two visits of the host: assumed
NUCLEUS_PASSES = 32  # of sampling.Sampler's bisection
_STATE_BYTES = 28

Traffic = Mapping[str, tuple[int, float]]  # kind -> (times, payload bytes a chip)


@dataclass(frozen=True)
class Times:
    """Seconds that each part would take by itself at the published figures; `compiled`, by the compiler's cycles, 0 where it was not
    asked; and `seconds`, what is predicted."""

    compute: float
    memory: float
    gathered: float
    waited: float
    network: float
    seconds: float
    compiled: float = 0.0

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        interconnect = self.gathered + self.waited
        parts = {"compute": self.compute, "HBM": self.memory, "interconnect": interconnect, "network": self.network}
        return max(parts, key=parts.__getitem__)

    @property
    def roofline(self) -> float:
        """Seconds at the published figures: the longest of computing, HBM and interconnect."""
        return max(self.compute, self.memory, self.gathered + self.waited) + self.network

    def times(self, factor: float) -> "Times":
        """So many of it."""
        return Times(*(factor * getattr(self, item.name) for item in dataclasses.fields(self)))


def with_cycles(times: Times, cycles: int, of_kernels: float, slice_: Slice) -> Times:
    """With what the compiler says of the same program: its cycles on one of the cores, and the seconds of its kernels."""
    if not cycles:
        return times
    compiled = cycles / slice_.chip.clock + of_kernels + times.waited / INTERCONNECT
    return dataclasses.replace(times, compiled=compiled, seconds=max(times.seconds, compiled))


def write_seconds(job: Decode, slice_: Slice) -> float:
    """Of the kernels that write a step's keys and values, one a layer: of each row the tiles around its place, to and fro."""
    model, place, rows = job.model, job.place, job.slots // job.place.groups
    heads = model.num_kv_heads if model.num_kv_heads % place.tensor else model.num_kv_heads // place.tensor
    moved = 2 * 2 * rows * heads * model.head_dim * (kernels.LANES + kernels.ROWS)
    return model.num_layers * (moved / slice_.chip.bandwidth + rows * STEP_SECONDS)


def attention_seconds(job: Decode, slice_: Slice, rows: int, bucket: int) -> float:
    """Of the kernels that attend in a prefill, one a layer but the last, for `rows` prompts padded to `bucket`."""
    model, place = job.model, job.place
    rows, heads = rows // place.groups, model.num_heads // place.tensor
    block = kernels.block_for(bucket)
    queries, keys = ceil_div(bucket, block), ceil_div(bucket, block) + ceil_div(job.prefix, block)
    operations = attention_operations(job, rows * place.groups, bucket) / (model.num_layers - 1)
    moved = 2 * 2 * rows * model.head_dim * (heads * bucket + heads * queries * keys * block)
    steps = rows * heads * queries * keys
    longest = max(operations / slice_.chip.flops, moved / slice_.chip.bandwidth)
    return (model.num_layers - 1) * (longest + steps * STEP_SECONDS)


def attention_operations(job: Decode, rows: int, bucket: int) -> float:
    """Of all these kernels, on a chip."""
    model, chips = job.model, job.place.chips
    return 4 * (model.num_layers - 1) * model.head_dim * model.num_heads * rows * _prompt_pairs(job, bucket) / chips


def _prompt_pairs(job: Decode, bucket: int) -> int:
    """Of a query and a key that the kernel's blocks do not skip, in one prompt."""
    block = kernels.block_for(bucket)
    return kernels.steps_of(bucket, block) * block**2 + round_up(bucket, block) * round_up(job.prefix, block)


def total(parts: Sequence[Times]) -> Times:
    """One after the other."""
    return Times(*(sum(getattr(each, item.name) for each in parts) for item in dataclasses.fields(Times)))


def _edges(model: LlamaConfig) -> int:
    """Inputs and outputs of the products of one layer, of one token."""
    matrices = [WEIGHTS[name] for name in layer_names(model) if WEIGHTS[name].matrix]
    return sum(weight.inputs(model) + math.prod(weight.sizes(model)) // weight.inputs(model) for weight in matrices)


def step_operations(model: LlamaConfig, length: int, rows: int, targets: int, remat: str, lora: Lora | None = None) -> int:
    """Of a training step on all chips, executed: recomputation and padding count. targets: places with a loss, of all rows."""
    W, again, each = layer_weights(model), remat == "full", 4 if lora else 6
    adapted = (6 + 2 * again) * lora.count(model) if lora else 0
    of_token = each * W + adapted + (2 * (W - model.num_layers * model.d_model * model.d_ff) if again else 0)
    products = 9 if remat == "none" else 11
    block = kernels.block_for(length)
    pairs = kernels.steps_of(length, block) * block**2
    attention = 2 * model.num_layers * model.num_heads * model.head_dim * pairs * products
    return rows * (length * of_token + attention) + each * model.d_model * model.vocab_size * targets


def step_traffic(job: Step) -> dict[str, tuple[int, int]]:
    """What a step's collectives should carry, bytes a chip, before anything is compiled."""
    model, place = job.model, job.place
    W, outer = layer_weights(model) / place.tensor, model.d_model * model.vocab_size / place.tensor
    gathers = 1 if job.finetune["remat"] == "none" else 2  # without rematerialisation what is gathered is kept for the backward pass
    sent = {}
    lora, reduced = job.lora, job.parts * 2 * (W + outer)
    matrices = 2.0
    if lora:  # of frozen weights no gradient is sent, and int8 is gathered as it lies
        matrices, reduced = _frozen_bytes(lora), job.parts * 4 * lora.count(model) / place.tensor
    if place.fsdp > 1:
        gathered = job.parts * (matrices * gathers * W + 2 * outer)  # the head; of the embedding only rows are fetched
        sent["all-gather"] = (8 * model.num_layers * job.parts * gathers, round(gathered))
    times = 8 * model.num_layers * job.parts
    sent["all-reduce"] = (times + _activation_passes(job), round(reduced + _activation_bytes(job)))
    return sent


def _frozen_bytes(lora: Lora) -> float:
    """Of a frozen weight of the layers as it is gathered and read: int8, or the products' bfloat16."""
    return 1.0 if lora.base == "int8" else 2.0


def _activation_passes(job: Step) -> int:
    """Reductions of activations in a step: after attention and feed-forward, forwards, backwards, and again to compute them again."""
    passes = 6 if job.finetune["remat"] == "full" else 4
    return passes * job.model.num_layers * job.parts if job.place.tensor > 1 else 0


def _activation_bytes(job: Step) -> float:
    tokens = job.rows * job.length / job.parts / job.place.groups
    return _activation_passes(job) * tokens * job.model.d_model * 2


def step_times(job: Step, slice_: Slice, traffic: Traffic) -> Times:
    """Of one training step."""
    model, place, remat = job.model, job.place, job.finetune["remat"]
    again, groups = remat == "full", place.groups
    lora = job.lora
    operations = step_operations(model, job.length, job.rows, job.targets * groups * job.parts, remat, lora) / place.chips
    tokens, W = job.rows * job.length / groups, layer_weights(model)
    trained = lora.count(model) if lora else parameter_count(model)
    passes = (7 if place.fsdp > 1 else 5) - (3 if lora else 0) + again  # a gradient is written, read and written
    weights = (_frozen_bytes(lora) if lora else 2) * W / place.tensor * job.parts * passes
    activations = 2 * model.num_layers * _edges(model) * tokens * (4 + again) / place.tensor
    logits = 16 * model.vocab_size * job.targets * job.parts / place.tensor
    state = _STATE_BYTES * trained / (place.fsdp * place.tensor)
    gradients = (4 if lora else 2) * trained / place.tensor
    between = 2 * (place.slices - 1) / place.slices * gradients / place.fsdp if place.slices > 1 else 0
    waited = _reduced(_activation_passes(job), _activation_bytes(job), place, slice_)
    gathered = 0.0
    for kind, (times, payload) in traffic.items():
        own = (times - _activation_passes(job), payload - _activation_bytes(job)) if kind == "all-reduce" else (times, payload)
        if place.fsdp > 1:
            gathered += max(0, own[0]) * COLLECTIVE_SECONDS + max(0, own[1]) * (1 - 1 / place.fsdp) / slice_.speed(place.fsdp)
    return _times(operations, state + weights + activations + logits, gathered, waited, slice_, between)


def decode_times(job: Decode, slice_: Slice, traffic: Traffic, arguments: int | None = None) -> Times:
    """Of one step of decoding of all slots of a replica. arguments: bytes a chip, of the compiled program."""
    model, place = job.model, job.place
    weights = parameter_count(model) - (0 if model.tied else model.vocab_size * model.d_model)
    pairs = model.num_layers * model.num_heads * model.head_dim * job.length
    operations = job.slots * (2 * weights + 4 * pairs) / place.chips
    read = decode_arguments(job) if arguments is None else arguments
    sampled = NUCLEUS_PASSES * 4 * model.vocab_size * job.slots / place.groups
    return _times(operations, read + sampled, 0.0, sent_seconds(traffic, place, slice_), slice_)


def prefill_times(job: Decode, slice_: Slice, traffic: Traffic, rows: int, bucket: int) -> Times:
    """Of reading `rows` prompts padded to `bucket`, together."""
    model, place, tokens = job.model, job.place, rows * bucket
    attention = 4 * model.num_layers * model.num_heads * model.head_dim * _prompt_pairs(job, bucket) * rows
    operations = 2 * layer_weights(model) * tokens + 2 * model.d_model * model.vocab_size * rows + attention
    activations = 2 * model.num_layers * _edges(model) * tokens / place.chips
    moved = weight_bytes(model, job.weights) / place.tensor + activations
    return _times(operations / place.chips, moved, 0.0, sent_seconds(traffic, place, slice_), slice_)


def insert_times(job: Decode, slice_: Slice, answer: Answer) -> Times:
    """Of putting prompts that were read together into slots: the compiler's cycles, and what it sends."""
    waited = 0.0
    for times, payload in answer.traffic.values():
        waited += payload / slice_.speed(job.place.chips) + times * COLLECTIVE_SECONDS
    return with_cycles(_times(0, 0, 0.0, waited, slice_), answer.cycles, 0.0, slice_)


def decode_traffic(job: Decode, tokens: int) -> dict[str, tuple[int, int]]:
    """What a step of decoding (tokens: slots) or a prefill should carry, before anything is compiled: two reductions a layer and one."""
    if job.place.tensor == 1:
        return {}
    times = 2 * job.model.num_layers + 1
    return {"all-reduce": (times, round(times * tokens / job.place.groups * job.model.d_model * 2))}


def weight_bytes(model: LlamaConfig, weights: str) -> int:
    """Of a whole model as it decodes: bfloat16, or int8 with a float32 scale an output, which is little."""
    return parameter_count(model) * (1 if weights == "int8" else 2)


def slot_bytes(job: Decode) -> int:
    """Of a slot's cache on all chips that share it: keys and values in bfloat16."""
    return cache_bytes(job.model, job.layout().places, job.place.tensor) * job.place.tensor


def decode_arguments(job: Decode) -> int:
    """Bytes a chip of weights and cache."""
    place = job.place
    return (weight_bytes(job.model, job.weights) + slot_bytes(job) * job.slots // place.groups) // place.tensor


def sent_seconds(traffic: Traffic, place: Place, slice_: Slice) -> float:
    """Seconds of the collectives of a decoding program at the published speed: all of them are among `tensor` chips."""
    seconds = 0.0
    for kind, (times, payload) in traffic.items():
        seconds += _reduced(times, payload if kind == "all-reduce" else payload / 2, place, slice_)
    return seconds


def _reduced(times: float, payload: float, place: Place, slice_: Slice) -> float:
    """Of so many reductions among `tensor` chips, each of which sends and receives nearly all of it twice."""
    if place.tensor == 1:
        return 0.0
    return 2 * payload * (1 - 1 / place.tensor) / slice_.speed(place.tensor) + times * COLLECTIVE_SECONDS


def _times(operations: float, moved: float, gathered: float, waited: float, slice_: Slice, between: float = 0) -> Times:
    chip = slice_.chip
    compute, memory, network = operations / chip.flops, moved / chip.bandwidth, between / chip.network
    reached = max(compute / COMPUTE[slice_.generation], memory / MEMORY, gathered / INTERCONNECT) + (waited + network) / INTERCONNECT
    return Times(compute, memory, gathered, waited, network, reached)
