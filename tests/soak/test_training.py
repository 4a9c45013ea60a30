"""Soak: a training killed with -9, or ended by SIGTERM, at random moments; every one ends with the same bits."""

import os
import pathlib
import random
import shutil

from humpback.training.stopping import PREEMPTED
from tests import kills
from tests.training.test_pod import command, long, result, was_hit


def test_training(tmp_path):
    """HUMPBACK_SOAK_SCHEDULES trainings (ten), seed HUMPBACK_SOAK_SEED, each in a fresh directory, a third of them by SIGTERM."""
    end_at_random(tmp_path, long(60), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "10")))


def test_adapters(tmp_path):
    """A third as many of adapters; none where one schedule is asked for."""
    if count := int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "10")) // 3:
        end_at_random(tmp_path, (*long(24), "--lora"), count)


def end_at_random(tmp_path: pathlib.Path, flags: tuple[str, ...], count: int) -> None:
    seed = int(os.environ.get("HUMPBACK_SOAK_SEED", "0"))
    duration, _ = kills.finish(command(tmp_path / "whole", *flags))
    wanted, chance, hits = result(tmp_path / "whole")["weights"], random.Random(seed), []
    for number, moment in enumerate(kills.moments(seed, count, duration), 1):
        folder, gently = tmp_path / f"run-{number}", chance.random() < 1 / 3
        if gently:
            assert kills.terminate_at(command(folder, *flags), moment) in (PREEMPTED, -15, 0)
        else:
            kills.kill_at(command(folder, *flags), moment)
        hits.append(was_hit(folder))
        kills.finish(command(folder, *flags))
        same = result(folder)["weights"] == wanted
        how = "SIGTERM" if gently else "kill -9"
        outcome = f"{hits[-1] or 'no work in progress'}; {'same bits' if same else 'OTHER WEIGHTS'}"
        print(f"{number}/{count} {how} after {moment:.1f} s of {duration:.1f}: {outcome}", flush=True)
        assert same
        shutil.rmtree(folder)
    assert sum(map(bool, hits)) * 2 >= len(hits), hits
