"""Compiling for TPUs that are not here: names of slices, what the compiler refuses, and, where libtpu is, a real program."""

import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from humpback import config, experiments
from humpback.chips import CHIPS
from humpback.decoding import executables
from humpback.decoding.sampling import Sampler
from humpback.errors import UserError
from humpback.model import llama, sharding
from humpback.model.sizes import SIZES
from humpback.planning import cache, finetuning, jobs, roofline, tpu_slices, workload
from humpback.planning import compile as planning
from humpback.training import optimizer, placement, update

LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not LIBTPU, reason=f"libtpu is not installed: {planning.INSTALL}")

MEGACORE = {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
CONFIG = llama.LlamaConfig(
    vocab_size=4096, d_model=512, num_layers=2, num_heads=8, num_kv_heads=8, head_dim=64, d_ff=1024, tied=False, max_positions=2048
)
SLOTS, LENGTH, PREFIX = 16, 512, 100
WIDE = dataclasses.replace(CONFIG, head_dim=128)  # what the attention kernel takes as it is
KERNEL = 'custom_call_target="tpu_custom_call"'
FULL = dataclasses.replace(experiments.paper("").forward, remat="full")  # the paper's values, with everything computed again


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("v5e:8x8", {"topology_name": "v5e:8x8"}),
        ("v6e:4x4", {"topology_name": "v6e:4x4"}),
        ("v4:2x2x1", {"topology_name": "v4:2x2x1", **MEGACORE, "wrap": (False, False, False)}),
        ("v4:2x4x4", {"topology_name": "v4:2x4x4", **MEGACORE, "wrap": (False, False, False)}),
        ("v4:4x4x4", {"topology_name": "v4:4x4x4", **MEGACORE, "wrap": (True, True, True)}),
        ("v5p:2x4x4", {"topology_name": "v5:2x4x4", **MEGACORE, "wrap": (False, False, False)}),
        ("v5p:4x4x4", {"topology_name": "v5:4x4x4", **MEGACORE, "wrap": (True, True, True)}),
        ("v5p:4x4x8", {"topology_name": "v5:4x4x8", **MEGACORE, "wrap": (True, True, True)}),
    ],
)
def test_what_libtpu_is_asked_for(name, arguments):
    assert planning.topology_arguments(name) == arguments


@pytest.mark.parametrize("name", ["v3:2x2", "v5:2x2x1", "v5e", "v5e:", "v5e:2", "v5e:2x2x1", "v4:2x2", "v5e:2x0", "v5e:2xx4", "v5e:-2x4"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match=f"TPU slice '{name}'"):
        planning.topology_arguments(name)


@pytest.mark.skipif(LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_installation_is_named():
    with pytest.raises(UserError, match=r"pip install .*libtpu"):
        planning.topology("v5e:2x4")


def test_other_devices_are_refused():
    mesh = sharding.make_mesh(tensor=8)
    x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    with pytest.raises(ValueError, match="cpu"):
        planning.compile_for(jax.jit(jnp.sin), (x,))
    with pytest.raises(ValueError, match="what to compile for"):
        planning.compile_for(jax.jit(jnp.sin), (jnp.ones(8),))


@pytest.mark.parametrize(
    ("message", "used", "limit"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries "
            "(17.73G) exceeds available HBM (15.75G). HLO module: jit__generate.",
            17.73,
            15.75,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 1.02T of 30.75G hbm. "
            "Exceeded hbm capacity by 993.73G.\n\nTotal hbm usage >= 1.02T:\n",
            1.02 * 1024,
            30.75,
        ),
    ],
)
def test_the_compilers_refusal(message, used, limit):
    refusal = planning._refusal(message)
    assert (refusal.used, refusal.limit) == (int(used * 2**30), int(limit * 2**30))
    assert f"{used:.2f} GiB a chip" in str(refusal) and f"{limit:.2f}" in str(refusal)


def test_other_errors_are_no_refusal():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.11M of 16.00M vmem."
    assert planning._refusal(message) is None


def test_traffic_adds_up_by_kind():
    def collective(kind, payload, times):
        return planning.Collective(kind, "", payload, times, False, "")

    collectives = (collective("all-reduce", 10, 3), collective("reduce-scatter", 4, 2), collective("all-gather", 7, 1))
    compiled = planning.Compiled(planning.Memory(1, 2, 3, 4, 5), 100, collectives, "", 0.0)
    assert compiled.traffic() == {"all-reduce": planning.Traffic(5, 38), "all-gather": planning.Traffic(1, 7)}
    assert compiled.memory.total == 1 + 2 - 3 + 4 + 5


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(tensor=4, devices=planning.topology("v5e:2x2"))


def generate(mesh, slots, weights="compute"):
    """The engine's own decoding program for a small model, and its arguments."""
    return program("generate", executables.Layout(CONFIG, mesh, slots, LENGTH, 0, "bfloat16", 8, 512, weights))


def program(name, layout):
    asked = executables.abstract(layout, Sampler(temperature=0.7, top_p=0.9))[name]
    return asked.function, (*asked.static, *asked.arguments)


def bytes_a_chip(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.ShapeDtypeStruct)]
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


