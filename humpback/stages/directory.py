"""A run is a directory and a stage is a folder in it: what makes one complete, what may be skipped, what is refused.

stage.json, written just before the first of what a stage makes, holds what decides the result (identity.py); manifest.json, written
last, repeats it with counts and checksums. A folder with a manifest is complete. One that was begun with other values is never touched.
"""

import functools
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from humpback import config as configs
from humpback import distributed, machine, storage
from humpback.background import Background
from humpback.digests import CACHE, Digest, Digests, check_unchanged
from humpback.errors import UserError
from humpback.locks import lock_of
from humpback.model import sharding
from humpback.progress import say
from humpback.records import Record, write_shards
from humpback.stages import code, contents, identity, resume
from humpback.stages.contents import Contents

_METRICS_SECONDS = 10
_WAIT_SECONDS = 30 * 24 * 3600.0  # for the first process, while that waits for who holds the lock
_NOT_TRIED: dict[str, float] = {"seconds": 0.0, "attempts": 0}


class Place:
    """Where a command writes: a run's directory, or the folder of a command of its own.

    values: what every field that may decide a result is now, by name. accept_code: a half-done stage of another version of the code is
    continued. resume_from: a run's directory, whose stages are copied where they are what would be made here. at_begin: called before
    the first write into the place.
    """

    def __init__(self, path: storage.PathLike, values: Mapping[str, Any], *, accept_code: bool = False, resume_from: str = ""):
        self.path, self.accept_code = epath.Path(path), accept_code
        self.resume_from = epath.Path(resume_from) if resume_from else None
        self.lock = lock_of(path)
        self.digests = Digests(self.path / CACHE)
        self.now = identity.Now(values, Contents(values, self.digests))
        self.at_begin: list[Callable[[], None]] = []

    def take(self) -> bool:
        """Makes this process the place's only writer, for all of its run; whether it was not that before, and looks at files anew."""
        if not self.lock.acquire():
            return False
        self.now = identity.Now(self.now.values, Contents(self.now.values, self.digests))  # it may have waited for long
        return True

    def begin(self) -> None:
        """To be called in the first process, the lock's holder, before something is written."""
        self.lock.check()
        while self.at_begin:
            self.at_begin.pop(0)()
        self.digests.save()


class Run:
    """A config and the directory that holds what it makes."""

    def __init__(
        self, cfg: configs.Config, workdir: storage.PathLike, *, accept_code: bool = False, resume_from: str = "", yes: bool = False
    ):
        """yes: what may cost money is agreed to."""
        self.cfg, self.workdir, self.yes = cfg, epath.Path(workdir), yes
        self.place = Place(workdir, dict(configs.leaves(cfg)), accept_code=accept_code, resume_from=resume_from)
        check_shared("workdir", self.workdir)

    def mesh(self, sizes: configs.Mesh | None = None) -> jax.sharding.Mesh:
        """The mesh of the config, or of other sizes, over all devices. UserError when the sizes do not fit the devices."""
        sizes = configs.settled_mesh(sizes or self.cfg.mesh)
        try:
            return sharding.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)
        except ValueError as error:
            raise UserError(f"config fields mesh.*: {error}") from error

    def weights_digest(self, name: str) -> str:
        """The digest of a complete stage's weights, which stands for the model."""
        return distributed.by_first(f"weights of {name}", lambda: read_manifest(self.workdir, name)["weights_sha256"])

    def check(self, names: Iterable[str]) -> None:
        """UserError when one of these stages was made, or begun, with another config, before anything is done or written."""

        def check() -> None:
            for name in names:
                path = self.workdir / name
                if not (record := identity.read(path)) or identity.nothing_made(path):
                    continue
                inputs = {other: identity.manifest_digest(self.workdir / other) for other in record["inputs"]}
                if found := identity.compare(record, self.place.now).found or identity.other_inputs(record, inputs):
                    raise UserError(identity.refusal(path, found, self.workdir, self.place.now))

        distributed.by_first(f"check {self.workdir}", check)

    def stage(self, name: str, fields: Iterable[str], inputs: Collection[str] = (), *, module: str) -> "Stage":
        """Opens the folder of a stage that reads these config fields ("augment." for a whole part) and these stages.

        name: "" for a run that is a single stage. module: the stage's own, whose version is recorded.
        """
        read = {k: v for k, v in self.place.now.values.items() if any(k == f or (f.endswith(".") and k.startswith(f)) for f in fields)}
        recorded = {k: v for k, v in read.items() if not configs.compared(k)}
        return Stage(self.workdir / name, read, recorded, inputs, place=self.place, module=module)


