"""The exceptions that `humpback.cli` prints without a traceback: a user's mistake, and a stop that somebody asked for."""


class UserError(Exception):
    """Names the file and line or the field, the value, and the way out."""


class Stopped(Exception):
    """SIGTERM came and what was done is saved; says how far, and that the same command continues from there."""
