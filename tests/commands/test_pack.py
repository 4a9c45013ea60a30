"""`humpback pack`: a run as one file."""

import os
import zipfile

import pytest
from etils import epath

from humpback.commands import pack

FILES = {
    "config.json": b"{}\n",
    "seed/seed-00000-of-00001.jsonl": b'{"a": 1}\n' * 10_000,
    "seed/manifest.json": b"{}\n",
    "backward/weights/d/x": os.urandom(3 << 20),
    "backward/steps/00000001/meta.json": b"{}\n",
    "base/model.json": b"{}\n",
    "report.html": b"<p>",
}
LEFT = ("compilation_cache/cpu/x", "digests.json", "lock", "seed/.humpback-tmp-1")


@pytest.fixture
def run(tmp_path):
    for name, data in {**FILES, **dict.fromkeys(LEFT, b"")}.items():
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(data)
    return tmp_path / "run"


def test_all_but_caches(run, humpback, tmp_path):
    line = ("pack", f"--workdir={run}", f"--out={tmp_path / 'a.zip'}")
    done = humpback(*line)
    assert done.returncode == 0 and f"{len(FILES)} files" in done.stdout, done.stderr
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.testzip() is None and {name: archive.read(name) for name in archive.namelist()} == FILES
    first = (tmp_path / "a.zip").read_bytes()
    assert len(first) < sum(map(len, FILES.values())), "texts are deflated"
    assert humpback(*line, "--without=base,backward").returncode == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert set(archive.namelist()) == {name for name in FILES if not name.startswith(("base/", "backward/"))}
    for path in run.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert b"".join(pack.zipped(epath.Path(run), sorted(FILES))) == first, "times are not in it"


@pytest.mark.parametrize(("flag", "message"), [("--out={0}/x.tar", "must end in .zip"), ("--workdir={0}", "no run's directory")])
def test_what_cannot_be_packed_is_refused(run, humpback, tmp_path, flag, message):
    done = humpback("pack", f"--workdir={run}", f"--out={tmp_path / 'a.zip'}", flag.format(tmp_path))
    assert done.returncode == 2 and message in done.stderr and not (tmp_path / "x.tar").exists()
