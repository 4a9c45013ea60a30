"""Trainings of adapters: what they change, what they leave, what they send, and how they go on."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback.model import adapters, llama
from humpback.model.sharding import make_mesh
from humpback.training import flops, loop, lora, optimizer, placement, update
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.loop import Training
from tests.training import case


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def run(path=None, mesh=None, stop_at=0, **fields):
    """(what was trained, its losses); it breaks off after step `stop_at`."""
    losses: list[float] = []

    def look(row):
        losses.append(row["loss"])
        if row["step"] == stop_at:
            raise KeyboardInterrupt

    ft = case.make_finetune(**{"lora_rank": 3, "lora_base": "float32", "dropout": 0.1, "steps": 4, **fields})
    checkpoints = TrainingCheckpoints(path) if path else None
    training = Training(ft, 1, "forward-1")
    try:
        trained = loop.train(
            case.make_base(), case.make_examples(), training, mesh=mesh or one_device(), checkpoints=checkpoints, metrics=look
        )
    except KeyboardInterrupt:
        return None, losses
    return trained, losses


@pytest.mark.parametrize("base", ["float32", "int8"])
def test_only_adapters_change_and_every_other_leaf_keeps_its_bytes(base):
    trained, losses = run(lora_base=base)
    with jax.set_mesh(one_device()):
        before = placement.place_params(case.CONFIG, case.make_base().params, one_device(), base)
    after = llama.map_weights(lambda _, leaf: leaf.weight if isinstance(leaf, adapters.Frozen) else leaf, trained.stacked)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    adapters.check(case.CONFIG, adapters.NAMES, 3, trained.params)
    assert all(pair["b"].any() for pair in trained.params["layers"]["1"].values())
    assert len({round(loss, 4) for loss in losses}) == len(losses)


def test_adapters_learn():
    _, losses = run(steps=30, batch=20, dropout=0.0)
    assert losses[-1] < losses[0] - 0.5


def test_moments_are_of_adapters_alone_and_nothing_decays():
    ft = case.make_finetune(lora_rank=3, weight_decay=0.5)
    made, mesh = optimizer.make_optimizer(ft), one_device()
    shapes = update.state_shapes(case.CONFIG, made, mesh, lora.of(ft))
    numbers = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["opt"]) if x.shape)
    assert numbers == 2 * lora.of(ft).count(case.CONFIG)
    assert not any(jax.tree.leaves(optimizer.decay_mask(shapes["params"])))


def test_a_stopped_training_ends_with_the_same_bits(tmp_path):
    trained, losses = run(steps=5)
    path = tmp_path / "steps"
    assert run(path, steps=5, stop_at=3, checkpoint_every=2)[1] == losses[:3]
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 200_000  # no frozen weight is among them
    continued, rest = run(path, steps=5, checkpoint_every=2)
    assert rest == losses[2:]
    for one, other in zip(jax.tree.leaves(trained.params), jax.tree.leaves(continued.params), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_dropout_before_adapters_is_another_than_that_of_the_branches():
    whole, dropped = run(dropout=0.0, steps=2)[1], run(dropout=0.0, lora_dropout=0.3, steps=2)[1]
    assert whole[0] == pytest.approx(dropped[0], abs=1e-6)  # of a b that is zero nothing is heard yet
    assert whole[1] != pytest.approx(dropped[1], abs=1e-5)


def compiled(mesh, rows=8, cfg=case.CONFIG, **fields):
    ft = case.make_finetune(dropout=0.0, **fields)
    made = optimizer.make_optimizer(ft)
    shapes = update.state_shapes(cfg, made, mesh, lora.of(ft))
    with jax.set_mesh(mesh):
        step = update.jit_step(cfg, ft, made, shapes)
        abstract = placement.abstract_rows(mesh, 64, rows, 64)
        return step.lower(shapes, abstract, update.abstract_fixed(mesh), *lora.frozen_shapes(cfg, mesh, lora.of(ft))).compile()


def reduced(text: str) -> list[int]:
    """How many numbers each reduction over several devices gives."""
    alone = re.compile(r"replica_groups=(\{\{\d+\}|\[\d+,1\])")
    lines = "\n".join(line for line in text.splitlines() if not alone.search(line))
    found = re.findall(r"= (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\(", lines)
    shapes = [re.findall(r"(?:f32|bf16)\[([\d,]*)\]", line) for line in found]
    return [math.prod(int(n) for n in shape.split(",") if n) for line in shapes for shape in line]


# Wide, so that no activation and no adapter is as large as a matrix.
WIDE = dataclasses.replace(case.CONFIG, d_model=256, d_ff=512, head_dim=32, num_layers=1, vocab_size=2048)


def test_no_gradient_of_a_frozen_matrix_is_computed_or_sent():
    mesh, smallest = make_mesh(1, 8, 1), WIDE.d_model * WIDE.num_kv_heads * WIDE.head_dim // 8
    of_all, of_adapters = (compiled(mesh, cfg=WIDE, remat="full", lora_rank=rank).as_text() for rank in (0, 1))
    assert max(reduced(of_all)) > smallest
    # What a chip holds of the smallest matrix is more than it reduces of anything.
    assert all(size < smallest for size in reduced(of_adapters)), max(reduced(of_adapters))


def test_a_step_of_adapters_leaves_out_the_products_that_give_weights_their_gradients():
    rows = 64  # so many that what the optimizer computes is little
    found = [compiled(one_device(), rows, WIDE, remat="dots", lora_rank=rank).cost_analysis()["flops"] for rank in (0, 1)]
    assert found[0] - found[1] > 1.95 * flops.layer_weights(WIDE) * rows * 64


def test_flops_of_a_step_of_adapters():
    made = lora.of(case.make_finetune(lora_rank=2))
    W, head = flops.layer_weights(case.CONFIG), case.CONFIG.d_model * case.CONFIG.vocab_size
    attention = flops.step_flops(case.CONFIG, [10], 3) - 6 * W * 10 - 6 * head * 3
    assert flops.step_flops(case.CONFIG, [10], 3, made) == (4 * W + 6 * made.count(case.CONFIG)) * 10 + 4 * head * 3 + attention


@pytest.mark.parametrize("rate, steps, warned", [(1e-5, 500, "0.0001"), (5e-5, 60, "0.00015"), (1e-4, 500, "")])
def test_a_rate_for_all_weights_is_warned_of(capsys, rate, steps, warned):
    loop.warn_of_rate("backward", case.make_finetune(lora_rank=4, lr=rate), steps)
    said = capsys.readouterr().err
    assert (warned in said and "lora_rank = 4" in said) if warned else not said
    loop.warn_of_rate("backward", case.make_finetune(lr=rate), steps)
    assert not capsys.readouterr().err


def test_the_dev_set_is_looked_at_through_the_adapters(tmp_path):
    rows: list[dict] = []
    ft = case.make_finetune(lora_rank=3, lora_base="float32", steps=4, dev_every=2)
    trained = loop.train(
        case.make_base(), case.make_examples(), Training(ft, 1, "forward-1"), mesh=one_device(), dev=case.make_examples(4),
        checkpoints=TrainingCheckpoints(tmp_path / "steps"), metrics=rows.append,
    )  # fmt: skip
    seen = [row["dev_loss"] for row in rows if "dev_loss" in row]
    assert len(seen) == 2 and seen[0] != seen[1]
    assert trained.params["layers"]["0"]["q"]["b"].dtype == jnp.float32
