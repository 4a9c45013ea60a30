"""`humpback COMMAND --flags`: finds the command's module, lets it define its flags, and runs it.

Exit codes: 0 done; 2 a user's mistake, which the same command would repeat; 3 `verify` found a difference, `doctor` something wrong, or
`evaluate --task=judge` no win rate;
70 a training step that hung; 75 stopped by SIGTERM or because the machine is being taken away; 130 stopped by Ctrl-C; 134 another
process of the run was lost, or did not come; 141 who read the output has closed it; 1 anything else, with a traceback. After 70, 75,
130, 134 and 141 the same command continues.
"""

import difflib
import errno
import gc
import importlib
import itertools
import os
import re
import select
import sys
import textwrap
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple, NoReturn

from absl import app, flags, logging

import humpback
from humpback import config as configs
from humpback import credentials, distributed, locks, paths, storage, tpu_flags
from humpback.errors import Stopped, UserError
from humpback.stages import contents
from humpback.training.stopping import StopRequest, heed_preemption


class Command(NamedTuple):
    """Where a command's flags and main are, what it does, and a command line to begin with. alone: it waits for no other process.
    resumes: what is done is saved meanwhile, and the same command goes on from it."""

    module: str
    does: str
    example: str
    alone: bool = False
    resumes: bool = True


_RUN = "--config=configs/demo.py --workdir=runs/demo"
COMMANDS = {
    "run": Command("humpback.stages.run", "the whole loop: every stage in order, skipping what is done", _RUN),
    "base": Command("humpback.stages.base", "the base weights in a run's own form", _RUN),
    "segment": Command("humpback.stages.segment", "web pages to segments", "--input=pages --out=segments"),
    "seed": Command("humpback.stages.seed", "human pairs to seed and held-out examples", _RUN),
    "finetune": Command(
        "humpback.stages.finetune", "train M_yx (--task=backward) or M_t (--task=forward --iteration=T)", f"{_RUN} --task=backward"
    ),
    "augment": Command("humpback.stages.augment", "write one candidate instruction per segment", _RUN),
    "curate": Command("humpback.stages.judge", "rate the candidates and keep the best (--iteration=T)", f"{_RUN} --iteration=1"),
    "rewrite": Command(
        "humpback.stages.rewrite", "make answers of the curated texts (--iteration=T), where rewrite.by says who", f"{_RUN} --iteration=1"
    ),
    "answer": Command(
        "humpback.stages.answers", "ask all models of a run the same held-out prompts, as many as answers.prompts says",
        f"{_RUN} --config.answers.prompts=5",
    ),
    "summary": Command("humpback.stages.summary", "summary.json and report.md of a run", _RUN),
    "report": Command("humpback.commands.report", "report.html of a run: what happened, for a browser", "--workdir=runs/demo"),
    "convert": Command(
        "humpback.commands.convert", "GGUF, Hugging Face or Meta weights in, Hugging Face out",
        "--source=runs/demo/forward-2 --target=humpback-135m --to_format=huggingface",
    ),
    "verify": Command(
        "humpback.commands.verify", "whether two models are the same, tensor by tensor and on texts",
        "--source=runs/demo/forward-2 --target=humpback-135m", resumes=False,
    ),
    "generate": Command(
        "humpback.commands.generate", "a file of prompts through a model (resumable, any number of replicas)",
        "--model=runs/demo/forward-2 --input=prompts.jsonl --out=answers",
    ),
    "export": Command(
        "humpback.commands.export", "curated pairs, or answers, as a dataset that others load", "--source=runs/demo/curated-2 --out=pairs"
    ),
    "pack": Command(
        "humpback.commands.pack", "a run as one .zip, from which another machine goes on", "--workdir=runs/demo --out=demo.zip"
    ),
    "review": Command("humpback.commands.review", "label candidates blind, in a browser", "--workdir=runs/demo --reviewer=ann"),
    "evaluate": Command(
        "humpback.commands.evaluate", "win rates, benchmarks, scaling, curation, diversity, bias, each with its error",
        "--task=winrate --input=annotations.json",
    ),
    "study": Command(
        "humpback.stages.study", "does augmentation help? Arms of one experiment, each trained several times",
        "--config=configs/study.py --workdir=runs/study/run",
    ),
    "plan": Command(
        "humpback.commands.plan", "will it fit on a TPU slice, how fast, at what cost: compiled without a TPU",
        "--config=configs/llama_7b.py --tpu=v5e-32,v4-32",
    ),
    "doctor": Command(
        "humpback.commands.doctor", "whether JAX sees this machine's TPU; what is wrong, and the line that mends it", "--workdir=runs",
        alone=True, resumes=False,
    ),
    "chat": Command("humpback.commands.chat", "talk to a model", "--model=runs/demo/forward-2", resumes=False),
}  # fmt: skip
EXIT_USER_ERROR = 2
_NOBODY_READS = 141  # what a shell shows for SIGPIPE
_RELEASE_SECONDS = 10  # of a store that does not answer
_FULL = "no room left; free some space and run the same command again"
_DENIED = "not allowed; give this user the right to read and write there, or name another path"
# What a user can do about errors of the file system, which any command may meet anywhere.
_WAYS_OUT = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "nothing can be written there, as the file system is read-only; name another path",
    errno.ENOENT: "no such file or folder, or none can be made there; name another path",
    errno.ENOTDIR: "a part of this path is a file and no folder; name another path",
    errno.EISDIR: "is a folder, where a file is meant; name another path",
    errno.ENAMETOOLONG: "the name is too long; name another path",
    errno.ELOOP: "links that lead in a circle; name another path",
}
_REQUIRED = "must have a value other than None"  # absl's words
_HELP = {"-h", "--help", "-help", "--helpshort", "--helpfull"}
# Every command's flags that say which of several processes this is, and the variables that say the same.
PLACE_FLAGS = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def main() -> None:
    """The console script; a user's mistake and a stop are told without a traceback, and who closes a pipe has read enough."""
    try:
        _main()
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not said, nor that it is not
        distributed.leave(error, _NOBODY_READS)
        sys.exit(_NOBODY_READS)


