"""Soak: the whole loop disturbed at random moments, each time in a fresh directory; every one ends with the same bytes."""

import os
import random
import shutil

from tests import compare, kills, tiny
from tests.soak import faults
from tests.stages.test_kill import command


def test_kill(tmp_path):
    """HUMPBACK_SOAK_SCHEDULES faults (thirty) of five kinds, seed HUMPBACK_SOAK_SEED."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "30"))
    inputs, expected, chance = tiny.make_inputs(tmp_path), tmp_path / "undisturbed", random.Random(seed)
    duration, _ = kills.finish(command(inputs, expected))
    hits = []
    for number, moment in enumerate(kills.moments(seed, count, duration)):
        workdir, kind = tmp_path / f"run-{number}", chance.choice(faults.KINDS)
        hit = faults.befall(kind, command(inputs, workdir), moment, chance, tmp_path, str(workdir))
        hits.append(kills.in_progress(workdir) or ("the first of two" if kind == "two at once" else "") if hit else "")
        kills.finish(command(inputs, workdir))
        found = compare.differences(workdir, expected)
        outcome = f"{hits[-1] or 'no work in progress'}, {found or 'same bytes'}"
        print(f"{number + 1}/{count} {kind} after {moment:.1f} s of {duration:.1f}: {outcome}", flush=True)
        assert found == []
        shutil.rmtree(workdir)
    assert sum(map(bool, hits)) * 2 >= len(hits), hits
