"""Replicas, slots and weights of the decoding stages: what is chosen, searched, and said when it does not fit."""

import dataclasses

import pytest

from humpback import config, experiments
from humpback.decoding import executables
from humpback.model import sharding
from humpback.model.sizes import SIZES
from humpback.planning import serving, tpu_slices, workload
from humpback.planning.jobs import Decode, Place
from tests.planning.compilers import GIB, Line

WORK = workload.Workload(100_000, 400, 300)


def plan(compiler, name="v5e-16", model="llama_7b", quick=True, cfg=None, **how):
    return planner(compiler, model, quick, cfg).plan(tpu_slices.parse(name), **how)


def planner(compiler, model="llama_7b", quick=True, cfg=None):
    cfg = config.finish(cfg or experiments.paper(model))
    requests = {"augment": workload.augment_requests(cfg, WORK), "rate": workload.rate_requests(cfg, WORK)}
    return serving.Serving(cfg, SIZES[model], requests, compiler, quick)


def test_two_programs_stand_for_both_stages():
    compiler = Line(base=12.5, a_row=0.25)
    augment, rate = plan(compiler)
    assert [job.program.split()[0] for job in compiler.asked] == ["generate", "prefill", "insert"]
    assert augment.fits and rate.fits and augment.needed == rate.needed
    assert augment.settings == rate.settings and set(augment.settings) == {
        "decoding.slots", "decoding.tensor", "decoding.processes_per_replica", "decoding.prefill_tokens", "decoding.weights",
    }  # fmt: skip
    assert rate.records == 2 * augment.records == 200_000  # two iterations
    assert rate.hours > 2 * augment.hours  # and longer prompts and answers
    assert all(each.notes[-1].startswith("classes of rows, in the same memory: ") for each in (augment, rate))


def test_the_layouts_own_buckets_and_rows():
    """Those of the plan, which has no devices, are those of the engine's layout, and so is every other field."""
    mesh = sharding.make_mesh(fsdp=4, tensor=2)
    layout = executables.Layout(SIZES["llama_7b"], mesh, 16, 2048, 48, "bfloat16", 8, 4096, "int8")
    place = Place("v5e:2x4", 1, 4, 2)
    planned = Decode(place, SIZES["llama_7b"], "generate", 16, 2048, 48, "bfloat16", 8, 4096, "int8", 0.7, 0.9)
    assert planned.layout(mesh) == layout
    assert (planned.layout().buckets, planned.layout().shards) == (layout.buckets, layout.shards) and place.groups == layout.shards
    for bucket in layout.buckets:
        assert planned.layout().rows(bucket) == layout.rows(bucket)


@pytest.mark.parametrize("limit", [15.75, 12.0])
def test_the_most_slots_by_a_line_and_a_confirmation(limit):
    compiler = Line(limit=limit, base=8.0, a_row=0.2)
    augment, rate = plan(compiler, quick=False)
    slots, asked = augment.settings["decoding.slots"], compiler.asked
    tensor, place = augment.settings["decoding.tensor"], asked[0].place
    shards = place.chips // tensor
    fits = min(int((limit * tensor - 8.0) / 0.2 + 1e-9), 256) * shards
    assert slots == pytest.approx(fits, abs=shards)
    assert augment.most == slots / place.chips and augment.needed <= augment.limit
    assert rate.settings["decoding.slots"] == slots
    assert [each.prefix for each in asked if each.program == "generate"][-1] > asked[0].prefix  # rating's own program, with its rubric


def test_a_model_that_does_not_fit_is_told_what_would():
    """70B in bfloat16 on 16 chips of 16 GiB: int8 is named, and not taken, as it changes the result."""
    compiler = Line(base=138.0, a_row=0.3)
    augment, _ = plan(compiler, model="llama2_70b")
    assert not augment.fits and augment.settings["decoding.weights"] == "compute"
    assert f"needs {(augment.needed - augment.limit) / GIB:.2f} GiB a chip more" in augment.notes[0]
    assert augment.notes[-1].startswith("fits first with decoding.weights = int8")


def test_without_int8_a_larger_slice():
    cfg = experiments.paper("llama2_70b")
    cfg.decoding.weights = "int8"
    augment, _ = plan(Line(base=138.0, a_row=0.3), "v5e-4", "llama2_70b", cfg=cfg)
    assert not augment.fits and "fits first with v5e-" in augment.notes[-1]
    smaller = plan(Line(base=138.0, a_row=0.3), "v5e-16", "llama2_70b", cfg=cfg)[0]
    assert smaller.fits and smaller.settings["decoding.processes_per_replica"] > 1


def test_expected_ratings_only_read():
    cfg = experiments.paper("llama_7b")
    cfg.curate.mode = "expected"
    compiler = Line(base=12.5, a_row=0.25)
    _, rate = plan(compiler, quick=False, cfg=cfg)
    assert any(job.program.startswith("read") for job in compiler.asked) and rate.tokens_a_second > 0
    _, sampled = plan(Line(base=12.5, a_row=0.25), quick=False)
    assert rate.hours < sampled.hours / 2


def test_a_quick_plan_of_expected_ratings_sends_what_a_prefill_does():
    """The programs of augmenting stand for those of rating: for its reading that of its prompts, not its steps."""

    class Apart(Line):
        def ask(self, job, label):
            answer = super().ask(job, label)
            return dataclasses.replace(answer, traffic={"all-reduce": (1, 10**6 if job.program == "generate" else 10**9)})

    cfg = experiments.paper("llama_7b")
    cfg.curate.mode = "expected"
    augment, rate = plan(Apart(base=12.5, a_row=0.25), cfg=cfg)
    assert rate.times.waited > 500 * augment.times.waited > 0


def test_a_slice_of_an_odd_shape():
    """48 hosts are shared out to replicas of 16 at most."""
    augment, _ = plan(Line(limit=30.75, base=138.0, a_row=0.3), "v4:4x4x12", "llama2_70b")
    assert augment.fits and augment.settings["decoding.processes_per_replica"] in (1, 2, 4, 8, 16)


def test_twice_the_slice_takes_half_the_time():
    one, two = (plan(Line(base=12.5, a_row=0.25), name)[0] for name in ("v5e-16", "v5e-32"))
    assert two.hours == pytest.approx(one.hours / 2) and two.chip_hours == pytest.approx(one.chip_hours)
    joined = plan(Line(base=12.5, a_row=0.25), "2xv5e-16")[0]
    assert joined.hours == pytest.approx(two.hours)
