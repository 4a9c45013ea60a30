"""How the cost of training grows: tokens/s against the length of the rows, and the time of a step against the number of devices.

Ours alone, SmolLM2-135M's shapes with 10 of its 30 layers, through humpback.training.loop.train. First 8,192 tokens a step as rows of
256 to 8,192; then 8 rows of 512 on 1, 2, 4 and 8 simulated devices, which share the same cores, so that what grows is what splitting
costs. Run it on a quiet machine: .venv/bin/python tests/benchmarks/train_growth.py. The last line is a JSON object.
"""

import argparse
import dataclasses
import json
import statistics

import common
import jax
import numpy as np

from humpback import config
from humpback.__main__ import use_huge_pages
from humpback.model import llama, sharding
from humpback.model.sizes import SIZES
from humpback.models.folders import Model, ModelInfo
from humpback.tokens.examples import TokenExample
from humpback.training import loop

TOKENS, LENGTHS = 8_192, (256, 512, 1_024, 2_048, 4_096, 8_192)
ROWS, LENGTH, DEVICES = 8, 512, (1, 2, 4, 8)
LAYERS, STEPS = 10, 3  # the first step is not counted


def seconds(model: Model, rows: int, length: int, devices: int) -> float:
    """The median time of a step of `rows` examples that fill a row each."""
    random = np.random.default_rng(0)
    ids = random.integers(3, model.info.config.vocab_size, (rows, length), np.int32)
    examples = [TokenExample(f"row {number}", row, 1) for number, row in enumerate(ids)]
    ft = config.Finetune(length=length, batch=rows, steps=STEPS, dropout=0.0, checkpoint_every=0, remat="dots")
    mesh = sharding.make_mesh(fsdp=devices, devices=jax.devices()[:devices])
    found: list[float] = []
    loop.train(model, examples, loop.Training(ft, 0, "growth"), mesh=mesh, metrics=lambda row: found.append(row["seconds"]))
    return statistics.median(found[1:])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny model and few tokens: only to see that it runs")
    smoke = parser.parse_args().smoke
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    whole = common.SMOKE_MODEL if smoke else SIZES["smollm2_135m"]
    cfg = dataclasses.replace(whole, num_layers=min(LAYERS, whole.num_layers), max_positions=max(LENGTHS))
    tokens, lengths, length = (512, (64, 512), 32) if smoke else (TOKENS, LENGTHS, LENGTH)
    model = Model(ModelInfo(cfg, "base", "inst"), llama.init_params(cfg, jax.random.key(0)), None)
    by_length = {}
    for each in lengths:
        by_length[each] = tokens / seconds(model, tokens // each, each, 1)
        common.say(f"rows of {each} tokens: {by_length[each]:.0f} tokens/s")
    by_devices = {}
    for devices in DEVICES:
        by_devices[devices] = seconds(model, ROWS, length, devices)
        common.say(f"{devices} devices: {by_devices[devices]:.2f} s a step of {ROWS} x {length} tokens")
    print(json.dumps({"tokens_per_second_by_length": by_length, "seconds_by_devices": by_devices}))


if __name__ == "__main__":
    use_huge_pages()  # as every command does
    main()
