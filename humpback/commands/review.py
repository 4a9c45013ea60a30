"""`humpback review --workdir=RUN --reviewer=NAME`: blind labels, on a page that only this machine can open.

Of candidates of a run; with --input and --baseline of two models' answers; with --rewrites of what a rewriter made. Every label is a
file of its own, on disk before the next item is shown. Several people may label at once, each with a command and a name of their own;
--static is for who cannot come here.
"""

import functools
import re

from absl import flags
from etils import epath

from humpback import storage
from humpback.commands import compare_answers, evaluate
from humpback.errors import UserError
from humpback.progress import printable
from humpback.review import agreement, labels, page, sample
from humpback.review.server import Server

_FAITHFUL, _BETTER = "faithful", "better"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", None, "the run's directory; of answers any folder", required=True)
    flags.DEFINE_string("reviewer", "", "who labels: a name of letters, digits, - and _")
    flags.DEFINE_integer("iteration", 1, "t of the ratings, or the rewritten responses, that are drawn from", lower_bound=1)
    flags.DEFINE_string("input", None, "answers of a model, to be labelled beside --baseline: instruction and output of each")
    flags.DEFINE_string("baseline", None, "the other answers, to the same instructions")
    what = "label rewritten-T: do the responses keep to their texts (faithful), or which of the two is the better answer (better)"
    flags.DEFINE_enum("rewrites", None, [_FAITHFUL, _BETTER], what)
    flags.DEFINE_string("name", "", "of a review of answers or rewrites; default: answers, or rewrites-faithful-T")
    flags.DEFINE_integer("count", 250, "items that are drawn when the review begins; the paper labelled 250", lower_bound=1)
    flags.DEFINE_integer("port", 0, "on 127.0.0.1; 0 takes a free one", lower_bound=0, upper_bound=65_535)
    flags.DEFINE_string("static", "", "write a file to this path, in which a colleague labels without this machine")
    flags.DEFINE_string("import", "", "the file of labels that comes back from it")
    flags.DEFINE_bool("agreement", False, "show what the labels say: of people, of each judge and threshold, of two models")


def main() -> None:
    """Serves until Ctrl-C; or writes a file, reads one, or shows figures."""
    values = flags.FLAGS
    run = epath.Path(values.workdir)
    if sum(map(bool, (values.static, values["import"].value, values.agreement))) > 1:
        raise UserError("--static, --import and --agreement are three commands; give one of them")
    name = _review_name()
    if values.agreement:
        print(printable("\n".join(agreement.told(agreement.agreement(run, name)))))
        print(agreement.path_of(run, name))
        return
    if returned := values["import"].value:
        _import(run, name, returned)
        return
    if not values.reviewer:
        raise UserError("--reviewer is missing: who labels, for example --reviewer=ann")
    own = labels.Labels(run, name, values.reviewer, _sample(run, name))
    if values.static:
        text = page.render_static(own.sample, own.reviewer, own.shown.values())
        storage.publish(values.static, text.encode("utf-8", "replace"), replace=True)
        print(f"{values.static}: {len(own.shown)} items for {own.reviewer}; what comes back: humpback review --import=FILE")
        return
    try:
        server = Server(values.port, own)
    except OSError as error:
        raise UserError(f"--port={values.port}: cannot be opened ({error}); give another one") from error
    print(f"{len(own.read())} of {len(own.shown)} labelled; open {server.address}", flush=True)
    server.serve_forever()


def _review_name() -> str:
    """Which review: an iteration's, or one of answers."""
    values = flags.FLAGS
    if (values.input is None) != (values.baseline is None):
        raise UserError("--input and --baseline go together: the two files of answers that are compared")
    if values.rewrites and values.input is not None:
        raise UserError("--rewrites and --input are of two reviews; give one of them")
    by_default = f"rewrites-{values.rewrites}-{values.iteration}" if values.rewrites else str(values.iteration)
    name = values.name or ("answers" if values.input is not None else by_default)
    if not _NAME.fullmatch(name) or (values.name and name.isdigit()):
        raise UserError(f"--name={name!r}: at most 32 letters, digits, - and _, and not digits alone, which are iterations")
    return name


def _sample(run: epath.Path, name: str) -> sample.Sample:
    """What is labelled, drawn if that has not been done."""
    values = flags.FLAGS
    file = run / "config.json"
    seed = int(storage.read_json(file).get("seed", 0)) if file.exists() else 0
    if values.input is not None or values.rewrites:
        answers = sample.rewrites(run, values.iteration, values.rewrites == _BETTER) if values.rewrites else _answers()
        kind = sample.REWRITES if values.rewrites == _FAITHFUL else sample.ANSWERS
        found = sample.of_answers(run, name, answers, values.count, seed, kind)
        if left := len(answers) - found.of:
            print(f"{left} of {len(answers)} pairs of answers are left out: equal, or no text that can be shown")
        return found
    if name == str(values.iteration):
        return sample.of_candidates(run, values.iteration, values.count, seed)
    if (begun := sample.read(run, name)) is None:
        raise UserError(f"--name={name}: no such review has begun; --input and --baseline name the answers to compare")
    return begun


def _answers() -> dict[str, tuple[str, str, str]]:
    read = functools.partial(evaluate.read_rows, kind=compare_answers.Answer)
    found = compare_answers.match(read(flags.FLAGS.input, flag="input"), read(flags.FLAGS.baseline, flag="baseline"))
    return {i: (one.instruction, one.output, other.output) for i, (one, other) in found.items()}


def _import(run: epath.Path, name: str, path: str) -> None:
    begun = sample.read(run, name)
    if begun is None:
        raise UserError(f"{run}: no review {name!r} has begun here, so that no labels of it can come back")
    where, data = f"--import={path}", labels.returned_bytes(path)
    reviewer = flags.FLAGS.reviewer or labels.reviewer_of(data, where)
    own = labels.Labels(run, name, reviewer, begun)
    new = own.take(data, where)
    print(f"{new} new labels by {reviewer}; {len(own.read())} of {len(own.shown)} labelled")
