"""Soak: `humpback segment` on a Ray cluster of two hosts on loopback: workers or a host are killed; the bytes are those of one machine."""

import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests import compare, kills

INPUTS, PAGES = 16, 150
HEAD, OTHER = "127.0.0.2", "127.0.0.3"  # Ray takes 127.0.0.1 for the name of this machine's other address
PHASES = {"extraction": 3.0, "near-duplicates": 15.0}  # seconds after their first task in which a kill comes
TASKS = {"extraction": "^ray::_extract", "near-duplicates": "^ray::(MapBatches|.*[Ss]huffle)"}
TIMEOUT = 300
OPTIONS = {"num_cpus": 1, "object_store_memory": 150 << 20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A head with one core and another host with one, each a raylet of its own."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(kills.REPOSITORY))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**OPTIONS, "node_ip_address": HEAD, "include_dashboard": False})
    cluster.add_node(**OPTIONS, node_ip_address=OTHER)
    yield cluster
    cluster.shutdown()


def write_pages(folder: pathlib.Path, chance: random.Random) -> None:
    """Files of pages: the demo's with a share of their words exchanged, so that many are near-duplicates of each other."""
    sources = [path.read_text() for path in sorted((kills.REPOSITORY / "humpback" / "demo" / "pages").glob("*.html"))]
    words = sorted({word for source in sources for word in source.split() if word.isalpha()})
    for number in range(INPUTS):
        lines = []
        for page in range(PAGES):
            share = chance.choice([0, 0.005, 0.02, 0.3])
            pieces = chance.choice(sources).split(" ")
            html = " ".join(chance.choice(words) if piece.isalpha() and chance.random() < share else piece for piece in pieces)
            lines.append(json.dumps({"url": f"https://example.org/{number}/{page}", "html": html}))
        (folder / f"{number:02d}.jsonl").write_text("\n".join(lines) + "\n")


def raylet(node: object) -> int:
    return node.all_processes["raylet"][0].process.pid


def at_work(node: object, phase: str) -> list[tuple[int, str]]:
    """(pid, task) of the workers of a host that are at a task of a phase."""
    found = []
    for pid in kills.children(raylet(node)):
        with contextlib.suppress(OSError):
            found.append((pid, pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()))
    return [(pid, name) for pid, name in found if re.search(TASKS[phase], name)]


def strike(process: subprocess.Popen, cluster: object, phase: str, after: float, host: bool) -> str:
    """Kills a worker at a task of a phase, or the second host, `after` seconds after the phase's first task; says what, "" for nothing."""
    begun, ends = 0.0, time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < ends:
        victims = [victim for node in cluster.list_all_nodes() for victim in at_work(node, phase)]
        begun = begun or (time.monotonic() if victims else 0.0)
        if victims and time.monotonic() >= begun + after:
            pid, name = (raylet(cluster.list_all_nodes()[1]), "the second host") if host else victims[-1]
            os.kill(pid, signal.SIGKILL)
            return name
        time.sleep(0.05)
    return ""


def segment(pages: pathlib.Path, out: pathlib.Path, *flags: str) -> list[str]:
    return kills.humpback("segment", f"--input={pages}", f"--out={out}", *flags)


def test_ray(tmp_path, cluster):
    """HUMPBACK_SOAK_SCHEDULES runs (five), seed HUMPBACK_SOAK_SEED; a kill in each phase: of a worker, every second time of a host."""
    seed, count = int(os.environ.get("HUMPBACK_SOAK_SEED", "0")), int(os.environ.get("HUMPBACK_SOAK_SCHEDULES", "5"))
    pages, chance, log, hits = tmp_path / "pages", random.Random(seed), tmp_path / "log", []
    pages.mkdir()
    write_pages(pages, chance)
    expected = tmp_path / "expected" / "segments"
    kills.finish(segment(pages, expected))
    found = json.loads((expected / "yield.json").read_text())
    assert found["segments_kept"] > 100 and min(found["dropped"]["duplicate"], found["dropped"]["near-duplicate"]) > 100
    for number in range(1, count + 1):
        out = tmp_path / f"run-{number}" / "segments"
        command = segment(pages, out, "--engine=ray", f"--ray_address={cluster.address}")
        host = chance.choice(list(PHASES)) if number % 2 == 0 else ""
        started = time.monotonic()
        with open(log, "w") as output:
            process = subprocess.Popen(command, cwd=kills.REPOSITORY, stderr=output, stdout=output)
        hit = [strike(process, cluster, phase, chance.uniform(0, most), phase == host) for phase, most in PHASES.items()]
        code = process.wait(TIMEOUT)
        assert code == 0, log.read_text()[-5000:]
        different = compare.differences(out, expected)
        killed = " and ".join(name for name in hit if name) or "nobody"
        print(f"{number}/{count} {killed} killed in {time.monotonic() - started:.0f} s: {different or 'same bytes'}", flush=True)
        assert different == []
        hits += hit
        shutil.rmtree(out)
        if "the second host" in hit:
            cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
            cluster.add_node(**OPTIONS, node_ip_address=OTHER)
    assert sum(map(bool, hits)) * 2 >= len(hits), hits
