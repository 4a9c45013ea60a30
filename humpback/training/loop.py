"""The training loop: the base's weights and a list of examples to finetuned weights (paper, section 3.1).

What happens in a step is a pure function of (seed, purpose, step), so a run that was stopped continues bit for bit.
"""

import contextlib
import dataclasses
import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from humpback import distributed
from humpback.config import Finetune, recorded
from humpback.errors import UserError
from humpback.model import adapters, llama, sharding
from humpback.model.adapters import Lora
from humpback.models.folders import Model, ModelInfo
from humpback.progress import Bar, warn
from humpback.tokens.examples import TokenExample
from humpback.training import batches, flops, lora, placement, update
from humpback.training import optimizer as optimizers
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.keeper import DEV_LOSS, DevSet, Keeper
from humpback.training.profile import Profile
from humpback.training.stopping import StopRequest
from humpback.watchdog import Watchdog

Metrics = Callable[[dict[str, Any]], None]

_FULL_RATE = 5e-5  # a learning rate up to here is one for all weights: the paper's is 1e-5, the demo's this
MANY_EPOCHS = 6  # more are warned of: what is compared then is overfitting


class TrainingError(UserError):
    """The training cannot go on; nothing was saved after the step that it names."""


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training is: with the same model, examples and mesh its result is the same, bit for bit.

    purpose: a fixed name ("backward", "forward-1"); with `seed` it decides order and dropout. info: what the result will be, kept with
    each checkpoint; None stands for the model's own.
    """

    ft: Finetune
    seed: int
    purpose: str
    info: ModelInfo | None = None


class Trained(NamedTuple):
    """The result: weights, float32, unstacked, on the mesh, or with adapters these alone; the step after which they were so; the tokens of
    all steps' examples. stacked: the whole tree that training.evaluate takes; None where all weights were trained, to hold no copy."""

    params: llama.Params
    step: int
    tokens: int
    stacked: llama.Params | None = None


