"""Makes tests/golden/programs/*.hlo.gz: three programs as the TPU's compiler (libtpu 0.0.52, JAX 0.12.0) leaves them, for the parser.

    JAX_PLATFORMS=cpu PYTHONPATH=. .venv-tpu/bin/python tests/golden/make_programs.py

They are the training step and the decoding program of a model of two layers on four chips, and the step on two slices of four. What the
parser must find in them is in tests/planning/test_collectives.py, counted by hand or from the shapes.
"""

import gzip
import pathlib
import re

from humpback import experiments
from humpback.model.llama import LlamaConfig
from humpback.planning import compile as planning
from humpback.planning import jobs

_NOTES = re.compile(r", (?:metadata|backend_config|frontend_attributes|sharding)=(?:\{.*\}|\"[^\"]*\").*$")
FOLDER = pathlib.Path(__file__).parent / "programs"
MODEL = LlamaConfig(
    vocab_size=4096, d_model=512, num_layers=2, num_heads=8, num_kv_heads=8, head_dim=64, d_ff=1024, tied=False, max_positions=2048
)
FINETUNE = experiments.paper("").forward
JOBS: dict[str, jobs.Job] = {
    "step": jobs.Step.of(jobs.Place("v5e:2x2", 1, 4, 1), MODEL, FINETUNE, length=512, rows=4, parts=1, targets=512),
    "slices": jobs.Step.of(jobs.Place("v5e:2x2", 2, 4, 1, slices=2), MODEL, FINETUNE, length=512, rows=8, parts=1, targets=512),
    "decode": jobs.Decode(jobs.Place("v5e:2x2", 1, 1, 4), MODEL, "generate", 16, 512, 0, "bfloat16", 8, 512, "compute", 0.7, 0.9),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, job in JOBS.items():
        function, arguments, mesh = jobs.build(job)
        compiled = planning.compile_for(function, arguments, mesh)
        (FOLDER / f"{name}.hlo.gz").write_bytes(gzip.compress(shortened(compiled.text).encode(), mtime=0))


def shortened(text: str) -> str:
    """Its computations alone, without what the compiler notes for itself and the places in our code, which are half of the text."""
    lines = [_NOTES.sub("", line) for line in text.splitlines() if line.startswith(("  ", "%", "ENTRY", "}"))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
