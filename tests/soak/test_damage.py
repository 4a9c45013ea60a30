"""Soak: training checkpoints under every small damage, and killed at random moments of saves that overlap with work."""

import os
import random
import sys

import numpy as np

from humpback.training.checkpoint import TrainingCheckpoints
from tests import kills


def test_any_flipped_bit_and_any_lost_end(tmp_path, caplog):
    """One bit of each byte of each file, and each file cut off behind each byte: the step before is used."""
    generator = random.Random(int(os.environ.get("HUMPBACK_SOAK_SEED", "0")))
    checkpoints = TrainingCheckpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {"w": np.full(8, step), "n": np.full(3, step / 2)}, {"at": step})
    checkpoints.wait()
    damages = 0
    for path in sorted(path for path in (tmp_path / "00000002").rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :]
            for changed in (flipped, whole[:place]):
                if path.name == "checksums.json" and changed == whole[:-1]:  # without its last line break it says the same
                    continue
                path.write_bytes(changed)
                caplog.clear()
                assert checkpoints.latest() == (1, {"at": 1}), (path, place)
                assert path.name in caplog.text
                damages += 1
        path.write_bytes(whole)
    assert checkpoints.latest() == (2, {"at": 2})
    print(f"{damages} damages, all seen")


# Saves as fast as it can; says in a file which step is known to be whole. What is in a step follows from its number.
TRAINING = """
import pathlib, sys
import jax, jax.numpy as jnp
from humpback.training.checkpoint import TrainingCheckpoints
folder = pathlib.Path(sys.argv[1])
checkpoints = TrainingCheckpoints(folder / "steps", keep_every=50)
latest = checkpoints.latest()
step = latest[0] if latest else 0
state = checkpoints.restore(step, {"w": jax.ShapeDtypeStruct((1 << 20,), jnp.float32)}) if latest else {"w": jnp.zeros(1 << 20)}
update = jax.jit(lambda state: {"w": state["w"] + 1}, donate_argnums=0)
while True:
    state = update(state)
    step += 1
    checkpoints.save(step, state, {}, best=step % 7 == 0)  # returns when the save before is whole
    (folder / "whole.tmp").write_text(str(step - 1))
    (folder / "whole.tmp").rename(folder / "whole")
"""


def test_kill(tmp_path):
    """HUMPBACK_SOAK_SCHEDULES kills (thirty) of one training, seed HUMPBACK_SOAK_SEED; each time it goes on from a whole step.

    At least four, as one alone may come while Python starts, or between two saves.
    """
    seed = int(os.environ.get("HUMPBACK_SOAK_SEED", "0"))
    count = max(4, int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "30")))
    unfinished, last = 0, 0
    for number, moment in enumerate(kills.moments(seed, count, 3.0)):
        assert kills.kill_at([sys.executable, "-c", TRAINING, str(tmp_path)], 1.5 + moment)
        known = int((tmp_path / "whole").read_text()) if (tmp_path / "whole").exists() else 0
        on_disk = sorted((tmp_path / "steps").glob("*"))
        torn = [path.name for path in on_disk if not (path / "checksums.json").exists()]  # half written, or half deleted
        checkpoints = TrainingCheckpoints(tmp_path / "steps")
        latest = checkpoints.latest()
        step = latest[0] if latest else 0
        print(f"{number + 1}/{count} killed after {1.5 + moment:.1f} s: torn {torn}, known to be whole {known}, used {step}")
        assert step >= max(known, last)
        unfinished += bool(torn)
        last = step
        if latest:
            assert np.all(checkpoints.restore(step, {"w": np.zeros(1 << 20, np.float32)})["w"] == step)
        best = checkpoints.best()
        assert best is None or (best[0] % 7 == 0 and best[0] > step - 14)
    assert unfinished * 2 >= count and last
