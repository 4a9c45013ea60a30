"""Humpback: instruction backtranslation (Li et al., arXiv 2308.06259) in JAX.

`load` and `segment`, with what they return, are the public API: they keep their names and meaning. Everything else is private.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from humpback.api import LoadedModel
    from humpback.records import Segment

__version__ = "0.1.0"
__all__ = ["load", "segment"]


def load(
    path: str | os.PathLike[str], tensor: int = 1, dtype: str = "", length: int = 2_048, base: str | os.PathLike[str] | None = None
) -> LoadedModel:
    """Loads a model folder, which a run or `humpback convert` made, onto this process' devices.

    Args:
      path: the folder, local or gs://.
      tensor: how many devices share the model; the others hold copies and share the work.
      dtype: what is computed in, "float32" or "bfloat16"; "" takes the faster one of this machine.
      length: tokens of a prompt and its answer together, at most; a model of fewer positions has less room.
      base: where the base of a folder that holds adapters alone is, if not where the folder says.

    Raises humpback.errors.UserError for a folder that is missing or damaged, and for sizes that do not fit model or devices.
    """
    from humpback import api

    return api.LoadedModel(path, tensor, dtype, length, base)


def segment(html: str | bytes, url: str = "", **fields: object) -> list[Segment]:
    """Cuts one web page into segments: self-contained texts below a header (paper, appendix E). Needs the extra `corpus`.

    Args:
      html: the page; of bytes the charset is found.
      url: where the page is from. A canonical link in the page has precedence.
      **fields: other values for fields of the config's part `segments`, as in min_chars=300.

    Returns the segments that the rules keep, in the page's order. Raises humpback.errors.UserError for a wrong field.
    """
    from humpback import pages

    return pages.segment(html, url, fields)
