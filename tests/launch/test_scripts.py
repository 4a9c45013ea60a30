"""The launch scripts: syntax, the gcloud lines, what happens on a worker, and that nothing names one particular machine."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci" / "run"]
TPU_VM = str(ROOT / "launch" / "tpu_vm.sh")
WHERE = ["--name=pod", "--zone=europe-west4-b"]


def run(*command, env=None, cwd=None):
    environment = {**os.environ, **(env or {})}
    return subprocess.run(command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    result = run("bash", "-n", str(script))
    assert result.returncode == 0, result.stderr
    assert os.access(script, os.X_OK) == (script.name != "common.sh")  # that one is only sourced


def dry_run(*arguments):
    result = run(TPU_VM, "--dry_run", *arguments)
    assert result.returncode == 0, result.stderr
    calls: list[list[str]] = []
    for word in shlex.split(result.stdout):  # what is printed can be pasted into a shell
        if word == "+":
            calls.append([])
        else:
            calls[-1].append(word)
    return calls


@pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v6e-64", "v2-alpha-tpuv6e"),
    ],
)
def test_create_takes_the_runtime_of_the_type(kind, runtime):
    where = ["pod", "--zone=europe-west4-b"]
    expected = ["gcloud", "compute", "tpus", "tpu-vm", "create", *where, f"--accelerator-type={kind}", f"--version={runtime}"]
    assert dry_run("create", *WHERE, f"--type={kind}") == [expected]
    assert dry_run("create", *WHERE, f"--type={kind}", "--spot") == [[*expected, "--spot"]]


def test_every_worker_is_reached():
    prefix = ["gcloud", "compute", "tpus", "tpu-vm"]
    ssh = [*prefix, "ssh", "pod", "--zone=europe-west4-b"]
    copy, install = dry_run("setup", *WHERE)
    assert copy[:5] == [*prefix, "scp"] and copy[5].endswith("/humpback.tar.gz")
    assert copy[6:] == ["pod:humpback.tar.gz", "--zone=europe-west4-b", "--worker=all"]
    assert install[:-1] == [*ssh, "--worker=all"] and "environment .venv tpu,demo" in install[-1]
    (start,) = dry_run("run", *WHERE, "--", "run", "--config=configs/llama_7b.py", "--workdir=gs://bucket/run")
    assert start[:-1] == [*ssh, "--worker=all"] and start[-1].startswith("--command=")
    assert "nohup setsid .venv/bin/python -m humpback run --config=configs/llama_7b.py --workdir=gs://bucket/run </dev/null" in start[-1]
    assert dry_run("logs", *WHERE)[0][:-1] == [*ssh, "--worker=all"]
    assert dry_run("logs", *WHERE, "--worker=3")[0][:-1] == [*ssh, "--worker=3"]
    assert dry_run("stop", *WHERE)[0][:-1] == [*ssh, "--worker=all"]
    assert dry_run("delete", *WHERE, "--project=mine") == [[*prefix, "delete", "pod", "--zone=europe-west4-b", "--project=mine"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--name=pod"], "--zone"),
        (["create", *WHERE], "--type"),
        (["create", *WHERE, "--type=v99-8"], "--version"),
        (["run", *WHERE], "run needs --"),
        (["restart", *WHERE], "unknown command restart"),
        (["logs", *WHERE, "--wroker=0"], "unknown flag --wroker=0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    result = run(TPU_VM, "--dry_run", *arguments)
    assert result.returncode == 1 and message in result.stderr and "+ gcloud" not in result.stdout


@pytest.fixture
def worker(tmp_path):
    """A machine that stands for one worker: a gcloud that runs the remote command here, and a humpback that waits."""
    home = tmp_path / "home"
    python = home / "humpback" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"\necho\nexec sleep 60\n')
    gcloud = tmp_path / "bin" / "gcloud"
    gcloud.parent.mkdir()
    gcloud.write_text(f'#!/bin/bash\nfor a; do case $a in --command=*) cd {home} && exec bash -c "${{a#--command=}}" ;; esac; done\n')
    for file in (python, gcloud):
        file.chmod(0o755)
    pid_file = home / "humpback" / "humpback.pid"
    yield {"PATH": f"{gcloud.parent}:{os.environ['PATH']}"}, pid_file
    if pid_file.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.mark.skipif(not shutil.which("setsid"), reason="workers are Linux machines: setsid is not here")
def test_run_is_detached_refuses_a_second_start_and_stops(worker):
    env, pid_file = worker
    text = "a b'c$HOME"  # arguments arrive as they were typed
    assert run(TPU_VM, "run", *WHERE, "--", "chat", text, env=env).returncode == 0
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while os.getsid(pid) != pid and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.getsid(pid) == pid  # of its own session: a hang-up of the connection does not reach it
    expected = f"-m|humpback|chat|{text}|"
    while expected not in (logs := run(TPU_VM, "logs", *WHERE, env=env).stdout.splitlines()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert expected in logs and "== running" in logs
    second = run(TPU_VM, "run", *WHERE, "--", "chat", env=env)
    assert second.returncode == 1 and "already running" in second.stderr
    assert int(pid_file.read_text()) == pid
    assert run(TPU_VM, "stop", *WHERE, env=env).returncode == 0
    while "== not running" not in (logs := run(TPU_VM, "logs", *WHERE, env=env).stdout.splitlines()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "== not running" in logs
    assert run(TPU_VM, "run", *WHERE, "--", "chat", env=env).returncode == 0


@pytest.mark.parametrize("script", ["quickstart.sh", "soak.sh", "real_pages.sh"])
def test_unknown_flags_are_refused_before_anything_is_installed(script):
    if script == "soak.sh" and not list((ROOT / "tests" / "soak").glob("test_*.py")):
        pytest.skip("tests/soak is not part of this copy")
    result = run(str(ROOT / "launch" / script), "--wrong")
    assert result.returncode == 1 and "--wrong" in result.stderr and not result.stdout


def text_files():
    """Every file of the repository that git would keep (or, without git, that .gitignore does not name)."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT) if shutil.which("git") else None
    if listed and listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        paths = [p for p in ROOT.rglob("*") if not re.search(r"/(\.git|\.venv[^/]*|runs|build|dist|\.?__?\w*cache\w*|.*egg-info)/", str(p))]
    for path in sorted(paths):
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield path.relative_to(ROOT).as_posix(), data.decode("utf-8", errors="replace")


def test_no_file_names_one_machine():
    # Written in pieces so that this file does not match itself.
    patterns = [
        r"(?<![\w.~])/(?:wo" r"rk|ro" r"ot|ho" r"me/\w+|Us" r"ers/\w+)/",
        r"(?:extra-)?index" r"-url|find" r"-links|pythonho" r"sted|pypi\.o" r"rg",
        r"\b(?:10\.\d+|192\.16" r"8|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b",
    ]
    found = []
    for name, text in text_files():
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{name}:{number}: {line.strip()[:120]}" for pattern in patterns if re.search(pattern, line)]
    assert not found, "\n".join(found)


def test_only_ci_knows_where_test_data_lies():
    assert [script.name for script in SCRIPTS if "shar" + "ed/" in script.read_text()] == ["run"]
