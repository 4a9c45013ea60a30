"""The exceptions that `humpback.cli` prints without a traceback: a user's mistake, and a stop that somebody asked for."""


PREEMPTED = 75  # exit code: nothing is wrong, the same command continues; EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130  # exit code: a user's wish, by Ctrl-C; what a shell shows for SIGINT
STALLED = 70  # exit code: a step, or something else, hung; EX_SOFTWARE


class UserError(Exception):
    """Names the file and line or the field, the value, and the way out."""


class Stopped(Exception):
    """SIGTERM or Ctrl-C came and what was done is saved; says how far, and that the same command continues from there.

    code: what the process ends with, PREEMPTED or INTERRUPTED.
    """

    def __init__(self, text: str, code: int = PREEMPTED):
        super().__init__(text)
        self.code = code
