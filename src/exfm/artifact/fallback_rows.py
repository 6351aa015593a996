"""A row for each table, to answer with while a shard is unavailable: a float32 tensor [dim], named by its table."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from exfm.errors import BundleError
from exfm.schema import Schema

FALLBACK_FILE = "ranker/fallback.safetensors"
"""A ranker's fallback rows in a bundle."""

FallbackRows = Mapping[str, npt.NDArray[np.float32]]
"""Fallback row of each table; [dim]."""

NO_FALLBACK_ROWS: FallbackRows = MappingProxyType({})
"""Fallback rows of a bundle from a release that wrote none."""


def write_fallback_rows(folder: Path, rows: FallbackRows) -> None:
    """Write the fallback row of each table into a bundle's folder."""
    path = folder / FALLBACK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(dict(rows), path)
    path.chmod(0o644)  # safetensors makes it private, but servers run as another user


def read_fallback_rows(path: Path, schema: Schema) -> FallbackRows:
    """Return the fallback row of each of a schema's tables.

    Raises: BundleError if the file is missing or malformed, or lacks a table's row.
    """
    try:
        rows = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error
    for table in schema.tables:
        row = rows.get(table.name)
        found = "missing" if row is None else f"{row.dtype} {list(row.shape)}"
        if row is None or row.dtype != np.float32 or row.shape != (table.dim,):
            raise BundleError(
                f"{path}: the row of table {table.name!r} is {found}, expected float32 [{table.dim}]; "
                "export the bundle again"
            )
    return rows