@needs_libtpu
def test_decoding_on_four_chips(mesh):
    function, arguments = generate(mesh, SLOTS)
    compiled = planning.compile_for(function, arguments)
    memory, cache = compiled.memory, 2 * CONFIG.num_layers * SLOTS * CONFIG.num_kv_heads // 4 * LENGTH * CONFIG.head_dim * 2
    assert bytes_a_chip(arguments) <= memory.arguments <= 1.1 * bytes_a_chip(arguments)
    assert cache <= memory.aliased <= memory.outputs  # the cache is updated where it is
    assert memory.temporaries < cache / 2  # and nowhere copied
    assert memory.program > 0 and memory.total < compiled.limit == int(15.75 * 2**30)
    D, branches = CONFIG.d_model, (f"bf16[{CONFIG.d_model},{SLOTS}]", f"bf16[{SLOTS},{CONFIG.d_model}]")
    layers = [each for each in compiled.collectives if each.given in (*branches, f"bf16[{SLOTS},1,{D}]")]  # the last: of the embedding
    assert {each.kind for each in layers} == {"all-reduce"} and all(each.open for each in layers)
    assert sum(each.times for each in layers) == 2 * CONFIG.num_layers + 1
    rest = sum(each.times * each.payload for each in compiled.collectives if each not in layers)
    assert rest <= 2 * SLOTS * CONFIG.vocab_size * 4  # the logits, and neither weights nor cache


@needs_libtpu
@pytest.mark.parametrize(("model", "length"), [(WIDE, 512), (WIDE, 500), (dataclasses.replace(WIDE, num_kv_heads=4), 500)])
def test_a_step_has_no_loop_over_the_slots_and_copies_no_cache(mesh, model, length):
    """Whether rows are whole tiles long or not: two loops, over the steps and of the nucleus, and a kernel a layer that writes."""
    layout = executables.Layout(model, mesh, SLOTS, length, 0, "bfloat16", 8, 512)
    compiled = planning.compile_for(*program("generate", layout))
    assert compiled.text.count(" while(") == 2 and compiled.text.count(KERNEL) == model.num_layers
    heads, H = model.num_kv_heads // 4, model.head_dim
    cache = [f"bf16[{SLOTS},{heads},{rows},{columns}]" for rows, columns in ((H, layout.places), (layout.places, H))]
    assert all(shape in compiled.text for shape in cache)
    made = [line for line in compiled.text.splitlines() if any(f" = {shape}" in line for shape in cache)]
    assert not [line for line in made if " copy(" in line or " copy-start(" in line]
    assert compiled.memory.temporaries < SLOTS * heads * layout.places * H * 2  # of one layer's keys