def _nobody_reads() -> bool:
    """Whether the standard output is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(1, 0)  # an error is always told
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if command in ("help", *_HELP):
        print(_usage())
        return
    if command in ("version", "--version"):
        print(_version())
        return
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        print(f"humpback: no command {command!r}{f'; did you mean {near[0]}?' if near else ''}\n\n{_usage()}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    module = _import(COMMANDS[command].module)
    mine = _define_flags(module)
    if asked := _HELP & set(sys.argv[2:]):
        print(_help(command, mine, full="--helpfull" in asked))
        return
    try:
        sys.argv[2:] = with_config(sys.argv[2:], module)
        app.run(lambda _: _run(module, COMMANDS[command]), argv=[f"humpback {command}", *sys.argv[2:]], flags_parser=_parse)
    except distributed.PeersMissing as error:
        _fail(error, distributed.PEER_LOST)
    except UserError as error:
        _fail(error)
    except Stopped as error:
        _fail(error, error.code)
    except BrokenPipeError:
        raise
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


def _run(module, command: Command) -> None:
    logging.set_verbosity(logging.WARNING)
    os.environ |= place_variables({name: flags.FLAGS[name].value for name in PLACE_FLAGS})
    try:
        with StopRequest(resumes=command.resumes) as stop:
            stop.nothing_to_save = True  # but what is published; a training says otherwise while it has more
            heed_preemption()
            given, configuration = _paths(), _configuration()
            credentials.refuse(configuration)  # before anything is written, or told to other processes
            paths.check(given)
            tpu_flags.set_flags(os.environ)
            if not command.alone:
                distributed.start(configuration)  # before anything asks JAX for its devices
            try:
                module.main()
            finally:
                locks.release_all(_RELEASE_SECONDS)
    except OSError as error:
        if error.errno not in _WAYS_OUT:
            raise
        raise UserError(told(error)) from error


def told(error: OSError) -> str:
    """What to say of an error of _WAYS_OUT: where it was, and what to do."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else error.strerror or "the disk"
    if os.path.basename(path).startswith(storage.TEMPORARY):
        path = os.path.dirname(path)
    return f"{path}: {_WAYS_OUT[error.errno or 0]}"


def _define_flags(module) -> list[str]:
    """Defines the command's flags and then those of all commands, and returns their names."""
    others = set(flags.FLAGS)  # absl's, Orbax's
    module.define_flags()
    same = {name: f"(as {variable} in the environment)" for name, variable in PLACE_FLAGS.items()}
    flags.DEFINE_string("coordinator_address", None, f"several processes: HOST:PORT of the first {same['coordinator_address']}")
    flags.DEFINE_integer("num_processes", None, f"several processes: how many {same['num_processes']}", lower_bound=1)
    flags.DEFINE_integer("process_id", None, f"several processes: which this is, from 0 {same['process_id']}", lower_bound=0)
    return [name for name in flags.FLAGS if name not in others]


