"""Processes that end early, for tests of what with: SIGTERM, Ctrl-C, a hang."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
BEGINNING = """
import hashlib, os, signal, sys, time
from humpback import watchdog
from humpback.training import stopping
from humpback.training.stopping import StopRequest, Stopped
from humpback.watchdog import Limit, Watchdog

signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it

def say(text):
    print(text, flush=True)

def hang():  # minutes in C without the interpreter's lock, which no signal interrupts, as a compilation
    say("ready")
    hashlib.pbkdf2_hmac("sha256", b"x", b"x", 2**31 - 1)

def wait(stop):
    say("ready")
    while not stop.came:
        time.sleep(0.01)
"""


class Script:
    """A running process, whose output is read line by line."""

    def __init__(self, code: str) -> None:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", BEGINNING + code], cwd=ROOT, **pipes)

    def wait_for(self, text: str) -> None:
        line = self.process.stdout.readline()
        assert line == text + "\n", (line, self.process.stderr.read() if not line else "")

    def end(self) -> tuple[int, str, str]:
        """(exit code, the rest of standard output, standard error)."""
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


def started() -> Iterator[type[Script]]:
    """For a fixture: a Script whose processes end with the test."""
    processes = []

    class Started(Script):
        def __init__(self, code: str) -> None:
            super().__init__(code)
            processes.append(self)

    yield Started
    for script in processes:
        script.process.kill()
        script.process.communicate()
