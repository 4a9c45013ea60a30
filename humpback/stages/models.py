"""The models that a run's stages decode with, and the records that they serve."""

import functools
from collections.abc import Callable, Collection

from humpback import prompts
from humpback.decoding import offline, serving
from humpback.decoding.engine import Engine
from humpback.errors import UserError
from humpback.models import folders
from humpback.records import from_json, id_of, shard_paths
from humpback.stages.directory import Run


def open_engine(
    run: Run, name: str, directions: Collection[str], template: Callable[[str], prompts.Prompt]
) -> tuple[folders.Model, Engine]:
    """`serving.engine_at` for the model of a stage."""
    path = run.workdir / name
    info = folders.read_info(path)
    if info.wrapper != run.cfg.wrapper:
        raise UserError(f"{path}: was trained with the wrapper {info.wrapper!r}; the config field wrapper is {run.cfg.wrapper!r}")
    return serving.engine_at(path, run.cfg.decoding, run.cfg.decoding.tensor or run.cfg.mesh.tensor, directions, template)


def stage_inputs(run: Run, name: str, kind: type) -> offline.Inputs:
    """The records of a finished stage."""
    return offline.Inputs(shard_paths(run.workdir / name, name), functools.partial(from_json, kind), id_of=id_of)