class Stage:
    """One folder of a run. `complete` says whether there is anything to do."""

    def __init__(
        self,
        path: epath.Path,
        fields: Mapping[str, Any],
        recorded: Mapping[str, Any],
        inputs: Collection[str] = (),
        *,
        place: Place | None = None,
        module: str = "",
    ):
        """fields: those that decide, and those in `recorded`. place: that which the folder is in, or is; without one it is alone."""
        self.path, self.name, self._recorded = path, path.name, dict(recorded)
        self._place = place or Place(path, fields)
        self._fields = {k: v for k, v in fields.items() if k not in recorded}
        self._inputs, self._module = list(inputs), module
        self._metrics: list[dict[str, Any]] = []
        self.background = Background()
        self._beginning = threading.Lock()
        self._begun = False
        self._lists: dict[str, contents.Listed] = {}  # of the first process
        found = distributed.by_first(f"stage {path}", self._open, _WAIT_SECONDS)
        self.complete, self._made_from, self._codes, self._accepted = (found[k] for k in ("complete", "made_from", "codes", "accepted"))
        self.lock: int = found["lock"]  # its number, which the names of parts have
        self._earlier: dict[str, float] = found["earlier"]  # seconds and number of the attempts before this one
        self._published = self._started = time.monotonic()  # it may have waited for the lock till now
        self.held: dict[str, Any] = found.get("held", {})  # fields that were found for the devices when what is half done was begun
        self._before: dict[str, Any] = found.get("before", {})  # what the last of those found who worked here, whether they made anything
        self._number: int = found.get("number", 0)
        self._found: dict[str, Any] = {}
        if self.complete:
            say(f"{self.name}: done before{found['told']}")
            return
        machine.give_back()  # what the stage before took
        say(f"{self.name}: …")

    def _open(self) -> dict[str, Any]:
        """What the first process finds in the folder; becomes its only writer if there is something to do."""
        found = self._look()
        if (not found["complete"] or self._work_folders()) and self._place.take():
            found = self._look()  # another process may have had it
        if not found["complete"] and (other := self._place.resume_from) is not None:
            inputs = {name: identity.manifest_digest(self._place.path / name) for name in self._inputs}
            if resume.take(other / self.name, self.path, self._place.now, self._fields, inputs):
                found = self._look()
        if found["complete"]:
            self._clear_work()  # a kill may have come between the manifest and this
        else:
            storage.clean(self.path)
        return {**found, "lock": self._place.lock.number}

    def _look(self) -> dict[str, Any]:
        """What there is, and what it is to be made from. UserError for what was made, or begun, from something else."""
        now, record = self._place.now, identity.read(self.path)
        if record and identity.nothing_made(self.path):
            record = None
        made_from = [read_manifest(self._place.path, other) for other in self._inputs]
        inputs = {other: identity.manifest_digest(self._place.path / other) for other in self._inputs}
        unproven: list[str] = []
        if not record:  # it must go on from what the stages before it were made from
            for other, manifest in zip(self._inputs, made_from, strict=True):
                if found := identity.compare(manifest, now).found:
                    raise UserError(identity.refusal(self._place.path / other, found, self._place.path, now))
        if record:
            if kind := identity.other_kind(record, self._fields):
                word = "made" if (self.path / identity.MANIFEST).exists() else "begun"
                raise UserError(f"{self.path}: was {word} by another command, with {kind}; name another folder")
            found, unproven = identity.compare(record, now, self._fields)
            if found := found or identity.other_inputs(record, inputs):
                raise UserError(identity.refusal(self.path, found, self._place.path, now))
        if (self.path / identity.MANIFEST).exists():
            self._place.digests.save()
            mine = [name for name in unproven if name in self._fields]
            told = f" (unproven: whether {' and '.join(mine)} still holds what it was made from)" if mine else ""
            return {"complete": True, "made_from": record, "codes": [], "accepted": [], "told": told, "earlier": {}}
        files = [name for name in self._fields if name in contents.FIELDS]
        version = code.version(self._module)
        codes = identity.codes(self.path, record) if record else [version]
        if version not in codes and not self._place.accept_code:
            raise UserError(identity.other_code(self.path, codes, version))
        accepted = [version] if version not in codes else []
        before, number = identity.found_before(self.path)
        held = before if record else {}
        self._lists = {name: listed for name in files if (listed := now.contents.listed(name))}
        if not record or "contents" not in record:  # what has begun it says what it is made from, but for versions that did not say all
            record = {
                "stage": self.path.name,
                "config": {k: v for k, v in self._fields.items() if k not in files},
                "contents": {name: now.contents.of(name) for name in files},
                "inputs": inputs,
                "upstream": identity.upstream_of(made_from),
                "code": codes[:1],
            }
        all_codes, earlier = [*codes, *accepted], _NOT_TRIED
        if (self.path / identity.TIMING).exists():
            earlier = _NOT_TRIED | storage.read_json(self.path / identity.TIMING)
        return {"complete": False, "made_from": record, "codes": all_codes, "accepted": accepted, "told": "", "earlier": earlier,
                "held": held, "before": before, "number": number}  # fmt: skip

    def find(self, values: Mapping[str, Any]) -> None:
        """Takes what was found, for the devices at hand or for the inputs; it is recorded when the stage begins, or now goes on with
        other values."""
        self._found |= values
        self._recorded |= self._found

    def begin(self) -> None:
        """To be called before the first of what the stage makes is written; writes what it is made from. Any process may be the first."""
        with self._beginning:  # the background writes, too
            self._begin()

    def hand_out(self, name: str, rows: Sequence[Record]) -> list[str]:
        """Writes the records that the stage serves next, by the first process; the names of the files. It begins in every process at this
        point, where all know the same of what was found: what is found later is of another engine."""

        def write() -> list[str]:
            self.begin()
            return write_shards(self.path, name, rows, len(rows))

        files = distributed.by_first(f"{name} of {self.path}", write)
        self.begin()
        return files

    def _begin(self) -> None:
        if self._begun:
            return
        if distributed.is_first():
            self._place.begin()
        file = self.path / identity.STAGE
        if not file.exists() or identity.nothing_made(self.path):  # of a try that made nothing there may be one
            if self._lists:
                storage.publish_json(self.path / identity.LISTS, self._lists, replace=True)
            storage.publish_json(file, self._made_from, replace=True)
        for version in self._accepted:
            identity.add_code(self.path, version)
        if self._found != self._before:  # a try that made nothing may have found the same
            identity.add_found(self.path, self._number, self._found)
        self._begun = True

    def check(self) -> None:
        """Ends the process when another one writes in the run by now. For the first process, which holds the lock."""
        self._place.lock.check()

    @functools.cached_property
    def identity(self) -> str:
        """What the parts that are made now say that they are made from, the version of the code included."""
        return identity.of(self._made_from, code.version(self._module))

    @functools.cached_property
    def identities(self) -> set[str]:
        """What parts in this folder may say that they are made from."""
        return {identity.of(self._made_from, version) for version in self._codes}

    def seen(self, field: str) -> dict[str, Digest]:
        """The digest of each file that a field names. Of the first process."""
        return self._place.now.contents.seen(field)

    def check_contents(self) -> None:
        """To be called in the first process when the files that the fields name were read: UserError when one was changed meanwhile."""
        for name in self._made_from["contents"]:
            check_unchanged(self.seen(name))

    def metrics(self, row: dict[str, Any]) -> None:
        """Adds a row to the stage's metrics, which are published in parts so that a kill costs seconds of them."""
        self._metrics.append(row)
        if time.monotonic() - self._published > _METRICS_SECONDS:
            self.publish_metrics()

    def publish_metrics(self) -> None:
        """Publishes the rows that wait for it, in the background; `background.join` before a stage ends early."""
        if self._metrics and distributed.is_first():
            self.background.submit(functools.partial(self._publish_metrics, self._metrics, self._timing()))
        self._metrics, self._published = [], time.monotonic()

    def _publish_metrics(self, rows: list[dict[str, Any]], timing: dict[str, float]) -> None:
        self.begin()
        number = len(storage.list_files(self.path / "metrics"))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        storage.publish(self.path / "metrics" / f"metrics-{number:05d}.jsonl", lines)
        storage.publish_json(self.path / identity.TIMING, timing, replace=True)  # for the next attempt, should this one be killed

    def _timing(self) -> dict[str, float]:
        """Seconds and number of the attempts so far; of one that was killed the seconds up to its last metrics count."""
        seconds = time.monotonic() - self._started
        return {"seconds": self._earlier["seconds"] + seconds, "attempts": self._earlier["attempts"] + 1}

    def _work_folders(self) -> list[epath.Path]:
        """What is there of work that is over once the stage is complete."""
        kept = any(value for name, value in self._recorded.items() if name.endswith(".checkpoint_keep_every"))
        folders = (self.path / name for name in identity.WORK_FOLDERS if not (kept and name == "steps"))
        return [folder for folder in folders if folder.exists()]

    def _clear_work(self) -> None:
        for folder in self._work_folders() if distributed.is_first() else ():
            folder.rmtree()

    def finish(
        self,
        *,
        counts: dict[str, Any],
        dropped: dict[str, int] | None = None,
        files: Iterable[str] = (),
        tokens: int = 0,
        **extra: Any,
    ) -> None:
        """Writes timing.json and then manifest.json, which completes the stage.

        files: those that the stage published. tokens: of all attempts, as timing.json's seconds are.
        """
        self.publish_metrics()
        self.background.join()
        self.begin()
        if distributed.is_first():
            self.check()
            timing = self._timing()
            rate = {"tokens": tokens, "tokens_per_second": tokens / timing["seconds"], "devices": jax.device_count()}
            storage.publish_json(self.path / identity.TIMING, timing | rate, replace=True)
            manifest = {
                **self._made_from,
                "code": self._codes,
                "config_sha256": storage.sha256_json(self._made_from["config"]),
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
        lost = ", ".join(f"{value} {name}" for name, value in (dropped or {}).items() if value)
        time_ = self._timing()
        again = f", {time_['seconds']:.1f} s in {time_['attempts']} attempts" if time_["attempts"] > 1 else ""
        say(f"{self.name}: {numbers}{'; dropped: ' if lost else ''}{lost} ({time.monotonic() - self._started:.1f} s{again})")


def check_shared(flag: str, path: storage.PathLike) -> None:
    """UserError for a local path with several processes, unless the user has said that all of them see the same files there."""
    if jax.process_count() > 1 and "://" not in os.fspath(path) and "HUMPBACK_SHARED_WORKDIR" not in os.environ:
        raise UserError(
            f"--{flag}={path}: a local path with {jax.process_count()} processes; use gs://…, or set "
            "HUMPBACK_SHARED_WORKDIR=1 if every host sees the same files there"
        )


def read_manifest(workdir: epath.Path, name: str) -> dict[str, Any]:
    """A complete stage's manifest. UserError when the stage is not complete."""
    path = workdir / name / identity.MANIFEST
    if not path.exists():
        raise UserError(f"{path.parent}: not complete; run that stage first, or `humpback run` for all of them")
    return storage.read_json(path)
