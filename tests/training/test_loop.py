"""The loop: packed is unpacked, gathered is whole, resumed is undisturbed, one device is eight, and bad numbers stop it."""

import dataclasses
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from humpback.errors import UserError
from humpback.model import llama, sharding
from humpback.model.sharding import TRAINING_RULES, make_mesh, param_shardings
from humpback.models.folders import weights_digest
from humpback.rounding import round_up
from humpback.tokens import packing
from humpback.tokens.examples import TokenExample
from humpback.training import batches, evaluate, keeper, loop, optimizer, placement, stopping, update
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.loop import Training, TrainingError, train
from humpback.training.stopping import Stopped


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def rows_of(examples, mesh, length=32, packed=True, parts=1):
    rows = packing.pack([len(e.ids) for e in examples], length) if packed else [[i] for i in range(len(examples))]
    groups = parts * sharding.batch_shards(mesh)
    batch = packing.to_rows(examples, rows, round_up(len(rows), groups), length)
    most = np.count_nonzero(batch.weights_BT.reshape(groups, -1), axis=1).max()
    return batch, placement.make_rows(batch, mesh, round_up(int(most), 8), parts)


def gradient_of(cfg, ft):
    """(params, rows, key or None) -> (loss, gradient), jitted."""
    return jax.jit(lambda params, rows, key: update.loss_and_grads(cfg, ft, params, rows, key))


def differences(one, other):
    """The largest difference of each leaf."""
    return [float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other))]


@pytest.fixture
def eval_ft(finetune):
    return finetune(dropout=0.0)


@pytest.mark.parametrize("packed", [True, False])
def test_loss_and_gradient_of_packed_rows_are_those_of_the_examples_alone(base, examples, eval_ft, packed, alone):
    cfg, examples = base.info.config, examples[:6]
    params = placement.place_params(cfg, base.params, one_device())
    batch, rows = rows_of(examples, one_device(), packed=packed)
    assert (len(batch.ids_BT) < len(examples)) == packed
    tokens = sum(e.target_tokens for e in examples)
    values, gradients = zip(*(alone(params, example) for example in examples))
    loss, grads = gradient_of(cfg, eval_ft)(params, rows, None)
    assert float(loss) == pytest.approx(sum(values) / tokens, abs=1e-5)
    for leaf, *parts in zip(jax.tree.leaves(grads), *map(jax.tree.leaves, gradients)):
        np.testing.assert_allclose(leaf, sum(parts) / tokens, atol=1e-5)


def test_gathered_loss_is_the_loss_over_all_positions(base, examples, eval_ft):
    cfg = base.info.config
    params = placement.place_params(cfg, base.params, one_device())
    batch, rows = rows_of(examples[:6], one_device())

    def whole(params):
        logits_BTV = llama.forward(cfg, params, batch.ids_BT, batch.positions_BT, batch.segments_BT)
        nats_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.targets_BT)
        return jnp.sum(nats_BT * batch.weights_BT) / jnp.sum(batch.weights_BT)

    wanted, wanted_grads = jax.jit(jax.value_and_grad(whole))(params)
    loss, grads = gradient_of(cfg, eval_ft)(params, rows, None)
    assert float(loss) == pytest.approx(float(wanted), abs=1e-6)
    for leaf, other in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads)):
        np.testing.assert_allclose(leaf, other, atol=1e-6)


def test_dropout_is_on_with_a_key_and_off_without(base, examples, finetune):
    cfg, params = base.info.config, placement.place_params(base.info.config, base.params, one_device())
    _, rows = rows_of(examples[:6], one_device())
    loss = lambda rate, key: float(gradient_of(cfg, finetune(dropout=rate))(params, rows, key)[0])  # noqa: E731
    off = loss(0.5, None)
    assert off == pytest.approx(loss(0.0, jax.random.key(0)))
    first, same, second = (loss(0.5, jax.random.key(k)) for k in (1, 1, 2))
    assert first == same and len({off, first, second}) == 3


