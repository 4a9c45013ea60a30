"""What lies on a chip while a stage decodes: the sum of all that is loaded, by estimate and from the compiler's answers."""

import dataclasses
import functools
import pathlib
import re

import pytest

from humpback import config, experiments
from humpback.model.sizes import SIZES
from humpback.planning import choices, loaded, tpu_slices, workload
from humpback.planning.jobs import Answer, Decode, Place
from humpback.planning.replicas import Replicas

ROOT = pathlib.Path(__file__).parents[2]
MIB = 2**20
JOB = Decode(Place("v5e:2x2", 1, 1, 4), SIZES["llama2_7b"], "generate", 40, 2048, 48, "bfloat16", 8, 4096, "compute", 0.7, 0.9, (512, 2000))
# The plan's names of models, by config.
MODELS = {
    "7B": ["llama_7b", "llama2_7b"], "13B": ["llama_13b", "llama2_13b"], "33B": ["llama_33b"], "65B": ["llama_65b"],
    "Llama-2 70B": ["llama2_70b", "llama3_70b"], "Llama-3 8B": ["llama3_8b"],
}  # fmt: skip


def documented():
    """(config, slice, weights) of the paper's whole run in docs/planning.md, of the first lines of docs/tpu.md and of the README."""
    rows, model = [], ""
    for line in (ROOT / "docs" / "planning.md").read_text().split("## The paper's whole run")[1].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:3]]
        if len(cells) == 2 and (found := re.match(r"(v\w+-\d+) \(\d+\)", cells[1])):
            model = cells[0] or model
            name, _, weights = model.partition(", ")
            rows += [(each, found[1], weights or "compute") for each in MODELS[name]]
    for page in ("docs/tpu.md", "README.md"):
        for name, slice_ in re.findall(r"reproduce\.sh (llama\w+)[^`]*?--type=(v\w+-\d+)", (ROOT / page).read_text()):
            rows.append((name, slice_, "compute"))
    return sorted(set(rows))


def replicas(name, weights="compute", **decoding):
    cfg = experiments.paper(name)
    cfg.decoding.weights = weights
    for field, value in decoding.items():
        setattr(cfg.decoding, field, value)
    return Replicas(config.finish(cfg), SIZES[name], requests())


@functools.cache
def requests():
    """The paper's, whatever the model."""
    cfg = config.finish(experiments.paper("llama_7b"))
    work = workload.workload(cfg)
    return {"augment": workload.augment_requests(cfg, work), "rate": workload.rate_requests(cfg, work)}


@pytest.mark.parametrize(("slots", "gib"), [(168, 23.32), (126, 18.07), (84, 12.91)])
def test_heads_that_do_not_fill_the_lanes_hold_the_cache_twice(slots, gib):
    """What libtpu 0.0.52 says of `generate` of Llama-3.2-1B, whose heads have 64, on each of eight v5e chips (2026-11-29)."""
    job = dataclasses.replace(JOB, place=Place("v5e:2x4", 1, 8, 1), model=SIZES["llama3_2_1b"], slots=8 * slots, prefill_tokens=512)
    found = loaded.estimate(job)
    assert (found.weights + found.cache + found.running) / 2**30 == pytest.approx(gib, rel=0.02)


def test_every_config_is_documented_with_its_slices():
    names = {path.stem for path in (ROOT / "configs").glob("llama*.py")}
    assert names == {name for name, *_ in documented()} and ("llama_7b", "v5litepod-64", "compute") in documented()


@pytest.mark.parametrize("row", documented(), ids="-".join)
def test_what_is_documented_fits(row):
    """With the shipped config, in which nothing of the machine is set, and all that is loaded counted."""
    name, slice_, weights = row
    place, of_config = tpu_slices.parse(slice_), replicas(name, weights)
    best = of_config.best(place, weights)
    assert best is not None and best.slots >= 4
    assert of_config.estimate(place, best).total <= choices.SURE * choices.limit_of(place)


def test_the_shipped_slots_of_once_did_not():
    """128 slots of a 7B whose matrices no chips share."""
    place = tpu_slices.parse("v5e-16")
    assert replicas("llama_7b", slots=128, tensor=1, processes_per_replica=1).best(place, "compute") is None


def test_what_the_config_says_is_not_chosen():
    place = tpu_slices.parse("v5e-16")
    best = replicas("llama_7b", slots=12, tensor=4, prefill_tokens=512).best(place, "compute")
    assert (best.slots, best.tensor, best.prefill_tokens, best.hosts) == (12, 4, 512, 1)


def test_classes_of_rows_take_the_same_memory_and_less_time():
    """Paper's lengths: by the model alone 1.8 times the records of `augment`, and of nothing but rows of the full length none is lost."""
    place = tpu_slices.parse("v5e-16")
    one, several = (replicas("llama_7b", classes=classes) for classes in (1, 4))
    best = several.best(place, "compute")
    [(share, whole)] = one.classes(place, "augment", best)
    assert (share, whole.slots, whole.length) == (1, best.slots, 2_048)
    rows = several.classes(place, "augment", best)
    assert sum(share for share, _ in rows) == pytest.approx(1) and len(rows) > 1
    for _, row in rows:
        assert row.slots > best.slots and loaded.estimate(row, classes=4).total <= several.estimate(place, best).total
    seconds = [each.times(place, "augment", best, {}).seconds for each in (one, several)]
    assert 1.7 < seconds[0] / seconds[1] < 2.1


def test_every_program_counts():
    one, two = (loaded.estimate(dataclasses.replace(JOB, lengths=lengths)) for lengths in ((2000,), (512, 2000)))
    assert two.code - one.code > 32 * 6 * MIB and one.code > 32 * 6 * MIB
    assert one.cache == pytest.approx(10_000 * MIB, rel=0.03) and one.weights == pytest.approx(3_213 * MIB, rel=0.01)
    assert two.prompts > 450 * MIB  # a prefilled group that waits for slots
    assert two.prefix > 0 and two.total > one.total > one.fixed
    reading = loaded.estimate(JOB, reads=True)
    assert reading.cache == 0 and reading.code < two.code


def test_the_compilers_answers_are_added_up():
    def answer(arguments, outputs, aliased, temporaries, program):
        memory = {"arguments": arguments, "outputs": outputs, "aliased": aliased, "temporaries": temporaries, "program": program}
        return Answer("p", arguments + outputs - aliased + temporaries + program, 100, False, memory)

    generate, prefill, insert = answer(50, 31, 30, 4, 2), answer(20, 5, 0, 7, 3), answer(36, 30, 30, 1, 1)
    found = loaded.compiled({"generate": generate, "prefill": prefill, "insert": insert}, 8)
    assert found.total == 50 + 2 + 8 * (3 + 1) + 5 + 7  # all that is given, code, a group that was read, the largest while it runs
    assert loaded.compiled({"read": prefill}, 2).total == 20 + 2 * 3 + 5 + 7
