"""What the terminal hears, and that only the first process says it."""

import jax
import pytest

from humpback.progress import Bar, say


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


def test_only_the_first_process_speaks(capsys, monkeypatch):
    say("begun")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    say("begun")
    work()
    assert capsys.readouterr().err == "begun\n"
