"""`humpback review --workdir=RUN --reviewer=NAME`: blind labels of candidates, on a page that only this machine can open.

Every label is a file of its own, on disk before the next item is shown. Several people may label at once, each with a command and a
name of their own.
"""

from absl import flags
from etils import epath

from humpback import storage
from humpback.errors import UserError
from humpback.review.labels import Labels
from humpback.review.sample import order, sample
from humpback.review.server import Server


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", None, "the run's directory", required=True)
    flags.DEFINE_string("reviewer", None, "who labels: a name of letters, digits, - and _", required=True)
    flags.DEFINE_integer("iteration", 1, "t of the ratings that the candidates are drawn from", lower_bound=1)
    flags.DEFINE_integer("count", 250, "candidates that are drawn when the review begins; the paper labelled 250", lower_bound=1)
    flags.DEFINE_integer("port", 0, "on 127.0.0.1; 0 takes a free one", lower_bound=0, upper_bound=65_535)


def main() -> None:
    """Serves until Ctrl-C."""
    values = flags.FLAGS
    run = epath.Path(values.workdir)
    file = run / "config.json"
    seed = int(storage.read_json(file).get("seed", 0)) if file.exists() else 0
    items = sample(run, values.iteration, values.count, seed)
    labels = Labels(run, values.iteration, values.reviewer)
    try:
        server = Server(values.port, list(order(items, values.reviewer, seed)), labels)
    except OSError as error:
        raise UserError(f"--port={values.port}: cannot be opened ({error}); give another one") from error
    print(f"{len(labels.read())} of {len(server.items)} labelled; open {server.address}", flush=True)
    server.serve_forever()
