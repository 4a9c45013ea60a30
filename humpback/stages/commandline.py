"""The flags that every stage has: which experiment, and where."""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import sys

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from humpback import config as configs
from humpback import internals, storage
from humpback.errors import UserError
from humpback.stages.directory import Run

CACHE = "compilation_cache"  # in the run's directory; may be deleted at any time
_CACHE_OPTION = "jax_compilation_cache_dir"
_FLAGS = flags.FLAGS


def define_flags() -> None:
    """--config, --workdir, --yes, --resume_from and --accept_code."""
    config_flags.DEFINE_config_file("config", None, "the experiment, configs/NAME.py[:VARIANT]; --config.FIELD=VALUE changes a field")
    flags.DEFINE_string("workdir", None, "the run's directory (local or gs://)")
    flags.DEFINE_bool("yes", False, "send what an endpoint (curate.judge) is asked, which may cost money")
    flags.DEFINE_string("resume_from", None, "another run's directory, which is only read: what it has of this run is copied")
    define_accept_code()


def define_accept_code() -> None:
    """--accept_code, which every command has that continues what is half done."""
    flags.DEFINE_bool("accept_code", False, "continue what another version of the code has begun; both versions are recorded")


def open_run() -> Run:
    """The run that the flags name. UserError when a flag is missing or a field has a wrong value."""
    for name in ("config", "workdir"):
        if _FLAGS[name].value is None:
            raise UserError(f"--{name} is missing; for example --config=configs/demo.py --workdir=runs/demo")
    try:
        cfg = configs.finish(_FLAGS.config, jax.default_backend())
    except OSError as error:  # a file that cannot be read shows only when the config is looked at
        _, _, said = str(error).partition("failure to load: ")
        raise UserError(f"--config: {' '.join((said or str(error)).split())}") from error
    before = _FLAGS.resume_from or ""
    if before and not epath.Path(before).is_dir():
        raise UserError(f"--resume_from={before}: there is no such folder; name the directory of a run, the one that holds config.json")
    run = Run(cfg, _FLAGS.workdir, accept_code=_FLAGS.accept_code, resume_from=before, yes=_FLAGS.yes)
    keep_programs(run.workdir / CACHE)
    run.place.at_begin.append(functools.partial(_record, run))
    return run


def _record(run: Run) -> None:
    """Writes by what the run is made: its config, and the source where that is known."""
    storage.publish(run.workdir / "config.json", configs.to_json(run.cfg) + "\n", replace=True)
    source = pathlib.Path(__file__).parents[2] / "source.json"  # launch/tpu.py's word of the commit and how this differs
    if source.exists():
        digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
        storage.publish(run.workdir / "sources" / f"{digest}.json", source.read_bytes())


def keep_programs(folder: storage.PathLike) -> None:
    """Lets what was compiled once be read by the next process that needs it: after a preemption, for the other stages of a shape, for
    the next start of a command. UserError on a TPU whose compiler is too old."""
    check_python(jax.default_backend())
    if not getattr(jax.config, _CACHE_OPTION):  # JAX_COMPILATION_CACHE_DIR names another one
        jax.config.update(_CACHE_OPTION, os.path.join(folder, _processor()))
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # GPUs' own; their path would be part of every key
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        # All processes of a simulated pod read what the first, the only one that JAX lets write, has compiled. A CPU's key has the
        # process' own view of the devices; without it the same program has the same key in all.
        internals.share_cache_keys()


def check_python(backend: str) -> None:
    """UserError for a TPU with a Python for which there is no libtpu that keeps a cache where it lies."""
    if backend == "tpu" and sys.version_info < (3, 12):
        version = ".".join(map(str, sys.version_info[:3]))
        raise UserError(
            f"Python {version} on a TPU: the newest libtpu for it copies every cache while it decodes; use 3.12 or newer, as "
            "`launch/tpu.py setup` does, or by hand: PYTHON=/path/to/python3.13 launch/quickstart.sh makes .venv with it"
        )


def _processor() -> str:
    """Names what is compiled for. A CPU by all that it can do: JAX's keys do not tell one from another that lacks an instruction."""
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    about = platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        about += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"cpu-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
