"""A Parquet file that is written frame by frame."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import polars as pl
import pyarrow as pa
import pyarrow.parquet


class ParquetFile:
    """A Parquet file that grows frame by frame; all frames have the columns of the first."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        self._path, self._metadata = path, dict(metadata)
        self._writer: pa.parquet.ParquetWriter | None = None

    def __enter__(self) -> "ParquetFile":
        """Return the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the file."""
        self.close()

    def close(self) -> None:
        """Finish the file; closed again, it does nothing."""
        if self._writer is not None:
            self._writer.close()

    def write(self, rows: pl.DataFrame) -> None:
        """Add rows, of which there may be none."""
        table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._writer is None:
            self._writer = pa.parquet.ParquetWriter(self._path, table.schema, compression="zstd")
            self._writer.add_key_value_metadata(self._metadata)
            self._writer.write_table(table)
        elif rows.height:
            self._writer.write_table(table)
