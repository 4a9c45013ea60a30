"""A run is a directory and a stage is a folder in it: what makes one complete, what may be skipped, what is refused.

stage.json, written first, holds the config fields and the inputs that decide the result; manifest.json, written last, repeats
them with counts and checksums. A folder with a manifest is complete. One that was begun with other values is never touched.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from typing import Any

import jax
from etils import epath

from humpback import config as configs
from humpback import distributed, storage
from humpback.errors import UserError
from humpback.model import sharding
from humpback.progress import say

_METRICS_SECONDS = 10
WORK_FOLDERS = ("parts", "steps")  # what a stage leaves while it works, for itself to continue from


class Run:
    """A config and the directory that holds what it makes."""

    def __init__(self, cfg: configs.Config, workdir: storage.PathLike):
        self.cfg, self.workdir = cfg, epath.Path(workdir)
        check_shared("workdir", self.workdir)

    def mesh(self) -> jax.sharding.Mesh:
        """The mesh of the config over all devices. UserError when the sizes do not fit the devices."""
        sizes = self.cfg.mesh
        try:
            return sharding.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)
        except ValueError as error:
            raise UserError(f"config fields mesh.*: {error}") from error

    def stage(self, name: str, fields: Iterable[str], inputs: Iterable[str] = ()) -> "Stage":
        """Opens the folder of a stage that reads these config fields ("augment." for a whole part) and these stages."""
        values = dict(configs.leaves(self.cfg))
        read = {k: v for k, v in values.items() if any(k == f or (f.endswith(".") and k.startswith(f)) for f in fields)}
        return Stage(
            self.workdir / name,
            {k: v for k, v in read.items() if configs.compared(k)},
            {k: v for k, v in read.items() if not configs.compared(k)},
            {other: _manifest_digest(self.workdir / other) for other in inputs},
        )


class Stage:
    """One folder of a run. `complete` says whether there is anything to do."""

    def __init__(self, path: epath.Path, config: dict[str, Any], recorded: dict[str, Any], inputs: dict[str, str]):
        self.path, self.name, self._recorded = path, path.name, recorded
        self._made_from = {"stage": path.name, "config": config, "inputs": inputs}
        self._metrics: list[dict[str, Any]] = []
        self._published = self._started = time.monotonic()
        self._check_unchanged()
        self.complete = (path / "manifest.json").exists()
        if self.complete:
            self._clear_work()  # a kill may have come between the manifest and this
            say(f"{self.name}: done before")
            return
        say(f"{self.name}: …")
        if distributed.is_first():
            storage.clean(path)
            storage.publish_json(path / "stage.json", self._made_from)
        distributed.barrier(f"stage {path}")

    def _check_unchanged(self) -> None:
        """Refuses a folder that was made, or begun, with another config or from other inputs, naming the difference."""
        if not (self.path / "stage.json").exists():
            return
        before = storage.read_json(self.path / "stage.json")
        again = f"put the old value back, use another directory, or delete {self.path} and what was made from it"
        for part in ("config", "inputs"):
            was, now = before[part], json.loads(json.dumps(self._made_from[part]))
            for key in sorted(was.keys() | now.keys()):
                if was.get(key) == now.get(key):
                    continue
                if part == "inputs":
                    raise UserError(f"{self.path}: was made from another {key}/; delete {self.path} to make it again")
                raise UserError(f"{self.path}: was made with {key} = {was.get(key)!r}, now it is {now.get(key)!r}; {again}")

    def metrics(self, row: dict[str, Any]) -> None:
        """Adds a row to the stage's metrics, which are published in parts so that a kill costs seconds of them."""
        self._metrics.append(row)
        if time.monotonic() - self._published > _METRICS_SECONDS:
            self.publish_metrics()

    def publish_metrics(self) -> None:
        """Publishes the rows that wait for it, before a stage ends early."""
        if self._metrics and distributed.is_first():
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
        self.publish_metrics()
        if distributed.is_first():
            seconds = time.monotonic() - self._started
            timing = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds, "devices": jax.device_count()}
            storage.publish_json(self.path / "timing.json", timing, replace=True)
            digest = hashlib.sha256(json.dumps(self._made_from["config"], sort_keys=True).encode()).hexdigest()
            manifest = {
                **self._made_from,
                "config_sha256": digest,
                "recorded": self._recorded,
                "counts": counts,
                "dropped": dropped or {},
                "files": {name: storage.sha256_file(self.path / name) for name in files},
                **extra,
            }
            storage.publish_json(self.path / "manifest.json", manifest)
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
    path = run.workdir / name / "manifest.json"
    if not path.exists():
        raise UserError(f"{path.parent}: not complete; run that stage first, or `humpback run` for all of them")
    return storage.read_json(path)


def _manifest_digest(stage: epath.Path) -> str:
    path = stage / "manifest.json"
    if not path.exists():
        raise UserError(f"{stage}: not complete; run that stage first, or `humpback run` for all of them")
    return storage.sha256_file(path)
