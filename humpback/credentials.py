"""Keys, tokens and passwords: what looks like one never reaches a run's directory, a log that is kept or another machine's command line.

A value that somebody gives (a flag, a field of the config) is refused, with the way out; a text that only comes by (a log, a
difference to the last commit) is kept without them. The forms of keys are those that their makers document, as their names say.
"""

import re
from collections.abc import Mapping
from typing import Any

from humpback.errors import UserError

_NAME = r"(?:[\w-]*(?:token|secret|passwd|password|api[_-]?key|access[_-]?key|private[_-]?key|credential))"
_FORMS = {
    "an address with a password": r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)",
    "an address with a token": r"(?<=://)(?=[^\s/@:'\"]*\d)[\w.~%+-]{16,}(?=@)",
    "a signed address": r"(?i:(?<=[?&])(?:x-goog-signature|x-goog-credential|x-amz-signature|x-amz-credential|x-amz-security-token|"
    rf"signature|sig|key|auth|{_NAME})=[^\s&'\"]+)",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----)?",
    "a key of Amazon": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a token of Google": r"\bya29\.[\w.-]{20,}",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{30,}",
    "a token of GitHub": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a token of GitLab": r"\bglpat-[\w-]{20,}",
    "a token of Slack": r"\bxox[abposr]-[\w-]{10,}",
    "a key of an API": r"\bsk-[\w-]{20,}",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a bearer's token": r"(?i:(?<=bearer )|(?<=basic ))[\w.~+/=-]{16,}",
    # A name that says so and a value as no word or number is: sixteen characters with letters and digits among them.
    "a value by the name of a secret": rf"(?i:(?<![\w-]){_NAME}[\"']?\s*[=:]\s*[\"']?(?=[\w+/.=-]*[a-z])(?=[\w+/.=-]*\d)[\w+/.=-]{{16,}})",
}
_ANY = re.compile("|".join(f"(?P<form{number}>{form})" for number, form in enumerate(_FORMS.values())), re.DOTALL)
_REMOVED = "<removed>"


def find(text: str) -> str:
    """What in the text looks like a key, a token or a password, in words; "" for nothing."""
    match = _ANY.search(text)
    return list(_FORMS)[int(match.lastgroup.removeprefix("form"))] if match and match.lastgroup else ""


def redact(text: str) -> str:
    """The text with `<removed>` in the place of each."""
    return _ANY.sub(_REMOVED, text)


def refuse(values: Mapping[str, Any], error: type[Exception] = UserError) -> None:
    """Raises `error` when one of these values, by the names that a user knows, has a key, a token or a password in it."""
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            value = " ".join(map(str, value))
        if isinstance(value, str) and (what := find(value)):
            raise error(
                f"{redact(name)}: {what} stands in it, and would stand in the run's directory, logs and command lines. Give it without: "
                "gs:// uses this machine's own account, and what needs a password is fetched to a file first"
            )
