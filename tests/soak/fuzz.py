"""Hypothesis as a fuzzer: schedule after schedule of examples, each drawn anew from (seed, schedule)."""

import os
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy


def run(test: Callable[..., None], examples: int, schedules: int, *strategies: SearchStrategy) -> None:
    """Calls `test` with so many examples, so many times; a failing one is made small before it is raised.

    A schedule is a run of Hypothesis of its own, since one remembers all it has drawn, and slows down with it.
    """
    begin = int(os.environ.get("HUMPBACK_SOAK_SEED", "0"))
    for schedule in range(schedules):
        fuzzed = given(*strategies)(test)
        fuzzed = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )(fuzzed)
        seed(f"{begin} {schedule}")(fuzzed)()
