"""The training loop: the base's weights and a list of examples to finetuned weights (paper, section 3.1).

What happens in a step is a pure function of (seed, purpose, step), so a run that was stopped continues bit for bit.
"""

import dataclasses
import functools
import hashlib
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from humpback.config import Finetune
from humpback.errors import UserError
from humpback.keys import key_for
from humpback.model import llama, sharding
from humpback.tokens import packing
from humpback.tokens.examples import TokenExample
from humpback.training import optimizer as optimizers
from humpback.training import programs
from humpback.training.checkpoint import Model, ModelInfo, TrainingCheckpoints

State = dict[str, Any]  # {"params": stacked f32 weights, "opt": optax state, "step": int32, steps done}
Metrics = Callable[[dict[str, Any]], None]

_TARGETS_MULTIPLE = 64
# Fields of Finetune that change how fast, not what; a checkpoint may be continued with other values.
_RECORDED = ("checkpoint_every", "remat")


class TrainingError(UserError):
    """The training cannot go on; nothing was saved after the step that it names."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shapes of a run, the same in every step, so that there is one program."""

    steps: int
    batch: int  # examples a step
    rows: int  # rows a step, B
    targets: int  # places with a loss in each group of rows, M


def train(
    model: Model,
    examples: Sequence[TokenExample],
    ft: Finetune,
    *,
    mesh: Mesh,
    seed: int,
    purpose: str,
    checkpoints: TrainingCheckpoints | None = None,
    metrics: Metrics | None = None,
    progress: bool = True,
    info: ModelInfo | None = None,
) -> llama.Params:
    """Finetunes `model` and returns its new weights, float32, unstacked, on `mesh`; `model.params` is left as it is.

    purpose: a fixed name of this training ("backward", "forward-1"); with `seed` it decides order and dropout.
    checkpoints: where to save each ft.checkpoint_every steps and at the end, and what to continue from.
    metrics: called once a step with {step (from 1), loss (nats per target token), lr, grad_norm (before the clip),
    tokens (of all examples of the step), target_tokens, seconds, tokens_per_second}. After a stop, steps since the last
    checkpoint come again.
    info: what the result will be, kept with each checkpoint; model.info when not given.
    Raises UserError without examples or for checkpoints of another run, TrainingError for a loss that is not finite.
    """
    if not examples:
        raise UserError(f"training {purpose}: there is no example to train on")
    cfg = model.info.config
    plan = make_plan(examples, ft, seed, purpose, programs.row_groups(mesh))
    meta = _describe(info or model.info, examples, ft, seed, purpose, plan)
    with jax.set_mesh(mesh):
        optimizer = optimizers.make_optimizer(ft, plan.steps)
        shapes = state_shapes(cfg, optimizer, mesh)
        state, done = _start(model, optimizer, shapes, mesh, checkpoints, meta)
        if done < plan.steps:
            rows = step_rows(examples, plan, ft, mesh, seed, purpose, done)
            program = compile_step(cfg, ft, optimizer, plan, shapes, rows, seed, purpose)
        quiet = not progress or jax.process_index() > 0
        bar = tqdm(total=plan.steps, initial=done, desc=purpose, unit="step", file=sys.stderr, disable=quiet)
        for step in range(done, plan.steps):
            started = time.perf_counter()
            chosen = step_examples(len(examples), plan.batch, seed, purpose, step)
            state, measured = program(state, rows)
            if step + 1 < plan.steps:  # while the devices work
                rows = step_rows(examples, plan, ft, mesh, seed, purpose, step + 1)
            row = _measure(measured, [examples[i] for i in chosen], step, plan, ft, started)
            if metrics is not None:
                metrics(row)
            bar.set_postfix_str(
                f"loss {row['loss']:.3f}, lr {row['lr']:.2e}, grad {row['grad_norm']:.2f}, {row['tokens_per_second']:.0f} tokens/s",
                refresh=False,
            )
            bar.update()
            last = step + 1 == plan.steps
            if checkpoints is not None and (last or (ft.checkpoint_every and (step + 1) % ft.checkpoint_every == 0)):
                checkpoints.save(step + 1, state, meta)
        bar.close()
        params = state["params"]
        del state  # the moments are twice the weights
        return programs.unstack_params(cfg, params, mesh)


