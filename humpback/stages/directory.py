"""A run is a directory and a stage is a folder in it: what makes one complete, what may be skipped, what is refused.

stage.json, written just before the first of what a stage makes, holds what decides the result (identity.py); manifest.json, written
last, repeats it with counts and checksums. A folder with a manifest is complete. One that was begun with other values is never touched.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
from etils import epath

from humpback import config as configs
from humpback import distributed, storage
from humpback.errors import UserError
from humpback.model import sharding
from humpback.progress import say
from humpback.stages import identity

_METRICS_SECONDS = 10
WORK_FOLDERS = ("parts", "steps")  # what a stage leaves while it works, for itself to continue from


class Place:
    """Where a command writes: a run's directory, or the folder of a command of its own.

    values: what every field that may decide a result is now, by name. at_begin: called before the first write into the place.
    """

    def __init__(self, path: storage.PathLike, values: Mapping[str, Any]):
        self.path, self.values = epath.Path(path), values
        self.at_begin: list[Callable[[], None]] = []

    def begin(self) -> None:
        """To be called before something is written."""
        while self.at_begin:
            self.at_begin.pop(0)()


class Run:
    """A config and the directory that holds what it makes."""

    def __init__(self, cfg: configs.Config, workdir: storage.PathLike):
        self.cfg, self.workdir = cfg, epath.Path(workdir)
        self.place = Place(workdir, dict(configs.leaves(cfg)))
        check_shared("workdir", self.workdir)

    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of the config over all devices. UserError when the sizes do not fit the devices."""
        sizes = self.cfg.mesh
        try:
            return sharding.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)
        except ValueError as error:
            raise UserError(f"config fields mesh.*: {error}") from error

    def check(self, names: Iterable[str]) -> None:
        """UserError when one of these stages was made, or begun, with another config, before anything is done or written."""
        for name in names:
            path = self.workdir / name
            if not (record := identity.read(path)) or _nothing_made(path):
                continue
            inputs = {other: identity.manifest_digest(self.workdir / other) for other in record["inputs"]}
            if found := identity.differences(record, self.place.values) or identity.other_inputs(record, inputs):
                raise UserError(identity.refusal(path, found, self.workdir, self.place.values))

    def stage(self, name: str, fields: Iterable[str], inputs: Collection[str] = ()) -> "Stage":
        """Opens the folder of a stage that reads these config fields ("augment." for a whole part) and these stages."""
        values = self.place.values
        read = {k: v for k, v in values.items() if any(k == f or (f.endswith(".") and k.startswith(f)) for f in fields)}
        made_from = {other: read_manifest(self, other) for other in inputs}
        return Stage(
            self.workdir / name,
            {k: v for k, v in read.items() if configs.compared(k)},
            {k: v for k, v in read.items() if not configs.compared(k)},
            {other: str(identity.manifest_digest(self.workdir / other)) for other in made_from},
            identity.upstream_of(made_from.values()),
            place=self.place,
        )


