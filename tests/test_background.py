"""What is written in the background: in order, and what goes wrong in it is not lost."""

import threading

import pytest

from humpback.background import Background


def test_all_is_done_in_order_while_others_go_on():
    background, may_go_on, done = Background(), threading.Event(), []
    background.submit(may_go_on.wait)
    for number in range(5):
        background.submit(lambda number=number: done.append(number))
    assert not done
    may_go_on.set()
    background.join()
    assert done == list(range(5))


@pytest.mark.parametrize("call", ["submit", "join"])
def test_the_next_call_raises_what_went_wrong_and_nothing_is_done_behind_a_gap(call):
    background, may_go_on, failed, done = Background(), threading.Event(), threading.Event(), []

    def fail():
        may_go_on.wait()
        try:
            raise OSError("the disk is full")
        finally:
            failed.set()

    background.submit(fail)
    background.submit(lambda: done.append("behind"))
    may_go_on.set()
    failed.wait()
    with pytest.raises(OSError, match="the disk is full"):
        while True:
            background.submit(lambda: None) if call == "submit" else background.join()
    background.submit(lambda: done.append("afterwards"))
    background.join()
    assert done == ["afterwards"]
