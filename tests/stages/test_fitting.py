"""What the run finds for itself of the machine: before the first stage, for a stage that begins, for one that goes on."""

import dataclasses

import pytest

from humpback import config, experiments, prompts
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.planning import tpu_slices
from humpback.stages import fitting
from humpback.stages.directory import Run, read_manifest

MODEL = SIZES["llama_7b"]
SHIPPED_ONCE = {"slots": 128, "tensor": 1, "processes_per_replica": 1, "prefill_tokens": 4_096}


@pytest.fixture
def on(monkeypatch):
    """on(name): from now on this process sees such a slice."""
    return lambda name: monkeypatch.setattr(fitting, "slice_here", lambda: name and tpu_slices.parse(name))


def paper(**decoding):
    cfg = experiments.paper("llama_7b")
    for name, value in decoding.items():
        setattr(cfg.decoding, name, value)
    return config.finish(cfg)


def find(cfg, **how):
    return fitting.find(cfg, SIZES[cfg.base.architecture], prompts.RUBRIC, **how)


def test_a_tpu_gets_what_fits_and_another_machine_the_defaults(on):
    on("v5e-16")
    found, why = find(paper())
    assert found["tensor"] == 4 and found["slots"] >= 24 and "fits on v5e-16" in why and "of 15.8 GiB a chip (weights 3.1" in why
    on(None)
    assert find(paper())[0] == config.ANYWHERE
    cfg = experiments.paper("llama_7b")
    cfg.mesh.tensor = 2
    assert find(config.finish(cfg))[0] == {**config.ANYWHERE, "tensor": 2}


def test_the_config_overrides(on):
    on("v5e-16")
    found, _ = find(paper(slots=8, prefill_tokens=1_024))
    assert (found["slots"], found["prefill_tokens"], found["tensor"]) == (8, 1_024, 4)
    whole = {"slots": 8, "tensor": 4, "processes_per_replica": 1, "prefill_tokens": 512}
    assert find(paper(**whole))[0] == whole


@pytest.mark.parametrize(
    ("size", "name", "given", "way"),
    [
        ("llama_7b", "v5e-16", {"tensor": 1}, "without what is given of decoding.*: "),
        ("llama_7b", "v5e-16", SHIPPED_ONCE, "slots, tensor 4"),
        ("llama2_70b", "v5e-16", {}, "--config.decoding.weights=int8"),
        ("llama_65b", "v5e-8", {}, "more hosts, v5e-16 with weights 'compute'"),
        ("llama2_70b", "v5e-4", {}, "more hosts, v5e-8 with weights 'int8'"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_way_out(on, size, name, given, way):
    on(name)
    cfg = dataclasses.replace(paper(**given), base=dataclasses.replace(paper().base, architecture=size))
    with pytest.raises(UserError, match="decoding cannot fit: ") as refused:
        find(cfg)
    assert way in str(refused.value)


def test_it_is_said_before_the_first_stage_until_both_stages_are_done(on, tmp_path, capfd):
    on("v5e-16")
    run = Run(paper(), tmp_path / "run")
    fitting.announce(run, MODEL)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("decoding: ") and " slots, tensor 4, 1 process to a replica, " in line and not run.workdir.exists()
    for name in ("candidates", "ratings-1", "ratings-2"):
        (run.workdir / name).mkdir(parents=True)
        (run.workdir / name / "manifest.json").write_text("{}")
    on("v5e-1")  # on which nothing fits: but there is nothing to decode, either
    fitting.announce(run, MODEL)
    assert capfd.readouterr().err == ""


def stage_of(run):
    return run.stage("candidates", ("decoding.",), module=fitting.__name__)


def begun(run):
    """A stage that has made something with what was found for it."""
    stage = stage_of(run)
    found = fitting.fitted(run, stage, MODEL)
    stage.begin()
    (stage.path / "parts").mkdir(exist_ok=True)
    return found


def test_what_a_stage_began_with_holds_until_a_flag_says_otherwise(on, tmp_path):
    on("v5e-16")
    first = begun(Run(paper(), tmp_path))
    on("v5p-8")  # on which something else would be found
    assert find(paper())[0]["tensor"] != first.tensor
    assert begun(Run(paper(), tmp_path)) == first
    other = begun(Run(paper(slots=16), tmp_path))
    assert (other.slots, other.tensor) == (16, first.tensor)
    assert begun(Run(paper(), tmp_path)) == dataclasses.replace(other)  # that is recorded, too
    run = Run(paper(), tmp_path)
    stage = stage_of(run)
    fitting.fitted(run, stage, MODEL)
    stage.finish(counts={})
    assert read_manifest(tmp_path, "candidates")["recorded"]["decoding.slots"] == 16
    assert len(list((tmp_path / "candidates").glob("found-*.json"))) == 2


def test_what_no_longer_fits_is_refused_with_the_flags_that_do(on, tmp_path):
    on("v5p-8")
    begun(Run(paper(), tmp_path))
    on("v5e-16")
    with pytest.raises(UserError, match=r"candidates: was begun with \d+ slots, tensor 1, .* does not fit here") as refused:
        begun(Run(paper(), tmp_path))
    flags = dict(flag.removeprefix("--config.decoding.").split("=") for flag in str(refused.value).split() if flag.startswith("--config"))
    assert flags.keys() == config.ANYWHERE.keys()
    found = begun(Run(paper(**{name: int(value) for name, value in flags.items()}), tmp_path))
    assert found.tensor == 4 and found.slots == int(flags["slots"])


def test_fewer_processes_than_it_began_with(on, tmp_path):
    on(None)
    begun(Run(paper(), tmp_path))
    (record,) = (tmp_path / "candidates").glob("found-*.json")
    record.write_text(record.read_text().replace('"decoding.processes_per_replica": 1', '"decoding.processes_per_replica": 2'))
    with pytest.raises(UserError, match=r"was begun with .* 2 processes to a replica, .*does not divide the 1 processes.*replica=1 "):
        begun(Run(paper(), tmp_path))
    assert begun(Run(paper(processes_per_replica=1), tmp_path)).processes_per_replica == 1


def test_nothing_made_is_nothing_held(on, tmp_path):
    on("v5e-16")
    run = Run(paper(), tmp_path)
    stage = stage_of(run)
    fitting.fitted(run, stage, MODEL)
    stage.begin()
    on("v5p-8")
    run = Run(paper(), tmp_path)
    assert fitting.fitted(run, stage_of(run), MODEL).tensor == find(paper())[0]["tensor"] != 4
