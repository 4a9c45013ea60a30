"""What a run's folders say of models and judges: likelihoods of held-out pairs, and what judges said of probes."""

from collections.abc import Iterable
from typing import Any

from etils import epath

from humpback.evaluation import judging, paired
from humpback.records import Judged, read_rows, read_shards

TRUE, SWAPPED, NONSENSE = "true", "swapped", "nonsense"  # kinds of a probe
SCORES = RUBRIC, LIKELIHOOD = "rubric", "likelihood"  # also the folders of the stage


def read_paired(run: epath.Path, stages: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """For each task what `paired.compare` says of those of a run's stages; [] for one without a model yet, or without a held-out pair."""
    files = {task: [run / name / paired.FILE for name in stages if name.partition("-")[0] == task] for task in ("backward", "forward")}
    return {task: paired.compare(row for path in paths for row in read_rows(path)) for task, paths in files.items()}


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
