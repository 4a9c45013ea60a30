"""Our side of tests/benchmarks/train.py: humpback.training.loop.train, one step each time that it is asked for one.

In a process of its own, because the loop runs until it is through, and there are two: float32 and bfloat16 take turns, too.
"""

import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import sys
import time
from typing import Any

from train_inputs import PURPOSE, SEED, Work

from humpback import config
from humpback.model import sharding
from humpback.training import loop
from humpback.training.profile import Profile


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of any side: `tokens` of its examples, without padding; `loss` in nats a target token, before the update."""

    seconds: float
    tokens: int
    loss: float

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds


class Ours:
    """A training of `work` in a compute dtype that does not begin before its first step is asked for."""

    def __init__(self, work: Work, dtype: str, steps: int):
        context = multiprocessing.get_context("spawn")  # a fork would inherit JAX's locks without its threads
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(theirs, work, dtype, steps), daemon=True)
        self._process.start()
        theirs.close()

    def step(self) -> Step:
        """The next step; the first one's time is that of loading and compiling, too."""
        try:
            self._connection.send(True)
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            sys.exit(f"error: humpback ended with exit code {self._process.exitcode}; its own message stands above")

    def __enter__(self) -> "Ours":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it, and with it all the memory that it has."""
        with contextlib.suppress(ConnectionError):
            self._connection.send(False)
        self._process.join(10)
        self._process.kill()  # should it still be at work: it holds nothing that is worth saving
        self._process.join()


class _Turns(Profile):
    """In place of a profile: each step is over before the next one is begun, as in between the others have their turn."""

    def __init__(self) -> None:
        super().__init__(1, 1, "")

    def before(self, step: int) -> None:
        """Nothing."""

    def ends(self, step: int, last: bool) -> bool:
        """Always: the loop waits for the step's numbers."""
        return True

    def end(self) -> None:
        """Nothing."""


def _train(connection: multiprocessing.connection.Connection, work: Work, dtype: str, steps: int) -> None:
    """The process: its clock runs from the moment when a step is asked for until the loop reports it, whatever is done between."""
    started = 0.0

    def wait() -> None:
        nonlocal started
        if not connection.recv():
            sys.exit()
        started = time.perf_counter()

    def report(row: dict[str, Any]) -> None:
        connection.send(Step(time.perf_counter() - started, row["tokens"], row["loss"]))
        wait()  # after the last step, too: what comes after it would disturb the others

    wait()
    mesh = sharding.make_mesh(**dataclasses.asdict(config.settled_mesh(config.Mesh())))
    ft = work.finetune(dtype, steps)
    loop.train(work.model(), work.examples, loop.Training(ft, SEED, PURPOSE), mesh=mesh, metrics=report, profile=_Turns())
