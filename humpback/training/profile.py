"""A JAX profile of some steps of a training."""

import os
import pathlib
import tempfile

import jax

from humpback import storage


class Profile:
    """Writes a JAX profile of steps `first` to `last`, counted from 1, into a folder.

    JAX writes files that grow, which gs:// has not: what goes there is written beside, on this machine, and published when it is whole.
    """

    def __init__(self, first: int, last: int, folder: storage.PathLike):
        self._steps, self._folder = range(first, last + 1), os.fspath(folder)
        self._local: tempfile.TemporaryDirectory | None = None
        self._running = False

    def before(self, step: int) -> None:
        """To be called before a step."""
        if step in self._steps and not self._running:
            if not storage.is_local(self._folder):
                self._local = tempfile.TemporaryDirectory(prefix="humpback-profile-")
            jax.profiler.start_trace(self._local.name if self._local else self._folder)
            self._running = True

    def ends(self, step: int, last: bool) -> bool:
        """Whether it is over after a step; then `end` is to be called, when the devices are done with that. last: none follows."""
        return self._running and (last or step + 1 not in self._steps)

    def end(self) -> None:
        """Writes it."""
        jax.profiler.stop_trace()
        self._running = False
        if self._local:
            with self._local as folder:
                for file in sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file()):
                    inside = file.relative_to(folder).as_posix()
                    storage.publish(f"{self._folder}/{inside}", storage.read_chunks(file), replace=True)
            self._local = None
