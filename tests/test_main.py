"""`humpback`: the flags that every command has, how it ends when it is stopped, and huge pages."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import humpback as humpback_package
from humpback import __main__ as start
from humpback import cli, config, records, storage
from humpback.cli import place_variables
from humpback.errors import UserError
from launch import local_pod

ROOT = pathlib.Path(__file__).parents[1]
WORKER = [sys.executable, "-m", "tests.distributed_worker", "work", "--task=stop"]
STOPPED = "humpback: stopped, and nothing is lost\n"


def environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return {**inherited, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", **variables}


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60)


def place(address: str | None, count: int | None, index: int | None) -> dict[str, str]:
    return place_variables({"coordinator_address": address, "num_processes": count, "process_id": index})


def test_the_flags_of_a_place_are_variables():
    assert place("head:1234", 4, 0) == {
        "JAX_COORDINATOR_ADDRESS": "head:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0",
    }  # fmt: skip
    assert place(None, None, None) == {}


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("head:1234", 4, None), "--process_id missing"),
        ((None, 4, 0), "--coordinator_address missing"),
        (("head:1234", None, None), "--num_processes and --process_id missing"),
    ],
)
def test_a_place_is_given_whole_or_not_at_all(given, missing):
    with pytest.raises(UserError, match=f"^{missing}: give all of --coordinator_address, --num_processes, --process_id, or"):
        place(*given)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process_id=1"], "humpback: --coordinator_address and --num_processes missing: "),
        (["--process_id=-1"], "--process_id=-1"),
        (["--coordinator_address=head", "--num_processes=2", "--process_id=0"], "=head: it must be HOST:PORT"),
    ],
)
def test_a_wrong_place_is_named(flags, message):
    done = run(*WORKER, *flags)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_two_processes_by_flags_agree_to_stop():
    """The flags win over an environment that says something else, and their differences are none between processes."""
    wrong = {"JAX_COORDINATOR_ADDRESS": "nowhere:1", "JAX_NUM_PROCESSES": "7", "JAX_PROCESS_ID": "6"}
    place = [f"--coordinator_address=127.0.0.1:{local_pod.free_ports()}", "--num_processes=2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [[*WORKER, *place, f"--process_id={index}"] for index in range(2)]
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment(**wrong), **pipes) for command in commands]
    told = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [75, 75], told
    for out, err in told:
        assert [line for line in out.splitlines() if "Gloo" not in line] == ["2 processes", "[False, True, True, True]"]
        assert STOPPED in err and "Traceback" not in err


def test_one_process_that_is_stopped():
    done = run(*WORKER)
    assert (done.returncode, done.stdout) == (75, "1 processes\n[False, True, False, True]\n")
    assert done.stderr == STOPPED


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config=tests/tiny_config.py", "--workdir=s3://b/x"], "--workdir: s3://b/x: s3:// is not known; paths are local or"),
        (
            ["seed", "--config=tests/tiny_config.py", "--workdir={0}/run", "--config.seed_pairs.source={0}/pipe"],
            "config field seed_pairs.source: {0}/pipe is a pipe; what is read is read more than once: write it to a file first",
        ),
        (["segment", "--input=humpback/demo/pages", "--out="], "--out is empty"),
        (["chat", "--model=~/x/y"], f"--model={pathlib.Path.home()}/x/y: no such model folder or file"),
        (["convert", "--source=/dev/null", "--target={0}/x"], "--source: /dev/null is a device"),
        (["segment", "--input=humpback/demo/pages", "--out={0}/file/x"], "{0}/file/x/lock: a part of this path is a file and no folder"),
        (["segment", "--input=humpback/demo/pages", "--out=/proc/x"], "/proc/x: no such file or folder, or none can be made there"),
        (["segment", "--input={0}/file/x", "--out={0}/x"], "segments.input: {0}/file/x: no such file or folder"),
        (["summary", "--config=tests/tiny_config.py", "--workdir={0}/file"], "{0}/file"),
        (["generate", "--model={0}/file", "--input={0}/file", "--out={0}/x"], "{0}/file: not a GGUF file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_path_is_one_line(arguments, message, humpback, tmp_path):
    (tmp_path / "file").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    done = humpback(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2 and done.stderr.startswith(f"humpback: {message.format(tmp_path)}"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "x").exists()


@pytest.mark.parametrize("number", sorted(cli._WAYS_OUT))
def test_errors_of_the_file_system_are_told_with_their_place(number, monkeypatch):
    class Command:
        @staticmethod
        def main():
            raise OSError(number, os.strerror(number), f"/x/{storage.TEMPORARY}7")

    monkeypatch.setattr(cli, "flags", SimpleNamespace(FLAGS={name: SimpleNamespace(value=None, present=0) for name in cli.PLACE_FLAGS}))
    monkeypatch.setattr(sys, "argv", ["humpback", "command"])
    with pytest.raises(UserError, match=r"^/x: .*; (name another path|free some space|give this user)"):
        cli._run(Command, cli.Command("", "", ""))


def test_who_closes_the_output_has_read_enough():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "humpback", "--version"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_says_how_a_command_is_called(command, humpback):
    shown = humpback(command, "--help").stdout
    about = cli.COMMANDS[command]
    usage, _, sentence, _, example, *_ = shown.splitlines()
    assert usage == f"usage: humpback {command} --flags" and sentence.lower() == f"{about.does.lower()}."
    assert example == f"  humpback {command} {about.example}"
    named = re.findall(r"^  --(\w+):$", shown, re.MULTILINE)
    assert named[-3:] == list(cli.PLACE_FLAGS)  # of pods, last
    assert "logtostderr" not in shown and "orbax" not in shown and ("helpfull" in shown) == ("config" in named)


def test_all_but_the_doctor_wait_for_the_other_processes():
    assert [name for name, command in cli.COMMANDS.items() if command.alone] == ["doctor"]


def test_the_examples_of_help_parse():
    lines = [[["humpback", name, *about.example.split()], True] for name, about in cli.COMMANDS.items()]
    command = [sys.executable, "-m", "tests.command_lines"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), input=json.dumps(lines), capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == [""] * len(lines), done.stderr


def test_helpfull_lists_every_field_of_the_config(humpback):
    shown = " ".join(humpback("run", "--helpfull").stdout.split())
    for name, item, value in config.fields(config.Config()):
        assert f"--config.{name}={value} {item.metadata['reason']}" in shown
    assert "--config.augment.top_p=0.9 the paper's (allowed: above 0, at most 1) --config." in shown


def test_version(humpback):
    assert re.match(rf"humpback {re.escape(humpback_package.__version__)} \(jax \d", humpback("--version").stdout)


def test_fields_of_a_config_that_is_not_named(tmp_path):
    mine = tmp_path / "mine.py"
    mine.touch()

    class Segment:
        DEFAULT_CONFIG = "default.py"

    fields = ["--input=x", "--config.segments.limit=3"]
    assert cli.with_config(fields, Segment) == ["--config=default.py", *fields]
    for arguments in ([f"--config={mine}", *fields], ["--input=x"], ["--config", str(mine), *fields]):
        assert cli.with_config(arguments, Segment) == arguments
    assert cli.with_config(fields, None) == fields  # a command that needs a config says so itself
    with pytest.raises(UserError, match=r"^--config.segments.limits: there is no config field .*; did you mean segments.limit\?"):
        cli.with_config(["--config.segments.limits=3"], Segment)


TEXT = (
    "First you mix the flour with the water of the day. Then you wait for an hour, because it has to rise. When it is twice as large, you "
    "put it on the table and form it with your hands. At the end it goes into an oven that is as hot as it can be."
)


def test_segments_by_the_default_config(tmp_path, humpback):
    (tmp_path / "page.html").write_text("<h1>How bread is made</h1><p>" + TEXT + "</p>")
    flags = [f"--input={tmp_path / 'page.html'}", f"--out={tmp_path / 'out'}", "--config.segments.min_chars=50"]
    done = humpback("segment", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]["segments.min_chars"] == 50


THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(start._libc() < (2, 35), reason="the setting is of glibc 2.35 and newer")
@pytest.mark.skipif(not THP.exists() or "[madvise]" not in THP.read_text(), reason="this system gives huge pages to all or to none")
def test_memory_is_in_huge_pages(tmp_path, monkeypatch):
    """Pages touched for the first time, while a block of 64 MB comes and goes ten times; the program is told what it was told before."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    program = tmp_path / "program.py"
    program.write_text("""
import ctypes, resource, sys
from humpback.__main__ import use_huge_pages
if sys.argv[1] == "huge":
    use_huge_pages()
libc, size = ctypes.CDLL(None), ctypes.c_size_t(64_000_000)
libc.malloc.restype = ctypes.c_void_p
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    block = ctypes.c_void_p(libc.malloc(size))
    libc.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
""")
    given, huge = (int(run(sys.executable, str(program), how).stdout) for how in ("small", "huge"))
    assert huge < given / 10


