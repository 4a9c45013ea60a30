"""The flags that every stage has: which experiment, and where."""

from absl import flags
from ml_collections import config_flags

from humpback import config as configs
from humpback import distributed, storage
from humpback.errors import UserError
from humpback.stages.directory import Run

_FLAGS = flags.FLAGS


def define_flags() -> None:
    """--config and --workdir."""
    config_flags.DEFINE_config_file("config", None, "the experiment, configs/NAME.py[:VARIANT]; --config.FIELD=VALUE changes a field")
    flags.DEFINE_string("workdir", None, "the run's directory (local or gs://)")


def open_run() -> Run:
    """The run that the flags name. UserError when a flag is missing or a field has a wrong value."""
    try:
        config, workdir = _FLAGS.config, _FLAGS.workdir
    except OSError as error:  # ml_collections says so only when the value is asked for
        raise UserError(f"--config={_FLAGS['config'].config_filename}: {str(error).strip().splitlines()[-1].strip()}") from error
    for name, value in (("config", config), ("workdir", workdir)):
        if not value:
            raise UserError(f"--{name} is missing; for example --config=configs/demo.py --workdir=runs/demo")
    distributed.start()
    cfg = configs.finish(config)
    run = Run(cfg, workdir)
    if distributed.is_first():
        storage.publish(run.workdir / "config.json", configs.to_json(cfg) + "\n", replace=True)
    return run
