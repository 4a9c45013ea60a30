"""`humpback doctor`: a CPU is never taken for a TPU, and each thing that is wrong has a line that mends it."""

import os
import socket
import subprocess

import pytest

from humpback import chips
from humpback.commands import doctor
from tests import kills

TPU = {"backend": "tpu", "kind": "TPU v5 lite", "count": 8, "memory": 15 * 2**30}
CPU = {"backend": "cpu", "kind": "cpu", "count": 1, "memory": 0}


def begun(*arguments: str, **variables: str) -> subprocess.Popen:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_"))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(kills.humpback("doctor", *arguments), cwd=kills.REPOSITORY, env={**kept, **variables}, **pipes)


def test_a_cpu_is_a_cpu_and_a_tpu_that_fell_back_is_none(tmp_path):
    """Three real processes at once: a plain machine; one that a cloud calls a TPU, with a metadata server that says nothing; one where a
    TPU is demanded and none is, and the folder cannot be written to."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fallen = begun(f"--workdir={tmp_path}", TPU_ACCELERATOR_TYPE="v5litepod-8", GCE_METADATA_IP=f"127.0.0.1:{silent.getsockname()[1]}")
        plain, demanded = begun(f"--workdir={tmp_path / 'new'}"), begun("--workdir=/proc", JAX_PLATFORMS="tpu")
        said = {process: process.communicate(timeout=120) for process in (plain, fallen, demanded)}
    out, err = said[plain]
    assert plain.returncode == 0 and "WRONG" not in out, out + err
    assert out.splitlines()[-1] == "all is well; what runs here, runs on cpu: 1 × cpu" and " MB/s" in out
    out, err = said[fallen]
    assert fallen.returncode == doctor.WRONG and "all is well" not in out, out + err
    assert "WRONG: this machine has a TPU (TPU_ACCELERATOR_TYPE=v5litepod-8), and JAX runs on cpu: " in out
    assert "one of several cannot be found out" in out and "mend it: export TPU_SKIP_MDS_QUERY=1" in out
    out, err = said[demanded]
    assert demanded.returncode == doctor.WRONG, out + err
    assert "WRONG: JAX finds no device: " in out and "mend it: unset JAX_PLATFORMS" in out
    assert "WRONG: nothing can be written to /proc" in out
    assert not list(tmp_path.iterdir()), "the file that was measured is gone"


def facts(**other) -> doctor.Facts:
    sound = {"python": (3, 13, 0), "signs": ["/dev/vfio/0"], "libtpu": "0.0.52.1", "wanted": "0.0.52.", "environment": {}, "silent": ""}
    return doctor.Facts(**{**sound, "answer": TPU, **other})


def test_a_sound_tpu_and_a_machine_without_one():
    assert doctor.problems(facts()) == []
    assert doctor.problems(facts(signs=[], libtpu="", answer=CPU, python=(3, 11, 7))) == []


@pytest.mark.parametrize(
    ("other", "what", "line"),
    [
        ({"libtpu": "", "answer": CPU}, "libtpu is missing", "-e '.[demo,tpu]'"),
        ({"libtpu": "0.0.17", "answer": CPU}, "libtpu 0.0.17 is not the one that this JAX asks for, 0.0.52.*", "-e '.[demo,tpu]'"),
        ({"python": (3, 11, 7), "answer": CPU}, "Python 3.11.7: the newest libtpu for it copies", "uv venv --python 3.13"),
        ({"python": (3, 11, 7)}, "Python 3.11.7: the newest libtpu for it copies", "uv venv --python 3.13"),  # and JAX runs on the TPU
        ({"environment": {"JAX_PLATFORMS": "cpu"}, "answer": CPU}, "JAX_PLATFORMS=cpu forbids JAX to look", "unset JAX_PLATFORMS"),
        ({"environment": {"TPU_LIBRARY_PATH": "/x.so"}, "answer": CPU}, "TPU_LIBRARY_PATH=/x.so is taken", "unset TPU_LIBRARY_PATH"),
        ({"silent": "it gave no answer"}, "one of several cannot be found out: it gave no answer", "export TPU_SKIP_MDS_QUERY=1"),
        ({"answer": {**TPU, "kind": chips.REFUSED["v3"]}}, "TPU v3: its chips are not known", "v5e"),
    ],
)
def test_what_is_wrong_has_its_line(other, what, line):
    found = doctor.problems(facts(**other))
    assert len(found) == 1 and what in found[0].what and line in found[0].line
    assert ("JAX runs on cpu" in found[0].what) is (other.get("answer") == CPU)


def test_a_tpu_that_does_not_begin_is_told_in_jaxs_words():
    [found] = doctor.problems(facts(answer=CPU))
    assert "JAX runs on cpu" in found.what and "libtpu.so" in found.what and "lsof" in found.line


def test_signs_of_a_tpu(tmp_path):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # of any machine that hands devices on
    (tmp_path / "accelerometer").touch()
    assert doctor.signs({"HOME": "/root"}, tmp_path) == []
    for name in ("vfio/0", "vfio/1", "accel0"):
        (tmp_path / name).touch()
    assert doctor.signs({"COLAB_TPU_ADDR": "x"}, tmp_path) == [str(tmp_path / "accel0"), str(tmp_path / "vfio" / "0"), "COLAB_TPU_ADDR=x"]


def test_a_runtime_that_hangs_or_ends_is_an_answer():
    assert "named no device within 0 s" in doctor.ask_jax(0.1)["error"]
    assert "nonsense" in doctor.ask_jax(JAX_PLATFORMS="nonsense")["error"]
