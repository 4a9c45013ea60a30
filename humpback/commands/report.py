"""`humpback report --workdir=RUN [--compare=RUN]`: report.html, a run as one page for a browser, from what its stages have left so far."""

from absl import flags

from humpback import distributed
from humpback.report.write import write


def define_flags() -> None:
    """The command's flags."""
    flags.DEFINE_string("workdir", None, "the run's directory", required=True)
    flags.DEFINE_string("compare", "", "another run's directory, to be shown beside it in report-compared.html")


def main() -> None:
    """Writes the page and says where it is."""
    values = flags.FLAGS
    print(distributed.by_first(f"report {values.workdir}", lambda: str(write(values.workdir, values.compare))))
