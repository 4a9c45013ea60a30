"""On a pod one process does what one is needed for; the others wait, and fail with it."""

import pathlib
import subprocess
import sys

from tests import kills

# Says which process reads what. Everything is made by hand but what is asked about: seed, selection, summary, manifests.
SCRIPT = """
import pathlib, sys
from humpback import config, distributed, locks
distributed.start()
import jax
from humpback.errors import UserError
from humpback.records import Example, Rated, write_shards
from humpback.stages import curate, identity, seed, summary
from humpback.stages.directory import Run
from tests import tiny_config
from tests.stages.test_summary import CANDIDATES, SCORES, rated

folder = pathlib.Path(sys.argv[1])

def told(module, name):
    function = getattr(module, name)
    def telling(*arguments, **named):
        with open(folder / f"{name}-{jax.process_index()}", "a") as log:
            log.write("x")
        return function(*arguments, **named)
    setattr(module, name, telling)

for module, name in ((seed, "read_pairs"), (curate, "read_shards"), (summary, "read_shards"), (identity, "manifest_digest")):
    told(module, name)
cfg = tiny_config.get_config()
cfg.seed_pairs.source, cfg.iterations = str(folder / "pairs.jsonl"), 1
run = Run(config.finish(cfg), folder / "run")
seed.seed(run)
stage = run.stage("ratings-1", (), module="")
files = write_shards(stage.path, "ratings", map(rated, CANDIDATES, SCORES), 8) if distributed.is_first() else []
stage.finish(counts={}, files=files)
curate.select(run, 1)
print("learned:", summary.summarize(run), flush=True)
locks.release_all()
cfg.seed_pairs.limit = 3
try:
    seed.seed(Run(config.finish(cfg), folder / "run"))
except UserError as error:
    print(error, flush=True)
distributed.barrier("end")
"""


def test_one_process_does_what_one_is_needed_for(tmp_path: pathlib.Path) -> None:
    rows = (f'{{"instruction": "what is {n}", "response": "the number {n}"}}\n' for n in range(9))
    (tmp_path / "pairs.jsonl").write_text("".join(rows))
    command = [sys.executable, "launch/local_pod.py", "--processes=2", "--devices=1", "--", "python", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, cwd=kills.REPOSITORY, env=kills.environment(60), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("*-[01]")} == {"read_pairs-0", "read_shards-0", "manifest_digest-0"}
    both = [done.stdout, "".join(line.removeprefix("[1] ") + "\n" for line in done.stderr.splitlines() if line.startswith("[1] "))]
    for said in both:  # the same answer, and the same refusal
        assert "learned: None" in said and "run/seed: was made with seed_pairs.limit = 16, now it is 3; put back" in said