def with_config(arguments: list[str], module: Any) -> list[str]:
    """A command's arguments; before fields of a config that is not named comes the command's own, where it has one (DEFAULT_CONFIG).

    UserError for a field that the config does not have, with the nearest one, and for a config file that is not there.
    """
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        file = (value if equals else following).partition(":")[0]
        if name in ("--config", "-config") and not os.path.isfile(file):
            kind = "a folder" if os.path.isdir(file) else "no file"
            raise UserError(f"--config: {file!r} is {kind}; for example --config=configs/demo.py")
    named = [argument.partition("=")[0] for argument in arguments]
    fields = [match[1] for name in named if (match := re.fullmatch(r"--?(?:no)?config\.(.*)", name))]
    for field in fields:
        if wrong := configs.unknown_field(field):
            raise UserError(f"--config.{field}: {wrong}")
    default = getattr(module, "DEFAULT_CONFIG", "")
    return [f"--config={default}", *arguments] if default and fields and not {"--config", "-config"} & set(named) else arguments


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


def _paths() -> dict[str, Any]:
    """What the command was given as paths, in flags, whose ~ no shell replaces behind "=", or in fields of the config."""
    for name in set(paths.FLAGS) & set(flags.FLAGS):
        if isinstance(value := flags.FLAGS[name].value, str):
            flags.FLAGS[name].value = os.path.expanduser(value)
    given = {f"--{name}": flags.FLAGS[name].value for name in paths.FLAGS if name in flags.FLAGS}
    config = flags.FLAGS["config"].value if {"config", "workdir"} <= set(flags.FLAGS) else None  # who only plans reads nothing
    fields = dict(configs.leaves(config)) if isinstance(config, configs.Node) else {}
    return given | {f"config field {name}": value for name, value in fields.items() if name in contents.FIELDS}


def _parse(argv: list[str]) -> list[str]:
    """absl's own parsing; a wrong config file, field or value ends like any other wrong flag."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(f"unexpected argument {rest[1]!r}; flags are --NAME=VALUE")
        return rest
    except SyntaxError as error:
        _fail(UserError(f"--config: {error.filename}:{error.lineno}: no Python ({error.msg})"))
    except (flags.Error, UserError, KeyError, AttributeError, OSError) as error:
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if "Traceback" in text:  # a config file that raises comes with its traceback; its last line says what is wrong
            text = text.strip().splitlines()[-1].removeprefix("ValueError: ")
        if missing := re.match(rf"flag --(\w+)=None: .*{_REQUIRED}", text):
            text = f"--{missing[1]} is missing; for example {argv[0]} {COMMANDS[argv[0].split()[-1]].example}"
        _fail(UserError(f"{text}\nSee `{argv[0]} --help`."))


def _fail(error: UserError | Stopped, code: int = EXIT_USER_ERROR) -> NoReturn:
    print(f"humpback: {credentials.redact(str(error))}", file=sys.stderr)
    distributed.leave(error, code)
    sys.exit(code)


def _usage() -> str:
    lines = [f"  {name:<10}{command.does}" for name, command in COMMANDS.items()]
    several = "several processes: --coordinator_address=HOST:PORT --num_processes=N --process_id=I (not needed on Cloud TPU)"
    return "\n".join(["usage: humpback COMMAND --flags   (humpback COMMAND --help lists them)", "", *lines, "", several])


def _version() -> str:
    """Humpback's version and those of what decides its numbers."""
    packages = ("jax", "jaxlib", "flax", "orbax-checkpoint")
    return f"humpback {humpback.__version__} ({', '.join(f'{name} {metadata.version(name)}' for name in packages)})"


def _help(command: str, names: Sequence[str], full: bool) -> str:
    """The help of a command: how it is called, what it does, an example, its flags. full: every field of the config, too."""
    about = COMMANDS[command]
    lines = [f"usage: humpback {command} --flags", "", f"{about.does[0].upper()}{about.does[1:]}.", ""]
    lines += [f"  humpback {command} {about.example}", ""]
    lines += [line for name in names for line in _entry(f"--{name}:", f"{flags.FLAGS[name].help} {_default(name)}")]
    if "config" in names and full:
        lines += ["", "--config.FIELD=VALUE changes a field of the config. The defaults, and what is allowed:", ""]
        for field, item, value in configs.fields(configs.Config()):
            rule = item.metadata["rule"].text
            allowed = "" if rule.startswith(configs.anything("").text) else f" (allowed: {rule})"
            lines += _entry(f"--config.{field}={value}", item.metadata["reason"] + allowed)
    elif "config" in names:
        lines += ["", f"humpback {command} --helpfull lists every field of the config."]
    return "\n".join(lines)


def _default(name: str) -> str:
    """What a flag is when it is not given."""
    flag = flags.FLAGS[name]
    if any(_REQUIRED in str(validator.message) for validator in flag.validators):
        return "(required)"
    return "" if flag.default in (None, "", []) else f"(default: {flag.default})"


def _entry(name: str, text: str) -> list[str]:
    """A name, and below it what is to be said of it."""
    return [f"  {name}", *textwrap.wrap(" ".join(text.split()), 100, initial_indent="      ", subsequent_indent="      ")]