def train(
    model: Model,
    examples: Sequence[TokenExample],
    training: Training,
    *,
    mesh: Mesh,
    dev: Sequence[TokenExample] = (),
    checkpoints: TrainingCheckpoints | None = None,
    metrics: Metrics | None = None,
    profile: Profile | None = None,
) -> Trained:
    """Finetunes `model` and returns its new weights; `model.params` is left as it is.

    checkpoints: where to save each ft.checkpoint_every steps and at the end, and what to continue from.
    dev: looked at each ft.dev_every steps and at the end, when that is not 0; then the weights with the lowest loss on it are
    returned, which needs checkpoints. Otherwise the last.
    metrics: called once a step with {step (from 1), loss (nats per target token), lr, grad_norm (before the clip), spike (true or
    not), tokens (of all examples of the step), target_tokens, idle (share of the rows that only fills up), seconds,
    tokens_per_second, tokens_per_second_per_device, model_flops (flops.step_flops), mfu (the share of the devices' peak that this
    makes, where that is known), dev_loss (where it was looked at), saved (true where a checkpoint was made)}. After a stop, steps since
    the last checkpoint come again.
    Raises UserError without examples or for checkpoints of another run, TrainingError for a loss that is not finite, Stopped after
    SIGTERM or Ctrl-C, when what was done is saved.
    """
    ft, seed, purpose = training.ft, training.seed, training.purpose
    if not examples:
        raise UserError(f"training {purpose}: there is no example to train on")
    dev = dev if ft.dev_every else ()
    if dev and checkpoints is None:
        raise ValueError("the dev set chooses among checkpoints, and there are none")
    cfg = model.info.config
    plan = batches.make_plan(examples, ft, seed, purpose, sharding.batch_shards(mesh))
    warn_of_epochs(purpose, plan, len(examples))
    adapted = lora.of(ft)
    warn_of_rate(purpose, ft, plan.steps)
    meta = _describe(model, examples, dev, training, plan)
    with jax.set_mesh(mesh), StopRequest() as stop, _saved_first(checkpoints):
        optimizer = optimizers.make_optimizer(ft)
        shapes = update.state_shapes(cfg, optimizer, mesh, adapted)
        frozen = [placement.place_params(cfg, model.params, mesh, adapted.base)] if adapted else []
        state, done, dev_loss = _start(model, training, optimizer, shapes, mesh, checkpoints, meta)
        compiled = stop.run_interruptibly(lambda: _compile(cfg, ft, optimizer, plan, done, shapes, mesh))
        dev_set = DevSet(cfg, ft, mesh, dev, frozen) if dev else None
        keeper = Keeper(ft, plan.steps, done, dev_set, checkpoints, meta, stop)
        if dev and dev_loss is None and keeper.looks_after(done):  # a stop came between the step and the look
            keeper.settle(done, state)
            keeper.stop_if_asked(done)
        watchdog = Watchdog(first_seconds=max(_longest_seconds(cfg, shape, mesh) for shape in set(plan.shapes)))
        numbers = _Numbers(cfg, ft, plan, mesh, Bar(purpose, "step", plan.steps, done=done), metrics)
        fixed = update.fixed(seed, purpose, plan.steps, mesh)
        chosen, rows = _next(examples, plan, done, seed, purpose, mesh)
        for step in range(done, plan.steps):
            if profile is not None:
                profile.before(step + 1)
            with watchdog.step(step + 1):
                state, measured = compiled[plan.shapes[step]](state, rows, fixed, *frozen)
                numbers.add(step, chosen, measured)
                chosen, rows = _next(examples, plan, step + 1, seed, purpose, mesh)  # while the devices work
                if row := numbers.fetch(leave=1):
                    numbers.tell(row)
                profiled = profile is not None and profile.ends(step + 1, last=step + 1 == plan.steps)
                row = numbers.fetch() if keeper.is_due(step + 1) or profiled else None
            if profile is not None and profiled:
                profile.end()
            if row:  # there are no numbers of a later step, so that one may be saved
                numbers.tell(row | keeper.settle(step + 1, state))
                keeper.stop_if_asked(step + 1)
        numbers.close()
        state, step = keeper.choose(state, shapes)
        params = state["params"]
        del state  # the moments are twice the weights
        if not adapted:
            return Trained(placement.unstack_params(cfg, params, mesh), step, plan.tokens)
        unstacked = jax.jit(lambda tree: adapters.unstack(cfg, tree))(params)
        return Trained(unstacked, step, plan.tokens, lora.whole(params, frozen, adapted))


def warn_of_epochs(purpose: str, plan: batches.Plan, examples: int) -> None:
    """Warns where each example is seen more than MANY_EPOCHS times, as between two rows of the paper's table."""
    epochs = plan.steps * plan.batch / examples
    if epochs > MANY_EPOCHS:
        warn(f"{purpose}: {plan.steps} steps of {plan.batch} show each of {examples} examples {epochs:.1f} times; `epochs` sets that")


def warn_of_rate(purpose: str, ft: Finetune, steps: int) -> None:
    """Warns of adapters with a learning rate that is right for all weights."""
    if ft.lora_rank and ft.lr <= _FULL_RATE:
        times = 15 if steps < 100 else 10
        warn(
            f"{purpose}: lora_rank = {ft.lora_rank} with lr = {ft.lr:g}, which is for training all weights: adapters learn at about "
            f"{times} times that, whatever their rank ({times} × the paper's is {times * 1e-5:g})"
        )


