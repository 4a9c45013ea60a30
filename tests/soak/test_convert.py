"""Soak: conversions killed at random moments, damaged sources, a disk with too little room. Nothing half-made is taken for whole."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import pathlib
import random
import shutil
import subprocess
import time

import numpy as np
import pytest

from humpback.commands.convert import convert
from humpback.convert import sources
from humpback.convert.tensor_ops import DTYPES
from humpback.errors import UserError
from humpback.model.weights import RopeScaling, make_tree
from humpback.models.folders import weights_digest
from tests import hf_layout, kills, tiny

SEED, COUNT = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "10"))
LARGE = dataclasses.replace(tiny.CONFIG, d_model=1024, d_ff=2048, num_layers=8)  # 230 MB in float32
FORMATS = ("checkpoint", "huggingface")


def params_of(cfg, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return make_tree(cfg, lambda path, weight: rng.standard_normal(weight.sizes(cfg), np.float32).astype(DTYPES[dtype]))


def command(source: pathlib.Path, target: pathlib.Path, to_format: str) -> list[str]:
    return kills.humpback("convert", f"--source={source}", f"--target={target}", f"--to_format={to_format}")


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(command(*arguments), cwd=kills.REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_whole(target: pathlib.Path, digests: dict[str, str]) -> bool:
    """Whether the target opens; then it must have every bit."""
    try:
        opened = sources.open_source(str(target))
    except UserError:
        return False
    assert weights_digest(opened.params()) == digests
    return True


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """(Hugging Face folder in three files, digests of its weights)."""
    folder, params = tmp_path_factory.mktemp("large") / "hf", params_of(LARGE)
    hf_layout.write_hf(folder, LARGE, params, tiny.make_tokenizer(), files=3)
    return folder, weights_digest(params)


@pytest.mark.parametrize("to_format", FORMATS)
def test_kill(large, tmp_path, to_format):
    """HUMPBACK_SOAK_SCHEDULES kills (ten), from the moment that the target is begun; the same command then completes it."""
    source, digests = large
    generator = random.Random(f"{SEED} {to_format}")
    begun, target = None, tmp_path / "whole"
    process = start(source, target, to_format)
    while process.poll() is None:
        begun = begun or (time.monotonic() if target.exists() else None)
        time.sleep(0.01)
    duration = time.monotonic() - begun
    assert process.returncode == 0 and is_whole(target, digests)
    hits = 0
    for number in range(COUNT):
        target, moment = tmp_path / str(number), generator.uniform(0, duration)
        process = start(source, target, to_format)
        while not target.exists():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moment)
        process.kill()
        process.wait()
        left = sorted(path.name for path in target.iterdir())
        finished = is_whole(target, digests)
        hits += not finished
        outcome = "whole" if finished else f"left {left}"
        print(f"{number + 1}/{COUNT} {to_format}: killed {moment:.2f} s of {duration:.2f} after it was begun: {outcome}")
        if not finished:
            kills.finish(command(source, target, to_format))
            assert is_whole(target, digests)
            assert not [path for path in target.iterdir() if path.name.startswith(".humpback-tmp") or path.name.startswith("weights.")]
        shutil.rmtree(target)
    assert hits * 2 >= COUNT or COUNT < 4


def test_damaged_sources(tmp_path):
    """A file cut off anywhere, a header of other bytes, an index that names what is not there: an error that names the file."""
    generator, tokenizer = random.Random(SEED), tiny.make_tokenizer()
    for number in range(COUNT * 5):
        folder = tmp_path / str(number)
        hf_layout.write_hf(folder, tiny.CONFIG, params_of(tiny.CONFIG), tokenizer, files=3)
        file = folder / f"model-0000{generator.randrange(1, 4)}-of-00003.safetensors"
        data = file.read_bytes()
        kind = generator.choice(["cut", "header", "missing", "index"])
        if kind == "cut":
            file.write_bytes(data[: generator.randrange(len(data))])
        elif kind == "header":
            place = generator.randrange(8)  # of the length
            file.write_bytes(data[:place] + bytes([data[place] ^ (1 << generator.randrange(8))]) + data[place + 1 :])
        elif kind == "missing":
            file.unlink()
        else:
            index = folder / "model.safetensors.index.json"
            value = json.loads(index.read_text())
            value["weight_map"][generator.choice(list(value["weight_map"]))] = "model-00004-of-00003.safetensors"
            index.write_text(json.dumps(value))
        for to_format in FORMATS:
            with pytest.raises(UserError, match="safetensors"):
                convert(str(folder), str(tmp_path / "target"), to_format)
            assert not (tmp_path / "target").exists()
        shutil.rmtree(folder)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 100 MB; skipped where nobody may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here ({done.stderr.strip()})")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("to_format", FORMATS)
def test_a_disk_with_too_little_room(large, small_disk, to_format):
    """The command says so and ends with exit code 2; with more room the same command completes it."""
    source, digests = large
    call = command(source, small_disk / "target", to_format)
    done = subprocess.run(call, cwd=kills.REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and "no room left" in done.stderr, done.stderr[-2000:]
    assert not is_whole(small_disk / "target", digests)
    subprocess.run(["mount", "-o", "remount,size=500m", str(small_disk)], check=True)
    kills.finish(call)
    assert is_whole(small_disk / "target", digests)


GRID = list(
    itertools.product(
        [(4, 4), (9, 3), (8, 4), (4, 1)], [True, False], [32000, 32001, 128256], [1, 3], ["float32", "bfloat16", "float16"], [True, False]
    )
)


def test_grid(tmp_path):
    """Twelve of the grid's 288 models a schedule: Hugging Face → ours → Hugging Face, bit for bit."""
    assert len(GRID) == 288
    chosen = random.Random(SEED).sample(GRID, min(12 * COUNT, len(GRID)))
    for number, ((N, K), tied, V, files, dtype, scaled) in enumerate(chosen):
        scaling = RopeScaling(8.0, 1.0, 4.0, 64) if scaled else None
        cfg = dataclasses.replace(
            tiny.CONFIG, num_heads=N, num_kv_heads=K, tied=tied, vocab_size=V, d_model=12, rope_scaling=scaling, rope_theta=12345.0
        )
        params, folder = params_of(cfg, dtype, number), tmp_path / str(number)
        hf_layout.write_hf(folder / "hf", cfg, params, tiny.make_tokenizer(), files)
        with contextlib.redirect_stdout(io.StringIO()):
            convert(str(folder / "hf"), str(folder / "ours"))
            convert(str(folder / "ours"), str(folder / "back"), "huggingface", file_bytes=10**9 if files == 1 else V * 12)
        back = sources.open_source(str(folder / "back"))
        assert back.config == cfg and weights_digest(back.params()) == weights_digest(params), chosen[number]
        shutil.rmtree(folder)
    print(f"{len(chosen)} of {len(GRID)} models, all the same")
