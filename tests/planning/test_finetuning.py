"""Mesh, rows and rematerialisation of the trainings: what is chosen, searched, and said when it does not fit."""

import dataclasses

import pytest

from humpback import config, experiments
from humpback.model.sizes import SIZES
from humpback.planning import finetuning, tpu_slices, workload
from humpback.planning.finetuning import line_to
from humpback.planning.jobs import Step
from humpback.training import batches
from tests.planning.compilers import GIB, Line

WORK = workload.Workload(1_000, 400, 300)
STEPS = 12


def paper():
    cfg = experiments.paper("llama_7b")
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.batch = STEPS, 32
    return cfg


CFG = config.finish(paper())


def plan(compiler, name="v5e-16", quick=True, cfg=CFG, **how):
    return finetuning.Finetuning(cfg, SIZES["llama_7b"], WORK, compiler, quick).plan(tpu_slices.parse(name), **how)


def test_one_compilation_a_stage():
    compiler = Line()
    backward, forward = plan(compiler)
    assert len(compiler.asked) == 2 and (backward.stage, forward.stage) == ("backward", "forward")
    assert backward.fits and backward.settings["mesh.fsdp"] * backward.settings["mesh.tensor"] == 16
    assert backward.settings["backward.remat"] == "dots" and backward.settings["backward.tokens_at_once"] == 0
    assert {name.partition(".")[0] for name in forward.settings} == {"mesh", "forward_seed", "forward"}
    assert backward.most is None


def test_what_is_compiled_is_a_shape_of_the_loop():
    """The largest step's shape is one that batches.make_plan gives the same examples."""
    compiler = Line()
    plan(compiler)
    job = compiler.asked[0]
    assert isinstance(job, Step)
    examples = workload.training_examples(CFG, WORK, "backward", 0)
    groups = job.place.data * job.place.fsdp
    shapes = batches.make_plan(examples, CFG.backward, CFG.seed, "backward", groups).shapes
    assert batches.Shape(job.length, job.rows, job.parts, job.targets) in shapes


def test_idle_rows_grow_with_the_slice_and_what_is_seen_does_not():
    planner = finetuning.Finetuning(CFG, SIZES["llama_7b"], WORK, Line(), True)
    idle = [planner.idle(tpu_slices.named("v5e", size))["forward"] for size in (1, 4, 16, 64, 256)]
    assert idle == sorted(idle) and idle[0] < 0.3 and 0.6 < idle[-1] < 0.8
    found = [plan(Line(limit=1e3), name)[1] for name in ("v5e-4", "v5e-16", "v5e-64")]
    assert len({each.records for each in found}) == len({each.tokens for each in found}) == 1
    assert found[0].records == 32 * STEPS * 3  # M_0, M_1, M_2
    for each in found:
        assert each.tokens_a_second * each.chip_hours * 3600 == pytest.approx(each.tokens)


def rows_of(job):
    return job.rows // job.place.data // job.place.fsdp


@pytest.mark.parametrize("limit", [15.75, 12.0, 9.0])
def test_the_most_rows_by_a_line_and_a_confirmation(limit):
    compiler = Line(limit=limit)
    backward, _ = plan(compiler, quick=False)
    asked = [job for job in compiler.asked if job.targets == compiler.asked[0].targets or rows_of(job) == backward.most]
    job = next(job for job in asked if rows_of(job) == backward.most)
    groups = job.rows // rows_of(job)
    last, above = (compiler.ask(dataclasses.replace(job, rows=rows * groups), "") for rows in (backward.most, backward.most + 1))
    assert last.fits and not above.fits


def test_a_line_that_bends_is_not_believed():
    straight, bent = (plan(Line(limit=15.75, bend=bend), quick=False)[0] for bend in (0.0, 5.0))
    assert bent.most < straight.most


@pytest.mark.parametrize(
    ("most", "known", "real", "found"), [(100, 10, 100, 100), (100, 10, 96, 95), (100, 10, 50, 10), (10, 10, 10, 10), (5, 10, 10, 10)]
)
def test_a_confirmation(most, known, real, found):
    tried = []
    assert finetuning.confirm(most, known, lambda rows: tried.append(rows) or rows <= real) == found
    assert len(tried) <= 3 and (found == known or found in tried)


