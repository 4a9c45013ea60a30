"""What a judge said of its probes, read from a run's judge-T/."""

from typing import Any

from etils import epath

from humpback.evaluation import judging
from humpback.records import Judged, read_shards

TRUE, SWAPPED, NONSENSE = "true", "swapped", "nonsense"  # kinds of a probe
SCORES = RUBRIC, LIKELIHOOD = "rubric", "likelihood"  # also the folders of the stage


def read_judge(run: epath.Path, iteration: int) -> dict[str, dict[str, Any] | None]:
    """Score → what `judging.diagnose` says, None where no pair has both scores; {} where nothing was asked."""
    found = {}
    for score in SCORES:
        folder = run / f"judge-{iteration}" / score
        if folder.exists():
            by_pair: dict[tuple[str, str], dict[str, Judged]] = {}
            for judged in read_shards(folder, "judged", Judged):
                by_pair.setdefault((judged.probe.set, judged.probe.pair), {})[judged.probe.kind] = judged
            found[score] = judging.diagnose([_probe(of) for of in by_pair.values() if TRUE in of and SWAPPED in of])
    return found


def _probe(of_pair: dict[str, Judged]) -> judging.Probe:
    true, nonsense = of_pair[TRUE], of_pair.get(NONSENSE)
    return judging.Probe(
        true.probe.set, true.score, of_pair[SWAPPED].score, len(true.probe.response),
        nonsense.score if nonsense else None, true.mass, true.probabilities,
    )  # fmt: skip
