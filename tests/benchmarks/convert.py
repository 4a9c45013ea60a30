"""Memory and speed of `humpback convert` on a folder of Llama-2 7B's shapes, 13.5 GB in bfloat16, beside `cp -r` of the same folder.

Makes the Hugging Face folder of random weights, then in turns: a copy of it, it into a model folder, that back into a Hugging Face
folder, which must have the same bytes in its tensors. Each is a process of its own, whose resident memory, with and without pages of
files, is looked at twenty times a second. Everything is written out to the disk before each begins; what is converted into safetensors
waits for its files to be on it, a copy does not. Needs 45 GB of disk, which are given back.

Run it on a quiet machine: .venv/bin/python tests/benchmarks/convert.py [--folder=DIR]. The last line is a JSON object.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # tests, which is not installed

import common

from humpback.convert import export, names, tensorfiles
from humpback.convert.huggingface import CONFIG
from humpback.convert.lazy_model import LazyModel
from humpback.convert.tensor_ops import DTYPES
from humpback.model.sizes import SIZES
from humpback.model.weights import LlamaConfig, leaves
from tests import tiny

NEEDED_GB = 45


def make_folder(folder: pathlib.Path, cfg: LlamaConfig) -> int:
    """Writes the Hugging Face folder and returns its bytes. Each tensor is one long run of random numbers, begun somewhere else."""
    random = np.random.default_rng(0)
    most = max(int(np.prod(weight.sizes(cfg))) for _, weight in leaves(cfg))
    numbers = (random.standard_normal(most + 4096, np.float32) / 50).astype(DTYPES["bfloat16"])

    def read(path: names.Path) -> np.ndarray:
        sizes = dict(leaves(cfg))[path].sizes(cfg)
        start = int(random.integers(4096))
        return numbers[start : start + int(np.prod(sizes))].reshape(sizes)

    model = LazyModel(config=cfg, tokenizer=tiny.make_tokenizer(), read=read, dtype=lambda path: "bfloat16")
    export.write_folder(str(folder), model, export.Beside("chatml", "base"))
    return sum(path.stat().st_size for path in folder.iterdir())


def timed(command: list[str]) -> dict[str, float]:
    """Seconds, peak of resident memory and peak of it without pages of files, in MB, of a command."""
    os.sync()
    started, peaks = time.perf_counter(), {"VmHWM": 0, "RssAnon": 0}
    process = subprocess.Popen(command, cwd=common.ROOT, env={**os.environ, "PYTHONPATH": str(common.ROOT)}, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        for name in peaks:
            if f"{name}:" in status:  # not when it is just ending
                peaks[name] = max(peaks[name], int(status.split(f"{name}:")[1].split()[0]))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} failed")
    return {"seconds": time.perf_counter() - started, "peak_mb": peaks["VmHWM"] / 1024, "anonymous_mb": peaks["RssAnon"] / 1024}


def same_tensors(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two Hugging Face folders have the same tensors, byte for byte."""
    opened = [tensorfiles.open_files(sorted(map(str, folder.glob("*.safetensors"))), None, "") for folder in (one, other)]
    a, b = opened
    return set(a.tensors) == set(b.tensors) and all(a.read(name).tobytes() == b.read(name).tobytes() for name in a.tensors)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default=None, help="where there is room (default: the system's temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a tiny model: only to see that it runs")
    values = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix="humpback-convert-", dir=values.folder))
    try:
        measure(work, tiny.CONFIG if values.smoke else SIZES["llama2_7b"], values.rounds, values.smoke)
    finally:
        shutil.rmtree(work)


def measure(work: pathlib.Path, cfg: LlamaConfig, rounds: int, smoke: bool) -> None:
    """The measurements, in a folder that is empty."""
    if not smoke and shutil.disk_usage(work).free < NEEDED_GB * 1e9:
        sys.exit(f"error: {work} has less than {NEEDED_GB} GB of room; name another place with --folder")
    source, ours, back = work / "source", work / "ours", work / "back"
    size = make_folder(source, cfg)
    common.say(f"{source}: {size / 1e9:.2f} GB")
    convert = [sys.executable, "-m", "humpback", "convert"]
    commands = {
        "cp -r": (["cp", "-r", str(source), str(work / "copy")], work / "copy"),
        "huggingface to ours": ([*convert, f"--source={source}", f"--target={ours}"], ours),
        "ours to huggingface": ([*convert, f"--source={ours}", f"--target={back}", "--to_format=huggingface"], back),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, (command, target) in commands.items():
            found[name].append(timed(command))
            row = found[name][-1]
            rate, memory = size / row["seconds"] / 1e6, f"{row['peak_mb']:.0f} MB ({row['anonymous_mb']:.0f} without files)"
            common.say(f"{name}: {row['seconds']:.1f} s, {rate:.0f} MB/s, peak {memory}")
            if name == "cp -r":
                shutil.rmtree(target)
        if number == 0 and not (same_tensors(source, back) and (back / CONFIG).exists()):
            sys.exit("error: what came back is not what went in")
        shutil.rmtree(ours)
        shutil.rmtree(back)
    middle = {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}
    result = {name: {**row, "of_cp": middle["cp -r"]["seconds"] / row["seconds"]} for name, row in middle.items()}
    print(json.dumps({"bytes": size, "rounds": rounds, **result}))


if __name__ == "__main__":
    main()
