"""The model of time against published runs of LLaMAs on named chips: how far it is off, which docs/planning.md repeats."""

import dataclasses

import pytest

from humpback import config, experiments
from humpback.model.sizes import SIZES
from humpback.planning import roofline, tpu_slices
from humpback.planning.jobs import Place, Step
from humpback.planning.replicas import Replicas
from humpback.planning.workload import Requests

TOKENS = 16_384  # a chip and step: enough that computing is what bounds a step, as those runs had it


def predicted(model: str, name: str, length: int) -> float:
    """Tokens a second and chip, full rematerialisation, weights split over all chips, nothing compiled."""
    slice_, rows = tpu_slices.parse(name), TOKENS // length
    ft = dataclasses.replace(experiments.paper("").forward, remat="full")
    place = Place(slice_.topology, 1, slice_.chips, 1)
    step = Step.of(place, SIZES[model], ft, length=length, rows=rows * slice_.chips, parts=1, targets=TOKENS)
    return TOKENS / roofline.step_times(step, slice_, roofline.step_traffic(step)).seconds


@pytest.mark.parametrize(
    ("model", "name", "length", "published", "error"),
    [
        ("llama2_70b", "v5p:8x8x8", 4096, 692, -0.15),  # MaxText tiering.md
        ("llama2_70b", "v6e-256", 4096, 900, 0.12),
        ("llama3_8b", "v6e-256", 8192, 7207, 0.13),
        ("llama3_70b", "v6e-256", 8192, 960, -0.01),
        ("llama3_8b", "v6e-8", 8192, 7139, 0.14),  # tpu-recipes
        ("llama3_70b", "v6e-32", 8192, 921, 0.03),
        ("llama_7b", "v4-512", 2048, 1900, 0.95),  # OpenLLaMA, by EasyLM, which reached 29 %; 256 chips are assumed
    ],
)
def test_training(model, name, length, published, error):
    assert predicted(model, name, length) / published - 1 == pytest.approx(error, abs=0.01)


@pytest.mark.parametrize(
    ("model", "name", "prompt", "answer", "published", "error"),
    [
        ("llama3_8b", "v6e-1", 1800, 128, 10.77, -0.20),  # requests a second and chip of vLLM's, on its TPU floors
        ("llama3_70b", "v6e-8", 1800, 128, 7.0 / 8, -0.04),
        ("llama3_70b", "v6e-8", 1000, 1000, 443 / 1000, -0.06),  # its recipe
    ],
)
def test_decoding(model, name, prompt, answer, published, error):
    """Our engine's programs, whose caches have room for 2,048 tokens a slot, on those prompts and answers."""
    cfg, requests = config.finish(experiments.paper(model)), {"augment": Requests(1_000, 0, (prompt,), (answer,))}
    replicas, slice_ = Replicas(cfg, SIZES[model], requests), tpu_slices.parse(name)
    replica = replicas.best(slice_, cfg.decoding.weights)
    requests_a_second = 1 / replicas.times(slice_, "augment", replica, {}).seconds / (slice_.chips_a_host * replica.hosts)
    assert requests_a_second / published - 1 == pytest.approx(error, abs=0.01)
