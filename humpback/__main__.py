"""`humpback COMMAND --flags`: finds the command's module, lets it define its flags, and runs it."""

import dataclasses
import errno
import importlib
import sys

from absl import app, flags, logging

from humpback import config as configs
from humpback import distributed
from humpback.errors import UserError

COMMANDS = {
    "run": ("humpback.stages.run", "the whole loop: every stage in order, skipping what is done"),
    "segment": ("humpback.stages.segment", "web pages to segments"),
    "seed": ("humpback.stages.seed", "human pairs to seed and held-out examples"),
    "finetune": ("humpback.stages.finetune", "train M_yx (--task=backward) or M_t (--task=forward --iteration=T)"),
    "augment": ("humpback.stages.augment", "write one candidate instruction per segment"),
    "curate": ("humpback.stages.curate", "rate the candidates and keep the best (--iteration=T)"),
    "summary": ("humpback.stages.summary", "summary.json and report.md of a run"),
    "convert": ("humpback.commands.convert", "GGUF or Hugging Face weights in, Hugging Face out"),
    "generate": ("humpback.commands.generate", "a file of prompts through a model folder (resumable, any number of replicas)"),
    "chat": ("humpback.commands.chat", "talk to a model folder"),
}
EXIT_USER_ERROR = 2


def main() -> None:
    """The console script. Exit code 2 for a user's mistake, without a traceback."""
    command = sys.argv[1] if len(sys.argv) > 1 else "help"
    if command in ("help", "-h", "--help"):
        print(_usage())
        return
    if command not in COMMANDS:
        print(f"humpback: no command {command!r}\n\n{_usage()}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    module = importlib.import_module(COMMANDS[command][0])
    module.define_flags()
    try:
        app.run(lambda _: _run(module), argv=[f"humpback {command}", *sys.argv[2:]], flags_parser=_parse)
    except UserError as error:
        _fail(error)
    except Exception as error:
        distributed.leave(error, code=1)
        raise


def _run(module) -> None:
    logging.set_verbosity(logging.WARNING)
    distributed.start(_configuration())  # before anything asks JAX for its devices
    try:
        module.main()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{error.filename or 'the disk'}: no room left; free some space and run the same command again") from error
        raise


def _configuration() -> dict[str, str]:
    """The command and its flags, a config with every field, which all processes of a run must have alike."""
    found = {"command": sys.argv[1]}
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if not flag.present or flags.FLAGS.find_module_defining_flag(name).startswith("absl."):  # where absl logs is no such thing
            continue
        if dataclasses.is_dataclass(flag.value):
            found |= {f"--{name}.{field}": repr(value) for field, value in configs.leaves(flag.value)}
        elif isinstance(flag.value, (str, int, float, list)):  # a config that cannot be read is none, and the command says so
            found[f"--{name}"] = repr(flag.value)
    return found


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


def _fail(error: UserError) -> None:
    print(f"humpback: {error}", file=sys.stderr)
    distributed.leave(error, EXIT_USER_ERROR)
    sys.exit(EXIT_USER_ERROR)


def _usage() -> str:
    lines = [f"  {name:<10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: humpback COMMAND --flags   (humpback COMMAND --help lists them)", "", *lines])


if __name__ == "__main__":
    main()
