"""report.html of a run."""

from etils import epath

from humpback import storage
from humpback.report import numbers, page

FILE, COMPARED = "report.html", "report-compared.html"


def write(run: storage.PathLike, compare: str = "") -> epath.Path:
    """Writes the page of what a run's stages have left so far, or of two runs side by side, and returns where it is.

    It derives from the stages and is replaced. UserError when a run has no complete stage.
    """
    found = numbers.collect(epath.Path(run))
    other = numbers.collect(epath.Path(compare)) if compare else None
    target = epath.Path(run) / (COMPARED if compare else FILE)
    storage.publish(target, page.render(found, other), replace=True)
    return target
