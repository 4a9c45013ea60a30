"""`humpback chat --model=DIR`: an answer to each line, as it is written; both tags, as at inference in the paper."""

import sys

from absl import flags

from humpback import keys, prompts
from humpback.config import Decoding
from humpback.decoding.engine import Engine, Request
from humpback.decoding.sampling import Sampler
from humpback.decoding.serving import encode_prompt
from humpback.errors import UserError
from humpback.model import sharding
from humpback.models import folders


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("model", None, "a model folder: forward-T of a run, or base", required=True)
    flags.DEFINE_string("prompt", "", "answer this and end; without it, each line of the standard input is a question")
    flags.DEFINE_float("temperature", 0.7, "0 is greedy", lower_bound=0)
    flags.DEFINE_float("top_p", 0.9, "nucleus", lower_bound=0, upper_bound=1)
    flags.DEFINE_integer("max_new_tokens", 256, "the longest answer, in tokens", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the sampling", lower_bound=0)


def main() -> None:
    """Loads the model and answers."""
    values = flags.FLAGS
    mesh = sharding.make_mesh()
    model = folders.load_model(values.model, directions={"forward", "base"})
    length = min(model.info.config.max_positions, 1_024 + values.max_new_tokens)
    decoding = Decoding(length=length, compute_dtype="float32", slots=4, steps_per_visit=1)
    engine = Engine(model.info.config, model.params, mesh, decoding)
    interactive = sys.stdin.isatty() and not values.prompt
    for number, line in enumerate([values.prompt] if values.prompt else _lines(interactive)):
        if line.strip():
            answer(model, engine, line, number)


def answer(model: folders.Model, engine: Engine, instruction: str, number: int) -> None:
    """Streams one answer to the standard output."""
    values = flags.FLAGS
    ids = encode_prompt(model, prompts.forward_prompt(instruction), engine.length - values.max_new_tokens)
    if ids is None:
        raise UserError(f"--max_new_tokens={values.max_new_tokens} leaves no room for a question in {engine.length} tokens")
    key = keys.record_keys(values.seed, "chat", [f"{number:016x}"])[0]
    request = Request(str(number), ids, key, values.max_new_tokens)
    written: list[int] = []
    shown = ""

    def show(_: str, token: int) -> None:
        nonlocal shown
        written.append(token)
        text = model.tokenizer.decode(written)
        if not text.endswith("\ufffd"):  # the first bytes of a character that is not whole yet
            print(text[len(shown) :], end="", flush=True)
            shown = text

    sampler = Sampler(values.temperature, values.top_p)
    for _ in engine.generate([request], sampler, frozenset([model.tokenizer.eos_id]), on_token=show):
        print()


def _lines(interactive: bool):
    while True:
        try:
            line = input("> " if interactive else "")
        except (EOFError, KeyboardInterrupt):
            return
        if interactive and line.strip() in ("exit", "quit"):
            return
        yield line
