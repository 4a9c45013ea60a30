"""What trainings take by the model alone: the paper's 7B run on large slices, and estimates of memory beside compiled programs."""

import dataclasses

import pytest

from humpback import config, experiments
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.planning import choices, tpu_slices, workload
from humpback.planning.jobs import Step

CFG = config.finish(experiments.paper("llama_7b"))


@pytest.fixture(scope="module")
def paper():
    """The trainings of the paper's run; their courses are found once."""
    return choices.Choices(CFG, SIZES["llama_7b"], choices.trainings(CFG, workload.workload(CFG)))


def hours(paper, name):
    """Of all trainings, on one mesh."""
    slice_ = tpu_slices.parse(name)
    place = paper.best(slice_)
    return sum(paper.whole(slice_, each, paper.first(slice_, each, place)).seconds for each in paper.trainings) / 3600


@pytest.mark.parametrize(
    ("name", "before", "share", "smaller"),
    [("v5e-64", 0.668, 0.5, ("v5e-16", "v5e-8")), ("v5p-32", 0.361, 0.75, ("v5p-16",))],
)
def test_large_slices_are_kept_busy(paper, name, before, share, smaller):
    """before: hours by the same model with all chips sharing the weights, full rematerialisation, and rows of 512, 1,024 or 2,048."""
    found = hours(paper, name)
    assert found <= share * before
    of_others = (hours(paper, other) * tpu_slices.parse(other).chips for other in smaller)
    assert found * tpu_slices.parse(name).chips <= 2 * min(of_others)


def test_what_the_config_gives_is_the_only_choice(paper):
    """All sizes of a mesh follow from one that is given, and a slice that they do not fit is refused."""
    mesh = dataclasses.replace(CFG.mesh, tensor=2)
    given = choices.Choices(dataclasses.replace(CFG, mesh=mesh), SIZES["llama_7b"], paper.trainings)
    (place,) = given.places(tpu_slices.parse("v5e-16"))
    assert (place.data, place.fsdp, place.tensor) == (1, 8, 2)
    with pytest.raises(UserError, match=r"config fields mesh\.\*: .*1 devices are not a multiple of 2"):
        list(given.places(tpu_slices.parse("v5e-1")))


@pytest.mark.parametrize(
    ("size", "name", "tensor", "remat", "length", "rows", "targets", "compiled"),
    [
        ("llama_7b", "v5e-64", 4, "none", 1_280, 1, 1_280, 10.86),
    ],
)
def test_estimates_of_memory(size, name, tensor, remat, length, rows, targets, compiled):
    """Beside GiB a chip of the compiled step, libtpu 0.0.52: what SURE leaves is more than what is missed."""
    slice_ = tpu_slices.parse(name)
    place, ft = choices.place_of(slice_, tensor), dataclasses.replace(CFG.forward, remat=remat)
    step = Step.of(place, SIZES[size], ft, length=length, rows=rows * place.groups, parts=1, targets=targets)
    estimated = choices.estimate(step) / 2**30
    assert choices.SURE * compiled <= estimated <= 1.25 * compiled
