"""The segment stage on some pages, for tests and benchmarks that want its segments in hand."""

import tempfile

from humpback import config, storage
from humpback.config import Segments
from humpback.records import Segment, read_shards
from humpback.stages.directory import Run
from humpback.stages.segment import segment_into

# Rules that texts made up by a test ("w1 w2 w3") would not pass.
UNJUDGED = {
    "min_language_share": 0.0, "min_stop_word_share": 0.0, "min_words": 0, "max_digit_share": 1.0, "max_symbol_share": 1.0,
    "max_list_share": 1.0, "max_fragment_share": 1.0, "max_code_share": 1.0,
}  # fmt: skip


def segment_pages(cfg: Segments, **how) -> tuple[list[Segment], dict[str, int], dict[str, int]]:
    """(segments sorted by id, counts, drops by reason) of the config's input; `how` goes to `segment_into`."""
    whole = config.Config()
    whole.segments = cfg
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config.finish(whole), folder)
        stage = run.stage("segments", ("segments.",), module="")
        segment_into(stage, run.cfg.segments, **how)
        manifest = storage.read_json(stage.path / "manifest.json")
        return list(read_shards(stage.path, "segments", Segment)), manifest["counts"], manifest["dropped"]
