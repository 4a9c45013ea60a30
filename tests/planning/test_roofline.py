"""The model of time: operations against the published figures and XLA's own count, and sums made by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from humpback import experiments
from humpback.model import llama
from humpback.model.sizes import SIZES
from humpback.planning import choices, roofline, tpu_slices
from humpback.planning.jobs import Answer, Decode, Place, Step
from humpback.training import flops

# One layer, so that the scan over layers is none and XLA counts its body as often as it runs.
ONE = llama.LlamaConfig(
    vocab_size=256, d_model=128, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=256, tied=False, max_positions=64
)


def step(model, place, remat="full", **shape):
    ft = dataclasses.replace(experiments.paper("").forward, remat=remat)
    return Step.of(place, model, ft, **{"length": 2048, "rows": 1, "parts": 1, "targets": 2048, **shape})


@pytest.mark.parametrize(("name", "executed"), [("llama2_7b", 1.018e14), ("llama2_70b", 1.0478e15)])
def test_executed_operations_of_one_example(name, executed):
    """MaxText's products for an example of 2,048 tokens with full rematerialisation, attention apart."""
    model = SIZES[name]
    attention = 2 * model.num_layers * model.num_heads * model.head_dim * 2048 * (2048 + 512) // 2 * 11
    assert roofline.step_operations(model, 2048, 1, 2048, "full") - attention == pytest.approx(executed, rel=1e-3)
    less = roofline.step_operations(model, 2048, 1, 2048, "dots") - attention
    assert less == pytest.approx(flops.step_flops(model, [1] * 2048, 2048), rel=1e-3)  # then only attention is computed again


def test_the_formula_against_xla():
    """step_flops against cost_analysis() of forward and backward pass of a model whose layer is no loop: within 5 %."""
    T = 32
    params = jax.eval_shape(llama.stack_layers, llama.abstract_params(ONE))
    ids = jnp.asarray(np.arange(T)[None] % ONE.vocab_size)

    def nats(params):
        logits = llama.forward(ONE, params, ids, jnp.arange(T)[None])
        return -jax.nn.log_softmax(logits)[0, jnp.arange(T), ids[0]].sum()

    found = jax.jit(jax.grad(nats)).lower(params).compile().cost_analysis()["flops"]
    # XLA's attention is not causal, so that of the formula is doubled.
    attention = 6 * ONE.num_layers * ONE.num_heads * ONE.head_dim * T**2
    assert found == pytest.approx(flops.step_flops(ONE, [T], T) + attention, rel=0.05)


def test_what_a_step_should_send():
    """The compiled programs' payloads for one example a chip, GiB: gathered weights and reduced gradients."""
    for name, topology, gathered, reduced in (("llama2_7b", "v5e:8x8", 24.4, 12.3), ("llama2_70b", "v5p:4x4x4", 255.5, 128.0)):
        sent = roofline.step_traffic(step(SIZES[name], Place(topology, 1, 64, 1), rows=64))
        assert sent["all-gather"][1] / 2**30 == pytest.approx(gathered, rel=0.02)
        assert sent["all-reduce"][1] / 2**30 == pytest.approx(reduced, rel=0.02)


def test_a_step_by_hand():
    """One chip of v5e: nothing is sent, and with so many tokens computing takes longest."""
    model, slice_ = SIZES["tinyllama_1b"], tpu_slices.parse("v5e-1")
    job = step(model, Place("v5e:1x1", 1, 1, 1), rows=8, targets=8 * 2048)
    times = roofline.step_times(job, slice_, {"all-reduce": (100, 10**9)})
    assert (times.gathered, times.waited, times.network, times.bound) == (0, 0, 0, "compute")
    assert times.compute == roofline.step_operations(model, 2048, 8, 8 * 2048, "full") / 197e12
    assert times.roofline == times.compute and times.seconds == times.compute / roofline.COMPUTE["v5e"]