@pytest.mark.parametrize(("length", "packed", "parts"), [(32, False, 1), (64, True, 1), (32, True, 2), (32, True, 3)])
def test_nothing_depends_on_how_the_examples_lie_in_rows(base, examples, finetune, length, packed, parts):
    """Other rows and accumulation: the same loss and gradient, dropout among it, which belongs to a token and not to its place."""
    cfg, params = base.info.config, placement.place_params(base.info.config, base.params, one_device())
    program = gradient_of(cfg, finetune(dropout=0.3))
    wanted = program(params, rows_of(examples[:6], one_device())[1], jax.random.key(3))
    found = program(params, rows_of(examples[:6], one_device(), length, packed, parts)[1], jax.random.key(3))
    assert max(differences(found, wanted)) < 1e-5
    assert max(differences(found, program(params, rows_of(examples[:6], one_device())[1], jax.random.key(4)))) > 1e-3


def test_training_draws_new_dropout_in_each_step(base, examples, finetune):
    def losses(rate):
        rows = []
        fields = {"dropout": rate, "lr": 0.0, "end_lr": 0.0, "steps": 4}
        same = [examples[0]] * 20
        train(base, same, Training(finetune(**fields), 0, "t"), mesh=one_device(), metrics=rows.append)
        return [row["loss"] for row in rows]

    # One example over and over and a rate of 0: the loss can move by dropout alone.
    assert len(set(losses(0.0))) == 1
    assert len({round(loss, 4) for loss in losses(0.1)}) == 4


@pytest.fixture
def shared_programs(monkeypatch):
    """Compiles equal programs once for all tests that ask for this."""
    real = loop._compile

    def compile_all(cfg, ft, optimizer, plan, done, shapes, mesh):
        fields = tuple((k, v) for k, v in vars(ft).items() if not k.startswith("checkpoint"))
        key = cfg, fields, plan, shapes["step"].sharding
        if key not in PROGRAMS:
            PROGRAMS[key] = real(cfg, ft, optimizer, plan, 0, shapes, mesh)
        return PROGRAMS[key]

    monkeypatch.setattr(loop, "_compile", compile_all)


PROGRAMS = {}
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


def run(base, examples, ft, path=None, mesh=None, info=None, saves_last=True, **options):
    rows = []
    trained = train(
        base, examples, Training(ft, 1, "forward-1", info), mesh=mesh or one_device(), metrics=rows.append,
        checkpoints=None if path is None else TrainingCheckpoints(path, saves_last=saves_last), **options,
    )  # fmt: skip
    return trained.params, rows