def make_plan(examples: Sequence[TokenExample], ft: Finetune, seed: int, purpose: str, groups: int) -> Plan:
    """Steps and batch by the paper's table unless `ft` sets them, and the most rows and targets that any step needs.

    groups: into how many equal parts the mesh splits the rows.
    """
    steps, batch = optimizers.steps_and_batch(len(examples))
    steps, batch = ft.steps or steps, ft.batch or batch
    packed = []
    for step in range(steps):
        chosen = [examples[i] for i in step_examples(len(examples), batch, seed, purpose, step)]
        rows = packing.pack([len(example.ids) for example in chosen], ft.length)
        packed.append([sum(chosen[i].target_tokens for i in row) for row in rows])
    num_rows = packing.round_up(max(len(rows) for rows in packed), groups)
    share = num_rows // groups
    targets = max(sum(rows[start : start + share]) for rows in packed for start in range(0, num_rows, share))
    return Plan(steps, batch, num_rows, packing.round_up(targets, _TARGETS_MULTIPLE))


def step_examples(num_examples: int, batch: int, seed: int, purpose: str, step: int) -> list[int]:
    """The indices of one step's examples (step from 0): every epoch has its own order, none comes twice in one."""
    places = range(step * batch, (step + 1) * batch)
    return [int(_epoch_order(num_examples, seed, purpose, p // num_examples)[p % num_examples]) for p in places]


@functools.lru_cache(maxsize=4)
def _epoch_order(num_examples: int, seed: int, purpose: str, epoch: int) -> np.ndarray:
    # Sorting random words rather than calling a `permutation`, whose method no library promises to keep.
    words = jax.random.bits(key_for(seed, f"order {purpose}", epoch), (num_examples,), "uint32")
    return np.argsort(np.asarray(words), kind="stable")


def step_rows(
    examples: Sequence[TokenExample], plan: Plan, ft: Finetune, mesh: Mesh, seed: int, purpose: str, step: int
) -> programs.Rows:
    """One step's arrays on the mesh."""
    chosen = [examples[i] for i in step_examples(len(examples), plan.batch, seed, purpose, step)]
    rows = packing.pack([len(example.ids) for example in chosen], ft.length)
    return programs.make_rows(packing.to_rows(chosen, rows, plan.rows, ft.length), mesh, plan.targets)


def loss_of(
    cfg: llama.LlamaConfig, ft: Finetune, params: llama.Params, rows: programs.Rows, key: jax.Array | None
) -> jax.Array:
    """Mean nats per target token over the whole batch, float32. Without a key there is no dropout."""
    nats_GM = programs.target_nats(
        cfg, params, rows,
        compute_dtype=jnp.dtype(ft.compute_dtype), dropout_rate=ft.dropout, dropout_key=key, remat=ft.remat,
    )  # fmt: skip
    weights_GM = rows["weights_GM"]
    return jnp.sum(nats_GM * weights_GM) / jnp.sum(weights_GM)


def train_step(
    cfg: llama.LlamaConfig,
    ft: Finetune,
    optimizer: optax.GradientTransformation,
    steps: int,
    seed: int,
    purpose: str,
    state: State,
    rows: programs.Rows,
) -> tuple[State, dict[str, jax.Array]]:
    """One update. Pure; returns the next state and {loss, grad_norm, lr}."""
    key = key_for(seed, f"dropout {purpose}", state["step"])
    loss, grads = jax.value_and_grad(lambda params: loss_of(cfg, ft, params, rows, key))(state["params"])
    updates, opt = optimizer.update(grads, state["opt"], state["params"])
    measured = {
        "loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "lr": optimizers.learning_rate(state["step"], ft, steps),
    }
    return {"params": optax.apply_updates(state["params"], updates), "opt": opt, "step": state["step"] + 1}, measured


def state_shapes(cfg: llama.LlamaConfig, optimizer: optax.GradientTransformation, mesh: Mesh) -> State:
    """The training state as ShapeDtypeStructs with their shardings; allocates nothing."""
    where = sharding.param_shardings(cfg, mesh, sharding.TRAINING_RULES, stacked=True)
    params = jax.eval_shape(llama.stack_layers, llama.abstract_params(cfg))
    whole = programs.replicated(mesh)
    state = {"params": params, "opt": jax.eval_shape(optimizer.init, params), "step": jax.ShapeDtypeStruct((), jnp.int32)}
    shardings = {
        "params": where,
        "opt": optimizers.state_shardings(optimizer, params, where, whole),
        "step": whole,
    }
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def compile_step(
    cfg: llama.LlamaConfig,
    ft: Finetune,
    optimizer: optax.GradientTransformation,
    plan: Plan,
    shapes: State,
    rows: programs.Rows,
    seed: int,
    purpose: str,
) -> Callable[[State, programs.Rows], tuple[State, dict[str, jax.Array]]]:
    """Compiles the one program of the run, so that no step's time holds a compilation. The state is donated."""
    step = functools.partial(train_step, cfg, ft, optimizer, plan.steps, seed, purpose)
    state_shardings = jax.tree.map(lambda x: x.sharding, shapes)
    rows_shardings = {name: array.sharding for name, array in rows.items()}
    whole = programs.replicated(state_shardings["step"].mesh)
    program = jax.jit(
        step,
        in_shardings=(state_shardings, rows_shardings),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )
    return program.lower(shapes, rows).compile()


def _start(
    model: Model,
    optimizer: optax.GradientTransformation,
    shapes: State,
    mesh: Mesh,
    checkpoints: TrainingCheckpoints | None,
    meta: dict[str, Any],
) -> tuple[State, int]:
    """The state to begin with and how many steps are done: the newest checkpoint's, else the model's weights and 0."""
    if checkpoints is not None and (latest := checkpoints.latest()) is not None:
        step, saved = latest
        for name in sorted({*meta, *saved}):
            if meta.get(name) != saved.get(name):
                raise UserError(
                    f"{checkpoints.path}: its training had {name} = {saved.get(name)!r}, this one has {meta.get(name)!r}; "
                    "put the old value back to continue it, or delete the folder to begin anew"
                )
        return checkpoints.restore(step, shapes), step
    params = programs.place_params(model.info.config, model.params, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, shapes["opt"])
    opt = jax.jit(optimizer.init, out_shardings=shardings)(params)
    step = programs.place_array(np.zeros((), np.int32), programs.replicated(mesh))
    return {"params": params, "opt": opt, "step": step}, 0


def _describe(
    info: ModelInfo, examples: Sequence[TokenExample], ft: Finetune, seed: int, purpose: str, plan: Plan
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued, flat, by the names that an error can give."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.id} {example.target_start} {len(example.ids)}\n".encode())
        digest.update(np.ascontiguousarray(example.ids, "<i4").data)
    fields = {f"finetune.{k}": v for k, v in dataclasses.asdict(ft).items() if k not in _RECORDED}
    run = {"seed": seed, "purpose": purpose, "steps": plan.steps, "batch": plan.batch, "examples": digest.hexdigest()}
    return {**info.to_dict(), **fields, **run}


def _measure(
    measured: dict[str, jax.Array], chosen: Sequence[TokenExample], step: int, plan: Plan, ft: Finetune, started: float
) -> dict[str, Any]:
    """Waits for a step and makes its row of metrics. TrainingError when loss or gradient is not finite."""
    values = {name: float(value) for name, value in jax.device_get(measured).items()}
    if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
        raise TrainingError(
            f"step {step + 1} of {plan.steps}: loss {values['loss']}, gradient norm {values['grad_norm']}; examples of "
            f"this step: {', '.join(example.id for example in chosen)}. Nothing was saved since. Look at these examples, "
            f"or lower the learning rate (lr={ft.lr:g})"
        )
    seconds = time.perf_counter() - started
    tokens = sum(len(example.ids) for example in chosen)
    return {
        "step": step + 1,
        **values,
        "tokens": tokens,
        "target_tokens": sum(example.target_tokens for example in chosen),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
