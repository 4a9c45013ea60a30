"""What the notebook's cells call: Humpback's commands as processes of their own environment. The kernel's own packages are not touched.

This runs in whatever Python the image has, so it takes nothing but the standard library of 3.9 and newer.
"""

import contextlib
import html
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time
import zipfile

STOPPED = 75  # the exit code of a run that has saved what it has and goes on when it is called again
# What an image sets for its own packages: another Python must not see them, nor another libtpu.
_OF_THE_IMAGE = ("PYTHONPATH", "PYTHONHOME", "TPU_LIBRARY_PATH", "LD_PRELOAD")


class Humpback:
    """`humpback("doctor", "--workdir=run")` runs one command, shows what it says, and raises where it fails."""

    def __init__(self, root, extras="demo,int8"):
        """root: the folder of Humpback's sources. Makes the environment, unless the kernel's own has been made for it."""
        self.root = pathlib.Path(root).resolve()
        self._environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_IMAGE}
        self._environment.update(PYTHONUTF8="1", PYTHONUNBUFFERED="1", TQDM_MININTERVAL="20")
        self._began, self.python = time.monotonic(), sys.executable
        if not self._has_humpback():
            line = ["bash", str(self.root / "launch" / "notebook" / "environment.sh"), extras]
            self.python = self._shown(line, {**self._environment, "PYTHON": sys.executable})[1]
        print(f"commands run in {self.python}")

    def _has_humpback(self):
        """Whether the kernel's own Python has it installed, and not only a folder of that name beside the notebook."""
        line = [sys.executable, "-I", "-c", "import humpback.cli, jax, flax"]
        return subprocess.run(line, env=self._environment, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def __call__(self, command, *flags, hours=0.0):
        """Runs a command. Given `hours`, tells whether it came to its end: after so many, counted from when the environment was begun, it
        is told to save what it has, and to stop."""
        line = [self.python, "-m", "humpback", command, *flags]
        left = max(60.0, hours * 3600 - (time.monotonic() - self._began)) if hours else 0.0
        code, _ = self._shown(line, self._environment, left, (0, STOPPED) if hours else (0,))
        return code == 0 if hours else None

    def _shown(self, line, environment, seconds=0.0, allowed=(0,)):
        """Runs a process, printing its lines as they come; its exit code and last line. CalledProcessError for another code."""
        last = ""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        with subprocess.Popen(line, cwd=self.root, env=environment, **pipes) as process:
            timer = threading.Timer(seconds, process.terminate)
            timer.daemon = True
            if seconds:
                timer.start()
            try:
                for text in process.stdout:
                    print(text, end="", flush=True)
                    last = text.strip() or last
                code = process.wait()
            except BaseException:  # the cell was interrupted
                process.terminate()
                raise
            finally:
                timer.cancel()
        if code not in allowed:
            raise subprocess.CalledProcessError(code, line)
        return code, last


def unpacked(path, folder):
    """A run's directory to go on from, "" for none: as it is attached, or a .zip, whose contents are put into `folder`."""
    if not path or not path.endswith(".zip"):
        return path
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return str(folder)


def framed(page, height=900):
    """A page for IPython.display.HTML, in a frame of its own, so that its style is not the notebook's."""
    text = html.escape(pathlib.Path(page).read_text(encoding="utf-8"))
    return f'<div><iframe srcdoc="{text}" width="100%" height="{height}" style="border: 0"></iframe></div>'
