"""The base model, M: outside weights into the run's own form, once; every training starts from it."""

import numpy as np

from humpback.convert import sources
from humpback.convert.tensor_ops import DTYPES
from humpback.errors import UserError
from humpback.model.sizes import SIZES
from humpback.models import folders
from humpback.models.folders import digest_of
from humpback.stages.directory import Run


def convert_base(run: Run) -> None:
    """Makes base/, a model folder with direction `base`."""
    cfg = run.cfg.base
    stage = run.stage("base", ("base.", "wrapper"), module=__name__)
    if stage.complete:
        return
    if not cfg.source:
        raise UserError("config field base.source: no weights are named; give a GGUF file, a Hugging Face folder or a model folder")
    source = sources.open_source(cfg.source, sha256=cfg.sha256)
    if cfg.architecture and SIZES.get(cfg.architecture) != source.config:
        raise UserError(
            f"config field base.architecture: {cfg.architecture!r} is {SIZES.get(cfg.architecture, 'not a known size')}, but "
            f"{cfg.source} is {source.config}; name the right one, or leave it empty"
        )
    if source.direction != "base":
        raise UserError(f"config field base.source: {cfg.source} is a {source.direction} model; every training starts from a base")
    info = folders.ModelInfo(source.config, "base", run.cfg.wrapper)
    digests: dict[str, str] = {}

    def look(path: tuple[str, ...], array: np.ndarray) -> None:
        digests["/".join(path)] = folders.digest(array)

    stage.begin()
    folders.save_streamed(stage.path, info, source.read, lambda leaf: DTYPES[source.dtype(leaf)], source.tokenizer, source.attend, look)
    stage.check_contents()
    digests = dict(sorted(digests.items()))  # as folders.weights_digest gives them
    stage.finish(counts={"weights": len(digests)}, weights=digests, weights_sha256=digest_of(digests))
