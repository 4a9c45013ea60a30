"""Makes tests/golden/summary/: summary.json and report.md, but for its times, of the hand-made run of tests/stages/test_summary.py.

    PYTHONPATH=. python -m tests.golden.make_summary

Read the difference before you commit it: the figures follow from the few records of that run, and its tests work the small ones out.
"""

import tempfile

from etils import epath

from humpback import config
from humpback.stages.directory import Run
from humpback.stages.summary import summarize
from tests import tiny_config
from tests.stages.test_summary import FIELDS, GOLDEN, STAGES, put, without_times


def main() -> None:
    """Makes the run in a temporary folder, and copies what its summary says."""
    cfg = tiny_config.get_config()
    cfg.evaluation.sets = FIELDS["evaluation__sets"]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config.finish(cfg), epath.Path(folder) / "run")
        for name in STAGES:
            put(run, name)
        summarize(run)
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / "summary.json").write_bytes((run.workdir / "summary.json").read_bytes())
        (GOLDEN / "report.md").write_text(without_times((run.workdir / "report.md").read_text()))


if __name__ == "__main__":
    main()
