"""One page to segments, for the public API; without JAX, which takes a second to import."""

from collections.abc import Mapping

from humpback import config as configs
from humpback.errors import UserError
from humpback.records import Page, Segment


def segment(html: str | bytes, url: str, fields: Mapping[str, object]) -> list[Segment]:
    """See `humpback.segment`."""
    try:
        from humpback.corpus import segments
    except ModuleNotFoundError as error:
        raise UserError(f"segments need the extra `corpus` ({error}): pip install -c launch/constraints.txt -e .[corpus]") from error
    config = configs.Config()
    for name, value in fields.items():
        if not hasattr(config.segments, name):
            raise UserError(f"segments has no field {name!r}; config.py lists them")
        setattr(config.segments, name, value)
    data, charset = (html.encode("utf-8", "replace"), "utf-8") if isinstance(html, str) else (html, "")
    page = Page(url, url, 0, len(data), data, charset)
    return segments.extract(page, configs.finish(config).segments, lambda reason, tree: None)