@needs_libtpu
def test_a_cache_of_two_key_heads_a_chip_is_not_copied(mesh):
    """Behind a prefix as it is cut; behind all of the 44 tokens the compiler turns every layer's cache, and holds both."""
    model = dataclasses.replace(SIZES["llama3_8b"], num_layers=4, vocab_size=512)
    prefix, slots, length = executables.shareable(44, 2048), 80, 2048
    memory = planning.compile_for(*program("generate", executables.Layout(model, mesh, slots, length, prefix, "bfloat16", 8, 512))).memory
    cache = 2 * model.num_layers * slots * model.num_kv_heads // 4 * (length - prefix) * model.head_dim * 2
    assert 30 < prefix <= 44 and memory.temporaries < cache / 2 < memory.aliased / 2


@needs_libtpu
@pytest.mark.parametrize("config", [WIDE, CONFIG])
def test_prefill_after_a_prefix_with_the_attention_kernel(mesh, config):
    """One Pallas kernel a layer but the last, whatever the heads' size, and no more collectives than without."""
    compiled = planning.compile_for(*program("prefill 384", executables.Layout(config, mesh, SLOTS, LENGTH, PREFIX, "bfloat16", 8, 512)))
    assert compiled.text.count(KERNEL) == config.num_layers - 1
    traffic = compiled.traffic()
    assert traffic["all-reduce"].times == 2 * config.num_layers + 1
    assert sum(each.payload for kind, each in traffic.items() if kind != "all-reduce") <= 2 * 2 * config.vocab_size * 4  # of two rows