class Stage:
    """One folder of a run. `complete` says whether there is anything to do."""

    def __init__(
        self,
        path: epath.Path,
        config: dict[str, Any],
        recorded: dict[str, Any],
        inputs: dict[str, str],
        upstream: dict[str, Any] | None = None,
        *,
        place: Place | None = None,
    ):
        """place: that which the folder is in, or is; without one it is alone, and has no other fields than `config`."""
        self.path, self.name, self._recorded = path, path.name, recorded
        self._place = place or Place(path, config)
        self._made_from = {"stage": path.name, "config": config, "inputs": inputs, "upstream": upstream or {"config": {}}}
        self._metrics: list[dict[str, Any]] = []
        self._published = self._started = time.monotonic()
        self._begun = False
        self._check_unchanged()
        self.complete = (path / identity.MANIFEST).exists()
        if self.complete:
            self._clear_work()  # a kill may have come between the manifest and this
            say(f"{self.name}: done before")
            return
        say(f"{self.name}: …")
        if distributed.is_first():
            storage.clean(path)
        distributed.barrier(f"stage {path}")

    def _check_unchanged(self) -> None:
        """Refuses a folder that was made, or begun, with another config or from other inputs, naming the difference."""
        if not (record := identity.read(self.path)) or _nothing_made(self.path):
            return
        found = identity.differences(record, self._place.values, self._made_from["config"])
        if found := found or identity.other_inputs(record, self._made_from["inputs"]):
            workdir = self._place.path if self._place.path != self.path else None
            raise UserError(identity.refusal(self.path, found, workdir, self._place.values))

    def begin(self) -> None:
        """To be called before the first of what the stage makes is written; writes what it is made from. Any process may be the first."""
        if self._begun:
            return
        if distributed.is_first():
            self._place.begin()
        file = self.path / identity.STAGE
        if not file.exists() or _nothing_made(self.path):  # of a try that made nothing there may be one
            storage.publish_json(file, self._made_from, replace=True)
        self._begun = True

    def metrics(self, row: dict[str, Any]) -> None:
        """Adds a row to the stage's metrics, which are published in parts so that a kill costs seconds of them."""
        self._metrics.append(row)
        if time.monotonic() - self._published > _METRICS_SECONDS:
            self.publish_metrics()

    def publish_metrics(self) -> None:
        """Publishes the rows that wait for it, before a stage ends early."""
        if self._metrics and distributed.is_first():
            self.begin()
            number = len(storage.list_files(self.path / "metrics"))
            lines = "".join(json.dumps(row) + "\n" for row in self._metrics)
            storage.publish(self.path / "metrics" / f"metrics-{number:05d}.jsonl", lines)
        self._metrics, self._published = [], time.monotonic()

    def _clear_work(self) -> None:
        kept = any(value for name, value in self._recorded.items() if name.endswith(".checkpoint_keep_every"))
        for name in WORK_FOLDERS:
            if distributed.is_first() and (self.path / name).exists() and not (kept and name == "steps"):
                (self.path / name).rmtree()

    def finish(
        self,
        *,
        counts: dict[str, Any],
        dropped: dict[str, int] | None = None,
        files: Iterable[str] = (),
        tokens: int = 0,
        **extra: Any,
    ) -> None:
        """Writes timing.json and then manifest.json, which completes the stage. `files` are those the stage published."""
        self.begin()
        self.publish_metrics()
        if distributed.is_first():
            seconds = time.monotonic() - self._started
            timing = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "devices": jax.device_count()}
            storage.publish_json(self.path / "timing.json", timing, replace=True)
            manifest = {
                **self._made_from,
                "config_sha256": identity.digest(self._made_from["config"]),
                "recorded": self._recorded,
                "counts": counts,
                "dropped": dropped or {},
                "files": {name: storage.sha256_file(self.path / name) for name in files},
                **extra,
            }
            storage.publish_json(self.path / identity.MANIFEST, manifest)
        self._clear_work()
        distributed.barrier(f"finished {self.path}")
        self.complete = True
        numbers = ", ".join(f"{value} {name}" for name, value in counts.items() if not isinstance(value, dict))
        say(f"{self.name}: {numbers} ({time.monotonic() - self._started:.1f} s)")


def check_shared(flag: str, path: storage.PathLike) -> None:
    """UserError for a local path with several processes, unless the user has said that all of them see the same files there."""
    if jax.process_count() > 1 and "://" not in os.fspath(path) and "HUMPBACK_SHARED_WORKDIR" not in os.environ:
        raise UserError(
            f"--{flag}={path}: a local path with {jax.process_count()} processes; use gs://…, or set "
            "HUMPBACK_SHARED_WORKDIR=1 if every host sees the same files there"
        )


def read_manifest(run: Run, name: str) -> dict[str, Any]:
    """A complete stage's manifest. UserError when the stage is not complete."""
    path = run.workdir / name / identity.MANIFEST
    if not path.exists():
        raise UserError(f"{path.parent}: not complete; run that stage first, or `humpback run` for all of them")
    return storage.read_json(path)


def _nothing_made(folder: epath.Path) -> bool:
    """Whether a folder holds nothing but what a stage is to be made from: then nothing was, and it may be made from something else."""
    return all(item.name == identity.STAGE or item.name.startswith(storage.TEMPORARY) for item in folder.iterdir())
