"""tfds dataset `oasst_seed`: the seed pairs of an Open Assistant export, by the same rule as the seed stage."""

from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from humpback.datasets import pair_files
from humpback.errors import UserError

_DESCRIPTION = """\
Instruction and response pairs for instruction backtranslation: the first turn of Open Assistant message trees, in one language, written
by people, with the reply that was ranked best.
"""
_CITATION = """\
@article{koepf2023openassistant,
  title={OpenAssistant Conversations -- Democratizing Large Language Model Alignment},
  author={K{\\"o}pf, Andreas and Kilcher, Yannic and von R{\\"u}tte, Dimitri and others},
  journal={arXiv preprint arXiv:2304.07327},
  year={2023}
}
"""


class OasstSeed(tfds.core.GeneratorBasedBuilder):
    """Prepared from `source`, a file that `pair_files.read_file` reads; a prepared one is read without it."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First version."}

    def __init__(
        self, *, source: str = "", single_reply: str = "drop", language: str = "en", strict: bool = False, **kwargs: Any
    ) -> None:
        self._source = source
        self._reader = pair_files.Reader(single_reply, language, strict)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: tfds.features.Text() for name in ("id", "instruction", "response", "source")}
        return self.dataset_info_from_configs(
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("instruction", "response"),
            homepage="https://github.com/LAION-AI/Open-Assistant",
            citation=_CITATION,
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        if not self._source:
            raise UserError("oasst_seed is not prepared here; run python -m humpback.datasets oasst_seed --source=FILE")
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, str]]]:
        for pair in pair_files.read_file(self._source, self._reader).pairs:
            yield pair.id, {"id": pair.id, "instruction": pair.instruction, "response": pair.response, "source": pair.source}