@needs_libtpu
def test_a_training_step_on_four_chips():
    """The loop's own step with the paper's values: the attention kernel forwards, twice for the recomputation, and backwards."""
    mesh, rows, T = sharding.make_mesh(fsdp=2, tensor=2, devices=planning.topology("v5e:2x2")), 8, 1024
    ft = FULL
    adamw = optimizer.make_optimizer(ft)
    shapes = update.state_shapes(WIDE, adamw, mesh)
    step = update.jit_step(WIDE, ft, adamw, shapes)
    arguments = (shapes, placement.abstract_rows(mesh, T, rows, rows // 2 * T), update.abstract_fixed(mesh))
    compiled = planning.compile_for(step, arguments)
    assert compiled.text.count(KERNEL) == 4
    memory = compiled.memory
    assert bytes_a_chip(arguments) <= memory.arguments <= 1.1 * bytes_a_chip(arguments)
    assert bytes_a_chip(shapes) <= memory.aliased <= memory.outputs  # the state is updated where it is
    logits = rows // 2 * T * WIDE.vocab_size // 2 * 4
    assert logits < memory.arguments and memory.temporaries < 2 * logits  # they alone, and their gradient, would be twice that


@needs_libtpu
def test_a_training_step_in_two_parts_on_four_chips():
    """The gradients are reduced over the chips part by part, which the compiler may not be led to put off: it fails over that."""
    mesh, rows, T = sharding.make_mesh(fsdp=4, devices=planning.topology("v5e:2x2")), 8, 512
    ft, model = FULL, dataclasses.replace(CONFIG, vocab_size=512)
    shapes = update.state_shapes(model, optimizer.make_optimizer(ft), mesh)
    step = update.jit_step(model, ft, optimizer.make_optimizer(ft), shapes)
    asked = placement.abstract_rows(mesh, T, rows, rows // 2 * T, parts=2)
    compiled = planning.compile_for(step, (shapes, asked, update.abstract_fixed(mesh)))
    weights = 2 * llama.parameter_count(model)  # in bfloat16; each part gathers them forwards, and those of the layers backwards
    assert 2 * weights < compiled.traffic()["all-gather"].payload < 5 * weights


@needs_libtpu
def test_data_goes_across_slices():
    """Two slices of four chips: the mesh' first axis tells them apart."""
    arguments = {**planning.topology_arguments("v5e:2x2"), "num_slices": 2}
    devices = topologies.get_topology_desc(**arguments, platform="tpu").devices
    mesh = sharding.make_mesh(data=2, fsdp=4, devices=devices)
    assert [{device.slice_index for device in part.flat} for part in mesh.devices] == [{0}, {1}]
    with pytest.raises(ValueError, match="data=1 is not a multiple of the 2 slices"):
        sharding.make_mesh(data=1, fsdp=8, devices=devices)


@needs_libtpu
def test_an_axis_of_eight_on_a_slice_of_four_by_four_by_four():
    """It takes one side and a half of another: neighbours in it are neighbours of the torus."""
    mesh = sharding.make_mesh(fsdp=8, tensor=8, devices=planning.topology("v4:4x4x4"))
    for axis in (1, 2):
        for group in np.moveaxis(mesh.devices[0], axis - 1, 0).T:
            sides = [len({device.coords[side] for device in group}) for side in range(3)]
            assert sorted(sides) == [1, 2, 4]


@needs_libtpu
def test_decoding_with_int8(mesh):
    """The weights are held in half the bytes, nowhere unpacked as a whole, and the collectives stay the same."""
    pytest.importorskip("qwix")
    programs_ = [planning.compile_for(*generate(mesh, SLOTS, weights)) for weights in ("compute", "int8")]
    plain, int8 = programs_
    weights = 2 * llama.parameter_count(CONFIG) // 4
    assert 0.45 * weights <= plain.memory.arguments - int8.memory.arguments <= 0.51 * weights
    assert int8.memory.temporaries < plain.memory.temporaries + weights / 8
    large = CONFIG.d_model * SLOTS  # bytes: half of a layer's activations; the embedding's row is sent in int8
    counts = [sum(each.times for each in c.collectives if each.kind == "all-reduce" and each.payload >= large) for c in programs_]
    assert counts == [2 * CONFIG.num_layers + 1] * 2


@needs_libtpu
def test_what_does_not_fit(mesh):
    function, arguments = generate(mesh, 2**17)
    with pytest.raises(planning.DoesNotFit, match="fewer or shorter rows") as refused:
        planning.compile_for(function, arguments)
    assert refused.value.limit == int(15.75 * 2**30) < bytes_a_chip(arguments) <= refused.value.used


@needs_libtpu
def test_the_compilers_limits():
    """Those of the table are what the compiler says; a whole slice is one device a chip."""
    for name, slice_, count in (("v4", "v4:2x2x1", 4), ("v5e", "v5e:2x4", 8), ("v5p", "v5p:2x2x1", 4), ("v6e", "v6e:2x2", 4)):
        devices = planning.topology(slice_)
        assert len(devices) == count and {device.device_kind for device in devices} == {CHIPS[name].kind}
        mesh = sharding.make_mesh(tensor=count, devices=devices)
        x = jax.ShapeDtypeStruct((count, 2**36), jnp.int8, sharding=NamedSharding(mesh, PartitionSpec("tensor")))
        with pytest.raises(planning.DoesNotFit) as refused:
            planning.compile_for(jax.jit(lambda x: x + 1), (x,))
        assert refused.value.limit == planning.memory_limit(mesh) == CHIPS[name].limit


@needs_libtpu
def test_a_slice_that_libtpu_refuses():
    with pytest.raises(UserError, match="refuses the slice 'v5e:3x5'"):
        planning.topology("v5e:3x5")


@needs_libtpu
def test_the_refusals_number_is_the_total():
    """The same function where it fits and where it does not: what the compiler says it needs is what it takes, within 2 %."""

    def take(x):
        many = jnp.cumsum(jnp.sin(x[:, None] * jnp.arange(2, dtype=jnp.float32)), axis=0)
        return x + jnp.sort(many, axis=1)[:, 0]

    def compile_on(name):
        where = NamedSharding(sharding.make_mesh(tensor=4, devices=planning.topology(name)), PartitionSpec())
        return planning.compile_for(jax.jit(take, donate_argnums=0), (jax.ShapeDtypeStruct((2**31,), jnp.float32, sharding=where),))

    with pytest.raises(planning.DoesNotFit) as refused:
        compile_on("v5e:2x2")
    total = compile_on("v5p:2x2x1").memory.total
    assert refused.value.used == pytest.approx(total, rel=0.02) and total > 50 * 2**30


@needs_libtpu
@pytest.mark.parametrize("size, layers", [("llama_7b", 32), ("qwen3_8b", 4)])
def test_a_model_that_trains_and_decodes_on_sixteen_chips(size, layers):
    """The plan's own programs, a minute each of 32 layers: the state split over all chips, and the gathers and reductions that it takes."""
    model, place = dataclasses.replace(SIZES[size], num_layers=layers), jobs.Place("v5e:4x4", 1, 16, 1)
    step = jobs.Step.of(place, model, FULL, length=2048, rows=16, parts=1, targets=1024)
    decode = jobs.Decode(jobs.Place("v5e:2x2", 1, 1, 4), model, "generate", 40, 2048, 46, "bfloat16", 8, 4096, "compute", 0.7, 0.9)
    trained, decoded = (planning.compile_for(*jobs.build(job)) for job in (step, decode))
    state = 12 * llama.parameter_count(model) / 16
    assert state <= trained.memory.arguments <= 1.05 * state and trained.memory.total < 0.7 * trained.limit
    gathered = roofline.step_traffic(step)["all-gather"][1]
    assert trained.traffic()["all-gather"].payload == pytest.approx(gathered, rel=0.05)
    assert decoded.memory.arguments == pytest.approx(roofline.decode_arguments(decode), rel=0.02)
    assert decoded.memory.total < decoded.limit and decoded.traffic()["all-reduce"].times == 2 * model.num_layers + 1


@needs_libtpu
def test_a_7b_with_sixteen_rows_a_chip_takes_no_more_than_maxtext():
    """MaxText 0.2.5 takes 14.29 GiB (it has no dropout); two rows more fit beside that. All the memory is a layer's backward pass."""
    place = jobs.Place("v5e:8x8", 1, 64, 1)
    step = jobs.Step.of(place, SIZES["llama2_7b"], FULL, length=2048, rows=1024, parts=1, targets=16 * 2048)
    assert planning.compile_for(*jobs.build(step)).memory.total <= 14.29 * 2**30


@needs_libtpu
def test_a_plan_that_cannot_fit_says_so_with_the_compilers_number(tmp_path):
    """A 1B on one chip of v5e, whose weights and moments alone are 12.3 GiB."""
    cfg = experiments.paper("tinyllama_1b")
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.batch, task.remat = 4, 32, "none"
    model, work = SIZES["tinyllama_1b"], workload.Workload(100, 64, 32)
    planner = finetuning.Finetuning(config.finish(cfg), model, work, cache.Compiler(tmp_path), quick=True)
    backward, _ = planner.plan(tpu_slices.parse("v5e-1"), rescue=False)
    choice = finetuning.Choice(jobs.Place("v5e:1x1", 1, 1, 1), "none", backward.settings["backward.tokens_at_once"])
    job = planner._choices.job(planner._choices.trainings[0], choice)
    with pytest.raises(planning.DoesNotFit) as refused:
        planning.compile_for(*jobs.build(job))
    assert not backward.fits and backward.needed == refused.value.used and backward.headroom == backward.limit - refused.value.used


@needs_libtpu
def test_the_most_rows_are_found_and_confirmed_by_the_compiler(tmp_path, monkeypatch):
    """A small model on one chip: two compilations, a line, and a third at the most that it says, which nearly fills the chip."""
    cfg, both = experiments.paper(""), finetuning.trainings
    monkeypatch.setattr(finetuning, "trainings", lambda *given: both(*given)[:1])
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.batch, task.dropout = 4, 32, 0.0
    compiler = cache.Compiler(tmp_path)
    work = workload.Workload(100, 64, 32)
    planner = finetuning.Finetuning(config.finish(cfg), WIDE, work, compiler, quick=False)
    (backward,) = planner.plan(tpu_slices.parse("v5e-1"))
    compiled = [json.loads(path.read_text()) for path in tmp_path.glob("compiled-*")]
    (most,) = (jobs.answer_of(each) for each in compiled if each["job"]["rows"] == backward.most)
    assert backward.fits and backward.most > 20 and 3 <= len(compiled) <= 5
    assert most.fits and most.total > 0.8 * most.limit