def test_training_learns_and_leaves_the_base_alone(base, examples, finetune):
    before = weights_digest(base.params)
    # Already where training wants them: nothing would be copied on the way, and the state is donated.
    base.params.update(jax.device_put(base.params, param_shardings(base.info.config, one_device(), TRAINING_RULES)))
    params, rows = run(base, examples, finetune(steps=25, dropout=0.0))
    assert np.mean([r["loss"] for r in rows[-5:]]) < 0.8 * np.mean([r["loss"] for r in rows[:5]])
    assert weights_digest(base.params) == before
    llama.check_params(base.info.config, params)
    assert not set(weights_digest(params).items()) & set(before.items())  # every single weight has moved
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.fixture
def few_optimizations():
    """As XLA compiles when it may replace no division by a product, which costs the last step's rate its last bit."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_metrics_of_a_run(base, examples, finetune, few_optimizations):
    _, rows = run(base, examples, finetune())
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row["lr"] for row in rows] == pytest.approx(np.linspace(1e-2, 5e-3, 8))
    assert rows[-1]["lr"] == float(np.float32(5e-3))
    for step, row in enumerate(rows):
        chosen = [examples[i] for i in batches.step_examples(len(examples), 4, 1, "forward-1", step)]
        assert row["tokens"] == sum(len(e.ids) for e in chosen)
        assert row["target_tokens"] == sum(e.target_tokens for e in chosen)
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])


@pytest.mark.parametrize(("platform", "saved"), [("tpu", "save 3"), ("cpu", "save 3, wait")])
def test_the_devices_have_the_next_step_when_numbers_are_fetched_but_for_a_save(
    tmp_path, base, examples, finetune, monkeypatch, platform, saved
):
    """On a CPU the next step would make a second state beside the one that is written."""
    happened = []
    monkeypatch.setattr(keeper.jax, "default_backend", lambda: platform)
    compile_all, measure = loop._compile, loop._measure

    def watched(*arguments):
        def begin(program):
            def step(state, *rest):
                happened.append(f"begin {1 + sum(each.startswith('begin') for each in happened)}")
                return program(state, *rest)

            return step

        return {shape: begin(program) for shape, program in compile_all(*arguments).items()}

    def fetch(measured, chosen, step, *more):
        happened.append(f"fetch {step + 1}")
        return measure(measured, chosen, step, *more)

    monkeypatch.setattr(loop, "_compile", watched)
    monkeypatch.setattr(loop, "_measure", fetch)
    monkeypatch.setattr(TrainingCheckpoints, "save", lambda self, step, *_, **__: happened.append(f"save {step}"))
    monkeypatch.setattr(TrainingCheckpoints, "wait", lambda self: happened.append("wait"))
    run(base, examples, finetune(steps=5, checkpoint_every=3), tmp_path / "c")
    wanted = f"begin 1, begin 2, fetch 1, begin 3, fetch 2, fetch 3, {saved}, begin 4, begin 5, fetch 4, fetch 5, save 5"
    assert wanted in ", ".join(happened)


def test_trainings_of_more_or_fewer_steps_share_a_program(base, finetune):
    """As M_1 and M_2 do, whose pairs differ in number: `steps` is an argument."""
    shapes = update.state_shapes(base.info.config, optimizer.make_optimizer(finetune()), one_device())
    rows, fixed = placement.abstract_rows(one_device(), 32, 4, 64), update.abstract_fixed(one_device())

    def text(steps):
        ft = finetune(steps=steps)
        return update.jit_step(base.info.config, ft, optimizer.make_optimizer(ft), shapes).lower(shapes, rows, fixed).as_text()

    assert text(30) == text(600)


def test_the_last_state_is_saved_only_where_its_loss_would_cost_much(tmp_path, base, examples, finetune, shared_programs, monkeypatch):
    """The caller saves the weights at once; then the newest periodic checkpoint stays, unless that is long ago."""

    def saved(name):
        run(base, examples, finetune(checkpoint_every=6), tmp_path / name, saves_last=False)
        return TrainingCheckpoints(tmp_path / name).latest()[0]

    assert saved("soon") == 6
    monkeypatch.setattr(keeper, "LOST_SECONDS", -1.0)
    assert saved("late") == 8


def test_a_save_that_is_due_does_not_wait_for_the_one_before(tmp_path, base, examples, finetune, shared_programs, monkeypatch):
    begun, busy = [], [False, True, True, False]  # at steps 2, 4, 5 and 6
    monkeypatch.setattr(TrainingCheckpoints, "busy", property(lambda self: busy.pop(0)))
    monkeypatch.setattr(TrainingCheckpoints, "save", lambda self, step, *_, **__: begun.append(step))
    run(base, examples, finetune(checkpoint_every=2, steps=7), tmp_path / "c")
    assert begun == [2, 6, 7]


def test_order_of_examples_is_a_new_one_each_epoch_and_misses_none():
    def epoch(first, seed=0, purpose="backward"):
        return [i for step in range(first, first + 5) for i in batches.step_examples(20, 4, seed, purpose, step)]

    assert sorted(epoch(0)) == sorted(epoch(5)) == list(range(20))
    assert len({tuple(e) for e in (epoch(0), epoch(5), epoch(0, seed=1), epoch(0, purpose="forward-0"), range(20))}) == 5
    crossing = [batches.step_examples(5, 3, 0, "x", step) for step in range(5)]
    flat = [i for chosen in crossing for i in chosen]
    assert [sorted(flat[i : i + 5]) for i in (0, 5, 10)] == [list(range(5))] * 3


@pytest.mark.parametrize(("groups", "at_once"), [(1, 0), (2, 0), (8, 0), (1, 64), (2, 32)])
def test_plan_holds_every_step(examples, finetune, groups, at_once):
    plan = batches.make_plan(examples, finetune(steps=12, tokens_at_once=at_once), 3, "x", groups)
    assert plan.steps == 12 and len(set(plan.shapes)) == 1  # examples of 24 tokens at most leave one row length, 32
    for step, shape in enumerate(plan.shapes):
        assert shape.rows % (groups * shape.parts) == 0 and shape.targets % 64 == 0
        assert not at_once or shape.rows // shape.parts // groups * shape.length <= at_once
        chosen = [examples[i] for i in batches.step_examples(20, plan.batch, 3, "x", step)]
        batch = packing.to_rows(chosen, packing.pack([len(e.ids) for e in chosen], 32), shape.rows, 32)
        packing.gather_targets(batch, groups * shape.parts, shape.targets)


def test_plan_takes_the_table_unless_set(examples, finetune):
    table = batches.make_plan(examples, finetune(steps=0, batch=0), 3, "x", 1)
    assert (table.steps, table.batch) == optimizer.steps_and_batch(20) == (8, 8)
    assert batches.make_plan(examples, finetune(steps=2, batch=0), 3, "x", 1).batch == 8


def test_steps_have_few_shapes_and_little_is_idle(finetune):
    """On eight groups a step whose longest example has 1,900 tokens takes other rows than one whose longest has 400."""
    long, short = [1900, 100, 60, 700, 900, 400, 350], [60, 100, 400, 350, 90]
    made = [TokenExample(f"{i}", np.zeros(size, np.int32), 1) for i, size in enumerate(long * 8 + short * 400)]
    plan = batches.make_plan(made, finetune(length=2048, batch=16, steps=128), 0, "x", 8)
    assert 1 < len(set(plan.shapes)) <= 3 and {shape.rows for shape in plan.shapes} == {8}
    for step, shape in enumerate(plan.shapes):
        chosen = [made[i] for i in batches.step_examples(len(made), 16, 0, "x", step)]
        packed = packing.pack([len(example.ids) for example in chosen], shape.length)
        batch = packing.to_rows(chosen, packed, shape.rows, shape.length)  # they fit
        packing.gather_targets(batch, 8, shape.targets)
    assert 1 - plan.tokens / sum(shape.rows * shape.length for shape in plan.shapes) < 0.5


@pytest.mark.parametrize("mesh", ["one", "eight"])
def test_resumed_training_is_bit_identical(tmp_path, base, examples, finetune, mesh, request):
    if mesh == "eight":  # with one device each run compiles anew, as a new process does
        request.getfixturevalue("shared_programs")
    mesh = one_device() if mesh == "one" else make_mesh(**EIGHT)
    ft = finetune(checkpoint_every=4)
    whole, whole_rows = run(base, examples, ft, mesh=mesh)

    class Broken(Exception):
        pass

    def stop(row):
        if row["step"] == 6:
            raise Broken

    with pytest.raises(Broken):
        train(base, examples, Training(ft, 1, "forward-1"), mesh=mesh, metrics=stop,
              checkpoints=TrainingCheckpoints(tmp_path / "c"))  # fmt: skip
    resumed, rows = run(base, examples, ft, tmp_path / "c", mesh)
    assert [row["step"] for row in rows] == [5, 6, 7, 8]
    assert [row["loss"] for row in rows] == [row["loss"] for row in whole_rows[4:]]
    assert weights_digest(resumed) == weights_digest(whole)
    finished, rows = run(base, examples, ft, tmp_path / "c", mesh)  # from the checkpoint of the end
    assert rows == [] and weights_digest(finished) == weights_digest(whole)


def test_checkpoint_of_another_run_is_refused_with_the_field_named(tmp_path, base, examples, finetune, shared_programs):
    ft = finetune()
    run(base, examples, ft, tmp_path / "c")
    for changed, field in [
        ({"ft": finetune(lr=0.5)}, "finetune.lr"),
        ({"ft": finetune(steps=3)}, "finetune.steps"),
        ({"examples": examples[1:]}, "examples"),
        ({"info": dataclasses.replace(base.info, direction="backward")}, "direction"),
    ]:
        options = {"ft": ft, "examples": examples, **changed}
        with pytest.raises(UserError, match=f"had {field} ="):
            run(base, path=tmp_path / "c", **options)
    run(base, examples, finetune(checkpoint_every=7, remat="full", tokens_at_once=32), tmp_path / "c")  # these change no result


def test_one_device_and_eight_agree(base, examples, finetune, shared_programs):
    ft = finetune()
    _, rows = run(base, examples, ft)
    for sizes in ({"fsdp": 8}, EIGHT):
        other_params, other = run(base, examples, ft, mesh=make_mesh(**sizes))
        assert [r["loss"] for r in other] == pytest.approx([r["loss"] for r in rows], abs=1e-4)
        assert [r["grad_norm"] for r in other] == pytest.approx([r["grad_norm"] for r in rows], rel=1e-3)
        assert len(other_params["layers"]["0"]["q"].sharding.device_set) == 8


def test_weights_and_moments_are_really_split(base, examples, finetune):
    mesh = make_mesh(data=1, fsdp=4, tensor=2)
    shapes = update.state_shapes(base.info.config, optimizer.make_optimizer(finetune()), mesh)
    stacked = param_shardings(base.info.config, mesh, TRAINING_RULES, stacked=True)
    assert jax.tree.map(lambda x: x.sharding, shapes["params"]) == stacked
    large = [x for x in jax.tree.leaves(shapes["opt"]) if x.size > 100]
    assert large and all(np.prod(x.sharding.shard_shape(x.shape)) < x.size for x in large)


@pytest.mark.parametrize("mesh", ["one", "eight"])
def test_a_loss_that_is_not_finite_stops_before_any_save(tmp_path, base, examples, finetune, mesh, shared_programs):
    mesh = one_device() if mesh == "one" else make_mesh(fsdp=8)
    base.params["layers"]["1"]["up"][0, 0] = np.nan
    with pytest.raises(TrainingError, match=r"step 1 of 8: loss nan") as error:
        run(base, examples, finetune(checkpoint_every=1), tmp_path / "c", mesh)
    chosen = batches.step_examples(len(examples), 4, 1, "forward-1", 0)
    assert all(examples[i].id in str(error.value) for i in chosen)
    assert TrainingCheckpoints(tmp_path / "c").latest() is None


def test_a_gradient_that_is_not_finite_stops_too(tmp_path, base, examples, finetune, monkeypatch, shared_programs):
    disturb(monkeypatch, {1: np.inf})
    with pytest.raises(TrainingError, match=r"step 1 of 8: .*gradient norm inf"):
        run(base, examples, finetune(), tmp_path / "c")
    assert TrainingCheckpoints(tmp_path / "c").latest() is None


def disturb(monkeypatch, factors):
    """What _measure sees of the gradient norm, times a factor in some steps."""
    real = loop._measure

    def measure(measured, chosen, step, *more):
        return real({**measured, "grad_norm": measured["grad_norm"] * factors.get(step + 1, 1.0)}, chosen, step, *more)

    monkeypatch.setattr(loop, "_measure", measure)


@pytest.mark.parametrize("skip", [False, True])
def test_a_spike_is_logged_with_its_examples_and_skipped_on_request(base, examples, finetune, skip, caplog):
    """An example that the model knows nothing of, after many that it has learned by heart."""
    odd = dataclasses.replace(examples[1], ids=examples[1].ids[::-1].copy(), id="odd")
    ft = finetune(steps=12, batch=1, dropout=0.0, lr=3e-2, end_lr=3e-2, spike=2.0, skip_spikes=skip)
    order = [examples[0]] * 12
    order[batches.step_examples(12, 1, 1, "forward-1", 11)[0]] = odd
    params, rows = run(base, order, ft)
    assert [row["step"] for row in rows if row["spike"]] == [12]
    assert "step 12: gradient norm" in caplog.text and "odd" in caplog.text
    before, _ = run(base, order, dataclasses.replace(ft, spike=0.0, steps=11))  # the rate is constant, so steps decide nothing else
    assert (max(differences(params, before)) < 1e-6) == skip


def test_training_without_examples_is_refused(base, finetune):
    with pytest.raises(UserError, match="no example"):
        run(base, [], finetune())


@pytest.mark.parametrize(
    ("field", "value", "tolerance"), [("compute_dtype", "bfloat16", 0.05), ("remat", "full", 1e-5), ("remat", "dots", 1e-5)]
)
def test_options_reach_the_computation(base, examples, finetune, field, value, tolerance):
    cfg = base.info.config
    params = placement.place_params(cfg, base.params, one_device())
    _, rows = rows_of(examples[:6], one_device())

    def make(ft):
        return lambda p: update.loss_and_grads(cfg, ft, p, rows, None)

    plain, changed = make(finetune(dropout=0.0)), make(finetune(dropout=0.0, **{field: value}))
    assert str(jax.make_jaxpr(plain)(params)) != str(jax.make_jaxpr(changed)(params))
    assert float(changed(params)[0]) == pytest.approx(float(plain(params)[0]), rel=tolerance)


def test_remat_saves_less(base, examples):
    """What the forward pass leaves for the backward pass, in numbers: everything, the products, or what goes into each layer."""
    cfg = base.info.config
    params = placement.place_params(cfg, base.params, one_device())
    batch, _ = rows_of(examples[:6], one_device())

    def saved(remat):
        def out(params):
            return llama.hidden(cfg, params, batch.ids_BT, batch.positions_BT, batch.segments_BT, remat=remat)

        _, pull = jax.vjp(out, params)
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    none, dots, full = (saved(remat) for remat in ("none", "dots", "full"))
    assert full < dots < none


def test_state_is_donated(base, examples, finetune):
    cfg, ft, mesh = base.info.config, finetune(), one_device()
    made = optimizer.make_optimizer(ft)
    shapes = update.state_shapes(cfg, made, mesh)
    _, rows = rows_of(examples[:6], mesh)
    params = placement.place_params(cfg, base.params, mesh)
    state = update.first_state(params, made, shapes)
    update.jit_step(cfg, ft, made, shapes)(state, rows, update.fixed(1, "x", 8, mesh))
    assert params["layers"]["q"].is_deleted()


def test_accumulated_training_is_the_same(base, examples, finetune):
    _, rows = run(base, examples, finetune(tokens_at_once=32))
    _, whole = run(base, examples, finetune())
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in whole], abs=1e-5)


def test_a_vocabulary_that_does_not_divide_is_filled_up_and_cut(base, examples, finetune):
    """95 words on two devices: a column more, which no loss sees, and the same numbers as on one."""
    cfg = dataclasses.replace(base.info.config, vocab_size=95)
    params = {**base.params, **{name: base.params[name] for name in ("embedding", "head")}}
    params["embedding"], params["head"] = params["embedding"][:95], params["head"][:, :95]
    few = [dataclasses.replace(example, ids=np.minimum(example.ids, 94)) for example in examples]
    model = dataclasses.replace(base, info=dataclasses.replace(base.info, config=cfg), params=params)
    mesh = make_mesh(data=1, fsdp=2, tensor=2, devices=jax.devices()[:4])
    trained, rows = run(model, few, finetune(), mesh=mesh)
    llama.check_params(cfg, trained)
    assert trained["head"].sharding.shard_shape((16, 95)) == (8, 95)  # split as far as it divides, and not copied
    alone, wanted = run(model, few, finetune())
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in wanted], abs=1e-5)
    assert update.state_shapes(cfg, optimizer.make_optimizer(finetune()), mesh)["params"]["head"].shape == (16, 96)


@pytest.mark.parametrize("saves_last", [True, False])
def test_the_dev_set_chooses_the_checkpoint(tmp_path, base, examples, finetune, saves_last):
    """Trained on one half at a rate that ruins the other in the end; a stop in between changes nothing."""
    ft = finetune(steps=9, dev_every=3, dropout=0.0, lr=5e-2, end_lr=5e-2)
    options = {"dev": examples[10:], "examples": examples[:10], "ft": ft, "saves_last": saves_last}
    params, rows = run(base, path=tmp_path / "c", **options)
    losses = {row["step"]: row["dev_loss"] for row in rows if "dev_loss" in row}
    assert list(losses) == [3, 6, 9] and min(losses, key=losses.__getitem__) == 3
    scores = evaluate.nll(base.info.config, params, examples[10:], length=32, mesh=one_device())
    assert scores.nats.sum() / scores.tokens.sum() == pytest.approx(losses[3], abs=1e-6)
    if not saves_last:  # the last may be the best without having been saved
        gentle = dataclasses.replace(ft, lr=1e-4, end_lr=1e-4)
        trained = train(
            base, examples[:10], Training(gentle, 1, "forward-1"), mesh=one_device(), dev=examples[10:],
            checkpoints=TrainingCheckpoints(tmp_path / "gentle", saves_last=False),
        )  # fmt: skip
        assert trained.step == 9 and TrainingCheckpoints(tmp_path / "gentle").latest()[0] == 6
    with pytest.raises(ValueError, match="there are none"):
        run(base, **options)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stop_saves_and_the_rest_is_the_same(tmp_path, monkeypatch, base, examples, finetune, shared_programs, number, code):
    ft = finetune()
    whole, _ = run(base, examples, ft)
    heard = threading.Event()  # a thread of its own hears of the signal, which on a busy machine may take some steps
    monkeypatch.setattr(stopping, "say", lambda text: heard.set())

    def stop(row):
        if row["step"] == 3:
            signal.raise_signal(number)  # for this thread, and not for one that may get it later
            assert heard.wait(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it
    with pytest.raises(Stopped, match="stopped after step 4 of 8, which is saved") as stopped:
        train(base, examples, Training(ft, 1, "forward-1"), mesh=one_device(), metrics=stop,
              checkpoints=TrainingCheckpoints(tmp_path / "c"))  # fmt: skip
    signal.signal(signal.SIGINT, before)
    assert stopped.value.code == code
    resumed, rows = run(base, examples, ft, tmp_path / "c")
    assert [row["step"] for row in rows] == [5, 6, 7, 8] and weights_digest(resumed) == weights_digest(whole)


# One step of a fixed model on fixed examples. These two numbers change when the mathematics of the model, the loss, the
# order of examples, dropout or the initial weights change. If that was meant, put the printed values here and say so in
# the commit; if it was not, something broke.
GOLDEN = {"loss": 5.167857, "grad_norm": 4.918336}


def test_golden_metrics_of_one_step(base, examples, finetune, shared_programs):
    _, rows = run(base, examples, finetune())
    found = {name: rows[0][name] for name in GOLDEN}
    assert found == pytest.approx(GOLDEN, rel=1e-5), f"the first step's metrics are now {found}; see the comment above GOLDEN"


@pytest.mark.parametrize(("examples", "steps", "warned"), [(100, 75, False), (100, 76, True), (101, 300, True)])
def test_more_than_six_epochs_are_warned_of(capsys, examples, steps, warned):
    shape = batches.Shape(64, 8, 1, 64)
    loop.warn_of_epochs("forward-1", batches.Plan(8, (shape,) * steps, 0), examples)
    told = capsys.readouterr().err
    assert ("WARNING: forward-1: " in told) == warned
    assert ("23.8 times" in told) == (examples == 101)
