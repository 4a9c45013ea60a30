"""What hangs ends its process, and what only takes its time does not."""

import signal
import time

import pytest

from humpback.errors import STALLED, Stopped
from humpback.watchdog import Watchdog
from tests import scripts

start = pytest.fixture(scripts.started)


def test_a_step_that_hangs_ends_the_process(start):
    """Below 20 times the median, even above the floor, it goes on."""
    script = start("""
watchdog = Watchdog(floor_seconds=0.1)
for number in range(5):
    with watchdog.step(number):
        time.sleep(0.05)
with watchdog.step(5):
    time.sleep(0.4)
with watchdog.step(6):
    hang()
""")
    script.wait_for("ready")
    code, out, err = script.end()
    assert (code, out) == (STALLED, "") == (70, "")
    line, stacks = err.split(" The stacks of all its threads:\n")
    assert line.startswith("\nhumpback: step 6 has taken ") and "exit code 70" in line
    assert float(line.split(" has taken ")[1].split(" s, ")[0]) >= 1.0  # 20 · 0.05 s
    assert 0.05 <= float(line.split(" is ")[1].split(" s: ")[0]) < 0.4
    assert "in hang\n" in stacks and "in _watch\n" in stacks and "Thread 0x" in stacks


def test_the_first_steps_and_the_floor_are_no_limit(start):
    script = start("""
watchdog = Watchdog(floor_seconds=0.2, known=2)
for seconds in (0.0, 0.5):  # above 20 times the median, but of one step
    with watchdog.step(0):
        time.sleep(seconds)
watchdog = Watchdog(floor_seconds=2.0, known=2)
for number in range(3):
    with watchdog.step(number):
        time.sleep(0.001 if number < 2 else 0.5)
say(f"{watchdog.median:.3f}")
time.sleep(2)  # between steps nothing is watched
""")
    code, out, err = script.end()
    assert (code, err) == (0, "") and 0.001 <= float(out) < 0.4


def test_time_in_which_the_process_was_suspended_does_not_count(start):
    script = start("""
watchdog._TICK_SECONDS = 0.1
dog = Watchdog(floor_seconds=1.5, known=1)
with dog.step(0):
    pass
with dog.step(1):
    say("ready")
    for _ in range(4):
        time.sleep(0.1)
say("done")
""")
    script.wait_for("ready")
    script.process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    script.process.send_signal(signal.SIGCONT)
    assert script.end() == (0, "done\n", "")


def test_a_step_that_raises_is_not_timed():
    watchdog = Watchdog()
    with pytest.raises(Stopped), watchdog.step(0):
        raise Stopped("all")
    with pytest.raises(IndexError):
        _ = watchdog.median
    for seconds in (0.02, 0.0, 0.01):
        with watchdog.step(1):
            time.sleep(seconds)
    assert 0.01 <= watchdog.median < 0.02 + 0.01


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("with Limit('the save of step 7', 0.3):\n    hang()", "the save of step 7 has taken "),
        ("with Watchdog('visit', floor_seconds=0.3, first_seconds=0.3).pieces() as done:\n    done()\n    hang()", "visit 2 has taken "),
        ("with Watchdog(first_seconds=0.3).step(1):\n    hang()", "step 1 has taken "),
    ],
)
def test_whatever_is_limited_may_not_hang_either(start, body, said):
    script = start(body)
    script.wait_for("ready")
    code, _, err = script.end()
    assert code == STALLED and said in err and "far more than it can need: it hangs" in err


def test_each_piece_has_the_whole_time(start):
    script = start("""
with Watchdog("visit", floor_seconds=1.0, first_seconds=1.0).pieces() as done:
    for _ in range(4):
        time.sleep(0.4)
        done()
with Limit("x", 0.2):
    pass
time.sleep(0.4)  # it is over
say("done")
""")
    assert script.end() == (0, "done\n", "")