@contextlib.contextmanager
def _saved_first(checkpoints: TrainingCheckpoints | None) -> Iterator[None]:
    """An error, a loss that is not finite, say, waits for the save under way; what goes wrong in that does not hide it."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            if checkpoints is not None:
                checkpoints.wait()
        raise


def _next(
    examples: Sequence[TokenExample], plan: batches.Plan, step: int, seed: int, purpose: str, mesh: Mesh
) -> tuple[list[TokenExample], placement.Rows]:
    """The examples of a step (from 0) and their rows on the mesh; none after the last."""
    if step >= plan.steps:
        return [], {}
    chosen = [examples[i] for i in batches.step_examples(len(examples), plan.batch, seed, purpose, step)]
    return chosen, batches.step_rows(chosen, plan.shapes[step], mesh)


def _compile(
    cfg: llama.LlamaConfig,
    ft: Finetune,
    optimizer: Any,
    plan: batches.Plan,
    done: int,
    shapes: update.State,
    mesh: Mesh,
) -> dict[batches.Shape, update.Step]:
    """The programs of all steps that are left, so that no step's time holds a compilation."""
    step = update.jit_step(cfg, ft, optimizer, shapes)
    needed = sorted(set(plan.shapes[done:]))
    rows = [placement.abstract_rows(mesh, shape.length, shape.rows, shape.targets, shape.parts) for shape in needed]
    fixed, frozen = update.abstract_fixed(mesh), lora.frozen_shapes(cfg, mesh, lora.of(ft))
    programs = {shape: step.lower(shapes, abstract, fixed, *frozen).compile() for shape, abstract in zip(needed, rows, strict=True)}
    distributed.barrier("training compiled")  # who is done first must not take the others' compilation for a step that hangs
    return programs


def _longest_seconds(cfg: llama.LlamaConfig, shape: batches.Shape, mesh: Mesh) -> float:
    """What a step may take while nobody knows what steps take."""
    targets = shape.parts * sharding.batch_shards(mesh) * shape.targets
    return flops.longest_seconds(cfg, [shape.length] * shape.rows, targets, mesh)


def _start(
    model: Model,
    training: Training,
    optimizer: Any,
    shapes: update.State,
    mesh: Mesh,
    checkpoints: TrainingCheckpoints | None,
    meta: dict[str, Any],
) -> tuple[update.State, int, float | None]:
    """The state to begin with, how many steps are done, and its dev loss: the newest checkpoint's, else the model's weights, or fresh
    adapters, and 0."""
    if checkpoints is not None and (latest := checkpoints.latest()) is not None:
        step, saved = latest
        for name in sorted({*meta, *saved} - {DEV_LOSS}):
            if meta.get(name) != saved.get(name):
                raise UserError(
                    f"{checkpoints.path}: its training had {name} = {saved.get(name)!r}, this one has {meta.get(name)!r}; "
                    "put the old value back to continue it, or delete the folder to begin anew"
                )
        return checkpoints.restore(step, shapes), step, saved.get(DEV_LOSS)
    cfg, adapted = model.info.config, lora.of(training.ft)
    params = lora.first(cfg, mesh, adapted, training.seed, training.purpose) if adapted else placement.place_params(cfg, model.params, mesh)
    return update.first_state(params, optimizer, shapes), 0, None


