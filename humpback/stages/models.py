"""The models that a run's stages decode with, and the records that they serve."""

import functools
import os
from collections.abc import Callable, Collection, Iterator, Sequence

from jax.sharding import AbstractMesh

from humpback import config as configs
from humpback import prompts, storage
from humpback.config import Decoding
from humpback.decoding import offline, serving
from humpback.decoding.engine import Engine
from humpback.errors import UserError
from humpback.model import sharding
from humpback.model.weights import LlamaConfig
from humpback.models import folders
from humpback.records import from_json, id_of, numbered_lines, shard_paths
from humpback.stages import fitting
from humpback.stages.directory import Run, Stage


def open_engine(
    run: Run, stage: Stage, name: str, directions: Collection[str], template: Callable[[str], prompts.Prompt]
) -> tuple[folders.Model, Engine, Decoding]:
    """`serving.engine_at` for the model that a stage decodes with, and what it takes of the machine."""
    path = run.workdir / name
    info = folders.read_info(path)
    if info.wrapper != run.cfg.wrapper:
        raise UserError(f"{path}: was trained with the wrapper {info.wrapper!r}; the config field wrapper is {run.cfg.wrapper!r}")
    decoding = fitting.fitted(run, stage, info.config)
    return *serving.engine_at(path, decoding, decoding.tensor, directions, template), decoding


def check_split(run: Run, cfg: LlamaConfig) -> None:
    """Raises UserError when a model cannot be split as training and decoding are told to, before hours go into either."""
    if not run.cfg.base.architecture:  # otherwise it was said before
        fitting.announce(run, cfg)
    mesh = configs.settled_mesh(run.cfg.mesh).tensor
    decoding = run.cfg.decoding.tensor or mesh
    wrong = []
    for field, tensor, rules in (("mesh.tensor", mesh, sharding.TRAINING_RULES), ("decoding.tensor", decoding, sharding.DECODING_RULES)):
        if tensor == -1:
            continue  # as many as are left over: known where the devices are
        devices = AbstractMesh((1, 1, tensor), sharding.MESH_AXES)
        try:
            sharding.param_shardings(sharding.padded(cfg, devices), devices, rules)
        except ValueError as error:
            wrong.append(f"config field {field}: {tensor} does not divide the model ({error})")
    if wrong:
        sizes = f"{cfg.num_heads} heads, {cfg.num_kv_heads} key heads and a feed-forward width of {cfg.d_ff}"
        raise UserError(f"{'; '.join(wrong)}; it must divide {sizes}")


def stage_inputs(run: Run, name: str, kind: type) -> offline.Inputs:
    """The records of a finished stage."""
    return inputs_of(shard_paths(run.workdir / name, name), kind)


def inputs_of(paths: Sequence[storage.PathLike], kind: type, any_id: bool = False) -> offline.Inputs:
    """Records of a run's own files. Their places begin with the stage's folder: a run that is moved is the same."""
    return offline.Inputs(paths, functools.partial(from_json, kind), id_of=id_of, any_id=any_id, read=placed_lines)


def placed_lines(path: storage.PathLike) -> Iterator[tuple[str, str]]:
    """The lines of a stage's file, each after "folder/file:line"."""
    folder = os.path.basename(os.path.dirname(os.fspath(path)))
    for where, line in numbered_lines(path):
        yield f"{folder}/{os.path.basename(where)}", line
