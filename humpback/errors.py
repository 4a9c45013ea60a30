"""The one exception that a user's mistake raises; `humpback.__main__` prints it without a traceback."""


class UserError(Exception):
    """Names the file and line or the field, the value, and the way out."""
