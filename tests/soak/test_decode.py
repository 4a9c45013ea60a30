"""Soak: 200 records through two replicas, one or both killed at random moments; any number of replicas ends with the same bytes."""

import os
import random
import shutil

from tests import compare, kills
from tests.decoding.test_offline_pod import kill_job, what_was_hit


def test_decode(tmp_path):
    """HUMPBACK_SOAK_SCHEDULES kills (twenty), seed HUMPBACK_SOAK_SEED, each in a fresh directory."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "20"))
    job, chance, hits = kill_job(tmp_path), random.Random(seed), []
    duration, _ = kills.finish(job.command(tmp_path / "expected", 2))
    for number, moment in enumerate(kills.moments(seed, count, duration), 1):
        out, victim, replicas = tmp_path / f"run-{number}", chance.choice([None, 0, 1]), chance.randint(1, 3)
        killed = kills.kill_at(job.command(out, 2), moment, victim)
        hits.append(what_was_hit(out, killed))
        kills.finish(job.command(out, replicas))
        found = compare.differences(out, tmp_path / "expected")
        who = "both replicas" if victim is None else f"replica {victim}"
        outcome = f"{hits[-1] or 'no work in progress'}; restart with {replicas}: {found or 'same bytes'}"
        print(f"{number}/{count} {who} killed after {moment:.1f} s of {duration:.1f}: {outcome}", flush=True)
        assert found == []
        shutil.rmtree(out)
    assert sum(map(bool, hits)) * 2 >= len(hits), hits
