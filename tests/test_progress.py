"""What the terminal hears, and that only the first process says it."""

import jax
import pytest

from humpback.progress import Bar, printable, say, warn_of_many


def work(shown: bool | None = True) -> None:
    with Bar("copy", "file", done=1, shown=shown) as bar:
        bar.note("half of it")
        bar.reach(3, 4)
        bar.reach(2)  # nothing is undone
        bar.advance()


def test_a_bar_says_what_is_done_of_how_much(capsys):
    work()
    assert "copy: 100%" in (drawn := capsys.readouterr().err) and "4/4" in drawn and "half of it" in drawn


@pytest.mark.parametrize("shown", [False, None])  # None: here is no terminal
def test_a_bar_that_nobody_would_see_is_not_drawn(capsys, shown):
    work(shown)
    assert capsys.readouterr().err == ""


def test_more_than_a_tenth_is_warned_of(capsys):
    warn_of_many("seed", 1, 10, "pairs are there twice")
    assert capsys.readouterr().err == ""
    warn_of_many("seed", 2, 19, "pairs are there twice")
    assert capsys.readouterr().err == "WARNING: seed: 2 of 19 pairs are there twice\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n", "a\tb\n"),
        ("\x1b[2J", "\ufffd[2J"),
        ("\r\x00\x7f\x85", "\ufffd" * 4),
        ("\u202eabc\u2069", "\ufffdabc\ufffd"),
        ("שלום 漢字 🙂\u200d", "שלום 漢字 🙂\u200d"),
    ],
)
def test_nothing_printed_controls_the_terminal(text, shown):
    assert printable(text) == shown


def test_only_the_first_process_speaks(capsys, monkeypatch):
    say("begun")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    say("begun")
    work()
    assert capsys.readouterr().err == "begun\n"
