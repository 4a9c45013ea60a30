"""Soak: the whole loop killed at random moments, each time in a fresh directory; every one ends with the same bytes."""

import os
import shutil

from tests import compare, kills, tiny
from tests.stages.test_kill import command


def test_kill(tmp_path):
    """HUMPBACK_SOAK_SCHEDULES kills (thirty), seed HUMPBACK_SOAK_SEED."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "30"))
    inputs, expected = tiny.make_inputs(tmp_path), tmp_path / "undisturbed"
    duration, _ = kills.finish(command(inputs, expected))
    hits = []
    for number, moment in enumerate(kills.moments(seed, count, duration)):
        workdir = tmp_path / f"run-{number}"
        killed = kills.kill_at(command(inputs, workdir), moment)
        hits.append(kills.in_progress(workdir) if killed else "")
        kills.finish(command(inputs, workdir))
        found = compare.differences(workdir, expected)
        outcome = f"{hits[-1] or 'no work in progress'}, {found or 'same bytes'}"
        print(f"{number + 1}/{count} killed after {moment:.1f} s of {duration:.1f}: {outcome}")
        assert found == []
        shutil.rmtree(workdir)
    assert sum(map(bool, hits)) * 2 >= len(hits), hits
