"""`humpback …` in forks of one process that has imported everything: a process for each command, without its seconds of imports."""

import json
import pathlib
import subprocess
import sys
import tempfile

from tests import kills

SERVER = """
import json, os, sys, traceback
import humpback.commands.chat, humpback.commands.generate, humpback.commands.plan, humpback.commands.verify, humpback.stages.run
from humpback.cli import main
for line in sys.stdin:
    folder, arguments = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), number)
        sys.argv, code = ["humpback", *arguments], 1
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Humpback:
    """`humpback(*arguments)` runs one command to its end."""

    def __init__(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=kills.REPOSITORY, **pipes)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        with tempfile.TemporaryDirectory() as folder:
            self._server.stdin.write(json.dumps([folder, arguments]) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            out, err = (pathlib.Path(folder, name).read_text() for name in ("out", "err"))
        return subprocess.CompletedProcess(arguments, code, out, err)

    def end(self) -> None:
        """Ends the process that forks."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()
