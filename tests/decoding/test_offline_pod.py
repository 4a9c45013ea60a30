"""`humpback generate` as several processes: replicas with unequal work, one replica of two processes, and kills with -9."""

import itertools
import json
import pathlib
import random
import shutil
from dataclasses import dataclass

import pytest

from humpback.decoding.parts import PartName
from tests import compare, kills, tiny

WORDS = ["salt", "rain", "wood", "iron", "bread", "sand", "light", "glass", "river", "stone"]
# Hot enough that the tiny model, which ends at once otherwise, writes some tokens; short enough for few programs to compile.
FLAGS = ["--max_new_tokens=40", "--length=64", "--temperature=6", "--top_p=1", "--slots=4", "--publish_seconds=0.3", "--stop=e "]


@dataclass(frozen=True)
class Job:
    """A model and prompts to generate from."""

    folder: pathlib.Path
    flags: tuple[str, ...] = ()

    def arguments(self, out: pathlib.Path) -> list[str]:
        where = [f"--model={self.folder / 'base'}", f"--input={self.folder / 'in.jsonl'}", f"--out={out / 'out'}"]
        return ["generate", *where, *FLAGS, *self.flags]

    def command(self, out: pathlib.Path, processes: int = 1, devices: int = 1, *more: str) -> list[str]:
        return kills.pod(processes, devices, *self.arguments(out), *more)


def make_job(folder: pathlib.Path, ids: list[str], *flags: str) -> Job:
    """Writes base/ and in.jsonl: a prompt of 1 to 8 words for each id; the longest do not fit."""
    tiny.make_base(folder / "base")
    generator = random.Random(1)
    prompts = [" ".join(generator.choices(WORDS, k=generator.randint(1, 8))) for _ in ids]
    rows = [json.dumps({"id": record_id, "prompt": prompt}) for record_id, prompt in zip(ids, prompts, strict=True)]
    (folder / "in.jsonl").write_text("".join(row + "\n" for row in rows))
    return Job(folder, flags)


def kill_job(folder: pathlib.Path) -> Job:
    """200 records, most of whose time goes into decoding."""
    return make_job(folder, [f"record {number}" for number in range(200)], "--samples=30")


def what_was_hit(out: pathlib.Path, killed: bool) -> str:
    """How far the work was that a kill interrupted; "" when it had not begun or was complete."""
    if not killed or not kills.in_progress(out):
        return ""
    names = [name for path in out.glob("out/parts/*") if (name := PartName.parse(path.name))]  # others are of a write cut off
    return f"{sum(name.records for name in names)} of 200 records published in {len(names)} parts"


def generated(out: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (out / "out" / "generated-00000-of-00001.jsonl").read_text().splitlines()]


def test_two_replicas_with_unequal_work_write_what_one_writes(tmp_path):
    """Replica 0 gets 3 records, replica 1 gets 14; a single process with the devices of one replica has the same local shapes."""
    job = make_job(tmp_path, [f"{number:016x}" for number in [2, 4, 6, *range(1, 28, 2)]], "--samples=2", "--length=112")
    _, output = kills.finish(job.command(tmp_path / "two", 2, 4))
    kills.finish(job.command(tmp_path / "one", 1, 4))
    assert compare.differences(tmp_path / "two", tmp_path / "one") == []
    rows = generated(tmp_path / "two")  # all fit into the longer rows of this test
    assert len(rows) == 17 and sum(sum(row["output_tokens"]) for row in rows) > 200
    assert "17/17" in output.replace("\r", "\n")  # the bar counts both replicas
    [metrics] = [json.loads(path.read_text().splitlines()[-1]) for path in sorted((tmp_path / "two" / "out" / "metrics").iterdir())[-1:]]
    assert metrics["records"] == metrics["total"] == 17 and 0 < metrics["slot_occupancy"] <= 1


def test_one_replica_of_two_processes_writes_what_one_process_writes(tmp_path):
    job = make_job(tmp_path, [f"record {number}" for number in range(12)])
    kills.finish(job.command(tmp_path / "two", 2, 4, "--processes_per_replica=2"))
    kills.finish(job.command(tmp_path / "one", 1, 8))
    same = ["out/manifest.json"]  # it records the number of processes
    assert compare.differences(tmp_path / "two", tmp_path / "one") == same
    assert generated(tmp_path / "two") == generated(tmp_path / "one") and len(generated(tmp_path / "one")) > 6


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_records_than_slots(tmp_path, count):
    """Two replicas of one device: at least one of them has nothing to do, or both."""
    job = make_job(tmp_path, [f"{2 * number:016x}" for number in range(count)], "--length=112")
    kills.finish(job.command(tmp_path, 2, 1))
    assert [row["id"] for row in generated(tmp_path)] == [f"{2 * number:016x}" for number in range(count)]
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert [counts[name] for name in ("in", "out", "answers", "rejects")] == [count, count, count, 0]


def test_kills(tmp_path):
    """Two replicas, both killed; three, one of them killed; again until one hits work in progress; one does the rest: nothing tells it
    from the undisturbed run."""
    job = kill_job(tmp_path)
    kills.finish(job.command(tmp_path / "expected", 2))
    duration, _ = kills.finish(job.command(tmp_path / "again", 2))  # with its programs compiled, as those that are killed have them
    hits: list[str] = []
    for moment, (processes, victim) in zip(kills.moments(seed=5, count=8, duration=duration), itertools.cycle([(2, None), (3, 1)])):
        if len(hits) >= 2 and any(hits):
            break
        if not kills.in_progress(tmp_path / "killed"):
            shutil.rmtree(tmp_path / "killed", ignore_errors=True)  # each kill is uniform over a whole run unless one was half done
        killed = kills.kill_at(job.command(tmp_path / "killed", processes), moment, victim)
        hits.append(what_was_hit(tmp_path / "killed", killed))
        print(f"kill of {processes} replicas after {moment:.1f} s of {duration:.1f} hit: {hits[-1] or 'no work in progress'}")
    kills.finish(job.command(tmp_path / "killed", 1))
    assert compare.differences(tmp_path / "killed", tmp_path / "expected") == []
    assert any(hits)
