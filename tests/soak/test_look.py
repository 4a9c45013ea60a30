"""Soak: `humpback report` and `humpback export`, killed at random moments: what has its final name is whole; the same command ends it."""

import os
import pathlib

import pytest

from tests import kills
from tests.export import a_run

SEED, COUNT = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "10"))
KILLS = 2  # a schedule


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """What has its final name."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if ".humpback-tmp-" not in name}


@pytest.mark.parametrize("command", ["report", "export"])
def test_killed_and_typed_again(tmp_path, command):
    run = a_run.full(tmp_path / "run") if command == "report" else a_run.make(tmp_path / "run", 24).parent
    before = files(run)

    def line(out: pathlib.Path) -> list[str]:
        flags = [f"--workdir={run}"] if command == "report" else [f"--source={run}", f"--out={out}"]
        return kills.humpback(command, *flags)

    seconds, _ = kills.finish(line(tmp_path / "whole"))
    made = tmp_path / "whole" if command == "export" else run
    whole, hit = files(made), 0
    for schedule in range(COUNT):
        out = tmp_path / str(schedule) if command == "export" else run
        (run / "report.html").unlink(missing_ok=True)
        for moment in kills.moments(SEED * 1_000 + schedule, KILLS, seconds):
            hit += kills.kill_at(line(out), moment)
            assert files(out).items() <= whole.items()
        kills.finish(line(out))
        assert files(out) == whole
    print(f"{command}: {hit} of {KILLS * COUNT} kills came before the end")
    assert command == "export" or whole.keys() - before.keys() == {"report.html"}
