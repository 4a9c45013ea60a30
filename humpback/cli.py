"""`humpback COMMAND --flags`: finds the command's module, lets it define its flags, and runs it.

Exit codes: 0 done; 2 a user's mistake, which the same command would repeat; 3 `verify` found a difference; 70 a training step that
hung; 75 stopped by SIGTERM or because the machine is being taken away; 130 stopped by Ctrl-C; 134 another process of the run was lost,
or did not come; 1 anything else, with a traceback. After 70, 75, 130 and 134 the same command continues.
"""

import errno
import gc
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from absl import app, flags, logging

from humpback import config as configs
from humpback import credentials, distributed, locks
from humpback.errors import Stopped, UserError
from humpback.training.stopping import StopRequest, heed_preemption

COMMANDS = {
    "run": ("humpback.stages.run", "the whole loop: every stage in order, skipping what is done"),
    "base": ("humpback.stages.base", "the base weights in a run's own form"),
    "segment": ("humpback.stages.segment", "web pages to segments"),
    "seed": ("humpback.stages.seed", "human pairs to seed and held-out examples"),
    "finetune": ("humpback.stages.finetune", "train M_yx (--task=backward) or M_t (--task=forward --iteration=T)"),
    "augment": ("humpback.stages.augment", "write one candidate instruction per segment"),
    "curate": ("humpback.stages.curate", "rate the candidates and keep the best (--iteration=T)"),
    "summary": ("humpback.stages.summary", "summary.json and report.md of a run"),
    "convert": ("humpback.commands.convert", "GGUF, Hugging Face or Meta weights in, Hugging Face out"),
    "verify": ("humpback.commands.verify", "whether two models are the same, tensor by tensor and on texts"),
    "generate": ("humpback.commands.generate", "a file of prompts through a model folder (resumable, any number of replicas)"),
    "plan": ("humpback.commands.plan", "will it fit on a TPU slice, how fast, at what cost: compiled without a TPU"),
    "chat": ("humpback.commands.chat", "talk to a model folder"),
}
EXIT_USER_ERROR = 2
_RELEASE_SECONDS = 10  # of a store that does not answer
# Every command's flags that say which of several processes this is, and the variables that say the same.
PLACE_FLAGS = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def main() -> None:
    """The console script; a user's mistake and a stop are told without a traceback."""
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if command in ("help", "-h", "--help"):
        print(_usage())
        return
    if command not in COMMANDS:
        print(f"humpback: no command {command!r}\n\n{_usage()}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    module = _import(COMMANDS[command][0])
    _define_flags(module)
    try:
        app.run(lambda _: _run(module), argv=[f"humpback {command}", *sys.argv[2:]], flags_parser=_parse)
    except distributed.PeersMissing as error:
        _fail(error, distributed.PEER_LOST)
    except UserError as error:
        _fail(error)
    except Stopped as error:
        _fail(error, error.code)
    except Exception as error:
        distributed.leave(error, code=1)
        raise


def _import(name: str):
    """A command's module. Nothing of what JAX, Flax and Orbax bring is garbage: to look for some while they come is a quarter of the
    time that it takes, and to look through it again later, which tracing makes Python do often, is time as well."""
    gc.disable()
    module = importlib.import_module(name)
    gc.enable()
    gc.freeze()
    return module


def _run(module) -> None:
    logging.set_verbosity(logging.WARNING)
    os.environ |= place_variables({name: flags.FLAGS[name].value for name in PLACE_FLAGS})
    try:
        with StopRequest() as stop:
            stop.nothing_to_save = True  # but what is published; a training says otherwise while it has more
            heed_preemption()
            configuration = _configuration()
            credentials.refuse(configuration)  # before anything is written, or told to other processes
            distributed.start(configuration)  # before anything asks JAX for its devices
            try:
                module.main()
            finally:
                locks.release_all(_RELEASE_SECONDS)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{error.filename or 'the disk'}: no room left; free some space and run the same command again") from error
        raise


def _define_flags(module) -> None:
    """The command's flags and those of all commands."""
    others = set(flags.FLAGS)  # absl's, Orbax's
    module.define_flags()
    same = {name: f"(as {variable} in the environment)" for name, variable in PLACE_FLAGS.items()}
    flags.DEFINE_string("coordinator_address", None, f"several processes: HOST:PORT of the first {same['coordinator_address']}")
    flags.DEFINE_integer("num_processes", None, f"several processes: how many {same['num_processes']}", lower_bound=1)
    flags.DEFINE_integer("process_id", None, f"several processes: which this is, from 0 {same['process_id']}", lower_bound=0)
    for name in set(flags.FLAGS) - others:  # --help lists what is said to belong to the program
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def place_variables(given: Mapping[str, Any]) -> dict[str, str]:
    """Variables for the given flags of PLACE_FLAGS, which win over the environment. UserError unless all or none are given."""
    missing = [f"--{name}" for name in PLACE_FLAGS if given[name] is None]
    if len(missing) == len(PLACE_FLAGS):
        return {}
    if missing:
        among = ", ".join(f"--{name}" for name in PLACE_FLAGS)
        raise UserError(f"{' and '.join(missing)} missing: give all of {among}, or none of them")
    return {variable: str(given[name]) for name, variable in PLACE_FLAGS.items()}


def _configuration() -> dict[str, str]:
    """The command and its flags, a config with every field, which all processes of a run must have alike."""
    facts = {"command": sys.argv[1]}
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if not flag.present or name in PLACE_FLAGS or (flags.FLAGS.find_module_defining_flag(name) or "").startswith("absl."):
            continue  # a process' place is its own, and where absl logs decides nothing
        if isinstance(flag.value, configs.Node):
            facts |= {f"--{name}.{field}": repr(value) for field, value in configs.leaves(flag.value)}
        elif isinstance(flag.value, (str, int, float, list)):  # a config that cannot be read is none, and the command says so
            facts[f"--{name}"] = repr(flag.value)
    return facts


def _parse(argv: list[str]) -> list[str]:
    """absl's own parsing; a wrong config file, field or value ends like any other wrong flag."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; flags are --NAME=VALUE")
        return rest
    except (flags.Error, UserError, KeyError, AttributeError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if "Traceback" in text:  # a config file that raises comes with its traceback; its last line says what is wrong
            text = text.strip().splitlines()[-1]
        _fail(UserError(f"{text}\nSee `{argv[0]} --help`."))


def _fail(error: UserError | Stopped, code: int = EXIT_USER_ERROR) -> NoReturn:
    print(f"humpback: {credentials.redact(str(error))}", file=sys.stderr)
    distributed.leave(error, code)
    sys.exit(code)


def _usage() -> str:
    lines = [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    several = "several processes: --coordinator_address=HOST:PORT --num_processes=N --process_id=I (not needed on Cloud TPU)"
    return "\n".join(["usage: humpback COMMAND --flags   (humpback COMMAND --help lists them)", "", *lines, "", several])
