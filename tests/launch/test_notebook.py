"""launch/notebook/: its address and badges, what `kaggle kernels push` takes, and what its cells call. It is executed in .ci/run."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "launch" / "notebook"
sys.path.insert(0, str(FOLDER))
import badges  # noqa: E402 (as a cell imports its own module)
import session  # noqa: E402

NOTEBOOK = json.loads(badges.NOTEBOOK.read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_as_the_script_writes_it():
    text = badges.NOTEBOOK.read_text()
    assert badges.written(text, badges.url()) == text
    with_address = badges.written(text, "https://github.com/someone/humpback.git")
    assert with_address.count("https://github.com/someone/humpback/blob/main/launch/notebook/humpback_tpu.ipynb") == 1
    assert "colab.research.google.com/github/someone/humpback/blob/main/" in with_address
    assert r"HUMPBACK_SOURCE = \"https://github.com/someone/humpback.git\"" in with_address
    assert badges.written(with_address, "") == badges.written(text, "") and "![" not in badges.written(text, "")
    with pytest.raises(ValueError, match=r"must be https://github\.com/OWNER/NAME"):
        badges.badges("git@example.org:x")


def test_the_first_cell_has_one_variable_and_nothing_is_left_in_it():
    [variable] = ast.parse(CODE[0]).body
    assert variable.targets[0].id == "HUMPBACK_SOURCE"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    whole = "\n".join(CODE)
    ast.parse(whole)
    assert not re.search(r"token|gcloud|gs://|kill|restart|%|^!", whole, re.MULTILINE), "no restart, no token, no gcloud, no bucket"


def test_what_kaggle_takes():
    metadata = json.loads((FOLDER / "kernel-metadata.json").read_text())
    assert metadata["id"] == "OWNER/humpback-tpu" and metadata["enable_tpu"] and (FOLDER / metadata["code_file"]).exists()
    assert metadata["title"].lower().replace(" ", "-") == metadata["id"].partition("/")[2], "Kaggle makes the id of the title"


class Here(session.Humpback):
    """Whose commands are this Python's `-c`."""

    def __init__(self):
        self.root, self.python, self._environment = ROOT, sys.executable, dict(os.environ)

    def __call__(self, script, hours=0.0):
        allowed = (0, session.STOPPED) if hours else (0,)
        return self._shown([self.python, "-c", script], self._environment, hours * 3600, allowed)[0] == 0


def test_a_command_that_fails_ends_the_cell(capsys):
    assert Here()("print('said', flush=True)") and capsys.readouterr().out == "said\n"
    with pytest.raises(subprocess.CalledProcessError):
        Here()("raise SystemExit(3)")
    with pytest.raises(subprocess.CalledProcessError):
        Here()(f"raise SystemExit({session.STOPPED})")  # nobody told it to stop


def test_after_its_hours_a_run_is_told_to_save():
    waiting = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('waits', flush=True); time.sleep(60)"
    started = time.monotonic()
    assert not Here()(waiting, hours=2 / 3600) and time.monotonic() - started < 30
    assert Here()("pass", hours=1)


def test_what_an_image_sets_for_its_own_packages_is_not_handed_on(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/kaggle/lib")
    monkeypatch.setenv("TPU_LIBRARY_PATH", "/lib/libtpu.so")
    here = session.Humpback(ROOT)  # this environment has Humpback
    assert here.python == sys.executable and not {"PYTHONPATH", "TPU_LIBRARY_PATH"} & here._environment.keys()


def test_a_run_to_go_on_from(tmp_path):
    assert session.unpacked("", tmp_path / "x") == "" and session.unpacked("/kaggle/input/run", tmp_path / "x") == "/kaggle/input/run"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("seed/manifest.json", "{}")
    for _ in range(2):
        assert session.unpacked(str(tmp_path / "a.zip"), tmp_path / "x") == str(tmp_path / "x")
    assert (tmp_path / "x" / "seed" / "manifest.json").read_text() == "{}"


def test_a_page_in_a_frame(tmp_path):
    (tmp_path / "report.html").write_text('<p class="x">é</p>', encoding="utf-8")
    assert "&lt;p class=&quot;x&quot;&gt;é&lt;/p&gt;" in session.framed(tmp_path / "report.html")


@pytest.mark.parametrize(("tpu", "fit", "expected"), [(False, True, "demo"), (True, True, "demo,tpu"), (True, False, "demo,tpu")])
def test_the_environment_beside_the_images(tmp_path, tpu, fit, expected):
    """A Python of the image does where it is new enough and makes environments; otherwise uv brings one. What pip writes in colours is no
    part of the path."""
    log, root = tmp_path / "log", tmp_path / "a folder"
    (root / "launch" / "notebook").mkdir(parents=True)
    (root / "launch" / "notebook" / "environment.sh").write_text((FOLDER / "environment.sh").read_text())
    (root / "launch" / "common.sh").write_text(
        f'say() {{ printf "%s\\n" "$*"; }}\n'
        f'environment() {{ echo "$PYTHON $*" >>"{log}"; PY=$HUMPBACK_VENV/bin/python; printf "\\033[0m"; }}\n'
    )
    for name, code in (("image", f"exit {0 if fit else 1}"), ("managed", "exit 0")):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho "{name} $*" >>"{log}"\ncase "$*" in -c*) {code} ;; *find*) echo {tmp_path}/managed ;; esac\n'
        )
        (tmp_path / name).chmod(0o755)
    given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": str(tmp_path / "image")} | (
        {"TPU_ACCELERATOR_TYPE": "v5e"} if tpu else {}
    )
    command = ["bash", str(root / "launch" / "notebook" / "environment.sh"), "demo"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/humpback-venv/bin/python"
    lines = log.read_text().splitlines()
    assert lines[-1] == f"{tmp_path / ('image' if fit else 'managed')} .venv {expected}"
    assert ("(3, 12)" if tpu else "(3, 11)") in lines[0] and any("uv python install" in line for line in lines) is not fit
