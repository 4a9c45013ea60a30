"""The base model, M: outside weights into the run's own form, once; every training starts from it."""

import dataclasses
import os

import numpy as np

from humpback import distributed, prompts
from humpback.convert import export, origin, sources
from humpback.convert.tensor_ops import DTYPES
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.model.weights import leaves
from humpback.models import folders
from humpback.models.checksums import CHECKSUMS
from humpback.stages import commandline, identity
from humpback.stages.directory import Run, Stage
from humpback.stages.models import check_split

define_flags = commandline.define_flags


def convert_base(run: Run) -> None:
    """Makes base/, a model folder with direction `base`; takes one that `humpback convert` has made there."""
    cfg = run.cfg.base
    stage = run.stage("base", ("base.", "wrapper"), module=__name__)
    if stage.complete:
        check_split(run, folders.read_info(stage.path).config)
        return
    if (stage.path / CHECKSUMS).exists() and not (stage.path / identity.STAGE).exists():
        return _take(run, stage)
    if not cfg.source:
        raise UserError(
            "config field base.source: no weights are named; give a GGUF file, a Hugging Face folder or a model folder, or put one there: "
            f"humpback convert --source=… --target={stage.path}"
        )
    source = _open(run, cfg.source, cfg.sha256)
    _check_export(source, run.cfg.wrapper)
    digests: dict[str, str] = {}

    def look(path: tuple[str, ...], array: np.ndarray) -> None:
        digests["/".join(path)] = folders.digest(array)

    info = folders.ModelInfo(source.config, "base", run.cfg.wrapper)
    distributed.by_first(f"begin {stage.path}", stage.begin)  # alone: saving clears the folder of files that are being written
    folders.save_streamed(stage.path, info, source.read, lambda leaf: DTYPES[source.dtype(leaf)], source.tokenizer, look)
    distributed.by_first("base weights read", stage.check_contents)
    distributed.by_first("base licence", lambda: origin.write(os.fspath(stage.path), origin.read(source.path)))
    _finish(stage, digests)


def _check_export(source: sources.Source, wrapper: str) -> None:
    """UserError for a tokenizer that could not be exported with what the run will have made of it."""
    tokenizer = source.tokenizer.ending(prompts.ENDS.get(wrapper, ""))
    export.folder_files(dataclasses.replace(source, tokenizer=tokenizer), wrapper, "forward")


def _take(run: Run, stage: Stage) -> None:
    """Completes a stage with the model folder that is there. UserError when it is not that of base.source, where one is given."""
    info = folders.read_info(stage.path)
    if info.wrapper != run.cfg.wrapper:
        raise UserError(
            f"config field wrapper: {run.cfg.wrapper!r}, but {stage.path} was converted with {info.wrapper!r}; convert it again with "
            f"--wrapper={run.cfg.wrapper}, or change the field"
        )
    digests = _digests(_open(run, str(stage.path)))
    if run.cfg.base.source:
        wanted = _digests(_open(run, run.cfg.base.source, run.cfg.base.sha256))
        distributed.by_first("base weights read", stage.check_contents)
        if other := [name for name in sorted(digests.keys() | wanted.keys()) if digests.get(name) != wanted.get(name)]:
            raise UserError(
                f"{stage.path}: holds another model than config field base.source: {run.cfg.base.source} ({other[0]} differs); leave "
                f"the field empty to take what is there, or delete {stage.path}"
            )
    _finish(stage, digests)


def _open(run: Run, path: str, sha256: str = "") -> sources.Source:
    """Opens base weights of the architecture that the config names."""
    source, name = sources.open_source(path, sha256=sha256), run.cfg.base.architecture
    if name and SIZES.get(name) != source.config:
        raise UserError(
            f"config field base.architecture: {name!r} is {SIZES.get(name, 'not a known size')}, but {path} is {source.config}; "
            "name the right one, or leave it empty"
        )
    check_split(run, source.config)
    if source.direction != "base":
        raise UserError(f"config field base.source: {path} is a {source.direction} model; every training starts from a base")
    return source


def _digests(source: sources.Source) -> dict[str, str]:
    """As folders.weights_digest gives them, read one after the other, in the first process; in the others nothing."""
    if not distributed.is_first():
        return {}
    return {"/".join(path): folders.digest(source.read(path)) for path, _ in leaves(source.config)}


def _finish(stage: Stage, digests: dict[str, str]) -> None:
    digests = distributed.by_first("base weights", lambda: dict(sorted(digests.items())))
    stage.finish(counts={"weights": len(digests)}, weights=digests, weights_sha256=folders.digest_of(digests))


def main() -> None:
    """`humpback base`."""
    convert_base(commandline.open_run())
