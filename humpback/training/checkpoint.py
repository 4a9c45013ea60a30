"""The checkpoints of a training in progress: weights, moments, position, each step in a folder that counts only when all of it is whole."""

import concurrent.futures
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from humpback import distributed, storage
from humpback.errors import UserError
from humpback.locks import Anybody, Maker
from humpback.model import weights as model_weights
from humpback.models import checksums, weight_files
from humpback.models.checksums import CHECKSUMS
from humpback.watchdog import Limit, storing_seconds

_META = ("meta.json", "meta-again.json")  # checksums.json says which of the two counts


class TrainingCheckpoints:
    """The checkpoints of one training in progress, in a folder of its own: PATH/00000100/{state/, meta.json, checksums.json}.

    The number is that of the steps done. Every process makes one and calls the same methods in the same order. Making one
    removes what killed saves left half-written under a temporary name.

    keep_last: how many of the newest whole steps stay; two, so that there is a step before a damaged one.
    keep_every: steps that are a multiple of it stay, too; 0 for none. So does the newest step that was saved as the best.
    maker: who saves, and what the training is made from, which each step says.
    saves_last: False where the caller saves the weights at once: then the state after the last step is saved only if there is none of
    the last keeper.LOST_SECONDS.
    """

    def __init__(
        self, path: storage.PathLike, keep_last: int = 2, keep_every: int = 0, maker: Maker | None = None, *, saves_last: bool = True
    ) -> None:
        if keep_last < 1 or keep_every < 0:
            raise ValueError(f"keep_last = {keep_last}, keep_every = {keep_every}: at least 1 and at least 0 are needed")
        self.path, self.saves_last = epath.Path(path), saves_last
        self._keep_last, self._keep_every, self._maker = keep_last, keep_every, maker or Anybody()
        self._damage: dict[int, str | None] = {}  # of the steps that were saved or looked at; None for a whole one
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[None] | None = None
        self._seconds = 0.0  # that it may take
        if jax.process_index() == 0:
            for step in self._steps():
                folder = self._folder(step)
                weight_files.remove(folder / f"state{weight_files.TEMPORARY}")
                storage.clean(folder)

    def save(self, step: int, state: Any, meta: Mapping[str, Any], best: bool = False) -> None:
        """Begins to save a tree of arrays and a JSON-able `meta`; returns when the arrays may be donated or overwritten.

        The rest is done in the background: writing, checksums, and then the deletion of older steps. Before it begins, the save
        before is waited for, and what went wrong there is raised. Of a step that this object has saved or found, the state is
        there already; then only `meta` and `best` are written anew.
        best: whether this is the step with the lowest loss so far.
        """
        self.wait()
        self._seconds = _storing_seconds(state)
        with Limit(f"the save of step {step}", self._seconds):
            self._begin_saving(step, state, meta, best)

    def _begin_saving(self, step: int, state: Any, meta: Mapping[str, Any], best: bool) -> None:
        folder = self._folder(step)
        description = {"meta": dict(meta), "best": best, "made_from": self._maker.identity, "lock": self._maker.lock}
        if _word_of_the_first(step in self._damage and self._damage[step] is None):
            self._saving = self._thread.submit(self._describe_anew, step, description)
            return
        self._damage.pop(step, None)
        if jax.process_index() == 0:
            self._maker.check()  # of a step that another one has saved nothing is deleted
            self._delete_step(step)
        distributed.barrier(f"training save clear {folder}")
        with weight_files.told_when_full(folder):
            # On a CPU, Orbax writes from views of the arrays; JAX never reuses a donated array's memory while there is a view.
            written = weight_files.start_saving(folder / "state", state)
        self._saving = self._thread.submit(self._finish, step, written, description)

    @property
    def busy(self) -> bool:
        """Whether this process' part of a save is still under way."""
        return self._saving is not None and not self._saving.done()

    def wait(self) -> None:
        """Returns when the last save is whole on disk; raises what went wrong in it, once. Then the older steps are all there.

        A process that ends without it loses a save that is not done yet. UserError when the disk was full.
        """
        if self._saving is not None:
            with Limit("the save under way", self._seconds):
                concurrent.futures.wait([self._saving])
            saved, self._saving = self._saving, None
            saved.result()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest step that is whole; None without one. Newer ones that are not are named in a warning.

        UserError for one that was made from something else.
        """
        return self._newest()

    def best(self) -> tuple[int, dict[str, Any]] | None:
        """(step, meta) of the newest whole step that was saved as the best, like `latest`."""
        return self._newest(best=True)

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of a step, laid out as `abstract_state` (ShapeDtypeStructs with shardings) says, whatever it was saved on.

        A vocabulary is cut off or filled up with zeros to the size asked for, since its padding depends on the mesh.
        UserError when the step is damaged, or when other sizes differ.
        """
        self.wait()
        if damage := self._find_damage(step):
            raise UserError(f"training checkpoint of step {step}: {damage}")
        path = weight_files.absolute(self._folder(step) / "state")
        _check_sizes(path, abstract_state)
        context = ocp.Context()
        context.array_options.loading.enable_padding_and_truncation = True
        with context, Limit(f"to read step {step}", _storing_seconds(abstract_state)):
            return ocp.load(path, abstract_state)

    def _finish(self, step: int, written: Any, description: dict[str, Any]) -> None:
        """The part of a save that runs in a thread. Of the barriers no device takes part in, so training goes on meanwhile."""
        folder = self._folder(step)
        with weight_files.told_when_full(folder):
            written.result()
            if jax.process_index() == 0:
                storage.publish_json(folder / _META[0], description)
                checksums.publish(folder, checksums.walk(folder))
        self._damage[step] = None
        if jax.process_index() == 0:
            self._delete_old_steps()
        distributed.barrier(f"training save done {folder}")

    def _describe_anew(self, step: int, description: dict[str, Any]) -> None:
        """Another meta.json for a whole step. It gets another name, so that the step is whole at every moment."""
        folder = self._folder(step)
        if jax.process_index() == 0:
            files = dict(checksums.read(folder))
            old, new = _META if _META[0] in files else _META[::-1]
            storage.publish_json(folder / new, description, replace=True)
            del files[old]
            checksums.publish(folder, [new], files)
            weight_files.remove(folder / old)
            self._delete_old_steps()
        distributed.barrier(f"training save done {folder}")

    def _delete_old_steps(self) -> None:
        steps = self._steps()[::-1]
        keep = set(itertools.islice((step for step in steps if not self._find_damage(step)), self._keep_last))
        if self._keep_every:  # not read again for this: after months there may be many
            finished = (step for step in steps if not self._damage.get(step) and (self._folder(step) / CHECKSUMS).exists())
            keep.update(step for step in finished if step % self._keep_every == 0)
        best = (step for step in steps if self._may_be_best(step) and not self._find_damage(step))
        keep.update(itertools.islice(best, 1))
        for step in steps:
            if step not in keep:
                self._delete_step(step)

    def _newest(self, best: bool = False) -> tuple[int, dict[str, Any]] | None:
        self.wait()
        newest = -1
        if jax.process_index() == 0:
            for step in reversed(self._steps()):
                if best and not self._may_be_best(step):
                    continue
                self._damage.pop(step, None)  # it may have been a while ago
                damage = self._find_damage(step)
                if damage is None:
                    newest = step
                    break
                logging.warning("training checkpoint of step %d is not used: %s", step, damage)
        newest = _word_of_the_first(newest)  # so that all continue from the same step
        if newest < 0:
            return None
        self._damage[newest] = None
        description = self._description(newest)
        if description.get("made_from", self._maker.identity) not in {self._maker.identity, *self._maker.identities}:
            raise UserError(f"{self._folder(newest)}: was not made from what this training is made from; delete {self.path} to begin anew")
        return newest, description["meta"]

    def _description(self, step: int) -> dict[str, Any]:
        folder = self._folder(step)
        listed = checksums.read(folder)
        return storage.read_json(folder / next(name for name in _META if name in listed))

    def _may_be_best(self, step: int) -> bool:
        """Whether a step was saved as the best; True for one too damaged to tell, so that it is looked at and named."""
        try:
            return bool(self._description(step)["best"])
        except (UserError, KeyError, TypeError, StopIteration):
            return True

    def _find_damage(self, step: int) -> str | None:
        """What is wrong with a step; None for a whole one. It is read only when this object has not done that or saved it."""
        if step not in self._damage:
            self._damage[step] = checksums.find_damage(self._folder(step), complete=True)
        return self._damage[step]

    def _folder(self, step: int) -> epath.Path:
        return self.path / f"{step:08d}"

    def _steps(self) -> list[int]:
        if not self.path.exists():
            return []
        return sorted(int(item.name) for item in self.path.iterdir() if item.name.isdecimal())

    def _delete_step(self, step: int) -> None:
        weight_files.remove(self._folder(step) / CHECKSUMS)  # first, so that a half-deleted step is an unfinished one
        weight_files.remove(self._folder(step))


def _storing_seconds(state: Any) -> float:
    """What a process may take to write, or read, its share of a state."""
    return storing_seconds(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / jax.process_count())


def _check_sizes(path: epath.Path, abstract_state: Any) -> None:
    def sizes(tree: Any) -> dict[str, tuple[int, ...]]:
        return {jax.tree_util.keystr(at, simple=True, separator="/"): leaf.shape for at, leaf in jax.tree.leaves_with_path(tree)}

    on_disk = sizes(ocp.metadata(path).metadata)
    for name, size in sizes(abstract_state).items():
        weight = model_weights.WEIGHTS.get(name.rpartition("/")[2])
        loose = weight.shape.find("V") if weight else -1  # the axis that may differ
        saved = on_disk.get(name, size)  # what is missing, Orbax says
        if len(saved) != len(size) or any(a != b for axis, (a, b) in enumerate(zip(saved, size)) if axis != loose):
            raise UserError(f"{path}: {name} has the shape {saved}, this training's has {size}; it is of another model")


def _word_of_the_first(value: int) -> int:
    """What process 0 has, in all processes."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value))) if jax.process_count() > 1 else value
