"""tfds dataset `segments`: what `humpback segment` kept of web pages, shard by shard as it is there, with the yield of the whole."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from humpback import records, storage
from humpback.errors import UserError
from humpback.records import Segment

_DESCRIPTION = """\
Self-contained segments of web pages for instruction backtranslation: each is the readable text below a header, lower-level headers
included, with the path of headers that leads to it, the page's address and bytes, and its language. They are sorted by id, a hash, so
their order is random. `info.metadata` says how many pages they come from, what was dropped for which reason, and the rules' thresholds.
"""
_CITATION = """\
@inproceedings{li2024self,
  title={Self-Alignment with Instruction Backtranslation},
  author={Li, Xian and Yu, Ping and Zhou, Chunting and Schick, Timo and Levy, Omer and Zettlemoyer, Luke and Weston, Jason and Lewis, Mike},
  booktitle={The Twelfth International Conference on Learning Representations},
  year={2024}
}
"""


class Segments(tfds.core.ShardBasedBuilder):
    """Prepared from `source`, the folder that `humpback segment --out` made; a prepared one is read without it.

    One array_record file for each file of records, one after another: tfds' usual way through its shuffler would need TensorFlow for more
    than 1 GiB of records.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def __init__(self, *, source: str = "", **kwargs: Any) -> None:
        self._source = source
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {
            "id": text(),
            "text": text(),
            "header": text(),
            "header_path": tfds.features.Sequence(text()),
            "url": text(),
            "source": text(),
            "start": np.int64,
            "end": np.int64,
            "language": text(),
            "confidence": np.float32,  # as wide as a record of tfds holds it
        }
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(describe(self._source) if self._source else {}),
            homepage="https://arxiv.org/abs/2308.06259",
            citation=_CITATION,
            license="The texts belong to the authors of their pages.",
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, Sequence[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        if not self._source:
            raise UserError("segments is not prepared here; run python -m humpback.datasets segments --source=DIR")
        return {"train": [functools.partial(_examples, path) for path in records.shard_paths(self._source, "segments")]}


def describe(source: storage.PathLike) -> dict[str, Any]:
    """What the folder says of its segments: `segments`, their number; `yield`, the totals of yield.json; `config`, the rules.

    UserError when it is not finished, or does not have as many segments as it says.
    """
    folder = epath.Path(source)
    for name in ("manifest.json", "yield.json"):
        if not (folder / name).exists():
            raise UserError(f"{folder / name}: no such file; --source names the finished output of `humpback segment --input=… --out=DIR`")
    manifest, found = (storage.read_json(folder / name) for name in ("manifest.json", "yield.json"))
    try:
        count, config = int(manifest["counts"]["segments"]), dict(manifest["config"])
        totals = {name: found[name] for name in ("pages", "dropped", *sorted(found)) if name != "sources"}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: is not what `humpback segment` makes ({error!r})") from error
    lines = sum(chunk.count(b"\n") for shard in records.shard_paths(folder, "segments") for chunk in storage.read_chunks(shard))
    if lines != count:
        raise UserError(f"{folder}: manifest.json counts {count:,} segments, the files have {lines:,}; make it again")
    return {"segments": count, "yield": totals, "config": config}


def _examples(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for segment in records.read_lines(path, Segment):
        yield segment.id, msgspec.to_builtins(segment)
