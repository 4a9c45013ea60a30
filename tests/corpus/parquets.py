"""Parquet files for the tests of what reads them."""

import io
from typing import Any

import pyarrow
import pyarrow.parquet


def parquet(columns: dict[str, Any], rows: int = 3, **how: Any) -> bytes:
    """The bytes of a file with so many rows in a row group."""
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, row_group_size=rows, **how)
    return out.getvalue()