def test_trainings_of_a_run_share_a_mesh():
    """Where one of them fits with more chips a matrix only, the other takes that mesh, too."""

    class Narrow(Line):
        def ask(self, job, label):
            if "forward" in label and job.place.tensor < 8:
                return dataclasses.replace(super().ask(job, label), total=10**12, refused=True)
            return super().ask(job, label)

    backward, forward = plan(Narrow(limit=15.75))
    assert backward.fits and forward.fits
    assert {each.settings["mesh.tensor"] for each in (backward, forward)} == {8}


@pytest.mark.parametrize(
    ("limit", "first", "second", "most"),
    [(10, (1, 4), (2, 5), 7), (10, (2, 5), (1, 4), 7), (3, (1, 4), (2, 5), 1), (10, (1, 4), (2, 4), 2)],
)
def test_the_line(limit, first, second, most):
    assert line_to(limit, first, second) == most


def test_what_does_not_fit_says_by_how_much_and_what_fits_first():
    """4 GiB for the weights on 16 chips leave room for nothing, on 32 chips they leave 2 of them."""
    compiler, cfg = Line(limit=4.0), paper()
    cfg.backward.remat = cfg.forward_seed.remat = "full"
    backward, _ = plan(compiler, cfg=config.finish(cfg))
    first = compiler.ask(compiler.asked[0], "")
    assert not backward.fits and (backward.needed, backward.limit) == (first.total, first.limit)
    assert f"needs {(first.total - first.limit) / GIB:.2f} GiB a chip more than there is" in backward.notes[0]
    assert backward.notes[-1].startswith("fits first on v5e-32") and len(backward.notes) > 2
    assert not plan(Line(limit=4.0), rescue=False)[0].notes


def test_more_rematerialisation_comes_first():
    cfg = paper()
    cfg.backward.remat = "none"
    probe = Line(limit=1e3)
    plan(probe)
    job = probe.asked[0]
    compiler = Line(limit=4 + 4.5 * rows_of(job) * job.length / 2048 / job.place.tensor)  # 4 + 6 for each 2,048 tokens, or 4 + 3
    backward, _ = plan(compiler, cfg=config.finish(cfg))
    assert backward.fits and backward.settings["backward.remat"] == "dots"
    assert backward.notes[1].startswith("fits first with remat = dots")


def test_rows_one_after_the_other():
    """On 4 chips the paper's step has several rows a chip; where only one or two fit, they follow each other."""
    compiler = Line(limit=18.0, base=4.0, a_row=1.0)  # 16 GiB on 4 chips leave room for two rows of 2,048
    cfg = paper()
    cfg.backward.batch = 64
    backward, _ = plan(compiler, "v5p-8", cfg=config.finish(cfg))
    assert backward.fits and 512 <= backward.settings["backward.tokens_at_once"] <= 2 * 2048
    assert "accumulation" in backward.notes[-1] and any(job.parts > 1 for job in compiler.asked)


def test_where_nothing_is_sure_to_fit_what_takes_least_is_tried_first_and_nothing_twice():
    """13B on eight chips of v4: 27 GiB with all rows at once, 34 with their gradients added up (compiled, libtpu 0.0.52)."""
    compiler, cfg = Line(limit=1e3), experiments.paper("llama_13b")
    for task in (cfg.backward, cfg.forward_seed, cfg.forward):
        task.steps, task.batch = STEPS, 32
    planner = finetuning.Finetuning(config.finish(cfg), SIZES["llama_13b"], WORK, compiler, True)
    assert all(each.fits and each.settings[f"{each.stage}.tokens_at_once"] == 0 for each in planner.plan(tpu_slices.parse("v4-16")))
    assert {job.parts for job in compiler.asked} == {1}
    compiler = Line(limit=1.0)
    finetuning.Finetuning(config.finish(cfg), SIZES["llama_13b"], WORK, compiler, True).plan(tpu_slices.parse("v4-16"))
    assert all(job not in compiler.asked[:number] for number, job in enumerate(compiler.asked))


def test_the_batch_is_never_touched():
    for quick in (True, False):
        for each in plan(Line(), quick=quick):
            assert all(not config.compared(name) for name in each.settings)
            assert not any(name.endswith((".batch", ".steps")) for name in each.settings)


def test_a_slice_of_slices_shares_data():
    backward, _ = plan(Line(), "2xv5e-16")
    assert backward.settings["mesh.data"] == 2 and backward.times.network > 0
    assert dataclasses.asdict(backward.times)["network"] == backward.times.network