def test_reductions_among_tensor_chips_are_waited_for():
    model, slice_ = SIZES["llama_7b"], tpu_slices.parse("v5e-16")
    split, shared = (step(model, Place("v5e:4x4", 1, 16 // tensor, tensor), rows=16) for tensor in (1, 4))
    alone, waiting = (roofline.step_times(job, slice_, roofline.step_traffic(job)) for job in (split, shared))
    assert alone.waited == 0 < waiting.waited and waiting.gathered < alone.gathered
    # 6 reductions a layer of 4 rows of 2,048 tokens in bfloat16, each sent and received over one link of 50 GB/s.
    payload = 6 * 32 * (4 * 2048 * 4096 * 2)
    assert waiting.waited == pytest.approx(2 * payload * 3 / 4 / 50e9 + 6 * 32 * roofline.COLLECTIVE_SECONDS)
    shortest = waiting.compute / roofline.COMPUTE["v5e"]
    assert waiting.seconds >= shortest + waiting.waited / roofline.INTERCONNECT


def test_between_slices_only_gradients_go():
    model = SIZES["llama_7b"]
    one, two = (step(model, Place("v5e:4x4", count, 16, 1, count), rows=16 * count) for count in (1, 2))
    first = roofline.step_times(one, tpu_slices.parse("v5e-16"), roofline.step_traffic(one))
    second = roofline.step_times(two, tpu_slices.parse("2xv5e-16"), roofline.step_traffic(two))
    assert first.network == 0 and second.network == pytest.approx(2 * llama.parameter_count(model) / 16 / 3.125e9)
    assert second.compute == first.compute


def test_a_step_of_decoding_reads_all_it_has():
    model, slice_ = SIZES["llama_7b"], tpu_slices.parse("v5e-4")
    job = Decode(Place("v5e:2x2", 1, 1, 4), model, "generate", 40, 2048, 48, "bfloat16", 8, 4096, "compute", 0.7, 0.9)
    cache = 2 * 32 * 32 * 128 * 2048 * 2 * 40  # 2,000 places in whole tiles
    assert roofline.decode_arguments(job) == (2 * llama.parameter_count(model) + cache) // 4
    times = roofline.decode_times(job, slice_, {}, arguments=10**10)
    assert times.bound == "HBM" and times.memory == (10**10 + 32 * 4 * 32000 * 40) / 819e9
    half = roofline.weight_bytes(model, "int8") / roofline.weight_bytes(model, "compute")
    assert half == 0.5


def test_heads_that_cannot_be_split_are_copied():
    model = SIZES["llama2_70b"]  # 8 key heads
    jobs = [Decode(Place("v5e:4x4", 1, 16 // t, t), model, "generate", 16, 2048, 0, "bfloat16", 8, 4096, "int8", 0.7, 0.9) for t in (8, 16)]
    assert roofline.slot_bytes(jobs[1]) == 16 * roofline.slot_bytes(jobs[0])
    assert roofline.slot_bytes(jobs[0]) == math.prod((2, 80, 8, 128, 2048, 2))


def test_the_compilers_cycles_hold_where_they_are_more():
    """And the kernels', which it does not estimate: 40 rows a layer, 144 places of 8 heads of each, to and fro."""
    model, slice_ = SIZES["llama_7b"], tpu_slices.parse("v5e-4")
    job = Decode(Place("v5e:2x2", 1, 1, 4), model, "generate", 40, 2048, 48, "bfloat16", 8, 4096, "compute", 0.7, 0.9)
    written = roofline.write_seconds(job, slice_)
    assert written == pytest.approx(32 * (2 * 2 * 40 * 8 * 128 * 144 / 819e9 + 40 * 0.5e-6))
    times = roofline.decode_times(job, slice_, {"all-reduce": (65, 10**7)})
    assert roofline.with_cycles(times, 0, written, slice_) == times
    more = roofline.with_cycles(times, 150_000_000, written, slice_)
    assert more.compiled == more.seconds == pytest.approx(0.1 + written + times.waited / 0.75)
    less = roofline.with_cycles(times, 1_500, 0.0, slice_)
    assert less.seconds == times.seconds > less.compiled > 0
    attended = roofline.attention_seconds(job, slice_, 4, 1024)
    assert attended > roofline.attention_operations(job, 4, 1024) / 197e12 > 0
    sent = roofline.insert_times(job, slice_, Answer("p", 1, 2, False, traffic={"all-gather": (2, 10**9)}, cycles=15_000))
    assert sent.seconds == pytest.approx((10**9 / slice_.speed(4) + 2 * 5e-6) / 0.75 + 1e-5)


def test_a_step_of_adapters_computes_and_sends_less():
    """Of 8B with adapters of rank 16: 6 of 8 products, no gradient of a weight; int8 is gathered as it lies."""
    model, place = SIZES["llama3_8b"], Place("v5e:2x4", 1, 8, 1)
    jobs = {base: step(model, place, rows=8) for base in ("", "bfloat16", "int8")}
    for base in ("bfloat16", "int8"):
        jobs[base] = dataclasses.replace(jobs[base], finetune={**jobs[base].finetune, "lora_rank": 16, "lora_base": base})
    sent = {base: roofline.step_traffic(job) for base, job in jobs.items()}
    assert sent["bfloat16"]["all-gather"] == sent[""]["all-gather"]
    outer = 2 * model.d_model * model.vocab_size
    assert sent["int8"]["all-gather"][1] - outer == pytest.approx((sent[""]["all-gather"][1] - outer) / 2)
    assert sent["bfloat16"]["all-reduce"][1] == 4 * jobs["int8"].lora.count(model) < sent[""]["all-reduce"][1] / 50
    of_all, of_adapters = (roofline.step_operations(model, 2048, 1, 0, "full", job.lora) for job in (jobs[""], jobs["int8"]))
    assert 0.74 < of_adapters / of_all < 0.80
    slice_ = tpu_slices.parse("v5e-8")
    seconds = [roofline.step_times(job, slice_, sent[base]).seconds for base, job in jobs.items()]
    assert seconds[0] > seconds[1] >= seconds[2]
    memory = [choices.estimate(job) for job in jobs.values()]
    saved = (16 * flops.layer_weights(model) - 2 * llama.parameter_count(model)) / 8
    assert memory[0] - memory[1] > 0.9 * saved and memory[1] - memory[2] == pytest.approx(llama.parameter_count(model) / 8)
