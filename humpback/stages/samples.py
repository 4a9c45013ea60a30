"""A few of the pairs that a stage leaves out, by reason, for a person to judge."""

from humpback import storage
from humpback.corpus.tally import SAMPLE_CHARS, SAMPLES_FILE, Tally
from humpback.records import Example
from humpback.stages.directory import Stage


class Samples:
    """Of each reason a few; which ones, their places decide, and not their order."""

    def __init__(self) -> None:
        self._tally = Tally()

    def drop(self, reason: str, place: str, text: str, *, of: str = "") -> None:
        """Takes a record, or passes it over. of: what its reason begins with, of sets that measure."""
        place, text = (part[:SAMPLE_CHARS].encode("utf-8", "replace").decode() for part in (place, text))
        self._tally.drop(of + reason, {"header": place}, lambda: text)

    def drop_pair(self, reason: str, pair: Example, *, of: str = "") -> None:
        """The same of what is a pair already."""
        self.drop(reason, pair.source, f"{pair.instruction}\n\n{pair.response}", of=of)

    def publish(self, stage: Stage) -> str:
        """Writes a stage's samples; returns the file's name."""
        storage.publish_json(stage.path / SAMPLES_FILE, self._tally.samples(), replace=True)
        return SAMPLES_FILE