def _describe(
    model: Model, examples: Sequence[TokenExample], dev: Sequence[TokenExample], training: Training, plan: batches.Plan
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued, flat, by the names that an error can give."""

    def digest(examples: Sequence[TokenExample]) -> str:
        sha256 = hashlib.sha256()
        for example in examples:
            sha256.update(f"{example.id} {example.target_start} {len(example.ids)}\n".encode())
            sha256.update(np.ascontiguousarray(example.ids, "<i4").data)
        return sha256.hexdigest()

    # A checkpoint may be continued with other values of what changes how fast or how safely, not what.
    beside = () if training.ft.lora_rank else {item.name for item in dataclasses.fields(Finetune) if item.name.startswith("lora_")}
    values = dataclasses.asdict(training.ft).items()
    fields = {f"finetune.{k}": v for k, v in values if k not in recorded(Finetune) and k not in beside}
    run = {"seed": training.seed, "purpose": training.purpose, "steps": plan.steps, "batch": plan.batch}
    return {**(training.info or model.info).to_dict(), **fields, **run, "examples": digest(examples), "dev": digest(dev)}


class _Numbers:
    """What steps have measured, fetched when a later one is under way: the devices need not wait for the host. And who is told of it."""

    def __init__(self, cfg: llama.LlamaConfig, ft: Finetune, plan: batches.Plan, mesh: Mesh, bar: Bar, metrics: Metrics | None):
        self._cfg, self._ft, self._plan, self._mesh = cfg, ft, plan, mesh
        self._bar, self._metrics = bar, metrics
        self._waiting: deque[tuple[int, list[TokenExample], dict[str, jax.Array], float]] = deque()
        self._fetched = 0.0  # when, last

    def add(self, step: int, chosen: list[TokenExample], measured: dict[str, jax.Array]) -> None:
        """Takes what a step, which was just begun, will have measured."""
        self._waiting.append((step, chosen, measured, time.perf_counter()))

    def fetch(self, leave: int = 0) -> dict[str, Any] | None:
        """The row of metrics of the earliest step that waits, when that is over; None where no more than `leave` wait."""
        if len(self._waiting) <= leave:
            return None
        step, chosen, measured, begun = self._waiting.popleft()
        row = _measure(measured, chosen, step, self._plan, self._ft)
        now = time.perf_counter()
        seconds, self._fetched = now - max(begun, self._fetched), now  # it began when the one before was over
        return row | _rates(self._cfg, lora.of(self._ft), chosen, self._plan.shapes[step], self._mesh, seconds)

    def tell(self, row: dict[str, Any]) -> None:
        """Hands a row on, and shows it."""
        if self._metrics is not None:
            self._metrics(row)
        _show(self._bar, row)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


def _measure(
    measured: dict[str, jax.Array], chosen: Sequence[TokenExample], step: int, plan: batches.Plan, ft: Finetune
) -> dict[str, Any]:
    """Waits for a step and makes its row of metrics. TrainingError when loss or gradient is not finite."""
    values = {name: value.item() for name, value in jax.device_get(measured).items()}
    ids = ", ".join(example.id for example in chosen)
    if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
        raise TrainingError(
            f"step {step + 1} of {plan.steps}: loss {values['loss']}, gradient norm {values['grad_norm']}; examples of "
            f"this step: {ids}. Nothing was saved since. Look at these examples, or lower the learning rate (lr={ft.lr:g})"
        )
    if values["spike"]:
        done = "its update was left out" if ft.skip_spikes else "its update was made"
        logging.warning(
            "step %d: gradient norm %.3g, over %g times the median of the steps before; %s; examples: %s",
            step + 1, values["grad_norm"], ft.spike, done, ids,
        )  # fmt: skip
    return {"step": step + 1, **values}


def _rates(
    cfg: llama.LlamaConfig, adapted: Lora | None, chosen: Sequence[TokenExample], shape: batches.Shape, mesh: Mesh, seconds: float
) -> dict[str, Any]:
    """The part of a step's metrics that says how much was done, and how fast."""
    lengths = [len(example.ids) for example in chosen]
    tokens, targets = sum(lengths), sum(example.target_tokens for example in chosen)
    model_flops, peak = flops.step_flops(cfg, lengths, targets, adapted), flops.peak_flops(mesh.devices.flat[0])
    return {
        "tokens": tokens,
        "target_tokens": targets,
        "idle": 1 - tokens / (shape.rows * shape.length),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_per_device": tokens / seconds / mesh.size,
        "model_flops": model_flops,
        **({"mfu": model_flops / seconds / (peak * mesh.size)} if peak else {}),
    }


def _show(bar: Bar, row: dict[str, Any]) -> None:
    parts = [f"loss {row['loss']:.3f}", f"lr {row['lr']:.2e}", f"grad {row['grad_norm']:.2f}", f"{row['tokens_per_second']:.0f} tokens/s"]
    if row["tokens_per_second_per_device"] < row["tokens_per_second"]:
        parts.append(f"{row['tokens_per_second_per_device']:.0f} a device")
    if "mfu" in row:
        parts.append(f"MFU {row['mfu']:.1%}")
    if DEV_LOSS in row:
        parts.append(f"dev {row[DEV_LOSS]:.3f}")
    bar.note(", ".join(parts))
    bar.advance()
