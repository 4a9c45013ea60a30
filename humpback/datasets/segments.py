"""tfds dataset `segments`: what `humpback segment` kept of web pages, shard by shard as it is there, with the yield of the whole."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from humpback import records, storage
from humpback.errors import UserError
from humpback.records import Segment

_DESCRIPTION = """\
Self-contained segments of web pages for instruction backtranslation: each is the readable text below a header, lower-level headers
included, with the path of headers that leads to it, the page's address and bytes, and its language. They are sorted by id, a hash, so
their order is random. `info.metadata["yield"]` says how many pages they come from and what was dropped for which reason.
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
            metadata=tfds.core.MetadataDict({"yield": read_yield(self._source)} if self._source else {}),
            homepage="https://arxiv.org/abs/2308.06259",
            citation=_CITATION,
            license="The texts belong to the authors of their pages.",
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, Sequence[Callable[[], Iterator[tuple[str, dict[str, Any]]]]]]:
        if not self._source:
            raise UserError("segments is not prepared here; run python -m humpback.datasets segments --source=DIR")
        return {"train": [functools.partial(_examples, path) for path in records.shard_paths(self._source, "segments")]}


def read_yield(source: storage.PathLike) -> dict[str, Any]:
    """The totals of `source`/yield.json: `pages`, `segments_kept`, `dropped` (reason → count) and what other numbers it has.

    UserError when it is not there, or does not count as many segments as the folder has.
    """
    path = epath.Path(source) / "yield.json"
    if not path.exists():
        raise UserError(f"{path}: no such file; --source names the finished output of `humpback segment --input=… --out=DIR`")
    found = storage.read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("segments_kept"), int) or not isinstance(found.get("dropped"), dict):
        raise UserError(f"{path}: has no segments_kept and dropped; it is not what `humpback segment` writes")
    shards = records.shard_paths(source, "segments")
    lines = sum(chunk.count(b"\n") for shard in shards for chunk in storage.read_chunks(shard))
    if lines != found["segments_kept"]:
        raise UserError(f"{path}: counts {found['segments_kept']:,} segments, but {os.fspath(source)} has {lines:,}; make it again")
    return {name: value for name, value in found.items() if isinstance(value, int) or name == "dropped"}


def _examples(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for segment in records.read_lines(path, Segment):
        yield segment.id, {**vars(segment), "header_path": list(segment.header_path)}
