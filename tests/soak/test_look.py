"""Soak: what looks at a run, exports it or takes labels, killed with -9: what has its final name is whole; the same command ends it."""

import http.client
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import threading
import urllib.parse

import pytest
from etils import epath

from humpback.review import labels, sample
from tests import kills
from tests.export import a_run

SEED, COUNT = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "10"))
KILLS = 2  # a schedule
# What is typed in a place that holds `run`, with `given` beside it, which is only read.
LINES = {
    "report": ["report", "--workdir=PLACE/run"],
    "export": ["export", "--source=PLACE/run", "--out=PLACE/out"],
    "fill": ["export", "--fill", "--source=GIVEN/reference", f"--input={a_run.PAGES}", "--out=PLACE/out"],
    "static": ["review", "--workdir=PLACE/run", "--iteration=1", "--reviewer=bob", "--static=PLACE/bob.html"],
    "import": ["review", "--workdir=PLACE/run", "--iteration=2", "--import=GIVEN/back.json"],
}


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """What has its final name."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if ".humpback-tmp-" not in name}


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> pathlib.Path:
    """A run, a dataset by reference, and labels that come back."""
    given = tmp_path_factory.mktemp("given")
    run = a_run.full(given / "run")
    cut = a_run.make(given / "cut", 24)  # of pages alone, without what a page never said
    kills.finish(kills.humpback("export", f"--source={cut}", "--by_reference", f"--out={given / 'reference'}"))
    drawn = sample.read(epath.Path(run), "2")
    told = {shown.name: "no" for shown in sample.order(drawn, "carol")}
    (given / "back.json").write_text(json.dumps({"review": drawn.digest, "reviewer": "carol", "labels": told}))
    return given


@pytest.mark.parametrize("command", LINES)
def test_killed_and_typed_again(tmp_path, given, command):
    def begin(place: pathlib.Path) -> list[str]:
        shutil.copytree(given / "run", place / "run")
        return kills.humpback(*(word.replace("PLACE", str(place)).replace("GIVEN", str(given)) for word in LINES[command]))

    seconds, _ = kills.finish(begin(tmp_path / "whole"))
    whole, hit = files(tmp_path / "whole"), 0
    assert len(whole) > len(files(given / "run")), "it writes something"
    for schedule in range(COUNT):
        place = tmp_path / str(schedule)
        line = begin(place)
        for moment in kills.moments(SEED * 1_000 + schedule, KILLS, seconds / 2):
            hit += kills.kill_at(line, seconds / 2 + moment)  # before that it is still being imported
            assert files(place).items() <= whole.items()
        kills.finish(line)
        assert files(place) == whole
    print(f"{command}: {hit} of {KILLS * COUNT} kills came before the end")


def label_all(address: str, given: list[str]) -> None:
    """Labels one item after the other and adds each that the server has taken, until nobody answers."""
    url = urllib.parse.urlsplit(address)
    try:
        while True:
            connection = http.client.HTTPConnection(url.netloc, timeout=30)
            connection.request("GET", url.path)
            name = re.search(r'name="item" value="([^"]*)"', connection.getresponse().read().decode())
            if name is None:
                return
            body = urllib.parse.urlencode({"item": name[1], "label": "yes"})
            connection = http.client.HTTPConnection(url.netloc, timeout=30)
            connection.request("POST", url.path, body, {"Origin": f"http://{url.netloc}"})
            if connection.getresponse().status == 303:
                given.append(name[1])
    except (OSError, http.client.HTTPException):
        return


def test_a_server_that_is_killed_while_somebody_labels(tmp_path, given):
    """Each label that it has taken is there, and at most one more, which was on its way; the next start shows the others."""
    run, generator = epath.Path(shutil.copytree(given / "run", tmp_path / "run")), random.Random(SEED)
    drawn, all_given = sample.read(run, "2"), []
    for schedule in range(COUNT):
        command = kills.humpback("review", f"--workdir={run}", f"--reviewer=r{schedule}", "--iteration=2")
        taken: list[str] = []
        for _ in range(KILLS):
            before = len(taken)
            with subprocess.Popen(command, cwd=kills.REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
                told = process.stdout.readline()
                assert told.startswith(f"{len(taken)} of {len(drawn.items) + 2} labelled; open "), told
                timer = threading.Timer(generator.uniform(0, 0.3), process.kill)
                timer.start()
                label_all(told.split()[-1], taken)
                timer.join()
            there = labels.Labels(run, "2", f"r{schedule}", drawn).read()
            assert there == dict.fromkeys(there, "yes") and set(taken) <= set(there) and len(there) <= len(taken) + 1
            all_given.append(len(there) - before)
            taken = list(there)
    print(f"labels before each kill: {all_given}")
