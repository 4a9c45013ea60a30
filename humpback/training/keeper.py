"""What happens between two steps of a training: looks at the dev set, saves, and an end that somebody asked for."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from humpback import distributed
from humpback.config import Finetune
from humpback.errors import Stopped
from humpback.model import llama
from humpback.tokens.examples import TokenExample
from humpback.training import evaluate, lora, update
from humpback.training.checkpoint import TrainingCheckpoints
from humpback.training.stopping import StopRequest

DEV_LOSS = "dev_loss"  # of a checkpoint's weights, in its meta
LOST_SECONDS = 180.0  # the most that the end of a process may cost
AGREED_SECONDS = 5.0  # of the half minute between the notice of a preemption and the end


class _Enough(Exception):
    """A stop was asked for during a look."""


@dataclass(frozen=True)
class DevSet:
    """What a training looks at now and then, and what it needs for that. frozen: the weights beside adapters, in a list; [] without
    adapters."""

    cfg: llama.LlamaConfig
    ft: Finetune
    mesh: Mesh
    examples: Sequence[TokenExample]
    frozen: list[llama.Params]

    def look(self, state: update.State, stop: StopRequest) -> float | None:
        """Nats per target token under a state's weights; None when a stop was asked for meanwhile."""

        def between() -> None:
            if distributed.agree(stop.came):
                raise _Enough

        with contextlib.suppress(_Enough):
            scores = evaluate.nll_of_stacked(
                self.cfg, lora.whole(state["params"], self.frozen, lora.of(self.ft)), self.examples,
                length=self.ft.length, mesh=self.mesh, compute_dtype=self.ft.compute_dtype, between=between,
            )  # fmt: skip
            return float(scores.nats.sum() / scores.tokens.sum())
        return None


class Keeper:
    """Looks at the dev set, saves, and stops, each when it is due."""

    def __init__(
        self,
        ft: Finetune,
        steps: int,
        done: int,
        dev: DevSet | None,
        checkpoints: TrainingCheckpoints | None,
        meta: dict[str, Any],
        stop: StopRequest,
    ):
        """steps: of the whole training, of which so many are done. meta: what each checkpoint says of it."""
        self._ft, self._steps, self._dev = ft, steps, dev
        self._checkpoints, self._meta, self._stop, self._stopping = checkpoints, meta, stop, False
        self._agreement = Agreement(stop)
        self._saves, self._next_save = False, _next_multiple(done, ft.checkpoint_every)
        self._saved, self._last_loss = time.monotonic(), math.inf
        before = checkpoints.best() if dev and checkpoints is not None else None
        self._lowest = before[1][DEV_LOSS] if before else math.inf

    def is_due(self, done: int) -> bool:
        """Whether `settle` is to be called after so many steps: to look, to save, or because a stop is asked for. Once for each step."""
        self._stopping, self._saves = self._agreement.asked(now=done == self._steps), done < self._steps and self._saves_after(done)
        return done == self._steps or self._saves or self.looks_after(done) or self._stopping

    def _saves_after(self, done: int) -> bool:
        every, kept = self._ft.checkpoint_every, self._ft.checkpoint_keep_every
        if self._checkpoints is None or not every or done < self._next_save:
            return False
        if not _is_due(done, kept) and distributed.agree(self._checkpoints.busy):  # training does not wait for the save before
            self._next_save = min(done + max(1, every // 10), _next_multiple(done, every))
            return False
        self._next_save = _next_multiple(done, every)
        return True

    def looks_after(self, done: int) -> bool:
        """Whether the dev set is due after so many steps."""
        return self._dev is not None and (done == self._steps or _is_due(done, self._ft.dev_every))

    def settle(self, done: int, state: update.State) -> dict[str, Any]:
        """Looks and saves after a step, where that is due or a stop is asked for; {dev_loss} of a look, {saved: True} of a save."""
        if self._dev is not None and self.looks_after(done):
            loss = self._dev.look(state, self._stop)
            self._stopping = distributed.agree(self._stop.came)  # the look may have ended for it
        else:
            loss = None
        due = self._saves_end() if done == self._steps else self._saves or loss is not None
        told: dict[str, Any] = {} if loss is None else {DEV_LOSS: loss}
        if self._checkpoints is not None and (due or self._stopping):
            told["saved"] = True
            self._checkpoints.save(done, state, {**self._meta, DEV_LOSS: loss}, best=loss is not None and loss < self._lowest)
            if jax.default_backend() == "cpu":  # what is written is no copy there: the next step would make a second state beside it
                self._checkpoints.wait()
            self._saved = time.monotonic()
        elif loss is not None:
            self._last_loss = loss
        if loss is not None:
            self._lowest = min(loss, self._lowest)
        return told

    def _saves_end(self) -> bool:
        """Whether the state after the last step is saved: also where the caller saves the weights, if a kill meanwhile would cost much."""
        late = time.monotonic() - self._saved > LOST_SECONDS
        if self._checkpoints is None:
            return False
        return self._checkpoints.saves_last or _is_due(self._steps, self._ft.checkpoint_keep_every) or distributed.agree(late)

    def stop_if_asked(self, done: int) -> None:
        """Raises Stopped when that was asked for by the last `settle`, what that saved being on disk."""
        if not self._stopping:
            return
        if self._checkpoints is None:
            raise Stopped(f"stopped after step {done} of {self._steps}; nothing was saved", self._stop.code)
        self._checkpoints.wait()
        raise Stopped(f"stopped after step {done} of {self._steps}, which is saved; the same command continues", self._stop.code)

    def choose(self, state: update.State, shapes: update.State) -> tuple[update.State, int]:
        """The state whose weights are the result, and after which step it was so: the last, or with a dev set that of the lowest loss."""
        if self._checkpoints is None:
            return state, self._steps
        self._checkpoints.wait()
        best = self._checkpoints.best() if self._dev else None
        if best is None or best[0] == self._steps or self._last_loss < best[1][DEV_LOSS]:
            return state, self._steps
        logging.warning("the weights after step %d are taken: their loss on the dev set is the lowest, %.4f", best[0], self._lowest)
        return self._checkpoints.restore(best[0], shapes), best[0]


def _is_due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _next_multiple(done: int, every: int) -> int:
    return (done // every + 1) * every if every else 0


class Agreement:
    """Whether a stop was asked for in any process. Every process calls `asked` at the same points of its work, which takes a
    collective of all devices only about each AGREED_SECONDS, by the longest time between two calls in any of them."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop, self._left, self._calls = stop, 1, 1
        self._last, self._longest = time.monotonic(), 0.0

    def asked(self, now: bool = False) -> bool:
        """The same answer in all processes: False until the next time that they ask each other, which is this one if it is `now`."""
        if not distributed.are_several():
            return self._stop.came
        called = time.monotonic()
        self._longest, self._last = max(self._longest, called - self._last), called
        self._left -= 1
        if self._left and not now:
            return False
        came, longest = distributed.largest(self._stop.came, self._longest)
        # At most twice as many as before: shapes that were not met yet may take longer.
        self._calls = self._left = max(1, min(2 * self._calls, int(AGREED_SECONDS / max(longest, 1e-6))))
        self._longest = 0.0
        return bool(came)
