"""The model that a command decodes with, a model folder or whatever `humpback convert` opens, and the folder that it writes."""

import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from humpback import config as configs
from humpback import prompts, storage
from humpback.config import Decoding
from humpback.convert import sources
from humpback.convert.lazy_model import LazyParams
from humpback.decoding import offline, serving
from humpback.decoding.engine import Engine
from humpback.digests import Digests
from humpback.errors import UserError
from humpback.models import folders
from humpback.planning.cache import default_folder
from humpback.records import Record, shard_paths
from humpback.stages import commandline
from humpback.stages.directory import Place, Stage
from humpback.stages.models import inputs_of

_FLAGS = flags.FLAGS


class OpenModel(NamedTuple):
    """A model whose weights are still on disk. source: None for a model folder. base: what --base names, for one of adapters."""

    path: str
    info: folders.ModelInfo
    source: sources.Source | None
    base: str | None = None

    def digest(self) -> str:
        """Names the weights by their contents: equal files, equal digests, wherever they lie."""
        if self.source is None:
            return str(storage.read_json(epath.Path(self.path) / folders.CHECKSUMS).get("sha256"))
        files = sources.list_files(self.path, self.source.base_path)
        measured = Digests().measure([path for _, path in files])
        return storage.sha256_json([[name, digest.size, digest.crc32c] for (name, _), digest in zip(files, measured, strict=True)])

    def engine(
        self, decoding: Decoding, tensor: int, template: Callable[[str], prompts.Prompt] | None
    ) -> tuple[folders.Model, Engine]:
        """Reads the weights into an engine, as `serving.engine_at` does."""
        if self.source is None:
            return serving.engine_at(self.path, decoding, tensor, folders.DIRECTIONS, template, self.base)
        model = folders.Model(self.info, LazyParams(self.source), self.source.tokenizer)
        return serving.engine_of(model, serving.replica_mesh(configs.settled(decoding).processes_per_replica, tensor), decoding, template)


def open_out(decided: Mapping[str, Any], module: str) -> Stage:
    """Opens the folder of --out, of a command whose result `decided` decides; the flags of devices are recorded beside that."""
    recorded = {f"--{name}": _FLAGS[name].value for name in ("slots", "tensor", "processes_per_replica")}
    place = Place(_FLAGS.out, decided, accept_code=_FLAGS.accept_code)
    return Stage(place.path, decided, recorded, place=place, module=module)


def serve_shards(
    stage: Stage, opened: OpenModel, shards: str, kind: type[Record], length: int, output: str,
    task_of: Callable[[folders.Model], offline.Task], template: Callable[[str], prompts.Prompt] | None = None,
) -> offline.Done:  # fmt: skip
    """Serves the records of the stage's files SHARDS-….jsonl, and writes OUTPUT-….jsonl beside them; decodes as the flags say."""
    decoding = Decoding(
        length=length, compute_dtype=_FLAGS.dtype, processes_per_replica=_FLAGS.processes_per_replica, slots=_FLAGS.slots,
        publish_seconds=_FLAGS.publish_seconds,
    )  # fmt: skip
    model, engine = opened.engine(decoding, _FLAGS.tensor, template)
    inputs = inputs_of(shard_paths(stage.path, shards), kind)
    return serving.serve(engine, task_of(model), inputs, offline.Output(stage.path, output, stage.name, stage.metrics, stage), decoding)


def define_base() -> None:
    """The flag --base of commands that take a --model."""
    flags.DEFINE_string("base", None, "where the base of a --model that holds adapters alone is, if not where its folder says")


def open_model(path: str, directions: Collection[str], base: str | None = None) -> OpenModel:
    """Opens what --model, and perhaps --base, name, and lets the programs that are compiled for it be kept where the next start finds them.

    Raises UserError for what is no model, or one of another direction; for a run with the names of the models in it.
    """
    path = sources.resolve(path)
    folder = epath.Path(path)
    if (folder / "model.json").exists():
        opened = OpenModel(path, folders.read_info(path), None, base and sources.resolve(base))
    elif models := _models_of(folder):
        raise UserError(f"--model={path}: is a run; name one of its models: {', '.join(os.fspath(folder / name) for name in models)}")
    elif not folder.exists():
        raise UserError(f"--model={path}: no such model folder or file")
    else:
        source = sources.open_source(path, base=base)
        opened = OpenModel(path, folders.ModelInfo(source.config, source.direction, source.wrapper), source)
    if opened.info.direction not in directions:
        allowed = " or ".join(name for name in folders.DIRECTIONS if name in directions)
        raise UserError(f"--model={path}: is a {opened.info.direction} model; this task needs {allowed}")
    run = folder.parent if (folder.parent / "config.json").exists() else None
    commandline.keep_programs(run / commandline.CACHE if run else default_folder().parent / "programs")
    return opened


def _models_of(folder: epath.Path) -> list[str]:
    """Names the models of a run, in the order in which they are made."""
    names = [path.name for path in folder.iterdir() if (path / "model.json").exists()] if folder.is_dir() else []
    return sorted(names, key=lambda name: (name != "base", name != "backward", len(name), name))