def test_what_is_set_for_malloc_stays_set(monkeypatch):
    started = []
    monkeypatch.setattr(start, "_libc", lambda: (2, 36))
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    for before, after in [("", "glibc.malloc.hugetlb=1"), ("glibc.cpu.x=1", "glibc.cpu.x=1:glibc.malloc.hugetlb=1")]:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
        start.use_huge_pages()
        assert os.environ["GLIBC_TUNABLES"] == after
    start.use_huge_pages()  # as the program does after its new start
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    start.use_huge_pages()
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.setattr(start, "_libc", lambda: ())
    start.use_huge_pages()
    assert len(started) == 2 and started[0] == (sys.executable, [sys.executable, *sys.orig_argv[1:]])


@pytest.mark.parametrize("moment", ["while it is imported", "while it works"])
def test_ctrl_c_is_one_line(moment):
    """And no traceback, whenever it comes."""
    script = f"""
import signal, sys, time, types
from humpback import __main__ as start
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = ["humpback", "work"]
if {moment!r} == "while it works":
    from humpback import cli
    work = types.ModuleType("work")
    work.define_flags = lambda: None
    work.main = lambda: (print("ready", flush=True), time.sleep(60))
    cli.COMMANDS["work"] = cli.COMMANDS["chat"]._replace(module="work")
    sys.modules["work"] = work
    start.use_huge_pages = lambda: None
else:
    start.use_huge_pages = lambda: (print("ready", flush=True), time.sleep(60))
start.main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and len(err.strip().splitlines()) == 1 and err.strip().startswith("humpback: Ctrl-C"), err
    assert "continues" not in err, "chat saves nothing"


def test_pages_whose_names_are_no_utf8(tmp_path, humpback):
    pages, out = tmp_path / os.fsdecode(b"\xe9"), tmp_path / "out"
    pages.mkdir()
    (pages / os.fsdecode(b"\xff.html")).write_text(f"<!doctype html><h1>How bread is made</h1><p>{TEXT}</p>")
    flags = [f"--out={out}", "--config.segments.min_chars=100"]
    done = humpback("segment", f"--input={pages}", *flags)
    assert done.returncode == 0, done.stderr
    [segment] = records.read_shards(out, "segments", records.Segment)
    assert (segment.source, segment.url) == ("\\xff.html", "\\xff.html")
    again = humpback("segment", f"--input={pages}", *flags)
    assert again.returncode == 0 and "out: done before" in again.stderr
