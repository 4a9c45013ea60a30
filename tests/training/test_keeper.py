"""What processes agree on between two steps; looks and saves: test_loop.py."""

from humpback import distributed
from humpback.training import keeper
from humpback.training.keeper import Agreement
from humpback.training.stopping import StopRequest


def test_processes_ask_each_other_about_each_five_seconds(monkeypatch):
    """By the longest step of the slowest, and at most twice as many steps later as before; all see a stop at the same step."""
    clock, asked = [0.0], []
    monkeypatch.setattr(keeper.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(distributed, "are_several", lambda: True)
    stop = StopRequest()
    agreement = Agreement(stop)

    def largest(came: float, longest: float) -> list[float]:
        asked.append(step)
        return [came, 2 * longest]  # another process takes twice as long

    monkeypatch.setattr(distributed, "largest", largest)
    answers = []
    for step in range(1, 41):
        clock[0] += 0.25
        stop.came = step >= 20
        answers.append(agreement.asked())
    asked_at = list(asked)
    assert agreement.asked(now=True) and len(asked) == len(asked_at) + 1
    assert asked_at == [1, 3, 7, 15, 25, 35] and answers.index(True) + 1 == 25 and sum(answers) == 2
